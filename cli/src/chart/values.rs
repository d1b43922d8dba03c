//! Values of a chart: files merged, and `--set` as Helm writes it.

use std::path::Path;

use serde_json::{Map, Value};

use super::{ChartError, yaml};

/// Largest index of a list in `--set`.
const MAX_INDEX: usize = 1000;

/// Puts `over` on top of `base`: maps are merged, everything else is replaced, null takes a key away.
pub fn merge(base: &mut Value, over: &Value) {
    let (Value::Object(fields), Value::Object(over)) = (&mut *base, over) else {
        *base = over.clone();
        return;
    };
    for (key, value) in over {
        match fields.get_mut(key) {
            _ if value.is_null() => {
                fields.remove(key);
            }
            Some(present) if present.is_object() && value.is_object() => merge(present, value),
            _ => {
                fields.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The values of files and of `--set`, in this order, later ones on top.
///
/// # Errors
/// [`ChartError::Input`].
pub fn given(files: &[impl AsRef<Path>], sets: &[String]) -> Result<Value, ChartError> {
    let mut whole = Value::Object(Map::new());
    for path in files {
        let path = path.as_ref();
        let input = |why: String| ChartError::Input { whose: path.display().to_string(), why };
        let text = std::fs::read_to_string(path).map_err(|error| input(error.to_string()))?;
        let values = yaml::one(&text).map_err(input)?;
        if !values.is_object() {
            return Err(input("it is not a map of values".to_owned()));
        }
        overlay(&mut whole, &values);
    }
    for text in sets {
        let wrong = |why| ChartError::Input { whose: format!("--set {text}"), why };
        set(&mut whole, text).map_err(wrong)?;
    }
    Ok(whole)
}

/// As [`merge`], but null stays: it has to take a default away later.
pub fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(fields), Value::Object(over)) => {
            for (key, value) in over {
                overlay(fields.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// What makes `base` of nothing but what differs: `from` with the result on top is `to`.
#[must_use]
pub fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut changed = Map::new();
    for (key, value) in to {
        match from.get(key) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                changed.insert(key.clone(), difference(before, value));
            }
            _ => {
                changed.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(changed)
}

/// Takes `a.b=1,c[0]=x,d={y,z}` into `values`: Helm's syntax. Numbers, `true`, `false` and `null` are what they look
/// like; `\` before a comma or a dot takes its meaning.
///
/// # Errors
/// What is not understood.
pub fn set(values: &mut Value, text: &str) -> Result<(), String> {
    for assignment in split(text, ',') {
        let (path, value) = assignment.split_once('=').ok_or("it has no `=`; write KEY=VALUE, as in ca.replicas=3")?;
        put(values, &steps(path)?, parse(value))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for part in split(path, '.') {
        let (name, indexes) = part.split_once('[').map_or((part.as_str(), None), |(name, rest)| (name, Some(rest)));
        if name.is_empty() {
            return Err(format!("`{path}` has an empty key"));
        }
        steps.push(Step::Key(unescape(name)));
        let Some(indexes) = indexes else { continue };
        for index in indexes.strip_suffix(']').ok_or_else(|| format!("`{part}` has no closing bracket"))?.split("][") {
            let index = index.parse().ok().filter(|index| *index <= MAX_INDEX);
            steps.push(Step::Index(index.ok_or_else(|| format!("`{part}`: an index is a number up to {MAX_INDEX}"))?));
        }
    }
    Ok(steps)
}

fn put(place: &mut Value, steps: &[Step], value: Value) -> Result<(), String> {
    let Some((first, rest)) = steps.split_first() else {
        *place = value;
        return Ok(());
    };
    match first {
        Step::Key(key) => {
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
            let fields = place.as_object_mut().ok_or_else(|| format!("`{key}` is looked for in what is not a map"))?;
            put(fields.entry(key.clone()).or_insert(Value::Null), rest, value)
        }
        Step::Index(index) => {
            if place.is_null() {
                *place = Value::Array(Vec::new());
            }
            let items = place.as_array_mut().ok_or_else(|| format!("[{index}] is looked for in what is not a list"))?;
            if items.len() <= *index {
                items.resize(index + 1, Value::Null);
            }
            items.get_mut(*index).map_or(Ok(()), |item| put(item, rest, value))
        }
    }
}

fn parse(text: &str) -> Value {
    if let Some(list) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        let items = if list.is_empty() { Vec::new() } else { split(list, ',') };
        return Value::Array(items.iter().map(|item| parse(item)).collect());
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        // As in Helm, what begins with 0 is a text, and so is a number with a point.
        "0" => Value::from(0),
        text if text.starts_with('0') => Value::String(text.to_owned()),
        text => text.parse::<i64>().map_or_else(|_| Value::String(unescape(text)), Value::from),
    }
}

/// Parts between separators; those within braces, or after a backslash, do not separate.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut escaped, mut depth) = (false, 0_i32);
    for c in text.chars() {
        depth += i32::from(c == '{' && !escaped) - i32::from(c == '}' && !escaped);
        if c == separator && !escaped && depth <= 0 {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut escaped = false;
    for c in text.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            plain.push(c);
            escaped = false;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn set_is_helms() {
        for (text, wanted) in [
            ("a=1", json!({ "a": 1 })),
            ("a.b=x,c=true", json!({ "a": { "b": "x" }, "c": true })),
            ("a={x,y}", json!({ "a": ["x", "y"] })),
            ("a={}", json!({ "a": [] })),
            ("a[0].key=x,a[0].operator=Exists", json!({ "a": [{ "key": "x", "operator": "Exists" }] })),
            ("a[1]=x", json!({ "a": [null, "x"] })),
            ("a.kubernetes\\.io/os=linux", json!({ "a": { "kubernetes.io/os": "linux" } })),
            ("a=x\\,y", json!({ "a": "x,y" })),
            ("a=info\\,mesh=debug", json!({ "a": "info,mesh=debug" })),
            ("a=007", json!({ "a": "007" })),
            ("a=0", json!({ "a": 0 })),
            ("a=", json!({ "a": "" })),
            ("a=null", json!({ "a": null })),
            ("a=-3", json!({ "a": -3 })),
            ("a=http://x:4317", json!({ "a": "http://x:4317" })),
        ] {
            let mut values = json!({});
            set(&mut values, text).unwrap();
            assert_eq!(values, wanted, "{text}");
        }
        for wrong in ["a", "=1", "a..b=1", "a[x]=1", "a[0=1", "a[99999999999]=1"] {
            assert!(set(&mut json!({}), wrong).is_err(), "{wrong}");
        }
        assert!(set(&mut json!({ "a": 1 }), "a.b=1").unwrap_err().contains("not a map"));
    }

    #[test]
    fn maps_merge_lists_do_not_and_null_takes_away() {
        let mut base = json!({ "a": { "b": 1, "c": 2 }, "l": [1, 2], "n": 1 });
        merge(&mut base, &json!({ "a": { "c": 3 }, "l": [9], "n": null }));
        assert_eq!(base, json!({ "a": { "b": 1, "c": 3 }, "l": [9] }));
    }

    #[test]
    fn files_come_before_flags() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("1.yaml"), dir.path().join("2.yaml"));
        std::fs::write(&one, "a: { b: 1, c: 1 }\n").unwrap();
        std::fs::write(&two, "a: { c: 2 }\n").unwrap();
        let values = given(&[&one, &two], &["a.d=4".to_owned()]).unwrap();
        assert_eq!(values, json!({ "a": { "b": 1, "c": 2, "d": 4 } }));
        std::fs::write(&two, "- a\n").unwrap();
        assert!(given(&[&two], &[]).unwrap_err().to_string().contains("2.yaml: it is not a map"));
        assert!(given(&[dir.path().join("3.yaml")], &[]).unwrap_err().to_string().contains("3.yaml"));
    }

    #[test]
    fn a_difference_on_top_gives_the_whole() {
        let from = json!({ "a": { "b": 1, "c": 2 }, "d": 4 });
        let to = json!({ "a": { "b": 1, "c": 3 }, "d": 4, "e": 5 });
        let changed = difference(&from, &to);
        assert_eq!(changed, json!({ "a": { "c": 3 }, "e": 5 }));
        let mut again = from;
        merge(&mut again, &changed);
        assert_eq!(again, to);
    }
}
