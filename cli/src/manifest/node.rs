//! Documents with the order of their keys, to be written anew in it.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::Value;

/// Keys that are put in come in this order, before all others.
const ORDER: [&str; 14] = [
    "apiVersion",
    "kind",
    "name",
    "image",
    "imagePullPolicy",
    "restartPolicy",
    "command",
    "args",
    "env",
    "ports",
    "metadata",
    "spec",
    "value",
    "valueFrom",
];

/// A document's shape: which keys, in which order.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A single value.
    Leaf,
    /// A list.
    List(Vec<Node>),
    /// A map; values that are names are kept, to find entries of lists by.
    Map {
        /// Keys and what is below them.
        entries: Vec<(String, Node)>,
        /// Value of the key `name`, where it is a text.
        name: Option<String>,
    },
}

/// Reads the shape of a document.
pub(super) fn read(text: &str) -> Result<Node, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// `value` as YAML, in the order of `like` as far as that goes. Long texts become blocks where they come back from them.
#[must_use]
pub fn render(value: &Value, like: Option<&Node>) -> String {
    let rendered = |blocks: bool| {
        let options = serde_saphyr::ser_options! { prefer_block_scalars: blocks };
        serde_saphyr::to_string_with_options(&Ordered { value, like }, options).ok()
    };
    let right = |text: &String| super::read(text).is_ok_and(|says| says.unwrap_or_default() == *value);
    // JSON is YAML.
    let plain = || render_json(value, like);
    rendered(true).filter(right).or_else(|| rendered(false).filter(right)).unwrap_or_else(plain)
}

/// The same as JSON.
pub(super) fn render_json(value: &Value, like: Option<&Node>) -> String {
    serde_json::to_string_pretty(&Ordered { value, like }).unwrap_or_else(|_| value.to_string()) + "\n"
}

struct Ordered<'a> {
    value: &'a Value,
    like: Option<&'a Node>,
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Array(list) => {
                let mut out = serializer.serialize_seq(Some(list.len()))?;
                for (at, value) in list.iter().enumerate() {
                    out.serialize_element(&Ordered { value, like: self.entry(at, value) })?;
                }
                out.end()
            }
            Value::Object(map) => {
                let known: &[(String, Node)] = match self.like {
                    Some(Node::Map { entries, .. }) => entries,
                    _ => &[],
                };
                let place = |key: &str| {
                    let known = known.iter().position(|(name, _)| name == key);
                    let ranked = ORDER.iter().position(|name| *name == key).unwrap_or(ORDER.len());
                    known.map_or((1, ranked), |at| (0, at))
                };
                let mut keys: Vec<(&String, &Value)> = map.iter().collect();
                keys.sort_by_key(|(key, _)| place(key));
                let mut out = serializer.serialize_map(Some(keys.len()))?;
                for (key, value) in keys {
                    let like = known.iter().find(|(name, _)| name == key).map(|(_, node)| node);
                    out.serialize_entry(key, &Ordered { value, like })?;
                }
                out.end()
            }
            leaf => leaf.serialize(serializer),
        }
    }
}

impl Ordered<'_> {
    /// The entry that this one was: the one of its name, else the one in its place.
    fn entry(&self, at: usize, value: &Value) -> Option<&Node> {
        let Some(Node::List(list)) = self.like else { return None };
        match value.get("name").and_then(Value::as_str) {
            Some(wanted) => {
                list.iter().find(|node| matches!(node, Node::Map { name: Some(name), .. } if name == wanted))
            }
            None => list.get(at),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Shape).map(|(node, _)| node)
    }
}

/// A node, and its text where it is one.
struct Read(Node, Option<String>);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Shape).map(|(node, text)| Self(node, text))
    }
}

struct Shape;

impl<'de> Visitor<'de> for Shape {
    type Value = (Node, Option<String>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok((Node::Leaf, None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok((Node::Leaf, None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok((Node::Leaf, None))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Self::Value, E> {
        Ok((Node::Leaf, None))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Self::Value, E> {
        Ok((Node::Leaf, None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok((Node::Leaf, None))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok((Node::Leaf, Some(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok((Node::Leaf, None))
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok((Node::Leaf, None))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Read(node, _)) = seq.next_element()? {
            list.push(node);
        }
        Ok((Node::List(list), None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut entries, mut own) = (Vec::new(), None);
        while let Some((key, Read(node, text))) = map.next_entry::<String, Read>()? {
            if key == "name" {
                own = text;
            }
            entries.push((key, node));
        }
        Ok((Node::Map { entries, name: own }, None))
    }
}
