//! Block style YAML, line by line: just enough of it to find where a map's entries and a list's items begin and end. What
//! is written otherwise is not found, and what is found wrongly shows when the result is read.

/// Lines of a text, with their ends.
pub(super) struct Lines<'a>(pub(super) Vec<&'a str>);

/// From one line to another, the last one excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: usize,
    pub(super) to: usize,
}

/// An entry of a map in block style.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Its lines: that of the key, then those of the value.
    pub(super) range: Range,
    /// True where the value begins on the next line.
    pub(super) below: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(text.split_inclusive('\n').collect())
    }

    pub(super) fn all(&self) -> Range {
        Range { from: 0, to: self.0.len() }
    }

    pub(super) fn line(&self, at: usize) -> &'a str {
        self.0.get(at).copied().unwrap_or_default()
    }

    pub(super) fn indent(&self, at: usize) -> usize {
        let line = self.line(at);
        line.len() - line.trim_start_matches(' ').len()
    }

    fn has_content(&self, at: usize) -> bool {
        let line = self.line(at).trim();
        !line.is_empty() && !line.starts_with('#') && !self.line(at).starts_with("---")
    }

    /// Indent of the first line with content.
    pub(super) fn depth(&self, range: Range) -> Option<usize> {
        (range.from..range.to).find(|at| self.has_content(*at)).map(|at| self.indent(at))
    }

    /// Entries of the map that fills `range`, where it is in block style.
    pub(super) fn entries(&self, range: Range) -> Option<Vec<Entry>> {
        let depth = self.depth(range)?;
        let mut entries: Vec<Entry> = Vec::new();
        for at in range.from..range.to {
            if !self.has_content(at) || self.indent(at) > depth {
                continue;
            }
            let rest = self.line(at).get(depth..)?;
            if self.indent(at) < depth {
                return None;
            }
            if rest.starts_with("- ") || rest.trim_end() == "-" {
                // An item of a list that is not indented.
                entries.last().filter(|entry| entry.below)?;
                continue;
            }
            let (key, value) = key(rest)?;
            if let Some(last) = entries.last_mut() {
                last.range.to = at;
            }
            let below = value.trim().is_empty() || value.trim_start().starts_with('#');
            entries.push(Entry { key, range: Range { from: at, to: range.to }, below });
        }
        Some(entries)
    }

    /// Items of the list in block style that fills `range`, and their indent.
    pub(super) fn items(&self, range: Range) -> Option<(usize, Vec<Range>)> {
        let depth = self.depth(range)?;
        let mut items: Vec<Range> = Vec::new();
        for at in (range.from..range.to).filter(|at| self.has_content(*at) && self.indent(*at) <= depth) {
            let rest = self.line(at).get(depth..)?;
            if self.indent(at) < depth || !(rest.starts_with("- ") || rest.trim_end() == "-") {
                return None;
            }
            if let Some(last) = items.last_mut() {
                last.to = at;
            }
            items.push(Range { from: at, to: range.to });
        }
        Some((depth, items))
    }

    /// `range` without empty lines and comments at its end: those belong to what follows.
    pub(super) fn trimmed(&self, range: Range) -> Range {
        let last = (range.from..range.to).rev().find(|at| self.has_content(*at));
        Range { from: range.from, to: last.map_or(range.from, |at| at + 1) }
    }
}

/// A key and what follows its colon.
fn key(line: &str) -> Option<(String, &str)> {
    let (key, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        None => {
            let end = line.find([':', ' ', '\n', '\r']).filter(|end| *end > 0)?;
            line.split_at_checked(end)?
        }
    };
    let value = rest.strip_prefix(':')?;
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
    (plain && (value.trim().is_empty() || value.starts_with(' '))).then(|| (key.to_owned(), value))
}
