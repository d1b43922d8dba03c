//! What people and scripts see: lines, tables, colours, JSON. Floor 0.
//!
//! Colours are for a terminal only, and not where `NO_COLOR` is set. A pipe whose reader went away ends the command
//! quietly; every other failed write is an error, so that a full disk does not look like success.

mod table;

pub use table::Table;

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

/// How a result is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// What a piece of text means, which decides its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Ordinary.
    #[default]
    Plain,
    /// A heading.
    Strong,
    /// Of less interest.
    Faint,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }

    /// `text` in this tone, where colours are wanted.
    #[must_use]
    pub fn paint(self, text: &str, colour: bool) -> String {
        match (self, colour) {
            (Self::Plain, _) | (_, false) => text.to_owned(),
            (tone, true) => format!("{}{text}\x1b[0m", tone.code()),
        }
    }
}

/// Standard output, or where a test looks.
pub struct Out {
    to: Box<dyn Write + Send>,
    terminal: bool,
    colour: bool,
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out").field("terminal", &self.terminal).field("colour", &self.colour).finish_non_exhaustive()
    }
}

impl Out {
    /// Standard output.
    #[must_use]
    pub fn stdout() -> Self {
        let terminal = io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { to: Box::new(io::stdout()), terminal, colour: terminal && colours_wanted() }
    }

    /// Anything else; neither a terminal nor coloured.
    #[must_use]
    pub fn to(writer: impl Write + Send + 'static) -> Self {
        Self { to: Box::new(writer), terminal: false, colour: false }
    }

    /// True where somebody looks and the screen can be redrawn.
    #[must_use]
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// True where colours are wanted.
    #[must_use]
    pub fn colour(&self) -> bool {
        self.colour
    }

    /// One line.
    ///
    /// # Errors
    /// As the system says.
    pub fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.to, "{text}")?;
        self.to.flush()
    }

    /// Text as it is, without an end of line.
    ///
    /// # Errors
    /// As the system says.
    pub fn raw(&mut self, text: &str) -> io::Result<()> {
        self.to.write_all(text.as_bytes())?;
        self.to.flush()
    }

    /// A line in a tone.
    ///
    /// # Errors
    /// As the system says.
    pub fn toned(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        let text = tone.paint(&printable(text), self.colour);
        self.line(text)
    }

    /// A table.
    ///
    /// # Errors
    /// As the system says.
    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        self.raw(&table.render(self.colour))
    }

    /// A value as JSON, with an end of line.
    ///
    /// # Errors
    /// As the system says.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.line(text)
    }
}

/// A failure, to standard error. There is nobody left to tell where that fails too.
pub fn complain(text: &str) {
    let colour = io::stderr().is_terminal() && colours_wanted();
    let _ = writeln!(io::stderr(), "{} {text}", Tone::Bad.paint("error:", colour));
}

/// Something on the way, to standard error: standard output has the result only.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `text` without what could move a cursor: it may come from somebody's manifest or a peer.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// True where the reader of a pipe went away.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Where a test looks at what was printed.
    #[derive(Clone, Default)]
    pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn tones_need_colour() {
        assert_eq!(Tone::Bad.paint("x", false), "x");
        assert_eq!(Tone::Bad.paint("x", true), "\x1b[31mx\x1b[0m");
        assert_eq!(Tone::Plain.paint("x", true), "x");
    }

    #[test]
    fn nothing_that_others_wrote_moves_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}\tc\n"), "a\u{fffd}[2Jb\u{fffd}\tc\n");
    }

    #[test]
    fn a_broken_pipe_is_known_through_its_context() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&anyhow::anyhow!("else")));
    }
}
