//! Every mistake at once, the nearest right key, the order of the sources.

use std::{collections::BTreeMap, io::Write, net::SocketAddr, time::Duration};

use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Listen {
    address: SocketAddr,
    name: String,
    extra: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    inbound: Listen,
    workers: u16,
    #[serde(with = "duration")]
    drain: Duration,
    list: Vec<u16>,
    map: BTreeMap<String, u16>,
}

impl Default for Listen {
    fn default() -> Self {
        Self { address: ([127, 0, 0, 1], 80).into(), name: "in".into(), extra: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        let drain = Duration::from_secs(30);
        Self { inbound: Listen::default(), workers: 1, drain, list: vec![], map: BTreeMap::new() }
    }
}

impl Validate for Config {
    fn mistakes(&self) -> Vec<(String, String)> {
        if self.workers == 0 { vec![("workers".into(), "at least one".into())] } else { vec![] }
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn later_sources_win() {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    write!(file, "workers = 2\ndrain = '1m'\nlist = [1, 2]\n[inbound]\nname = 'file'\nextra = 7\n[map]\na = 1\n")
        .unwrap();
    let sources = Sources {
        file: Some(file.path()),
        environment: pairs(&[("MESH_WORKERS", "3"), ("MESH_INBOUND__NAME", "8080"), ("OTHER", "x")]),
        flags: pairs(&[("workers", "4"), ("inbound.address", "[::1]:9")]),
    };
    let config: Config = load(&sources).unwrap();
    assert_eq!(config.workers, 4);
    assert_eq!(config.inbound.name, "8080", "a text may look like a number");
    assert_eq!(config.inbound.address, "[::1]:9".parse().unwrap());
    assert_eq!((config.inbound.extra, config.drain), (Some(7), Duration::from_secs(60)));
    assert_eq!((config.list, config.map), (vec![1, 2], [("a".to_owned(), 1)].into()));
}

#[test]
fn every_mistake_at_once() {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    write!(file, "worker = 2\n[inbound]\naddress = 'nowhere'\n[outbund]\nx = 1\n").unwrap();
    let sources = Sources {
        file: Some(file.path()),
        environment: pairs(&[("MESH_DRAIN", "soon"), ("MESH_INBOUND__EXTRA", "70000")]),
        flags: pairs(&[("inbound.adress", "x"), ("colour", "red")]),
    };
    let errors = load::<Config>(&sources).unwrap_err();
    let text = errors.to_string();
    assert_eq!(errors.lines().len(), 7, "{text}");
    for part in [
        "worker (file ",
        "did you mean `workers`?",
        "inbound.address (file ",
        "drain (environment MESH_DRAIN): `soon` is not a duration",
        "inbound.extra (environment MESH_INBOUND__EXTRA)",
        "inbound.adress (flag): there is no such key; did you mean `inbound.address`?",
        "colour (flag): there is no such key",
        "outbund",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn values_that_contradict_and_files_that_are_not_there() {
    let zero = Sources { flags: pairs(&[("workers", "0")]), ..Sources::default() };
    assert_eq!(load::<Config>(&zero).unwrap_err().lines(), ["workers: at least one"]);
    let missing = Sources { file: Some(Path::new("/nonexistent/mesh.toml")), ..Sources::default() };
    assert!(load::<Config>(&missing).unwrap_err().to_string().contains("/nonexistent/mesh.toml"));
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    write!(file, "workers = = 2").unwrap();
    let broken = Sources { file: Some(file.path()), ..Sources::default() };
    assert!(load::<Config>(&broken).unwrap_err().to_string().contains("mistake"));
}

#[test]
fn what_kubernetes_tells_of_services_is_no_configuration() {
    let names = [
        "MESH_CA_PORT",
        "MESH_CA_PORT_15410_TCP",
        "MESH_CA_PORT_15410_TCP_ADDR",
        "MESH_CA_SERVICE_HOST",
        "MESH_CA_SERVICE_PORT",
        "MESH_CA_SERVICE_PORT_GRPC",
        "MESH_CAR_PORT",
        "MESH_IDENTITY__CA",
        "MESH_CA_PORTS",
    ];
    let left = super::without_service_links(names.map(|name| (name.to_owned(), "x".to_owned())).to_vec());
    let left: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(left, ["MESH_CAR_PORT", "MESH_IDENTITY__CA", "MESH_CA_PORTS"]);
}

#[test]
fn lists_may_be_json() {
    for text in ["[1, 2]", " [1,2]\n"] {
        let sources = Sources { environment: pairs(&[("MESH_LIST", text)]), ..Sources::default() };
        assert_eq!(load::<Config>(&sources).unwrap().list, [1, 2], "{text:?}");
    }
    let sources = Sources { environment: pairs(&[("MESH_LIST", "[{\"a\": 1}]")]), ..Sources::default() };
    assert_eq!(load::<Config>(&sources).unwrap_err().lines().len(), 1);
}
