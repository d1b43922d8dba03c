//! Manifests of users, changed: a stream of YAML (or JSON) is cut into documents, some are changed, all others stay byte for
//! byte. Floor 1: imports nothing of the crate.
//!
//! A document is changed within its own text where that is possible, so that comments, order and style stay; the result
//! is read again, and only taken where it says exactly what it should. Else the document is written anew, in its order.

mod edit;
mod lines;
mod node;

pub use node::render;

use serde_json::Value;

/// Largest input, in bytes.
pub const MAX_INPUT: u64 = 64 * 1024 * 1024;

/// One document of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its text, with the separator that opened it.
    pub text: &'a str,
    /// Line of the stream that it begins at, from 1.
    pub line: usize,
}

impl Document<'_> {
    /// What it says; `None` where it says nothing, as between two separators.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn read(&self) -> Result<Option<Value>, String> {
        read(self.text)
    }

    /// Its text, saying `wanted`.
    #[must_use]
    pub fn saying(&self, wanted: &Value) -> String {
        let Ok(Some(before)) = self.read() else { return render(wanted, None) };
        if before == *wanted {
            return self.text.to_owned();
        }
        let edited = edit::edit(self.text, &before, wanted);
        if let Some(text) = edited.filter(|text| read(text).is_ok_and(|says| says.as_ref() == Some(wanted))) {
            return text;
        }
        let like = node::read(self.text).ok();
        if self.is_json() {
            return node::render_json(wanted, like.as_ref());
        }
        let separator = if self.text.starts_with("---") { "---\n" } else { "" };
        format!("{separator}{}", render(wanted, like.as_ref()))
    }

    fn is_json(&self) -> bool {
        self.text.trim_start_matches('\u{feff}').trim_start().starts_with('{')
    }
}

/// Cuts a stream into documents; put together again they are the stream. A line that begins with `---` always separates:
/// YAML 1.2 allows it inside no scalar (rule c-forbidden).
#[must_use]
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut first, mut at) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let separates =
            line.strip_prefix("---").is_some_and(|rest| rest.trim_end().is_empty() || rest.starts_with([' ', '\t']));
        if separates && at > start {
            documents.push(Document { text: text.get(start..at).unwrap_or_default(), line: first });
            (start, first) = (at, number + 1);
        }
        at += line.len();
    }
    documents.push(Document { text: text.get(start..).unwrap_or_default(), line: first });
    documents
}

fn read(text: &str) -> Result<Option<Value>, String> {
    // As the YAML library of kubectl: `0644` is octal, `yes` is true.
    let options = serde_saphyr::options! {
        with_snippet: false, legacy_octal_numbers: true, budget: serde_saphyr::budget! { max_aliases: 1000 }
    };
    serde_saphyr::from_str_with_options::<Option<Value>>(text, options)
        .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
