//! Who is connected and runs what; what is wrong. Floor 0 to 1 in its types, so that the command line can read them
//! back; `serve` fills them in. Served as JSON: see [`crate::app`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::problem::{Condition, Problem, Severity};

/// Longest reason of a refusal that is kept, in bytes.
const MAX_REASON: usize = 1024;

/// One connected proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Namespace of its workload.
    pub namespace: String,
    /// Its workload, as it says itself.
    pub workload: String,
    /// Its identity, as the handshake proved it.
    pub identity: String,
    /// Its topology zone.
    pub zone: String,
    /// Its software version.
    pub version: String,
    /// Since when it is connected, in milliseconds since 1970.
    pub since_ms: u64,
    /// What it watches: `inbound`, or a destination.
    pub keys: BTreeMap<String, KeyStatus>,
}

/// What a proxy runs of one key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Version that was sent last; empty: none, or that there is nothing.
    pub sent: String,
    /// When, in milliseconds since 1970.
    pub sent_ms: u64,
    /// Version that the proxy said it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<String>,
    /// The last refusal, until a version is taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
}

impl KeyStatus {
    /// True where the proxy runs what it was sent.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.refused.is_none() && (self.sent.is_empty() || self.acked.as_ref() == Some(&self.sent))
    }
}

/// One line about one proxy, for a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `NAMESPACE/WORKLOAD`.
    pub workload: String,
    /// Its identity.
    pub identity: String,
    /// Its software version.
    pub version: String,
    /// How long it is connected.
    pub connected: Duration,
    /// How many keys it watches.
    pub keys: usize,
    /// Of how many it runs the newest version.
    pub current: usize,
    /// Of how many it refused the newest version.
    pub refused: usize,
}

/// A line about each proxy, by workload.
#[must_use]
pub fn rows(proxies: &[ProxyStatus], now: SystemTime) -> Vec<Row> {
    let row = |proxy: &ProxyStatus| Row {
        workload: format!("{}/{}", proxy.namespace, proxy.workload),
        identity: proxy.identity.clone(),
        version: proxy.version.clone(),
        connected: Duration::from_millis(millis(now).saturating_sub(proxy.since_ms)),
        keys: proxy.keys.len(),
        current: proxy.keys.values().filter(|key| key.is_current()).count(),
        refused: proxy.keys.values().filter(|key| key.refused.is_some()).count(),
    };
    let mut rows: Vec<Row> = proxies.iter().map(row).collect();
    rows.sort_by(|one, other| (&one.workload, other.connected).cmp(&(&other.workload, one.connected)));
    rows
}

/// A version that a proxy did not take over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which.
    pub version: String,
    /// Why, as the proxy says.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A problem, as it is told on the admin server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProblemView {
    /// `error` or `warning`.
    pub severity: Severity,
    /// The condition that it belongs to.
    pub condition: Condition,
    /// One stable word.
    pub reason: String,
    /// `Kind/namespace/name`.
    pub object: Option<String>,
    /// Path of the field; empty for the whole object.
    pub field: String,
    /// Manifest.
    pub path: Option<String>,
    /// Line in it.
    pub line: Option<u64>,
    /// For people.
    pub message: String,
}

impl From<&Problem> for ProblemView {
    fn from(problem: &Problem) -> Self {
        let place = problem.place.as_ref();
        Self {
            severity: problem.severity,
            condition: problem.reason.condition(),
            reason: problem.reason.as_str().into(),
            object: problem.object.as_ref().map(ToString::to_string),
            field: problem.field.clone(),
            path: place.map(|place| place.path.display().to_string()),
            line: place.map(|place| place.line).filter(|line| *line > 0),
            message: problem.message.clone(),
        }
    }
}

/// The state of the controller as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// Software version.
    pub version: String,
    /// All that was there at the start is known.
    pub synced: bool,
    /// Objects by kind.
    pub objects: BTreeMap<String, usize>,
    /// Connected proxies.
    pub proxies: usize,
    /// Errors and warnings.
    pub problems: BTreeMap<String, usize>,
}

/// One connected proxy, for its stream to write to and for others to read.
#[derive(Debug)]
pub struct Entry(Mutex<ProxyStatus>);

impl Entry {
    pub(crate) fn new(status: ProxyStatus) -> Arc<Self> {
        Arc::new(Self(Mutex::new(status)))
    }

    /// As it is now.
    #[must_use]
    pub fn read(&self) -> ProxyStatus {
        self.0.lock().clone()
    }

    pub(crate) fn watch(&self, key: &str) {
        self.0.lock().keys.entry(key.to_owned()).or_default();
    }

    pub(crate) fn unwatch(&self, key: &str) {
        self.0.lock().keys.remove(key);
    }

    pub(crate) fn sent(&self, key: &str, version: &str, now: SystemTime) {
        if let Some(status) = self.0.lock().keys.get_mut(key) {
            version.clone_into(&mut status.sent);
            status.sent_ms = millis(now);
        }
    }

    pub(crate) fn acked(&self, key: &str, version: &str) {
        if let Some(status) = self.0.lock().keys.get_mut(key) {
            status.acked = Some(version.to_owned());
            status.refused = None;
        }
    }

    pub(crate) fn refused(&self, key: &str, version: &str, reason: &str, now: SystemTime) {
        if let Some(status) = self.0.lock().keys.get_mut(key) {
            let reason = cut(reason, MAX_REASON).to_owned();
            status.refused = Some(Refusal { version: version.to_owned(), reason, at_ms: millis(now) });
        }
    }
}

/// At most `most` bytes of a text, at a character's end.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

/// Milliseconds since 1970.
#[must_use]
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_what_is_current_and_what_was_refused() {
        let entry = Entry::new(ProxyStatus {
            namespace: "shop".into(),
            workload: "web-1".into(),
            since_ms: 1000,
            ..ProxyStatus::default()
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(3500);
        for key in ["inbound", "a", "b", "c"] {
            entry.watch(key);
        }
        for (key, version) in [("inbound", "1"), ("a", "2"), ("b", "")] {
            entry.sent(key, version, now);
        }
        entry.acked("inbound", "1");
        entry.acked("a", "1");
        entry.refused("a", "2", &"é".repeat(MAX_REASON), now);
        entry.refused("not watched", "1", "", now);
        let read = entry.read();
        assert!(read.keys["a"].refused.as_ref().unwrap().reason.len() <= MAX_REASON);
        let rows = rows(&[read], now);
        assert_eq!((rows[0].workload.as_str(), rows[0].connected), ("shop/web-1", Duration::from_millis(2500)));
        assert_eq!((rows[0].keys, rows[0].current, rows[0].refused), (4, 3, 1));
    }
}
