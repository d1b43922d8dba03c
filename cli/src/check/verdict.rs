//! What a check comes to. Floor 0 of `check`: imports nothing of it.

use std::time::Duration;

use serde::Serialize;

use crate::io::Tone;

/// Most lines about one check; further ones are counted.
const MAX_DETAILS: usize = 20;

/// How a check ends, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It could not be looked at, or there was nothing to look at; another check says what is wrong, or nothing is.
    Skipped,
    /// Works, but hardly as meant, or not for long.
    Warning,
    /// Broken.
    Error,
}

impl Outcome {
    /// The word that is shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// Its colour.
    #[must_use]
    pub fn tone(self) -> Tone {
        match self {
            Self::Ok => Tone::Good,
            Self::Skipped => Tone::Faint,
            Self::Warning => Tone::Warn,
            Self::Error => Tone::Bad,
        }
    }
}

/// What a judge says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How it ends.
    pub outcome: Outcome,
    /// One sentence: what was found.
    pub summary: String,
    /// A line about each thing that is not as it should be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// One sentence: what to do. Empty where there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl Verdict {
    /// As it should be.
    #[must_use]
    pub fn ok(summary: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, summary, "")
    }

    /// Not looked at, because of something that another check tells, or because there is nothing to look at.
    #[must_use]
    pub fn skipped(summary: impl Into<String>) -> Self {
        Self::new(Outcome::Skipped, summary, "")
    }

    /// Works, but hardly as meant.
    #[must_use]
    pub fn warning(summary: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Outcome::Warning, summary, hint)
    }

    /// Broken.
    #[must_use]
    pub fn error(summary: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Outcome::Error, summary, hint)
    }

    fn new(outcome: Outcome, summary: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { outcome, summary: summary.into(), details: Vec::new(), hint: hint.into() }
    }

    /// With a line about each thing.
    #[must_use]
    pub fn with(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self.details = bounded(self.details);
        self
    }
}

fn bounded(mut details: Vec<String>) -> Vec<String> {
    let more = details.len().saturating_sub(MAX_DETAILS);
    if more > 0 {
        details.truncate(MAX_DETAILS);
        details.push(format!("and {more} more"));
    }
    details
}

/// Gathers what is wrong with each of many things of one kind, and ends in one verdict.
#[derive(Debug, Default)]
pub struct Lines {
    errors: Vec<(String, String)>,
    warnings: Vec<(String, String)>,
}

impl Lines {
    /// Nothing is wrong yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One thing is broken; `hint` is what to do about it.
    pub fn error(&mut self, line: impl Into<String>, hint: impl Into<String>) {
        self.errors.push((line.into(), hint.into()));
    }

    /// One thing is worth a look.
    pub fn warning(&mut self, line: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push((line.into(), hint.into()));
    }

    /// True where nothing is wrong yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty() && self.warnings.is_empty()
    }

    /// A verdict: `good` where nothing is wrong, else `bad` with the number of things in front, as in
    /// `3 deployments are not available`. The hint is the first one of the worst kind.
    #[must_use]
    pub fn verdict(self, good: impl Into<String>, one: &str, many: &str) -> Verdict {
        let outcome = match (self.errors.is_empty(), self.warnings.is_empty()) {
            (false, _) => Outcome::Error,
            (true, false) => Outcome::Warning,
            (true, true) => return Verdict::ok(good),
        };
        let all: Vec<(String, String)> = self.errors.into_iter().chain(self.warnings).collect();
        let count = all.len();
        let summary = if count == 1 { format!("1 {one}") } else { format!("{count} {many}") };
        let hint = all.first().map(|(_, hint)| hint.clone()).unwrap_or_default();
        Verdict::new(outcome, summary, hint).with(all.into_iter().map(|(line, _)| line))
    }
}

/// A time as people say it.
#[must_use]
pub fn roughly(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{}ms", time.as_millis()),
        1..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}min", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_things_end_in_one_verdict() {
        assert_eq!(Lines::new().verdict("fine", "", ""), Verdict::ok("fine"));
        let mut lines = Lines::new();
        lines.warning("b is slow", "wait");
        assert_eq!(lines.verdict("", "thing is odd", "things are odd").summary, "1 thing is odd");
        let mut lines = Lines::new();
        lines.warning("b is slow", "wait");
        lines.error("a is down", "start it");
        let verdict = lines.verdict("", "thing is odd", "things are odd");
        assert_eq!((verdict.outcome, verdict.summary.as_str()), (Outcome::Error, "2 things are odd"));
        assert_eq!(
            (verdict.details, verdict.hint.as_str()),
            (vec!["a is down".into(), "b is slow".into()], "start it")
        );
    }

    #[test]
    fn a_thousand_lines_are_not_shown() {
        let verdict = Verdict::error("x", "y").with((0..1000).map(|n| n.to_string()));
        assert_eq!(verdict.details.len(), MAX_DETAILS + 1);
        assert_eq!(verdict.details.last().unwrap(), "and 980 more");
    }

    #[test]
    fn times_are_said_roughly() {
        let said = [20, 5_000, 300_000, 7_300_000, 200_000_000].map(|ms| roughly(Duration::from_millis(ms)));
        assert_eq!(said, ["20ms", "5s", "5min", "2h", "2d"]);
    }
}
