//! All verdicts together, shown. Floor 3 of `check`: imports `catalog`.

use std::io;

use serde::Serialize;

use super::{
    catalog::{CHECKS, Category, Stage},
    facts::Facts,
    verdict::{Outcome, Verdict},
};
use crate::io::{Out, Tone};

/// Width of the names' column.
const NAME: usize = 28;
/// Width of the outcomes' column.
const WORD: usize = 9;

/// One check with its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Name of the check.
    pub name: &'static str,
    /// Where it stands.
    pub category: Category,
    /// What it holds.
    pub title: &'static str,
    /// What it came to.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Its page.
    pub page: String,
}

/// Every check of a stage, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst outcome.
    pub outcome: Outcome,
    /// Version of meshctl.
    pub version: String,
    /// The checks, in their order.
    pub checks: Vec<Line>,
}

impl Report {
    /// Holds the checks of a stage.
    #[must_use]
    pub fn judge(facts: &Facts, stage: Stage) -> Self {
        let of_stage = CHECKS.iter().filter(|check| check.is_of(stage));
        let checks: Vec<Line> = of_stage
            .map(|check| Line {
                name: check.name,
                category: check.category,
                title: check.title,
                verdict: (check.judge)(facts),
                page: check.page(),
            })
            .collect();
        let outcome = checks.iter().map(|line| line.verdict.outcome).max().unwrap_or(Outcome::Skipped);
        Self { outcome, version: facts.meshctl.clone(), checks }
    }

    /// True where nothing is broken.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.outcome < Outcome::Error
    }

    /// Checks whose outcome or reason is another one than before, as lines; without one before, those that are broken.
    #[must_use]
    pub fn changes(&self, before: Option<&Self>) -> Vec<String> {
        let earlier = |name| before.and_then(|before| before.checks.iter().find(|line| line.name == name));
        let changed = self.checks.iter().filter(|line| match earlier(line.name) {
            Some(earlier) => {
                let outcomes = (earlier.verdict.outcome, line.verdict.outcome);
                outcomes.0 != outcomes.1
                    || outcomes.1 == Outcome::Error
                        && (&earlier.verdict.summary, &earlier.verdict.details)
                            != (&line.verdict.summary, &line.verdict.details)
            }
            None => line.verdict.outcome == Outcome::Error,
        });
        changed
            .map(|line| format!("{}: {}: {}", line.name, line.verdict.outcome.word(), line.verdict.summary))
            .collect()
    }

    /// Prints it for people.
    ///
    /// # Errors
    /// Where it cannot be printed.
    pub fn show(&self, out: &mut Out) -> io::Result<()> {
        let mut heading = None;
        for line in &self.checks {
            if heading != Some(line.category) {
                if heading.is_some() {
                    out.line("")?;
                }
                heading = Some(line.category);
                out.toned(Tone::Strong, &line.category.title().to_uppercase())?;
            }
            line.show(out)?;
        }
        out.line("")?;
        out.toned(self.outcome.tone(), &self.sum())
    }

    /// How many came to what, as a sentence.
    #[must_use]
    pub fn sum(&self) -> String {
        let of = |outcome| self.checks.iter().filter(|line| line.verdict.outcome == outcome).count();
        let all = [Outcome::Error, Outcome::Warning, Outcome::Skipped, Outcome::Ok];
        let parts = all.map(|outcome| (outcome, of(outcome))).into_iter().filter(|(_, count)| *count > 0);
        let plural = |outcome: Outcome, count| match (outcome, count) {
            (Outcome::Error | Outcome::Warning, count) if count != 1 => "s",
            _ => "",
        };
        let parts = parts.map(|(outcome, count)| format!("{count} {}{}", outcome.word(), plural(outcome, count)));
        format!("{} checks: {}", self.checks.len(), parts.collect::<Vec<_>>().join(", "))
    }
}

impl Line {
    fn show(&self, out: &mut Out) -> io::Result<()> {
        let Verdict { outcome, summary, details, hint } = &self.verdict;
        let word = outcome.tone().paint(outcome.word(), out.colour());
        let fill = " ".repeat(WORD.saturating_sub(outcome.word().len()));
        let name = format!("{:NAME$}", self.name);
        let summary = crate::io::printable(&summary.replace('\n', " "));
        out.line(format!("  {word}{fill}{name}{summary}"))?;
        let indent = " ".repeat(2 + WORD);
        for detail in details {
            out.toned(Tone::Plain, &format!("{indent}- {}", detail.replace('\n', " ")))?;
        }
        if *outcome < Outcome::Warning {
            return Ok(());
        }
        if !hint.is_empty() {
            out.toned(Tone::Faint, &format!("{indent}hint: {hint}"))?;
        }
        out.toned(Tone::Faint, &format!("{indent}page: {}", self.page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tests::Shared;

    fn line(name: &'static str, category: Category, verdict: Verdict) -> Line {
        Line { name, category, title: "", verdict, page: format!("docs/checks/{name}.md") }
    }

    fn report(checks: Vec<Line>) -> Report {
        let outcome = checks.iter().map(|line| line.verdict.outcome).max().unwrap();
        Report { outcome, version: "1".into(), checks }
    }

    #[test]
    fn people_see_what_is_wrong_and_what_to_do() {
        let report = report(vec![
            line("api-reachable", Category::Cluster, Verdict::ok("it answers")),
            line("nodes", Category::Cluster, Verdict::skipped("nobody asked")),
            line("ca-roots", Category::Certificates, Verdict::error("1 thing", "do this").with(["a\nb".into()])),
        ]);
        let shared = Shared::default();
        report.show(&mut Out::to(shared.clone())).unwrap();
        let wanted = "CLUSTER\n\
            \x20 ok       api-reachable               it answers\n\
            \x20 skipped  nodes                       nobody asked\n\n\
            CERTIFICATES\n\
            \x20 error    ca-roots                    1 thing\n\
            \x20          - a b\n\
            \x20          hint: do this\n\
            \x20          page: docs/checks/ca-roots.md\n\n\
            3 checks: 1 error, 1 skipped, 1 ok\n";
        assert_eq!(shared.text(), wanted);
    }

    #[test]
    fn programs_get_the_same() {
        let report = report(vec![line("nodes", Category::Cluster, Verdict::warning("odd", "look"))]);
        let value = serde_json::to_value(&report).unwrap();
        let wanted = serde_json::json!({"outcome": "warning", "version": "1", "checks": [{
            "name": "nodes", "category": "cluster", "title": "", "outcome": "warning", "summary": "odd", "hint": "look",
            "page": "docs/checks/nodes.md"}]});
        assert_eq!(value, wanted);
    }

    #[test]
    fn each_change_is_told_once() {
        let bad = report(vec![line("nodes", Category::Cluster, Verdict::error("3 are down", ""))]);
        let good = report(vec![line("nodes", Category::Cluster, Verdict::ok("fine"))]);
        assert_eq!(bad.changes(None), ["nodes: error: 3 are down"]);
        assert!(bad.changes(Some(&bad)).is_empty() && good.changes(None).is_empty());
        assert_eq!(good.changes(Some(&bad)), ["nodes: ok: fine"]);
    }

    #[test]
    fn without_a_connection_one_check_is_broken_and_the_others_are_not_blamed() {
        let error = crate::cluster::ClusterError::Unreachable {
            context: "c".into(),
            server: "https://nowhere".into(),
            why: "refused".into(),
        };
        let facts = crate::check::gather::unreachable(&error);
        for stage in [Stage::Before, Stage::Installed, Stage::Proxies] {
            let report = Report::judge(&facts, stage);
            let of = |outcome| report.checks.iter().filter(move |line| line.verdict.outcome == outcome);
            let broken: Vec<_> = of(Outcome::Error).map(|line| line.name).collect();
            assert_eq!(broken, ["api-reachable"]);
            assert_eq!(of(Outcome::Ok).count() + of(Outcome::Warning).count(), 0, "{report:?}");
        }
    }
}
