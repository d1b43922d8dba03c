//! Join tokens: what a sidecar proves with who it is. They are made here, with the authority's own key and library, and
//! made anew long before they run out.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use mesh_ca::authn::JoinTokens;

use super::state::StateDir;

/// A token's life.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often every token is made anew.
pub const REFRESH: Duration = Duration::from_secs(6 * 3600);

/// Makes tokens for the members of one mesh.
#[derive(Debug)]
pub struct Tokens {
    state: StateDir,
    key: JoinTokens,
    given: BTreeMap<PathBuf, (String, String, String)>,
}

impl Tokens {
    /// With the key in the state folder, made where there is none.
    ///
    /// # Errors
    /// Where the key cannot be read or made.
    pub fn open(state: &StateDir) -> anyhow::Result<Self> {
        let path = Self::key_file(state);
        let key = JoinTokens::open_or_create(&path).context("the key of join tokens cannot be used")?;
        Ok(Self { state: state.clone(), key, given: BTreeMap::new() })
    }

    /// Where the key lies.
    #[must_use]
    pub fn key_file(state: &StateDir) -> PathBuf {
        state.ca().join("join.key")
    }

    /// Writes a token for a member, and answers where.
    ///
    /// # Errors
    /// Where a name is no DNS label, or the file cannot be written.
    pub fn give(&mut self, namespace: &str, account: &str, workload: &str) -> anyhow::Result<PathBuf> {
        let path = self.state.tokens().join(format!("{namespace}.{workload}"));
        self.write(&path, namespace, account, workload)?;
        self.given.insert(path.clone(), (namespace.into(), account.into(), workload.into()));
        Ok(path)
    }

    /// Writes every token anew.
    ///
    /// # Errors
    /// The first fault; the others are tried all the same.
    pub fn refresh(&self) -> anyhow::Result<()> {
        let each =
            self.given.iter().map(|(path, (namespace, account, name))| self.write(path, namespace, account, name));
        each.fold(Ok(()), Result::and)
    }

    /// A member is gone.
    pub fn take_back(&mut self, namespace: &str, workload: &str) {
        let path = self.state.tokens().join(format!("{namespace}.{workload}"));
        self.given.remove(&path);
        let _ = std::fs::remove_file(path);
    }

    fn write(&self, path: &std::path::Path, namespace: &str, account: &str, workload: &str) -> anyhow::Result<()> {
        let token = self
            .key
            .mint_for(namespace, account, Some(workload), LIFE, SystemTime::now().into())
            .with_context(|| format!("no join token for {namespace}/{workload} (service account {account})"))?;
        self.state.write(path, token.as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn tokens_are_good_and_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path().join("mesh")).unwrap();
        let mut tokens = Tokens::open(&state).unwrap();
        let path = tokens.give("shop", "web", "web-1").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let check = || {
            let token = std::fs::read_to_string(&path).unwrap();
            let key = JoinTokens::open(&Tokens::key_file(&state)).unwrap();
            let caller = key.verify(&token, SystemTime::now().into()).unwrap();
            assert_eq!((caller.namespace(), caller.account(), caller.instance()), ("shop", "web", "web-1"));
            token
        };
        let first = check();
        tokens.refresh().unwrap();
        assert_ne!(check(), first);
        tokens.take_back("shop", "web-1");
        assert!(!path.exists());
        assert!(tokens.give("shop", "We b", "web-1").is_err());
    }
}
