//! Tables whose columns align.

use super::{Tone, printable};

/// Space between two columns.
const GAP: usize = 3;

/// A table: a head, and rows of as many cells.
#[derive(Clone, Debug, Default)]
pub struct Table {
    head: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// A table with these columns; a name that starts with `>` makes a column of numbers, aligned to the right.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(|name| name.trim_start_matches('>').to_owned()).collect(),
            right: head.iter().map(|name| name.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// A row of plain cells.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.toned(cells.into_iter().map(|cell| (cell.into(), Tone::Plain)));
    }

    /// A row of cells with tones.
    pub fn toned(&mut self, cells: impl IntoIterator<Item = (String, Tone)>) {
        let cells = cells.into_iter().map(|(cell, tone)| (one_line(&cell), tone)).collect();
        self.rows.push(cells);
    }

    /// True where it has no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines, each with its end.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let head: Vec<_> = self.head.iter().map(|name| (name.clone(), Tone::Strong)).collect();
        let rows = || std::iter::once(&head).chain(&self.rows);
        let width = |column: usize| rows().filter_map(|row| row.get(column)).map(|cell| width(&cell.0)).max();
        let widths: Vec<usize> = (0..self.head.len()).map(|column| width(column).unwrap_or(0)).collect();
        rows().map(|row| self.line(row, &widths, colour)).collect()
    }

    fn line(&self, row: &[(String, Tone)], widths: &[usize], colour: bool) -> String {
        let mut line = String::new();
        let mut owed = 0;
        for (((text, tone), size), right) in row.iter().zip(widths).zip(&self.right) {
            let fill = size.saturating_sub(width(text));
            let (before, after) = if *right { (fill, 0) } else { (0, fill) };
            line.extend(std::iter::repeat_n(' ', owed + before));
            line.push_str(&tone.paint(text, colour));
            owed = after + GAP;
        }
        let mut line = line.trim_end_matches(' ').to_owned();
        line.push('\n');
        line
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_have_no_tail() {
        let mut table = Table::new(&["NAME", ">RPS", "STATE"]);
        table.row(["web", "9.5", "ready"]);
        table.row(["payments-v1", "120.0", ""]);
        let wanted = "NAME            RPS   STATE\nweb             9.5   ready\npayments-v1   120.0\n";
        assert_eq!(table.render(false), wanted);
    }

    #[test]
    fn colour_does_not_count_as_width() {
        let mut table = Table::new(&["A", "B"]);
        table.toned([("x".into(), Tone::Good), ("y".into(), Tone::Plain)]);
        table.toned([("long".into(), Tone::Plain), ("z".into(), Tone::Bad)]);
        let text = table.render(true);
        let bare: String =
            text.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert_eq!(bare, table.render(false));
    }

    #[test]
    fn a_cell_is_one_line() {
        let mut table = Table::new(&["A"]);
        table.row(["x\ny\x1b"]);
        assert_eq!(table.render(false), "A\nx y\u{fffd}\n");
    }
}
