//! What a cluster, or the way to it, says when something does not work.

use std::error::Error;

/// Why there is no connection to a cluster. Nothing was changed; worth another try once the cause is gone.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No kubeconfig anywhere.
    #[error(
        "no cluster is configured: there is no --kubeconfig, no $KUBECONFIG, no ~/.kube/config, and this is not a pod; \
         name a kubeconfig with --kubeconfig FILE"
    )]
    None,
    /// The kubeconfig is not readable, or not a kubeconfig.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// The kubeconfig has no current context, and none is named.
    #[error("the kubeconfig names no current context; choose one with --context: {known}")]
    NoContext {
        /// Contexts that are there.
        known: String,
    },
    /// The context is not in the kubeconfig.
    #[error("the kubeconfig has no context {context}; it has: {known}")]
    UnknownContext {
        /// As given.
        context: String,
        /// Contexts that are there.
        known: String,
    },
    /// The context is there but nothing can be made of it.
    #[error("context {context} cannot be used: {why}")]
    Unusable {
        /// Its name.
        context: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody answers.
    #[error(
        "the API server {server} of context {context} does not answer: {why}; is the cluster up, and is this the right context?"
    )]
    Unreachable {
        /// Context.
        context: String,
        /// URL.
        server: String,
        /// What happened.
        why: String,
    },
    /// It answers, but not to us.
    #[error(
        "the API server {server} does not accept the credentials of context {context}: {why}; they may have run out"
    )]
    Stranger {
        /// Context.
        context: String,
        /// URL.
        server: String,
        /// What it said.
        why: String,
    },
}

/// What the API server said, or how asking it failed, in one line.
#[must_use]
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("status {} {}", status.code, status.reason),
        other => chain(other),
    }
}

/// An error and its causes, each once: layers like to repeat what is below them.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Names, for a sentence.
#[must_use]
pub fn listed(names: &[String]) -> String {
    if names.is_empty() { "(none)".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer: inner")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner(#[source] std::io::Error);

    #[test]
    fn causes_are_told_once() {
        let error = Outer(Inner(std::io::Error::other("refused")));
        assert_eq!(chain(&error), "outer: inner: refused");
    }
}
