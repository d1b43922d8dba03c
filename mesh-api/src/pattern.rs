//! Regular expressions of users, bounded: what a pattern may cost is decided here, once, for the controller that
//! accepts it and the proxy that runs it. Floor 0.

use regex::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
pub const MAX_PATTERN: usize = 1024;
/// Largest compiled pattern, in bytes.
pub const SIZE_LIMIT: usize = 256 * 1024;

/// Why a pattern is refused. It is the author's fault.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// Longer than [`MAX_PATTERN`].
    #[error("the pattern has {0} bytes, at most {MAX_PATTERN} are allowed")]
    TooLong(usize),
    /// Not a regular expression, or larger than [`SIZE_LIMIT`] when compiled.
    #[error("{0}")]
    Syntax(#[from] regex::Error),
}

/// Compiles a pattern, anchored at both ends. Matching takes time linear in the input.
///
/// # Errors
/// [`PatternError`], to be shown to the author.
pub fn compile(pattern: &str) -> Result<Regex, PatternError> {
    if pattern.len() > MAX_PATTERN {
        return Err(PatternError::TooLong(pattern.len()));
    }
    Ok(RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(SIZE_LIMIT).dfa_size_limit(SIZE_LIMIT).build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchored_and_bounded() {
        let pattern = compile("/a/[0-9]+|/b").unwrap();
        assert!(pattern.is_match("/a/12") && pattern.is_match("/b"));
        assert!(!pattern.is_match("/a/12/x") && !pattern.is_match("x/b"));
        assert!(compile("(a{1000}){1000}").is_err());
        assert!(compile("(").is_err());
        assert!(compile(&"a".repeat(MAX_PATTERN + 1)).is_err());
    }
}
