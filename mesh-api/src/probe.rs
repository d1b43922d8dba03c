//! Health probes and hooks that a sidecar carries out in the kubelet's place: what injection tells it of them. Floor 0:
//! imports nothing.
//!
//! A bare connection that comes to a pod from elsewhere is accepted by the sidecar, whoever is behind it, and one with the
//! application's own TLS cannot be looked into. So the kubelet asks the sidecar's admin server, which asks the application.
//! So it does for hooks: they change what the application does, and are nobody's but the kubelet's.
//!
//! The admin server does not see who asks. Whoever may read the pod from the cluster's API knows its [`Token`]; a neighbour
//! in the network does not.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What their paths on the admin server begin with; token, container and probe follow: `/probe/TOKEN/web/readiness`.
pub const PREFIX: &str = "/probe/";
/// Shortest token: one that is shorter can be guessed.
const MIN_TOKEN: usize = 16;
/// Longest token.
const MAX_TOKEN: usize = 64;

/// What a pod's probes are asked for with: a word that cannot be guessed, `a-z A-Z 0-9 -`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a word; `None` where it is too short, too long, or made of anything else.
    #[must_use]
    pub fn new(word: &str) -> Option<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        ((MIN_TOKEN..=MAX_TOKEN).contains(&word.len()) && word.bytes().all(good)).then(|| Self(word.to_owned()))
    }

    /// Makes one.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The path of a probe as it may be shown to anybody: its token is left out.
#[must_use]
pub fn shown(at: &str) -> String {
    match at.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/')) {
        Some((_, rest)) => format!("{PREFIX}…/{rest}"),
        None => PREFIX.to_owned(),
    }
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Its path on the admin server.
    pub at: String,
    /// Port of the application.
    pub port: u16,
    /// How long it may take, in seconds.
    pub seconds: u64,
    /// What is asked for over TLS. Whose certificate it is, is not looked at: a kubelet does not either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<Get>,
    /// What is asked for without TLS; neither: that a connection can be made is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Get>,
}

impl Probe {
    /// As it may be shown to anybody: without its token, and without the values of headers, which may be secrets, too.
    #[must_use]
    pub fn shown(&self) -> Self {
        let mut shown = Self { at: shown(&self.at), ..self.clone() };
        for get in [&mut shown.https, &mut shown.http].into_iter().flatten() {
            get.headers.iter_mut().for_each(|(_, value)| "…".clone_into(value));
        }
        shown
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// Path, with query.
    pub path: String,
    /// Headers, as name and value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_words_that_are_hard_to_guess() {
        for word in ["705ab4f5-6393-11e8-b7cc-42010a800002", &"x".repeat(16), &"x".repeat(64), Token::random().as_str()]
        {
            assert_eq!(Token::new(word).unwrap().as_str(), word);
        }
        for word in
            ["", "7", &"x".repeat(15), &"x".repeat(65), "705ab4f5/6393-11e8", "705ab4f5..6393-11e8", "é123456789012345"]
        {
            assert!(Token::new(word).is_none(), "{word}");
        }
        assert_ne!(Token::random(), Token::random());
        assert_eq!(format!("{:?}", Token::random()), "Token(…)");
    }

    #[test]
    fn nobody_is_shown_a_token() {
        let get = Get { path: "/".into(), headers: vec![("authorization".into(), "secret".into())] };
        for (at, wanted) in [
            ("/probe/secret/web/liveness", "/probe/…/web/liveness"),
            ("/probe/secret", "/probe/"),
            ("secret", "/probe/"),
        ] {
            let probe = Probe { at: at.into(), port: 1, seconds: 1, https: Some(get.clone()), http: Some(get.clone()) };
            assert_eq!(probe.shown().at, wanted);
            assert!(!format!("{:?}", probe.shown()).contains("secret"));
        }
    }
}
