//! What is compared: pairs of proxies, read from a file, so that one more is an entry more.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::process::run;

/// What a chain carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Port {
    /// HTTP/1.1.
    H1,
    /// Bytes, which are HTTP/1.1.
    Tcp,
    /// HTTP/2.
    H2,
    /// gRPC.
    Grpc,
}

impl Port {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::H1, Self::Tcp, Self::H2, Self::Grpc];

    /// The service's port.
    #[must_use]
    pub fn service(self) -> u16 {
        match self {
            Self::H1 => 80,
            Self::Tcp => 81,
            Self::H2 => 82,
            Self::Grpc => 83,
        }
    }

    /// Where the outbound proxy of a chain from the file listens.
    #[must_use]
    pub fn outbound(self) -> u16 {
        15_000 + self.service()
    }

    /// Where the inbound proxy of a chain from the file listens.
    #[must_use]
    pub fn inbound(self) -> u16 {
        16_000 + self.service()
    }

    /// Where the application listens.
    #[must_use]
    pub fn application(self) -> u16 {
        match self {
            Self::H1 => 8080,
            Self::Tcp => 8081,
            Self::H2 => 8082,
            Self::Grpc => 8083,
        }
    }
}

/// A pair of proxies, or none of them.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The client speaks to the application.
    Direct,
    /// This mesh, with its control plane.
    Mesh,
    /// A pair from the file.
    Pair(Box<Pair>),
}

/// A row of the comparison.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its name in results.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// What it carries.
    pub carries: BTreeSet<Port>,
    /// What it is.
    pub kind: Kind,
}

/// An entry of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    name: String,
    title: String,
    carries: BTreeSet<Port>,
    /// A command that says the version in its first line.
    pub version: Vec<String>,
    /// Beside the client.
    pub outbound: Side,
    /// Beside the application.
    pub inbound: Side,
}

/// One proxy of a pair.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// What is run.
    pub command: Vec<String>,
    /// What it reads.
    pub config: String,
}

/// What stands in place of the names in braces.
#[derive(Clone, Debug)]
pub struct Place {
    /// `{server}`
    pub server: Ipv4Addr,
    /// `{certs}`
    pub certs: PathBuf,
    /// `{dir}`
    pub dir: PathBuf,
}

impl Chain {
    /// The application alone, the pairs of the file, this mesh.
    ///
    /// # Errors
    /// Where the file cannot be read, or names a chain twice.
    pub fn all(file: &Path) -> Result<Vec<Self>> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let pairs: Vec<Pair> =
            serde_saphyr::from_str(&text).with_context(|| format!("{} is not as it should be", file.display()))?;
        let every = || Port::ALL.into_iter().collect();
        let own =
            |name: &str, title: &str, kind| Self { name: name.into(), title: title.into(), carries: every(), kind };
        let mut all = vec![own("direct", "no proxy", Kind::Direct)];
        all.extend(pairs.into_iter().map(|pair| Self {
            name: pair.name.clone(),
            title: pair.title.clone(),
            carries: pair.carries.clone(),
            kind: Kind::Pair(Box::new(pair)),
        }));
        all.push(own("mesh", "Mesh", Kind::Mesh));
        let names: BTreeSet<_> = all.iter().map(|chain| &chain.name).collect();
        ensure!(names.len() == all.len(), "{} names a chain twice", file.display());
        Ok(all)
    }

    /// What it is a version of.
    ///
    /// # Errors
    /// Where its program is not there.
    pub fn version(&self) -> Result<String> {
        let Kind::Pair(pair) = &self.kind else { return Ok(env!("CARGO_PKG_VERSION").to_owned()) };
        let (program, arguments) = pair.version.split_first().context("no command that says the version")?;
        let output = run(Command::new(program).args(arguments), Duration::from_secs(10))
            .with_context(|| format!("{program} is needed for the comparison"))?;
        let text = output.text() + &output.error_text();
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    }
}

impl Side {
    /// The command, its configuration written to `DIR/NAME.conf`.
    ///
    /// # Errors
    /// Where that cannot be written, or there is no command.
    pub fn render(&self, name: &str, place: &Place) -> Result<Vec<String>> {
        let config = place.dir.join(format!("{name}.conf"));
        fs::write(&config, place.fill(&self.config)).with_context(|| format!("cannot write {}", config.display()))?;
        ensure!(!self.command.is_empty(), "{name} has no command");
        Ok(self.command.iter().map(|word| place.fill(word).replace("{config}", &config.to_string_lossy())).collect())
    }
}

impl Place {
    fn fill(&self, text: &str) -> String {
        text.replace("{server}", &self.server.to_string())
            .replace("{certs}", &self.certs.to_string_lossy())
            .replace("{dir}", &self.dir.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_as_it_should_be() {
        let all = Chain::all(&crate::bench::chains_file()).unwrap();
        let names: Vec<_> = all.iter().map(|chain| chain.name.as_str()).collect();
        assert_eq!(names, ["direct", "haproxy-l4", "haproxy-l7", "nginx-l7", "mesh"]);
        let dir = tempfile::tempdir().unwrap();
        let place = Place { server: [10, 0, 0, 2].into(), certs: "/certs".into(), dir: dir.path().into() };
        for chain in all {
            let Kind::Pair(pair) = chain.kind else { continue };
            for (name, side) in [("outbound", &pair.outbound), ("inbound", &pair.inbound)] {
                let words = side.render(name, &place).unwrap();
                let config = fs::read_to_string(dir.path().join(format!("{name}.conf"))).unwrap();
                for brace in ["{server}", "{certs}", "{dir}", "{config}"] {
                    assert!(!config.contains(brace) && !words.iter().any(|word| word.contains(brace)));
                }
            }
        }
    }
}
