//! Writes a configuration as TOML, so that what `meshctl` generates looks like what people write.

use serde_json::{Map, Value};

/// A JSON object as a TOML document. Null values are left out; nested lists of lists are written inline.
#[must_use]
pub fn to_toml(root: &Map<String, Value>) -> String {
    let mut out = String::new();
    table("", root, &mut out);
    out
}

/// Plain values first: whatever follows a header belongs to it.
fn table(prefix: &str, map: &Map<String, Value>, out: &mut String) {
    for (key, value) in map {
        if !value.is_null() && !is_section(value) {
            out.push_str(&format!("{} = {}\n", bare(key), inline(value)));
        }
    }
    for (key, value) in map {
        let path = if prefix.is_empty() { bare(key) } else { format!("{prefix}.{}", bare(key)) };
        match value {
            Value::Object(inner) => {
                out.push_str(&format!("\n[{path}]\n"));
                table(&path, inner, out);
            }
            Value::Array(list) if is_section(value) => {
                for entry in list.iter().filter_map(Value::as_object) {
                    out.push_str(&format!("\n[[{path}]]\n"));
                    table(&path, entry, out);
                }
            }
            _ => {}
        }
    }
}

fn is_section(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(list) => !list.is_empty() && list.iter().all(Value::is_object),
        _ => false,
    }
}

fn bare(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(plain) { key.to_owned() } else { text(key) }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        Value::Array(list) => format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let fields: Vec<_> = map.iter().map(|(key, value)| format!("{} = {}", bare(key), inline(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// A basic string; JSON's escapes are TOML's, but for DEL, which only TOML forbids.
fn text(string: &str) -> String {
    Value::from(string).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let value = json!({
            "workload": "web-1",
            "quoted": "a \"b\" \\ \n \u{7f} é",
            "drain": 5,
            "nothing": null,
            "identity": { "ca": "127.0.0.1:1", "deep": { "x": true } },
            "inbound": { "listeners": [{ "listen": "127.0.0.1:2" }, { "listen": "127.0.0.1:3" }], "none": [] },
            "odd key": [1, 2],
        });
        let text = to_toml(value.as_object().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, &text).unwrap();
        let mut wanted = value;
        wanted.as_object_mut().unwrap().remove("nothing");
        let read: serde_json::Value = read(&path);
        assert_eq!(read, wanted, "{text}");
    }

    /// Reads through the loader that every part of the mesh uses.
    fn read(path: &std::path::Path) -> serde_json::Value {
        use std::collections::BTreeMap;

        use mesh_api::config;
        use serde::{Deserialize, Serialize};

        #[derive(Default, Serialize, Deserialize)]
        #[serde(default)]
        struct Any {
            workload: String,
            quoted: String,
            drain: u32,
            identity: BTreeMap<String, Value>,
            inbound: BTreeMap<String, Value>,
            #[serde(rename = "odd key")]
            odd: Vec<u32>,
        }
        impl config::Validate for Any {}
        let any: Any = config::load(&config::Sources { file: Some(path), ..Default::default() }).unwrap();
        serde_json::to_value(any).unwrap()
    }
}
