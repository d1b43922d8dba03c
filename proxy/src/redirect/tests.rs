use super::*;

fn ports(text: &str) -> Vec<PortRange> {
    text.split(',').map(|one| one.parse().unwrap()).collect()
}

fn subnets(text: &str) -> Vec<IpNet> {
    text.split(',').map(|one| one.parse().unwrap()).collect()
}

fn everything() -> Settings {
    Settings {
        proxy: Owner::Group(2102),
        inbound_port: 1,
        outbound_port: 2,
        admin_port: 3,
        skip_inbound_ports: ports("8100-8190,22,8000-8099,8050"),
        skip_outbound_ports: ports("65535,25,3306,25"),
        skip_subnets: subnets("fd00:1::/32,10.1.2.3/16,10.0.0.0/8,192.168.7.7/32,fd12::1/8"),
    }
}

#[test]
fn golden() {
    assert_eq!(plan(&Settings::new(Owner::User(15400))), include_str!("golden/plain.nft"));
    assert_eq!(plan(&everything()), include_str!("golden/everything.nft"));
    assert!(everything().mistakes().is_empty(), "{:?}", everything().mistakes());
}

#[test]
fn each_plan_begins_by_taking_the_last_one_back() {
    assert!(plan(&everything()).starts_with(&remove_plan()));
}

#[test]
fn all_mistakes_at_once() {
    let settings = Settings {
        proxy: Owner::User(0),
        inbound_port: 0,
        outbound_port: 15490,
        skip_inbound_ports: ports("15000-16000"),
        skip_subnets: vec!["10.0.0.0/8".parse().unwrap(); MAX_ENTRIES + 1],
        ..Settings::new(Owner::User(1))
    };
    let keys: Vec<String> = settings.mistakes().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["proxy", "inbound-port", "admin-port", "skip-inbound-ports", "skip-subnets"]);
    assert_eq!(Settings::new(Owner::Group(u32::MAX)).mistakes().len(), 1);
    assert!(Settings::new(Owner::Group(1)).mistakes().is_empty());
}

#[test]
fn ranges() {
    for text in ["1", "80", "65535", "1-65535", "80-80"] {
        text.parse::<PortRange>().unwrap();
    }
    for text in
        ["", "0", "0-5", "65536", "9-8", "-", "80-", "-80", "+80", "8 0", "80-81-82", "http", "80; flush ruleset"]
    {
        let error = text.parse::<PortRange>().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(merged(&ports("65535,65534,1-65533")), ports("1-65535"));
    assert_eq!(merged(&ports("3,1")), ports("1,3"));
}

/// Stands in for `nft`.
fn stand_in(script: &str) -> (tempfile::TempDir, String) {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stand-in");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn what_went_wrong_is_said() {
    let error = super::run::run_by("/nowhere/nft", "x").unwrap_err();
    assert!(error.to_string().contains("install nftables"), "{error}");
    let (_folder, refuses) = stand_in("cat >&2; echo '-> not permitted' >&2; exit 3");
    let error = super::run::run_by(&refuses, "the script").unwrap_err().to_string();
    assert!(error.contains("the script-> not permitted") && error.contains("NET_ADMIN"), "{error}");
    let (_folder, deaf) = stand_in("exit 1");
    assert!(matches!(super::run::run_by(&deaf, &"x".repeat(1 << 20)), Err(RunError::Refused { .. })));
    let (folder, takes) = stand_in("cat > \"${0%/*}/taken\"");
    super::run::run_by(&takes, &plan(&everything())).unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("taken")).unwrap(), plan(&everything()));
}
