//! How each part and each sidecar is: reachable, ready, connected, in sync, certified. Asked for, then put together.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use mesh_controller::status::ProxyStatus;
use serde::Serialize;

use super::{Scrape, edges::names};
use crate::{
    io::{Table, Tone},
    local::state::{MeshFile, PartEntry, WorkloadEntry},
    query::{self, prometheus},
};

/// A certificate with less than this left is worth a look: it should have been renewed.
const EXPIRES_SOON: Duration = Duration::from_secs(5);

/// A part of the control plane.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartView {
    /// `ca` or `controller`.
    pub name: &'static str,
    /// True while its process runs.
    pub running: bool,
    /// True where it can do its work.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its version, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// Its admin server.
    pub admin: String,
}

/// A workload with its sidecar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemberView {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Its sidecar; none where it is no member.
    pub sidecar: Option<SidecarView>,
    /// Whether its program runs; none where the mesh does not run it.
    pub app: Option<bool>,
}

/// A sidecar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SidecarView {
    /// True where it answers.
    pub running: bool,
    /// True while it is connected to the controller.
    pub connected: bool,
    /// Number of things that it knows of the mesh, where the controller knows it.
    pub keys: usize,
    /// Those that it does not run as they were sent last, with the reason where it refused them.
    pub behind: Vec<String>,
    /// Its identity, as the controller saw it.
    pub identity: String,
    /// When its certificate runs out, in seconds since 1970.
    pub certificate_expires: Option<u64>,
    /// Version of its software.
    pub version: String,
    /// Its process.
    pub pid: Option<u32>,
    /// Its admin server.
    pub admin: String,
}

/// Asks the parts of the control plane.
pub async fn parts(mesh: &MeshFile) -> Vec<PartView> {
    let (ca, controller) = tokio::join!(part("ca", mesh, &mesh.ca), part("controller", mesh, &mesh.controller));
    vec![ca, controller]
}

async fn part(name: &'static str, mesh: &MeshFile, entry: &PartEntry) -> PartView {
    let (ready, metrics) = tokio::join!(query::get(entry.admin, "/ready"), query::get(entry.admin, "/metrics"));
    let reason = match ready {
        Ok(answer) if answer.status.is_success() => None,
        Ok(answer) => Some(String::from_utf8_lossy(&answer.body).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let samples = metrics.and_then(|answer| answer.text()).map(|page| prometheus::parse(&page)).unwrap_or_default();
    // A part that does not say it is of the version that the mesh was started with.
    let said =
        samples.iter().find(|sample| sample.name == names::BUILD).map(|sample| sample.label("version").to_owned());
    let version = said.or_else(|| entry.pid.map(|_| mesh.version.clone()));
    PartView {
        name,
        running: entry.pid.is_some(),
        ready: reason.is_none(),
        reason,
        version,
        pid: entry.pid,
        admin: entry.admin.to_string(),
    }
}

/// Asks the controller which proxies are connected to it. While it is away, none are known.
pub async fn proxies(mesh: &MeshFile) -> Vec<ProxyStatus> {
    let answer = query::get(mesh.controller.admin, "/proxies").await;
    answer.and_then(|answer| answer.json()).unwrap_or_default()
}

/// Puts together what is known of every workload.
#[must_use]
pub fn members(mesh: &MeshFile, proxies: &[ProxyStatus], scrape: &Scrape) -> Vec<MemberView> {
    let known: HashMap<_, _> = proxies.iter().map(|p| (format!("{}/{}", p.namespace, p.workload), p)).collect();
    let one = |entry: &WorkloadEntry| {
        let name = format!("{}/{}", entry.namespace, entry.name);
        let sidecar = entry.sidecar.as_ref().map(|sidecar| {
            let value = |metric| scrape.of(&name, metric).next().map(|sample| sample.value);
            let proxy = known.get(&name).copied();
            SidecarView {
                running: scrape.sidecars.get(&name).is_some_and(Option::is_some),
                connected: proxy.is_some() && value(names::CONNECTED).is_none_or(|up| up > 0.0),
                keys: proxy.map_or(0, |proxy| proxy.keys.len()),
                behind: proxy.map(behind).unwrap_or_default(),
                identity: proxy.map(|proxy| proxy.identity.clone()).unwrap_or_default(),
                certificate_expires: value(names::EXPIRY).filter(|at| *at > 0.0).map(|at| at as u64),
                version: proxy.map(|proxy| proxy.version.clone()).unwrap_or_default(),
                pid: sidecar.pid,
                admin: sidecar.admin.to_string(),
            }
        });
        MemberView { name, sidecar, app: entry.app.as_ref().map(|app| app.pid.is_some()) }
    };
    mesh.workloads.iter().map(one).collect()
}

fn behind(proxy: &ProxyStatus) -> Vec<String> {
    let keys = proxy.keys.iter().filter(|(_, status)| !status.is_current());
    keys.map(|(key, status)| match &status.refused {
        Some(refusal) => format!("{key}: refused: {}", refusal.reason),
        None => key.clone(),
    })
    .collect()
}

/// The control plane as a table.
#[must_use]
pub fn part_table(parts: &[PartView]) -> Table {
    let mut table = Table::new(&["CONTROL PLANE", "STATE", "PID", "VERSION", "ADMIN"]);
    for part in parts {
        let state = match (&part.reason, part.running) {
            (None, _) => ("ready".to_owned(), Tone::Good),
            (Some(_), false) => ("down".to_owned(), Tone::Bad),
            (Some(reason), true) => (reason.clone(), Tone::Bad),
        };
        table.toned([
            (part.name.to_owned(), Tone::Plain),
            state,
            (part.pid.map_or("-".into(), |pid| pid.to_string()), Tone::Plain),
            (part.version.clone().unwrap_or_else(|| "-".into()), Tone::Plain),
            (format!("http://{}", part.admin), Tone::Faint),
        ]);
    }
    table
}

/// The workloads as a table; `now` is wall time.
#[must_use]
pub fn member_table(members: &[MemberView], now: SystemTime) -> Table {
    let mut table =
        Table::new(&["WORKLOAD", "SIDECAR", "CONNECTED", "CONFIGURATION", "CERTIFICATE", "PROGRAM", "ADMIN"]);
    for member in members {
        let app = match member.app {
            None => ("-".to_owned(), Tone::Faint),
            Some(true) => ("running".to_owned(), Tone::Good),
            Some(false) => ("down".to_owned(), Tone::Bad),
        };
        let Some(sidecar) = &member.sidecar else {
            let none = || ("-".to_owned(), Tone::Faint);
            table.toned([(member.name.clone(), Tone::Plain), none(), none(), none(), none(), app, none()]);
            continue;
        };
        let yes_no =
            |yes, good: &str, bad: &str| if yes { (good.to_owned(), Tone::Good) } else { (bad.to_owned(), Tone::Bad) };
        let configuration = match (sidecar.keys, sidecar.behind.len()) {
            (0, _) => ("-".to_owned(), Tone::Faint),
            (all, 0) => (format!("in sync ({all})"), Tone::Good),
            (all, behind) => (format!("{behind} of {all} behind"), Tone::Warn),
        };
        table.toned([
            (member.name.clone(), Tone::Plain),
            yes_no(sidecar.running, "running", "down"),
            yes_no(sidecar.connected, "yes", "no"),
            configuration,
            certificate(sidecar.certificate_expires, now),
            app,
            (format!("http://{}", sidecar.admin), Tone::Faint),
        ]);
    }
    table
}

fn certificate(expires: Option<u64>, now: SystemTime) -> (String, Tone) {
    let Some(expires) = expires else { return ("none".into(), Tone::Bad) };
    match (SystemTime::UNIX_EPOCH + Duration::from_secs(expires)).duration_since(now) {
        Ok(left) if left > EXPIRES_SOON => (format!("for {}", rough(left)), Tone::Good),
        Ok(left) => (format!("for {}", rough(left)), Tone::Warn),
        Err(_) => ("expired".into(), Tone::Bad),
    }
}

/// A time as people say it.
fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}min", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Instant};

    use mesh_controller::status::{KeyStatus, Refusal};

    use super::*;

    fn mesh() -> MeshFile {
        let text = r#"{"pid": 1, "admin": "127.0.0.1:1", "source": "/m", "trust_domain": "x",
            "ca": {"pid": 2, "admin": "127.0.0.1:2", "address": "127.0.0.1:3"},
            "controller": {"pid": null, "admin": "127.0.0.1:4", "address": "127.0.0.1:5"},
            "workloads": [
                {"namespace": "shop", "name": "web-1", "sidecar": {"pid": 7, "admin": "127.0.0.1:6"}, "app": {"pid": 8}},
                {"namespace": "shop", "name": "plain", "sidecar": null, "app": null}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_known_is_put_together() {
        let current = KeyStatus { sent: "v2".into(), acked: Some("v2".into()), ..KeyStatus::default() };
        let waiting = KeyStatus { sent: "v2".into(), acked: Some("v1".into()), ..KeyStatus::default() };
        let refused = Refusal { version: "v2".into(), reason: "odd".into(), at_ms: 0 };
        let refused = KeyStatus { refused: Some(refused), ..current.clone() };
        let proxy = ProxyStatus {
            namespace: "shop".into(),
            workload: "web-1".into(),
            identity: "spiffe://x/ns/shop/sa/web".into(),
            keys: [("inbound".into(), current), ("a".into(), waiting), ("b".into(), refused)].into(),
            ..ProxyStatus::default()
        };
        let page = "mesh_certificate_expiry_timestamp_seconds 1000\nmesh_discovery_connected 1\n";
        let sidecars = BTreeMap::from([("shop/web-1".to_owned(), Some(prometheus::parse(page)))]);
        let members = members(&mesh(), &[proxy], &Scrape { at: Instant::now(), sidecars });
        let sidecar = members[0].sidecar.as_ref().unwrap();
        assert!(sidecar.running && sidecar.connected && members[0].app == Some(true));
        assert_eq!((sidecar.keys, sidecar.behind.as_slice()), (3, ["a".into(), "b: refused: odd".into()].as_slice()));
        assert_eq!((sidecar.certificate_expires, members[1].sidecar.is_none()), (Some(1000), true));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let text = member_table(&members, now).render(false);
        let line = text.lines().nth(1).unwrap();
        assert!(line.contains("2 of 3 behind") && line.contains("for 15min"), "{line}");
    }

    #[test]
    fn times_are_said_roughly() {
        let said = [5, 119, 300, 7_300, 200_000].map(|seconds| rough(Duration::from_secs(seconds)));
        assert_eq!(said, ["5s", "119s", "5min", "2h", "2d"]);
    }
}
