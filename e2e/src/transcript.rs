//! What a program did, as text that two runs can be held against each other by. Floor 0.

use std::fmt::{Display, Write as _};

use anyhow::{Result, bail};

/// Lines of context before the first difference in an error.
const CONTEXT: usize = 4;
/// Bytes of a line that an error shows.
const SHOWN: usize = 300;

/// What a program did and saw. Whatever differs from run to run (dates, ports, process ids) must not be in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    text: String,
}

impl Transcript {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    pub fn line(&mut self, line: impl Display) {
        // Writing into a String does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// Adds the output of one step under its title.
    pub fn step(&mut self, title: &str, output: impl Display) {
        self.line(format_args!("== {title}"));
        self.line(output);
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `seen`, made in another way, is the same to the byte.
    ///
    /// # Errors
    /// Where they differ: the first differing line, with the lines before it.
    pub fn must_equal(&self, seen: &Self, how: &str) -> Result<()> {
        if self == seen {
            return Ok(());
        }
        let (want, have): (Vec<&str>, Vec<&str>) = (self.text.lines().collect(), seen.text.lines().collect());
        let same = want.iter().zip(&have).take_while(|(a, b)| a == b).count();
        let before = want.get(same.saturating_sub(CONTEXT)..same).unwrap_or_default().join("\n  ");
        let show = |lines: &[&str]| match lines.get(same) {
            Some(line) => line.chars().take(SHOWN).collect::<String>(),
            None => "(ends here)".to_owned(),
        };
        bail!(
            "{how}: differs from the direct run at line {}\n  {before}\n- direct: {}\n+ {how}: {}",
            same + 1,
            show(&want),
            show(&have),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let (mut a, mut b) = (Transcript::new(), Transcript::new());
        for t in [&mut a, &mut b] {
            t.step("get", "200");
        }
        a.must_equal(&b, "meshed").unwrap();
        a.line("left");
        let error = a.must_equal(&b, "meshed").unwrap_err().to_string();
        assert!(
            error.contains("line 3") && error.contains("- direct: left") && error.contains("(ends here)"),
            "{error}"
        );
    }
}
