//! Changes of header fields, compiled: nothing is parsed per request.

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_api::{
    model::{Name, route::HeaderModifier},
    names::is_reserved_header,
};

use super::matcher::Unusable;

/// One change.
#[derive(Clone, Debug)]
enum Edit {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue),
    Add(HeaderName, HeaderValue),
}

/// Changes of header fields, in order.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    edits: Vec<Edit>,
}

impl HeaderEdits {
    /// Appends what `modifier` says. What cannot be obeyed is left out and reported.
    pub fn extend(&mut self, modifier: &HeaderModifier, problems: &mut Vec<Unusable>) {
        let removes = modifier.remove.iter().map(|name| Ok(Edit::Remove(changeable(name)?)));
        let sets = modifier.set.iter().map(|(name, value)| Ok(Edit::Set(changeable(name)?, parse(value)?)));
        let adds = modifier.add.iter().map(|(name, value)| Ok(Edit::Add(changeable(name)?, parse(value)?)));
        for edit in removes.chain(sets).chain(adds) {
            match edit {
                Ok(edit) => self.edits.push(edit),
                Err(problem) => problems.push(problem),
            }
        }
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for edit in &self.edits {
            match edit {
                Edit::Remove(name) => {
                    headers.remove(name);
                }
                Edit::Set(name, value) => {
                    headers.insert(name, value.clone());
                }
                Edit::Add(name, value) => {
                    headers.append(name, value.clone());
                }
            }
        }
    }

    /// True where there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }
}

/// A name that a route may change: not the mesh's, not framing, not `Host`, which was judged already.
fn changeable(name: &Name) -> Result<HeaderName, Unusable> {
    const FIXED: [&str; 9] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "trailer",
    ];
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unusable::HeaderName(name.clone()))?;
    if FIXED.contains(&parsed.as_str()) || is_reserved_header(parsed.as_str()) {
        return Err(Unusable::HeaderOwner(name.clone()));
    }
    Ok(parsed)
}

fn parse(value: &Name) -> Result<HeaderValue, Unusable> {
    HeaderValue::from_str(value).map_err(|_| Unusable::HeaderValue(value.clone()))
}
