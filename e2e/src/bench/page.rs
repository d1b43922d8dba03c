//! Tables, and the page on which they stand. Pure.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::figures::Figure;

/// A page with something else between two marks.
///
/// # Errors
/// Where a mark is not there.
pub fn replaced(page: &str, marks: [&str; 2], between: &str) -> Result<String> {
    let (before, rest) = page.split_once(marks[0]).context("the page has lost its first mark")?;
    let (_, after) = rest.split_once(marks[1]).context("the page has lost its second mark")?;
    Ok(format!("{before}{}{between}{}{after}", marks[0], marks[1]))
}

/// A figure for people: the median, and where there is one its spread.
#[must_use]
pub fn spread(figure: &Figure) -> String {
    let short = |value: f64| match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    if figure.min == figure.max {
        return short(figure.median);
    }
    format!("{} [{}..{}]", short(figure.median), short(figure.min), short(figure.max))
}

/// Rows of cells, aligned; the first is the head.
pub fn table(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0).max(3)).collect();
    for (nth, row) in rows.iter().enumerate() {
        let cells = widths.iter().enumerate().map(|(column, width)| {
            let cell = row.get(column).map_or("", String::as_str);
            format!("{cell:<width$}")
        });
        let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
        if nth == 0 {
            let rule = widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>();
            let _ = writeln!(text, "| {} |", rule.join(" | "));
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let mut text = String::new();
        table(&mut text, &[vec!["a".into(), "bb".into()], vec!["long".into()]]);
        assert_eq!(text, "| a    | bb  |\n| ---- | --- |\n| long |     |\n\n");
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = "a\n<!-- x -->\nold\n<!-- y -->\nb";
        assert_eq!(replaced(page, ["<!-- x -->\n", "<!-- y -->"], "new\n").unwrap(), page.replace("old", "new"));
        assert!(replaced(page, ["<!-- z -->", "<!-- y -->"], "").is_err());
    }

    #[test]
    fn numbers_are_short() {
        let figure = |median, min, max| Figure { median, min, max };
        assert_eq!(spread(&figure(0.5, 0.5, 0.5)), "0.50");
        assert_eq!(spread(&figure(1234.5, 99.0, 2000.4)), "1234 [99.0..2000]");
    }
}
