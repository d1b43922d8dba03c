//! `--set PART.KEY=VALUE`: settings of single parts of the mesh, over what `meshctl` generates.

use std::{fmt, str::FromStr};

use serde_json::{Map, Value};

/// A part of the mesh that has a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The certificate authority.
    Ca,
    /// The controller.
    Controller,
    /// Every sidecar.
    Proxy,
}

impl Part {
    /// As in `--set` and in file names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Controller => "controller",
            Self::Proxy => "proxy",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ca" => Ok(Self::Ca),
            "controller" => Ok(Self::Controller),
            "proxy" => Ok(Self::Proxy),
            other => Err(format!("`{other}` is none of ca, controller, proxy")),
        }
    }
}

/// One setting of one part. Whether the part has such a key, it says itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    part: Part,
    key: Vec<String>,
    value: String,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or("it has no `=`; write PART.KEY=VALUE, as in ca.leaf_ttl=1h")?;
        let (part, key) = path.split_once('.').ok_or("it names no part; write PART.KEY=VALUE, as in ca.leaf_ttl=1h")?;
        let key: Vec<String> = key.split('.').map(str::to_owned).collect();
        if key.iter().any(String::is_empty) {
            return Err(format!("`{path}` has an empty part"));
        }
        Ok(Self { part: part.parse()?, key, value: value.to_owned() })
    }
}

/// Puts what `overrides` say about `part` into its configuration. Values stay texts: the part reads them as the type
/// that the key has.
pub fn apply(part: Part, overrides: &[Override], config: &mut Map<String, Value>) {
    for one in overrides.iter().filter(|one| one.part == part) {
        let Some((last, path)) = one.key.split_last() else { continue };
        let mut map = &mut *config;
        for name in path {
            let below = map.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
            if !below.is_object() {
                *below = Value::Object(Map::new());
            }
            let Value::Object(below) = below else { return };
            map = below;
        }
        map.insert(last.clone(), Value::String(one.value.clone()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn they_reach_their_part_and_no_other() {
        let all: Vec<Override> = ["ca.leaf_ttl=20s", "proxy.telemetry.access_log=true", "proxy.log.level=a=b"]
            .map(|t| t.parse().unwrap())
            .into();
        let mut config = json!({ "telemetry": { "trace_ratio": 1.0 } }).as_object().unwrap().clone();
        apply(Part::Proxy, &all, &mut config);
        let wanted = json!({ "telemetry": { "trace_ratio": 1.0, "access_log": "true" }, "log": { "level": "a=b" } });
        assert_eq!(Value::Object(config), wanted);
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        for (text, reason) in [
            ("x", "no `=`"),
            ("x=1", "names no part"),
            ("dns.a=1", "none of ca"),
            ("ca.=1", "empty"),
            ("ca.a..b=1", "empty"),
        ] {
            let error = text.parse::<Override>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
