//! Changes of a document within its text: entries are put at the beginning of maps and lists, or taken out.

use serde_json::{Map, Value};

use super::{
    lines::{Entry, Lines, Range},
    node,
};

/// New maps and lists are put in before these keys, so that they stand where people expect them.
const BEFORE: [(&str, &str); 3] = [("initContainers", "containers"), ("volumes", "containers"), ("metadata", "spec")];

/// The text that says `to` in place of `from`, where it is so written that this can be told. The caller reads it again.
pub(super) fn edit(text: &str, from: &Value, to: &Value) -> Option<String> {
    let lines = Lines::new(text);
    let mut edits = Edits { lines: &lines, list: Vec::new() };
    edits.map(lines.all(), from.as_object()?, to.as_object()?)?;
    let mut changes = edits.list;
    changes.sort_by_key(|change| (change.at.from, change.order));
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut out = String::with_capacity(text.len() + 4096);
    let mut next = 0;
    for change in changes {
        lines.0.get(next..change.at.from.max(next))?.iter().for_each(|line| out.push_str(line));
        if !out.is_empty() && !out.ends_with('\n') && !change.text.is_empty() {
            out.push_str(end);
        }
        out.push_str(&change.text.replace('\n', end));
        next = next.max(change.at.to);
    }
    lines.0.get(next..)?.iter().for_each(|line| out.push_str(line));
    Some(out)
}

/// Lines that another text takes the place of.
struct Change {
    at: Range,
    order: usize,
    text: String,
}

struct Edits<'a> {
    lines: &'a Lines<'a>,
    list: Vec<Change>,
}

impl Edits<'_> {
    fn put(&mut self, at: usize, text: String) {
        let order = self.list.len();
        self.list.push(Change { at: Range { from: at, to: at }, order, text });
    }

    fn take(&mut self, range: Range) {
        let order = self.list.len();
        self.list.push(Change { at: self.lines.trimmed(range), order, text: String::new() });
    }

    fn map(&mut self, range: Range, from: &Map<String, Value>, to: &Map<String, Value>) -> Option<()> {
        let entries = self.lines.entries(range)?;
        let depth = self.lines.depth(range)?;
        let entry = |key: &str| entries.iter().find(|entry| entry.key == key);
        for (key, old) in from {
            match to.get(key) {
                Some(new) if new == old => {}
                Some(new) => self.value(entry(key)?, old, new)?,
                None => self.take(entry(key)?.range),
            }
        }
        let added: Map<String, Value> = to
            .iter()
            .filter(|(key, _)| !from.contains_key(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, value) in added {
            let text = node::render(&Value::Object(Map::from_iter([(key.clone(), value)])), None);
            let before = BEFORE.iter().find(|(added, _)| *added == key).and_then(|(_, before)| entry(before));
            let place = before.or(entries.first())?.range.from;
            self.put(place, indented(&text, depth));
        }
        Some(())
    }

    fn value(&mut self, entry: &Entry, old: &Value, new: &Value) -> Option<()> {
        let below = Range { from: entry.range.from + 1, to: entry.range.to };
        match (old, new) {
            (Value::Object(old), Value::Object(new)) if entry.below => self.map(below, old, new),
            (Value::Array(old), Value::Array(new)) if entry.below => self.items(below, old, new),
            _ => {
                // A value on its key's line, or of another kind: written anew.
                let depth = self.lines.indent(entry.range.from);
                let text = node::render(&Value::Object(Map::from_iter([(entry.key.clone(), new.clone())])), None);
                let order = self.list.len();
                let at = self.lines.trimmed(entry.range);
                self.list.push(Change { at, order, text: indented(&text, depth) });
                Some(())
            }
        }
    }

    fn items(&mut self, range: Range, old: &[Value], new: &[Value]) -> Option<()> {
        let (depth, items) = self.lines.items(range)?;
        if items.len() != old.len() {
            return None;
        }
        // Items that stay, in their order; others are taken out, new ones put in before the next that stays.
        let mut at = 0;
        for value in new {
            let stays = old.get(at..)?.iter().position(|one| same(one, value)).map(|found| at + found);
            let Some(found) = stays else {
                let place = items.get(at).map_or(self.lines.trimmed(range).to, |item| item.from);
                let text = node::render(&Value::Array(vec![value.clone()]), None);
                self.put(place, indented(&text, depth));
                continue;
            };
            for gone in items.get(at..found)? {
                self.take(*gone);
            }
            if old.get(found)? != value {
                self.take(*items.get(found)?);
                let text = node::render(&Value::Array(vec![value.clone()]), None);
                self.put(items.get(found)?.from, indented(&text, depth));
            }
            at = found + 1;
        }
        for gone in items.get(at..)? {
            self.take(*gone);
        }
        Some(())
    }
}

/// True where one may be what the other was.
fn same(one: &Value, other: &Value) -> bool {
    one == other || one.get("name").is_some_and(|name| Some(name) == other.get("name"))
}

fn indented(text: &str, depth: usize) -> String {
    let space = " ".repeat(depth);
    text.split_inclusive('\n')
        .map(|line| if line.trim().is_empty() { line.to_owned() } else { format!("{space}{line}") })
        .collect()
}
