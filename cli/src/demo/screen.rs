//! What the demo shows while it runs: redrawn every second on a terminal, printed now and then elsewhere.

use std::{collections::VecDeque, fmt::Write as _, io, time::Duration};

use crossterm::{Command, cursor, terminal};

use super::manifests::NAMESPACE;
use crate::{
    io::{Out, Tone, printable},
    local::{report::Notice, state::MeshFile},
    view::{
        edges::Edge,
        status::{Status, edge_table, refusal_table},
    },
};

/// How often it is shown on a terminal.
pub const REDRAW: Duration = Duration::from_secs(1);
/// How often it is printed elsewhere.
pub const REPRINT: Duration = Duration::from_secs(5);
/// Notices that stay on the screen.
const NOTICES: usize = 5;

/// Draws.
#[derive(Debug)]
pub struct Screen {
    notices: VecDeque<Notice>,
    where_to_look: Vec<String>,
}

impl Screen {
    /// With the lines that say where to look.
    #[must_use]
    pub fn new(where_to_look: Vec<String>) -> Self {
        Self { notices: VecDeque::new(), where_to_look }
    }

    /// A notice came: on a terminal it stays for a while, elsewhere it is a line.
    ///
    /// # Errors
    /// Where it cannot be printed.
    pub fn notice(&mut self, notice: Notice, out: &mut Out) -> io::Result<()> {
        if !out.terminal() {
            return out.toned(notice.tone, &notice.text);
        }
        self.notices.push_back(notice);
        if self.notices.len() > NOTICES {
            self.notices.pop_front();
        }
        Ok(())
    }

    /// Shows the state of the mesh; `totals` are the edges since the start.
    ///
    /// # Errors
    /// Where it cannot be printed.
    pub fn show(&self, status: &Status, totals: &[Edge], out: &mut Out) -> io::Result<()> {
        let text = self.text(status, totals, out.colour());
        if !out.terminal() {
            return out.raw(&text);
        }
        let (columns, rows) = terminal::size().unwrap_or((120, 40));
        let mut frame = format!("{}{}", cursor::MoveTo(0, 0), cursor::Hide);
        for line in text.lines().take(usize::from(rows.saturating_sub(1))) {
            let clear = terminal::Clear(terminal::ClearType::UntilNewLine);
            let _ = write!(frame, "{}{clear}\r\n", cut(line, usize::from(columns)));
        }
        let _ = write!(frame, "{}", terminal::Clear(terminal::ClearType::FromCursorDown));
        out.raw(&frame)
    }

    /// Takes the whole screen, and gives it back with `false`.
    ///
    /// # Errors
    /// Where it cannot be printed.
    pub fn take_over(&self, take: bool, out: &mut Out) -> io::Result<()> {
        if !out.terminal() {
            return Ok(());
        }
        match take {
            true => out.raw(&ansi(&terminal::EnterAlternateScreen)),
            false => out.raw(&(ansi(&terminal::LeaveAlternateScreen) + &ansi(&cursor::Show))),
        }
    }

    fn text(&self, status: &Status, totals: &[Edge], colour: bool) -> String {
        let mut text = Tone::Strong.paint("The demo of the mesh; Ctrl-C ends it", colour) + "\n\n";
        text.push_str(&edge_table(&status.edges).render(colour));
        text.push('\n');
        text.push_str(&format!("{}\n", split(totals)));
        let refusals = refusal_table(&status.refusals);
        if !refusals.is_empty() {
            text.push('\n');
            text.push_str(&refusals.render(colour));
        }
        text.push('\n');
        for line in &self.where_to_look {
            text.push_str(&Tone::Faint.paint(line, colour));
            text.push('\n');
        }
        for notice in &self.notices {
            text.push_str(&notice.tone.paint(&printable(&notice.text), colour));
            text.push('\n');
        }
        text
    }
}

fn ansi(command: &impl Command) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = command.write_ansi(&mut text);
    text
}

/// How payments were shared out so far.
fn split(edges: &[Edge]) -> String {
    let rate = |name: &str| -> f64 {
        let to = format!("{NAMESPACE}/{name}");
        edges.iter().filter(|edge| edge.destination == to).map(|edge| edge.requests_per_second).sum()
    };
    let (v1, v2) = (rate("payments-v1"), rate("payments-v2"));
    let all = v1 + v2;
    if all <= 0.0 {
        return "payments: nothing yet".to_owned();
    }
    format!("payments: {:.0}% to v1, {:.0}% to v2 (the route says 90 and 10)", v1 / all * 100.0, v2 / all * 100.0)
}

/// Where to look while it runs.
#[must_use]
pub fn where_to_look(mesh: &MeshFile, state: &std::path::Path, manifests: &std::path::Path) -> Vec<String> {
    let sidecar = mesh.workloads.iter().find(|workload| workload.name == "cart").and_then(|one| one.sidecar.as_ref());
    let mut lines = vec![format!("traces      http://{}/traces", mesh.admin)];
    if let Some(sidecar) = sidecar {
        lines.push(format!(
            "metrics     http://{0}/metrics   configuration   http://{0}/config   (of cart)",
            sidecar.admin
        ));
    }
    lines.push(format!("manifests   {}   (changes take effect at once)", manifests.display()));
    lines.push(format!("status      meshctl status --state {}", state.display()));
    lines.push(format!("logs        {}", state.join("logs").display()));
    lines
}

/// At most `columns` characters of a line, not counting colours.
fn cut(line: &str, columns: usize) -> String {
    let (mut out, mut used, mut escape) = (String::new(), 0, false);
    for c in line.chars() {
        match c {
            '\x1b' => escape = true,
            _ if escape => escape = c != 'm',
            _ if used >= columns => continue,
            _ => used += 1,
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_without_losing_its_colours() {
        assert_eq!(cut("abc", 5), "abc");
        assert_eq!(cut("\x1b[31mabcdef\x1b[0m", 3), "\x1b[31mabc\x1b[0m");
    }

    #[test]
    fn the_split_is_told() {
        let edge = |destination: &str, rate| Edge {
            source: "demo/cart".into(),
            destination: destination.into(),
            protocol: "http1".into(),
            route: String::new(),
            requests_per_second: rate,
            success: Some(1.0),
            p50: None,
            p99: None,
            mutual: true,
            identities: Default::default(),
        };
        assert_eq!(split(&[]), "payments: nothing yet");
        let told = split(&[edge("demo/payments-v1", 18.0), edge("demo/payments-v2", 2.0)]);
        assert_eq!(told, "payments: 90% to v1, 10% to v2 (the route says 90 and 10)");
    }
}
