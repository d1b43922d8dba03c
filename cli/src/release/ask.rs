//! Asks whether to go on.

use std::io::{self, BufRead, IsTerminal, Write};

/// True where somebody says yes. Fails where nobody can be asked.
///
/// # Errors
/// That there is no terminal.
pub fn go_on(question: &str) -> anyhow::Result<bool> {
    anyhow::ensure!(
        io::stdin().is_terminal(),
        "there is no terminal to ask at; say --yes to go on without being asked"
    );
    write!(io::stderr(), "{question} [y/N] ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!(is_yes("y\n") && is_yes("Yes\n"));
        assert!(!is_yes("\n") && !is_yes("no\n") && !is_yes("yep\n"));
    }
}
