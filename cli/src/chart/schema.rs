//! Whether values are what a chart takes, told so that a typing error is found.
//!
//! The part of JSON Schema that the charts use: `type`, `properties`, `additionalProperties`, `required`, `enum`,
//! `pattern`, `minimum`, `maximum`, `minLength`, `items`, and `$ref` to `#/definitions/NAME`. A test refuses a schema with anything
//! else in it.

use mesh_api::config::nearest;
use regex::Regex;
use serde_json::{Map, Value};

/// Mistakes told at once.
const MAX_MISTAKES: usize = 20;

/// What is wrong with `values`, each with its path; nothing where all is well.
#[must_use]
pub fn mistakes(schema: &Value, values: &Value) -> Vec<String> {
    let mut check = Check { root: schema, found: Vec::new() };
    check.value(schema, "", values);
    check.found
}

struct Check<'a> {
    root: &'a Value,
    found: Vec<String>,
}

impl<'a> Check<'a> {
    fn wrong(&mut self, path: &str, why: &str) {
        if self.found.len() < MAX_MISTAKES {
            let path = if path.is_empty() { "the values" } else { path };
            self.found.push(format!("{path}: {why}"));
        }
    }

    fn value(&mut self, schema: &'a Value, path: &str, value: &Value) {
        let schema = self.resolved(schema);
        let Some(rules) = schema.as_object() else { return };
        if let Some(wanted) = rules.get("type").filter(|wanted| !is_of_type(wanted, value)) {
            let wanted = described(wanted);
            return self.wrong(path, &format!("expected {wanted}, found {}", found(value)));
        }
        if let Some(allowed) = rules.get("enum").and_then(Value::as_array).filter(|allowed| !allowed.contains(value)) {
            let allowed: Vec<String> = allowed.iter().map(shown).collect();
            return self.wrong(path, &format!("{} is not one of {}", shown(value), allowed.join(", ")));
        }
        match value {
            Value::String(text) => self.text(rules, path, text),
            Value::Number(_) => self.number(rules, path, value),
            Value::Array(items) => {
                let Some(schema) = rules.get("items") else { return };
                for (index, item) in items.iter().enumerate() {
                    self.value(schema, &format!("{path}[{index}]"), item);
                }
            }
            Value::Object(fields) => self.object(rules, path, fields),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let reference = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
        reference.and_then(|pointer| self.root.pointer(pointer)).unwrap_or(schema)
    }

    fn text(&mut self, rules: &Map<String, Value>, path: &str, text: &str) {
        let shortest = rules.get("minLength").and_then(Value::as_u64).unwrap_or(0);
        if (text.chars().count() as u64) < shortest {
            return self.wrong(path, "it must not be empty");
        }
        let Some(pattern) = rules.get("pattern").and_then(Value::as_str) else { return };
        if Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text)) {
            let meaning = rules.get("description").and_then(Value::as_str).unwrap_or(pattern);
            self.wrong(path, &format!("{text:?} is not right: {meaning}"));
        }
    }

    fn number(&mut self, rules: &Map<String, Value>, path: &str, value: &Value) {
        let number = value.as_f64().unwrap_or(0.0);
        let limit = |name| rules.get(name).and_then(|limit| Some((limit, limit.as_f64()?)));
        if let Some((least, _)) = limit("minimum").filter(|(_, least)| number < *least) {
            self.wrong(path, &format!("{value} is too small, the least is {least}"));
        }
        if let Some((most, _)) = limit("maximum").filter(|(_, most)| number > *most) {
            self.wrong(path, &format!("{value} is too large, the most is {most}"));
        }
    }

    fn object(&mut self, rules: &'a Map<String, Value>, path: &str, fields: &Map<String, Value>) {
        let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let none = Map::new();
        let known = rules.get("properties").and_then(Value::as_object);
        for (key, value) in fields {
            if let Some(schema) = known.and_then(|known| known.get(key)) {
                self.value(schema, &at(key), value);
            } else {
                match rules.get("additionalProperties") {
                    Some(Value::Bool(false)) => {
                        let names = known.unwrap_or(&none).keys().map(String::as_str);
                        let hint = nearest(key, names).map(|name| format!("; did you mean {}?", at(name)));
                        self.wrong(&at(key), &format!("there is no such value{}", hint.unwrap_or_default()));
                    }
                    Some(schema @ Value::Object(_)) => self.value(schema, &at(key), value),
                    _ => {}
                }
            }
        }
        let required = rules.get("required").and_then(Value::as_array).into_iter().flatten();
        for key in required.filter_map(Value::as_str).filter(|key| !fields.contains_key(*key)) {
            self.wrong(&at(key), "it is missing");
        }
    }
}

fn is_of_type(wanted: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    };
    match wanted {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    }
}

fn described(wanted: &Value) -> String {
    let one = |name: &str| match name {
        "boolean" => "true or false".to_owned(),
        "string" => "a text".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "a map".to_owned(),
        "integer" => "a whole number".to_owned(),
        "number" => "a number".to_owned(),
        other => other.to_owned(),
    };
    match wanted {
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(one).collect::<Vec<_>>().join(" or "),
        other => one(other.as_str().unwrap_or_default()),
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Object(_) => "a map".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Null => "nothing".to_owned(),
        Value::String(text) => format!("the text {text:?}"),
        other => other.to_string(),
    }
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), |text| if text.is_empty() { "\"\"".to_owned() } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_mistake_is_told_with_its_path_and_what_is_nearest() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["must"],
            "definitions": { "ttl": { "type": "string", "pattern": "^[0-9]+h$", "description": "a duration such as 24h" } },
            "properties": {
                "must": {}, "ca": { "type": "object", "additionalProperties": false, "properties": {
                    "replicas": { "type": "integer", "minimum": 1, "maximum": 9 }, "ttl": { "$ref": "#/definitions/ttl" },
                } },
                "mode": { "enum": ["permissive", "strict"] },
                "names": { "type": "array", "items": { "type": "string", "minLength": 1 } },
                "labels": { "type": "object", "additionalProperties": { "type": "string" } },
            },
        });
        let values = json!({
            "ca": { "replica": 3, "replicas": "3", "ttl": "soon" }, "mode": "strikt", "names": ["a", 1, ""],
            "labels": { "a": true },
        });
        let wanted = [
            "ca.replica: there is no such value; did you mean ca.replicas?",
            "ca.replicas: expected a whole number, found the text \"3\"",
            "ca.ttl: \"soon\" is not right: a duration such as 24h",
            "labels.a: expected a text, found true",
            "mode: strikt is not one of permissive, strict",
            "names[1]: expected a text, found 1",
            "names[2]: it must not be empty",
            "must: it is missing",
        ];
        assert_eq!(mistakes(&schema, &values), wanted);
        assert_eq!(mistakes(&schema, &json!({ "must": 1, "ca": { "replicas": 3, "ttl": "2h" } })), [""; 0]);
        assert_eq!(mistakes(&schema, &json!({ "must": 1, "ca": { "replicas": 0 } })).len(), 1);
    }
}
