//! `meshctl status`: who runs what, and who calls whom.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    io::{Format, Out, Table, Tone},
    local::state::{MeshFile, StateDir},
    view::{
        self, Scrape,
        edges::{self, Edge, Refusal},
        members::{self, MemberView, PartView},
    },
};

/// Arguments of `meshctl status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl status\n  meshctl status --watch\n  meshctl status -o json --interval 5")]
pub struct Args {
    /// Folder of the running mesh [default: $XDG_RUNTIME_DIR/mesh, else /tmp/mesh-UID].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Show it again and again, until Ctrl-C.
    #[arg(short, long)]
    watch: bool,
    /// Rates are measured over so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Everything that is shown.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Parts of the control plane.
    pub control_plane: Vec<PartView>,
    /// Workloads with their sidecars.
    pub workloads: Vec<MemberView>,
    /// Who calls whom.
    pub edges: Vec<Edge>,
    /// What was refused.
    pub refusals: Vec<Refusal>,
}

impl Status {
    /// Asks everybody; rates are from `before` on.
    pub async fn ask(mesh: &MeshFile, before: Option<&Scrape>) -> (Self, Scrape) {
        let (parts, proxies, scrape) = tokio::join!(members::parts(mesh), members::proxies(mesh), view::scrape(mesh));
        let status = Self {
            control_plane: parts,
            workloads: members::members(mesh, &proxies, &scrape),
            edges: edges::edges(before, &scrape),
            refusals: edges::refusals(before, &scrape),
        };
        (status, scrape)
    }

    /// True where every part is ready and every sidecar runs what it was sent.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let sidecars = || self.workloads.iter().filter_map(|workload| workload.sidecar.as_ref());
        self.control_plane.iter().all(|part| part.ready)
            && sidecars().all(|sidecar| sidecar.running && sidecar.connected && sidecar.behind.is_empty())
    }

    fn show(&self, out: &mut Out) -> std::io::Result<()> {
        out.table(&members::part_table(&self.control_plane))?;
        out.line("")?;
        out.table(&members::member_table(&self.workloads, SystemTime::now()))?;
        for (name, behind) in self.workloads.iter().filter_map(|w| Some((&w.name, &w.sidecar.as_ref()?.behind))) {
            for one in behind {
                out.toned(Tone::Warn, &format!("{name}: not in sync: {one}"))?;
            }
        }
        out.line("")?;
        out.table(&edge_table(&self.edges))?;
        if self.edges.is_empty() {
            out.toned(Tone::Faint, "nobody called anybody yet")?;
        }
        let refusals = refusal_table(&self.refusals);
        if !refusals.is_empty() {
            out.line("")?;
            out.table(&refusals)?;
        }
        Ok(())
    }
}

/// Shows the status.
///
/// # Errors
/// Where no mesh runs, or it cannot be printed.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let root = StateDir::choose(args.state.as_deref());
    let (_, mesh) = StateDir::of_running(root.clone())?;
    let interval = Duration::from_secs(args.interval);
    let mut before = view::scrape(&mesh).await;
    loop {
        tokio::time::sleep(interval).await;
        // What runs may have changed meanwhile.
        let (_, mesh) = StateDir::of_running(root.clone())?;
        let (status, after) = Status::ask(&mesh, Some(&before)).await;
        before = after;
        if args.watch && out.terminal() && args.output == Format::Table {
            out.raw("\x1b[H\x1b[2J")?;
        }
        match args.output {
            Format::Table => status.show(&mut out)?,
            Format::Json => out.json(&status)?,
        }
        if !args.watch {
            return Ok(if status.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
}

/// Edges as a table.
#[must_use]
pub fn edge_table(edges: &[Edge]) -> Table {
    let mut table =
        Table::new(&["SOURCE", "DESTINATION", "PROTOCOL", ">REQ/S", ">SUCCESS", ">P50", ">P99", "MTLS IDENTITY"]);
    for edge in edges {
        let success = match edge.success {
            None => ("-".to_owned(), Tone::Faint),
            Some(share) => {
                let tone = if share < 0.99 { Tone::Bad } else { Tone::Plain };
                (format!("{:.1}%", share * 100.0), tone)
            }
        };
        let identity = match (edge.mutual, edge.success) {
            (true, _) => (edge.identities.iter().cloned().collect::<Vec<_>>().join(", "), Tone::Good),
            (false, None) => ("-".into(), Tone::Faint),
            (false, Some(_)) => ("none: not every call went over mutual TLS".into(), Tone::Bad),
        };
        table.toned([
            (edge.source.clone(), Tone::Plain),
            (edge.destination.clone(), Tone::Plain),
            (edge.protocol.clone(), Tone::Plain),
            (format!("{:.1}", edge.requests_per_second), Tone::Plain),
            success,
            (millis(edge.p50), Tone::Plain),
            (millis(edge.p99), Tone::Plain),
            identity,
        ]);
    }
    table
}

/// Refusals as a table; those that never happened are left out.
#[must_use]
pub fn refusal_table(refusals: &[Refusal]) -> Table {
    let mut table = Table::new(&["REFUSED BY", "DIRECTION", "CODE", "OBJECT", ">REQ/S", ">TOTAL"]);
    for refusal in refusals.iter().filter(|refusal| refusal.total > 0.0) {
        table.row([
            refusal.workload.clone(),
            refusal.direction.clone(),
            refusal.code.clone(),
            if refusal.object.is_empty() { "-".into() } else { refusal.object.clone() },
            format!("{:.1}", refusal.per_second),
            format!("{:.0}", refusal.total),
        ]);
    }
    table
}

fn millis(seconds: Option<f64>) -> String {
    seconds.map_or("-".into(), |seconds| format!("{:.1}ms", seconds * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_without_calls_claims_nothing() {
        let edge = Edge {
            source: "shop/web".into(),
            destination: "shop/cart".into(),
            protocol: "http1".into(),
            route: String::new(),
            requests_per_second: 0.0,
            success: None,
            p50: None,
            p99: Some(0.0125),
            mutual: false,
            identities: Default::default(),
        };
        let text = edge_table(&[edge.clone()]).render(false);
        let cells: Vec<_> = text.lines().nth(1).unwrap().split_ascii_whitespace().collect();
        assert_eq!(cells, ["shop/web", "shop/cart", "http1", "0.0", "-", "-", "12.5ms", "-"]);
        let plain = Edge { success: Some(0.5), ..edge };
        assert!(edge_table(&[plain]).render(false).contains("not every call went over mutual TLS"));
    }
}
