//! The mesh on a cluster as tables.

use std::{io, time::Duration};

use k8s_openapi::jiff::Timestamp;

use super::{ClusterStatus, PartView, ProxyView};
use crate::{
    check::verdict::roughly,
    io::{Out, Table, Tone},
    view::status::{edge_table, refusal_table},
};

/// A certificate with less left than this should have been renewed, whatever its life, in seconds.
const SOON: i64 = 60;
/// Characters of a version that tell it from others.
const SHORT: usize = 12;

impl ClusterStatus {
    /// Prints it as tables.
    ///
    /// # Errors
    /// Where it cannot be printed.
    pub fn show(&self, out: &mut Out) -> io::Result<()> {
        out.table(&part_table(&self.control_plane))?;
        if self.control_plane.is_empty() {
            out.toned(Tone::Bad, "there is no control plane; meshctl check says why")?;
        }
        out.line("")?;
        out.table(&proxy_table(&self.proxies, self.now))?;
        if self.proxies.is_empty() {
            out.toned(Tone::Faint, "no pod has a sidecar")?;
        }
        for line in self.proxies.iter().flat_map(behind) {
            out.toned(Tone::Warn, &line)?;
        }
        if !self.edges.is_empty() {
            out.line("")?;
            out.table(&edge_table(&self.edges))?;
        }
        let refusals = refusal_table(&self.refusals);
        if !refusals.is_empty() {
            out.line("")?;
            out.table(&refusals)?;
        }
        for unknown in &self.unknown {
            out.toned(Tone::Bad, &format!("not known: {unknown}"))?;
        }
        Ok(())
    }
}

fn part_table(parts: &[PartView]) -> Table {
    let mut table = Table::new(&["CONTROL PLANE", "POD", "STATE", "VERSION", "NODE", ">PROXIES", ">RESTARTS"]);
    for part in parts {
        let state = match &part.reason {
            None => ("ready".to_owned(), Tone::Good),
            Some(reason) => (reason.clone(), Tone::Bad),
        };
        table.toned([
            (part.part.clone(), Tone::Plain),
            (part.pod.clone(), Tone::Plain),
            state,
            (or_dash(&part.version), Tone::Plain),
            (or_dash(&part.node), Tone::Faint),
            (part.proxies.map_or("-".to_owned(), |number| number.to_string()), Tone::Plain),
            (part.restarts.to_string(), if part.restarts > 0 { Tone::Warn } else { Tone::Plain }),
        ]);
    }
    table
}

fn proxy_table(proxies: &[ProxyView], now: Timestamp) -> Table {
    let mut table =
        Table::new(&["POD", "SIDECAR", "VERSION", "CONTROLLER", "CONFIGURATION", "ACKNOWLEDGED", "CERTIFICATE"]);
    for proxy in proxies {
        let sidecar = match &proxy.reason {
            None => ("ready".to_owned(), Tone::Good),
            Some(reason) => (reason.clone(), Tone::Bad),
        };
        let controller = match &proxy.controller {
            Some(controller) => (controller.clone(), Tone::Plain),
            None => ("not connected".to_owned(), Tone::Bad),
        };
        let (all, current) = (proxy.keys.len(), proxy.keys.iter().filter(|key| key.in_sync).count());
        let configuration = match (proxy.controller.is_some(), all, current) {
            (false, ..) => ("-".to_owned(), Tone::Faint),
            (true, 0, _) => ("nothing asked for".to_owned(), Tone::Faint),
            (true, all, current) if all == current => ("in sync".to_owned(), Tone::Good),
            (true, all, current) => (format!("{} of {all} behind", all - current), Tone::Warn),
        };
        table.toned([
            (proxy.name.clone(), Tone::Plain),
            sidecar,
            (or_dash(&proxy.version), Tone::Plain),
            controller,
            configuration,
            (if all == 0 { "-".into() } else { format!("{current}/{all}") }, Tone::Plain),
            certificate(proxy.certificate_expires, now),
        ]);
    }
    table
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn certificate(expires: Option<i64>, now: Timestamp) -> (String, Tone) {
    let Some(expires) = expires else { return ("-".to_owned(), Tone::Faint) };
    match expires.saturating_sub(now.as_second()) {
        left if left <= 0 => ("expired".to_owned(), Tone::Bad),
        left => {
            let tone = if left < SOON { Tone::Warn } else { Tone::Good };
            (format!("for {}", roughly(Duration::from_secs(left.unsigned_abs()))), tone)
        }
    }
}

/// A line about each thing that a sidecar does not run as it was sent.
fn behind(proxy: &ProxyView) -> Vec<String> {
    let short = |version: &str| version.chars().take(SHORT).collect::<String>();
    let behind = proxy.keys.iter().filter(|key| !key.in_sync);
    let line = |key: &super::KeyView| {
        let runs = key.acknowledged.as_deref().map_or("nothing yet".to_owned(), short);
        let why = key.refused.as_deref().map(|why| format!("; it refused: {why}")).unwrap_or_default();
        format!("{}: {}: runs {runs}, was sent {}{why}", proxy.name, key.key, short(&key.current))
    };
    behind.map(line).collect()
}
