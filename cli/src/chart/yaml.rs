//! YAML in, YAML out.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

/// One document; nothing at all is an empty map.
///
/// # Errors
/// What is wrong, with line and column.
pub fn one(text: &str) -> Result<Value, String> {
    let documents = many(text)?;
    match <[Value; 1]>::try_from(documents) {
        Ok([Value::Null]) => Ok(Value::Object(serde_json::Map::new())),
        Ok([value]) => Ok(value),
        Err(documents) if documents.is_empty() => Ok(Value::Object(serde_json::Map::new())),
        Err(documents) => Err(format!("it has {} documents, expected one", documents.len())),
    }
}

/// Every document.
///
/// # Errors
/// What is wrong, with line and column.
pub fn many(text: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| error.to_string())
}

/// A document, in the order in which people write objects.
#[must_use]
pub fn write(value: &Value) -> String {
    serde_saphyr::to_string(&Ordered(value)).unwrap_or_else(|error| format!("# {error}\n"))
}

/// Keys that come first, in this order; the others follow by name.
const FIRST: [&str; 5] = ["apiVersion", "kind", "metadata", "name", "namespace"];

struct Ordered<'a>(&'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for key in FIRST {
                    if let Some(value) = fields.get(key) {
                        map.serialize_entry(key, &Ordered(value))?;
                    }
                }
                for (key, value) in fields.iter().filter(|(key, _)| !FIRST.contains(&key.as_str())) {
                    map.serialize_entry(key, &Ordered(value))?;
                }
                map.end()
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Ordered)),
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let value = json!({
            "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "namespace": "ns", "name": "mesh", "labels": { "a": "true", "b": "1" } },
            "data": { "x.toml": "a = \"b\"\n\n[c]\nd = 1\n", "empty": "", "no": "no", "null": "null", "tail": "x  " },
            "spec": [1, 2.5, true, null, "y: z", "# no comment", [], {}],
        });
        let text = write(&value);
        assert_eq!(one(&text).unwrap(), value, "{text}");
        assert!(
            text.starts_with("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: mesh\n  namespace: ns\n"),
            "{text}"
        );
        assert!(text.contains("x.toml: |\n"), "{text}");
    }
}
