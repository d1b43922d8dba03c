//! The outcome as tables for people and as JSON for programs.

use serde_json::{Value, json};

use super::{
    authority::{Burst, Rate},
    figures::{Cost, GROWTH, READY_MS, faults, growth},
    growth::{Case, Started},
    launch::Launch,
};
use crate::bench::{
    page::{spread, table},
    report::Machine,
};

/// Everything that was measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// On what.
    pub machine: Machine,
    /// Controllers that have just started.
    pub starts: Vec<Started>,
    /// Sizes of the mesh.
    pub cases: Vec<Case>,
    /// Certificates each second.
    pub rate: Rate,
    /// Many members at once.
    pub burst: Burst,
    /// Starts of sidecars.
    pub launch: Launch,
}

impl Outcome {
    /// What is wrong; empty: nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = faults(&self.cases);
        let Burst { members, answered, reason, .. } = &self.burst;
        if answered < members {
            faults.push(format!("{answered} of {members} members that asked at once got a certificate: {reason}"));
        }
        faults
    }

    /// For programs: every change and every start.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "machine": self.machine, "controller_starts": self.starts, "cases": self.cases,
            "growth": growth(&self.cases), "growth_limit": GROWTH, "certificates": self.rate, "burst": self.burst,
            "proxy_start": self.launch, "proxy_start_target_ms": READY_MS, "faults": self.faults(),
        })
    }

    /// The tables, as Markdown: it is as easy to read on a terminal.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = self.machine.line();
        text.push('\n');
        table(&mut text, &self.starts());
        table(&mut text, &self.cases());
        if self.growth().len() > 1 {
            table(&mut text, &self.growth());
        }
        table(&mut text, &self.others());
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }

    fn starts(&self) -> Vec<Vec<String>> {
        let head = ["controller starts: services", "objects", "ready after, s", "CPU, s", "memory, MB"];
        let row = |one: &Started| {
            let (seconds, cpu) = (format!("{:.2}", one.seconds), format!("{:.2}", one.cpu_seconds));
            vec![one.services.to_string(), one.objects.to_string(), seconds, cpu, megabytes(one.resident)]
        };
        rows(&head, self.starts.iter().map(row))
    }

    fn cases(&self) -> Vec<Vec<String>> {
        let head = [
            "services",
            "proxies",
            "memory, MB",
            "slice to last ack, ms",
            "pod to last ack, ms",
            "slice, CPU us",
            "pod, CPU us",
            "all counted, CPU us",
            "no proxy uses it, CPU us",
            "sent, KB",
            "idle, % CPU",
        ];
        let row = |case: &Case| {
            vec![
                case.services.to_string(),
                case.proxies.to_string(),
                megabytes(case.resident),
                spread(&case.slice_ms),
                spread(&case.pod_ms),
                format!("{:.0}", case.slice_us.median),
                format!("{:.0}", case.pod_us.median),
                format!("{:.0}", case.all_us),
                format!("{:.0}", case.unused_us),
                format!("{:.1}", case.bytes / 1e3),
                format!("{:.2}", case.idle * 100.0),
            ]
        };
        rows(&head, self.cases.iter().map(row))
    }

    /// A row for each number of proxies.
    fn growth(&self) -> Vec<Vec<String>> {
        let all = growth(&self.cases);
        let Some([few, many]) = all.first().map(|growth| growth.services) else { return Vec::new() };
        let mut head = vec![format!("CPU of a change, {many} to {few} services: proxies")];
        head.extend(Cost::ALL.map(|cost| cost.title().to_owned()));
        head.push(format!("at most {GROWTH}"));
        let mut rows = vec![head];
        for of in all.chunks(Cost::ALL.len()) {
            let mut row: Vec<String> = of.first().map(|growth| growth.proxies.to_string()).into_iter().collect();
            row.extend(of.iter().map(|growth| format!("{:.2}", growth.times)));
            row.push(mark(of.iter().all(super::figures::Growth::kept)));
            rows.push(row);
        }
        rows
    }

    fn others(&self) -> Vec<Vec<String>> {
        let (rate, burst, launch) = (&self.rate, &self.burst, &self.launch);
        let failures = match burst.failures {
            0 => "0".to_owned(),
            failures => format!("{failures} ({})", burst.reason),
        };
        let all = [
            ("certificates each second, one processor", format!("{:.0}", rate.per_second)),
            ("  CPU us for one", format!("{:.0}", rate.cpu_us)),
            ("  share of the processor that the authority had, %", format!("{:.0}", rate.busy * 100.0)),
            ("members that ask at once, each over a new connection", burst.members.to_string()),
            ("  answered", burst.answered.to_string()),
            ("  tries that failed before", failures),
            ("  p50 and p99, ms", format!("{:.0} and {:.0}", burst.p50_ms, burst.p99_ms)),
            ("  to the last one, ms", format!("{:.0}", burst.last_ms)),
            ("  CPU us for one, handshake included", format!("{:.0}", burst.cpu_us)),
            ("a sidecar's start until it is ready, ms", spread(&launch.ready_ms)),
            ("  CPU ms", spread(&launch.cpu_ms)),
        ];
        let target = format!("at most {READY_MS} {}", mark(launch.ready_ms.median <= READY_MS));
        let mut all: Vec<Vec<String>> =
            all.into_iter().map(|(name, value)| vec![name.to_owned(), value, String::new()]).collect();
        let answered = mark(burst.answered == burst.members);
        for (start, target) in [("a sidecar's start", target), ("  answered", format!("all {answered}"))] {
            if let Some(cell) = all.iter_mut().find(|row| row.first().is_some_and(|name| name.starts_with(start))) {
                cell.pop();
                cell.push(target);
            }
        }
        rows(&["certificates and sidecars", "", "target"], all.into_iter())
    }
}

fn rows(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    std::iter::once(head.iter().map(|&cell| cell.to_owned()).collect()).chain(rows).collect()
}

fn mark(kept: bool) -> String {
    if kept { "kept" } else { "missed" }.to_owned()
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}
