//! Finds the first match of many without trying each: by path.

use std::collections::{BTreeMap, HashMap};

use super::matcher::PathPattern;

/// Entries by the path that they want. Within each list in order.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Vec<usize>>,
    prefix: HashMap<Box<str>, Vec<usize>>,
    /// Every length of a key in `prefix`, so that no other prefix of a path is looked up.
    lengths: Vec<usize>,
    /// What fits every path, or can only be tried.
    rest: Vec<usize>,
}

impl Index {
    /// `paths` in order of precedence; numbers are positions in it.
    pub(super) fn new<'a>(paths: impl Iterator<Item = Option<&'a PathPattern>>) -> Self {
        let mut index = Self::default();
        let mut lengths = BTreeMap::new();
        for (at, path) in paths.enumerate() {
            match path {
                Some(PathPattern::Exact(path)) => index.exact.entry(path.clone()).or_default().push(at),
                Some(PathPattern::Prefix(prefix)) if !prefix.is_empty() => {
                    lengths.insert(prefix.len(), ());
                    index.prefix.entry(prefix.clone()).or_default().push(at);
                }
                _ => index.rest.push(at),
            }
        }
        index.lengths = lengths.into_keys().collect();
        index
    }

    /// The first entry that wants this path and that `fits` finds fitting. An entry without a path, with the prefix `/`
    /// or with a regular expression comes with every path: `fits` has to try it.
    pub(super) fn first(&self, path: Option<&str>, mut fits: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut best = None;
        let mut consider = |list: &[usize], best: &mut Option<usize>| {
            for &at in list {
                if best.is_some_and(|best| best <= at) {
                    break;
                }
                if fits(at) {
                    *best = Some(at);
                    break;
                }
            }
        };
        if let Some(path) = path {
            if !self.exact.is_empty()
                && let Some(list) = self.exact.get(path)
            {
                consider(list, &mut best);
            }
            for &length in &self.lengths {
                let Some((prefix, rest)) = path.split_at_checked(length) else { continue };
                let whole_segments = rest.is_empty() || rest.starts_with('/');
                if whole_segments && let Some(list) = self.prefix.get(prefix) {
                    consider(list, &mut best);
                }
            }
        }
        consider(&self.rest, &mut best);
        best
    }
}
