//! A stream of YAML cut into documents, so that one that cannot be read does not take the others with it.
//!
//! A line that begins with `---` always separates documents: YAML 1.2 allows it inside no scalar (rule
//! c-forbidden). JSON has no such line and is one document.

/// One document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Its text, with the separator that opened it.
    pub(super) text: &'a str,
    /// How many lines of the file are before it.
    pub(super) before: u64,
}

/// Cuts a file into documents; those without content are left out.
pub(super) fn split(text: &str) -> impl Iterator<Item = Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut before, mut line_number, mut at) = (0, 0, 0, 0);
    for line in text.split_inclusive('\n') {
        if is_separator(line) {
            documents.push(Document { text: text.get(start..at).unwrap_or_default(), before });
            (start, before) = (at, line_number);
        }
        at += line.len();
        line_number += 1;
    }
    documents.push(Document { text: text.get(start..).unwrap_or_default(), before });
    documents.into_iter().filter(|document| has_content(document.text))
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').lines().map(str::trim).any(|line| {
        let line = line.strip_prefix("---").map_or(line, str::trim_start);
        !line.is_empty() && !line.starts_with(['#', '%']) && line != "..."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_through_separators_comments_and_scalars() {
        let text = "# head\n---\na: 1\n--- # two\nb: |\n  --- inside\n  x\n---\r\n\r\n---\n# nothing\n---\nc: 1";
        let found: Vec<(u64, bool)> = split(text).map(|d| (d.before, d.text.contains("inside"))).collect();
        assert_eq!(found, [(1, false), (3, true), (11, false)]);
        assert_eq!(split("").count(), 0);
        assert_eq!(split("%YAML 1.2\n---\na: 1\n...\n").count(), 1);
        assert_eq!(split("---a: 1").count(), 1);
    }
}
