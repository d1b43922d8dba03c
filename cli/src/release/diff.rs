//! The difference between two texts, as people know it from `diff -u`.

use std::fmt::Write as _;

/// Lines that are shown around a change.
const CONTEXT: usize = 3;
/// Texts with more lines than this are not compared line by line.
const MAX_LINES: usize = 4000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    Come(&'a str),
}

/// The difference; empty where there is none.
#[must_use]
pub fn unified(before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    if before.len().max(after.len()) > MAX_LINES {
        return format!("@@ {} lines before, {} after: too many to show\n", before.len(), after.len());
    }
    shown(&lines(&before, &after))
}

/// Every line of both, by the longest common subsequence.
fn lines<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<Line<'a>> {
    // What begins and ends alike needs no table.
    let head = before.iter().zip(after).take_while(|(left, right)| left == right).count();
    let tail_of = |lines: &[&'a str]| lines.get(head..).unwrap_or_default().to_vec();
    let (mut old, mut new) = (tail_of(before), tail_of(after));
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(left, right)| left == right).count();
    let same_end = old.split_off(old.len() - tail);
    new.truncate(new.len() - tail);

    let mut lines: Vec<Line<'a>> = before.iter().take(head).map(|line| Line::Same(line)).collect();
    lines.extend(middle(&old, &new));
    lines.extend(same_end.into_iter().map(Line::Same));
    lines
}

fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let width = new.len() + 1;
    // Length of the longest common subsequence of what follows.
    let mut table = vec![0_u32; (old.len() + 1) * width];
    let at = |table: &[u32], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            let length = if left == right {
                at(&table, i + 1, j + 1) + 1
            } else {
                at(&table, i + 1, j).max(at(&table, i, j + 1))
            };
            if let Some(cell) = table.get_mut(i * width + j) {
                *cell = length;
            }
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    loop {
        match (old.get(i), new.get(j)) {
            (None, None) => return lines,
            (Some(left), Some(right)) if left == right => {
                lines.push(Line::Same(left));
                (i, j) = (i + 1, j + 1);
            }
            (Some(left), right) if right.is_none() || at(&table, i + 1, j) >= at(&table, i, j + 1) => {
                lines.push(Line::Gone(left));
                i += 1;
            }
            (_, Some(right)) => {
                lines.push(Line::Come(right));
                j += 1;
            }
            (Some(_), None) => return lines,
        }
    }
}

fn shown(lines: &[Line<'_>]) -> String {
    let near = |index: usize| {
        let from = index.saturating_sub(CONTEXT);
        let around = lines.get(from..(index + CONTEXT + 1).min(lines.len())).unwrap_or_default();
        around.iter().any(|line| !matches!(line, Line::Same(_)))
    };
    let mut text = String::new();
    let (mut old, mut new, mut open) = (1, 1, false);
    for (index, line) in lines.iter().enumerate() {
        let visible = near(index);
        if visible && !open {
            let _ = writeln!(text, "@@ -{old} +{new} @@");
        }
        open = visible;
        let (sign, body) = match line {
            Line::Same(body) => (' ', body),
            Line::Gone(body) => ('-', body),
            Line::Come(body) => ('+', body),
        };
        if visible {
            let _ = writeln!(text, "{sign}{body}");
        }
        old += usize::from(!matches!(line, Line::Come(_)));
        new += usize::from(!matches!(line, Line::Gone(_)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_stand_in_their_context() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\nx\ni\nj\nk\n";
        let after = "a\nb\nc\nd\nE\nf\ng\nh\nx\ni\nj\nk\nl\n";
        let wanted = "@@ -2 +2 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n@@ -10 +10 @@\n i\n j\n k\n+l\n";
        assert_eq!(unified(before, after), wanted);
        assert_eq!(unified(before, before), "");
        assert_eq!(unified("", "x\n"), "@@ -1 +1 @@\n+x\n");
        assert_eq!(unified("x\n", ""), "@@ -1 +1 @@\n-x\n");
    }

    #[test]
    fn what_moved_is_shown_once() {
        assert_eq!(unified("a\nb\nc\n", "b\nc\na\n"), "@@ -1 +1 @@\n-a\n b\n c\n+a\n");
    }

    #[test]
    fn a_huge_text_is_not_compared() {
        let huge = "x\n".repeat(MAX_LINES + 1);
        assert!(unified(&huge, "x\n").contains("too many"));
    }
}
