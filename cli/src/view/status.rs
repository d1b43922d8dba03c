//! All of it together: the control plane, the workloads, who calls whom, what was refused.

use std::time::SystemTime;

use serde::Serialize;

use super::{
    Scrape,
    edges::{self, Edge, Refusal},
    members::{self, MemberView, PartView},
    scrape,
};
use crate::{
    io::{Out, Table, Tone},
    local::state::MeshFile,
};

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
        let (parts, proxies, scrape) = tokio::join!(members::parts(mesh), members::proxies(mesh), scrape(mesh));
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

    /// Prints it as tables.
    ///
    /// # Errors
    /// Where it cannot be printed.
    pub fn show(&self, out: &mut Out) -> std::io::Result<()> {
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
        let identity = match (edge.mutual, edge.requests_per_second > 0.0) {
            (true, _) => (edge.identities.iter().cloned().collect::<Vec<_>>().join(", "), Tone::Good),
            (false, false) => ("-".into(), Tone::Faint),
            (false, true) => ("none: not every call went over mutual TLS".into(), Tone::Bad),
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
        let text = edge_table(std::slice::from_ref(&edge)).render(false);
        let cells: Vec<_> = text.lines().nth(1).unwrap().split_ascii_whitespace().collect();
        assert_eq!(cells, ["shop/web", "shop/cart", "http1", "0.0", "-", "-", "12.5ms", "-"]);
        let plain = Edge { requests_per_second: 1.0, ..edge };
        assert!(edge_table(&[plain]).render(false).contains("not every call went over mutual TLS"));
    }
}
