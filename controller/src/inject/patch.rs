//! JSON patches (RFC 6902) between two documents.

use serde::Serialize;
use serde_json::Value;

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Op {
    /// Puts a value in; in a list, before what is there.
    Add {
        /// Where (RFC 6901).
        path: String,
        /// What.
        value: Value,
    },
    /// Puts a value in the place of another.
    Replace {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
    /// Takes a value out.
    Remove {
        /// Where.
        path: String,
    },
}

/// What turns `from` into `to`. Empty where they are equal.
#[must_use]
pub fn diff(from: &Value, to: &Value) -> Vec<Op> {
    let mut ops = Vec::new();
    walk("", from, to, &mut ops);
    ops
}

fn walk(path: &str, from: &Value, to: &Value, ops: &mut Vec<Op>) {
    match (from, to) {
        _ if from == to => {}
        (Value::Object(from), Value::Object(to)) => {
            for key in from.keys().filter(|key| !to.contains_key(*key)) {
                ops.push(Op::Remove { path: below(path, key) });
            }
            for (key, value) in to {
                match from.get(key) {
                    Some(old) => walk(&below(path, key), old, value, ops),
                    None => ops.push(Op::Add { path: below(path, key), value: value.clone() }),
                }
            }
        }
        (Value::Array(from), Value::Array(to)) => list(path, from, to, ops),
        _ => ops.push(Op::Replace { path: path.to_owned(), value: to.clone() }),
    }
}

/// What is equal at both ends stays; between them the one is taken out and the other put in.
fn list(path: &str, from: &[Value], to: &[Value], ops: &mut Vec<Op>) {
    let same = from.iter().zip(to).take_while(|(one, other)| one == other).count();
    let (from, to) = (from.get(same..).unwrap_or_default(), to.get(same..).unwrap_or_default());
    let tail = from.iter().rev().zip(to.iter().rev()).take_while(|(one, other)| one == other).count();
    let (from, to) = (from.get(..from.len() - tail).unwrap_or_default(), to.get(..to.len() - tail).unwrap_or_default());
    if from.len() == to.len() {
        for (at, (old, new)) in from.iter().zip(to).enumerate() {
            walk(&format!("{path}/{}", same + at), old, new, ops);
        }
        return;
    }
    ops.extend(from.iter().map(|_| Op::Remove { path: format!("{path}/{same}") }));
    for (at, value) in to.iter().enumerate() {
        ops.push(Op::Add { path: format!("{path}/{}", same + at), value: value.clone() });
    }
}

fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Applies as RFC 6902 says.
    fn apply(document: &mut Value, op: &Op) {
        let (Op::Add { path, .. } | Op::Replace { path, .. } | Op::Remove { path }) = op;
        let Some((parent, last)) = path.rsplit_once('/') else {
            let Op::Replace { value, .. } = op else { panic!("{op:?}") };
            value.clone_into(document);
            return;
        };
        let last = last.replace("~1", "/").replace("~0", "~");
        match (document.pointer_mut(parent).unwrap(), op) {
            (Value::Object(map), Op::Add { value, .. }) => drop(map.insert(last, value.clone())),
            (Value::Object(map), Op::Replace { value, .. }) => {
                map.insert(last, value.clone()).unwrap();
            }
            (Value::Object(map), Op::Remove { .. }) => drop(map.remove(&last).unwrap()),
            (Value::Array(list), Op::Add { value, .. }) => list.insert(last.parse().unwrap(), value.clone()),
            (Value::Array(list), Op::Replace { value, .. }) => list[last.parse::<usize>().unwrap()] = value.clone(),
            (Value::Array(list), Op::Remove { .. }) => drop(list.remove(last.parse().unwrap())),
            (other, _) => panic!("{op:?} in {other}"),
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a~/]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_one_to_the_other(from in any_json(), to in any_json()) {
            let mut document = from.clone();
            for op in diff(&from, &to) {
                apply(&mut document, &op);
            }
            prop_assert_eq!(document, to);
        }
    }

    #[test]
    fn it_touches_only_what_differs() {
        let from = json!({"a": [{"n": 1}, {"n": 2}], "b": {"x/y": 1}});
        let to = json!({"a": [{"n": 0}, {"n": 1}, {"n": 2}], "b": {"x/y": 2}});
        let ops = serde_json::to_value(diff(&from, &to)).unwrap();
        assert_eq!(
            ops,
            json!([
                {"op": "add", "path": "/a/0", "value": {"n": 0}},
                {"op": "replace", "path": "/b/x~1y", "value": 2},
            ])
        );
    }
}
