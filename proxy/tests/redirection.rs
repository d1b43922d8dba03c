//! The redirection's rules, put in force without any program, held against what `nft` makes of the printed script, each in
//! a network namespace of its own.
//!
//! Needs root, `ip`, `nft` and `setpriv`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use self::netns::Netns;

#[path = "support/netns.rs"]
mod netns;

/// Every kind of setting, alone and together.
const SETTINGS: [&str; 12] = [
    "--proxy-uid 15400",
    "--proxy-gid 2102",
    "--proxy-uid 4294967294 --inbound-port 1 --outbound-port 2 --admin-port 65535",
    "--proxy-uid 15400 --skip-inbound-ports 22",
    "--proxy-uid 15400 --skip-inbound-ports 8000-8100",
    "--proxy-uid 15400 --skip-inbound-ports 1-15439,15441-15449,15451-65535",
    "--proxy-uid 15400 --skip-outbound-ports 25,3306,65535,3307",
    "--proxy-uid 15400 --skip-outbound-ports 1-65535",
    "--proxy-uid 15400 --skip-subnets 10.0.0.0/8",
    "--proxy-uid 15400 --skip-subnets fd00::/8,2001:db8::1/128",
    "--proxy-uid 15400 --skip-subnets 0.0.0.0/0,::/0",
    "--proxy-gid 1 --skip-inbound-ports 80,90-99 --skip-outbound-ports 1,3-5,7-65535 \
     --skip-subnets 10.1.2.3/16,11.0.0.0/8,12.0.0.0/8,255.255.255.255/32,0.0.0.0/32,fd00::/9,fd80::/9,fe80::1/128,ff00::/8",
];

fn program(command: &str, flags: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
    program.args(["redirect", command]).args(flags.split_whitespace());
    program
}

/// The same program without the right to change or see rules, as somebody that is not the proxy.
fn without_rights(command: &str, flags: &str) -> Command {
    let mut program = Command::new("setpriv");
    program.args([
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
        env!("CARGO_BIN_EXE_mesh-proxy"),
        "redirect",
        command,
    ]);
    program.args(flags.split_whitespace());
    program
}

fn run(netns: &Netns, mut command: Command) -> Output {
    netns.run(move || command.output()).unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn fails(netns: &Netns, command: Command, why: &str) {
    let output = run(netns, command);
    assert!(output.status.code() == Some(1) && said(&output).contains(why), "{} {}", output.status, said(&output));
}

fn nft(netns: &Netns, script: &str) {
    let script = script.to_owned();
    netns.run(move || {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        writeln!(nft.stdin.take().unwrap(), "{script}").unwrap();
        assert!(nft.wait().unwrap().success());
    });
}

/// Everything there is in a namespace. A set with one entry is one entry: `nft` writes it so, or not, as its version is.
fn ruleset(netns: &Netns) -> String {
    let mut nft = Command::new("nft");
    nft.args(["list", "ruleset"]);
    let listed = netns.must_run(nft);
    let alone = |line: &str| match (line.split_once("{ "), line.split_once(" }")) {
        (Some((before, _)), Some((entries, after))) if !entries.contains(',') => {
            format!("{before}{}{after}", &entries[before.len() + 2..])
        }
        _ => line.to_owned(),
    };
    listed.lines().map(alone).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_kernel_has_the_rules_that_nft_would_make() {
    let (ours, theirs) = (Netns::new(), Netns::new());
    for flags in SETTINGS {
        ours.must_run(program("apply", flags));
        nft(&theirs, &theirs.must_run(program("print", flags)));
        let listed = ruleset(&ours);
        assert!(listed.contains("redirect to :"), "{listed}");
        assert_eq!(listed, ruleset(&theirs), "{flags}");
        let output = run(&ours, program("check", flags));
        assert!(output.status.success(), "{flags}: {}", said(&output));
    }
}

#[test]
fn rules_are_replaced_as_a_whole_and_taken_back() {
    let netns = Netns::new();
    nft(&netns, "add table inet other\nadd chain inet other mine\nadd rule inet other mine tcp dport 80 drop");
    let before = ruleset(&netns);
    netns.must_run(program("remove", ""));
    assert_eq!(ruleset(&netns), before);
    netns.must_run(program("apply", SETTINGS[11]));
    netns.must_run(program("apply", SETTINGS[0]));
    let once = ruleset(&netns);
    netns.must_run(program("apply", SETTINGS[0]));
    assert_eq!(ruleset(&netns), once);
    assert_eq!(once.matches("redirect to").count(), 2, "{once}");
    netns.must_run(program("remove", ""));
    netns.must_run(program("remove", ""));
    assert_eq!(ruleset(&netns), before);
}

#[test]
fn a_check_finds_what_is_not_as_it_should_be() {
    let netns = Netns::new();
    let flags = "--proxy-uid 15400 --skip-subnets 10.0.0.0/8,192.168.0.0/16";
    let check = || program("check", flags);
    fails(&netns, check(), "there is no table `mesh`");
    netns.must_run(program("apply", flags));
    assert!(said(&run(&netns, check())).contains("exactly those that are wanted"));
    for (change, found) in [
        ("add chain inet mesh mine", "a chain `mine`"),
        ("add rule inet mesh outbound tcp dport 1 return", "has 5 rules, and should have 4"),
        ("insert rule inet mesh outbound counter accept", "rule 1 should be `oif \"lo\" return`"),
        ("add table inet mesh { flags dormant; }", "dormant"),
        ("flush chain inet mesh inbound", "has 0 rules"),
        ("delete chain inet mesh inbound", "no chain `inbound`"),
        ("delete table inet mesh", "no table"),
    ] {
        nft(&netns, change);
        fails(&netns, check(), found);
        netns.must_run(program("apply", flags));
        assert!(run(&netns, check()).status.success(), "after {change}");
    }
    fails(&netns, program("check", "--proxy-uid 15401 --skip-subnets 10.0.0.0/8,192.168.0.0/16"), "meta skuid 15401");
    fails(&netns, program("check", "--proxy-uid 15400 --skip-subnets 10.0.0.0/8,192.168.0.0/17"), "192.168.0.0/17");
    // A table of another family is another table.
    nft(&netns, "add table ip mesh");
    assert!(run(&netns, check()).status.success());
}

#[test]
fn who_may_not_is_told_so_and_checks_by_connecting() {
    let (netns, hub) = (Netns::new(), Netns::new());
    let flags = SETTINGS[0];
    fails(&netns, without_rights("apply", flags), "NET_ADMIN");
    fails(&netns, without_rights("remove", ""), "NET_ADMIN");
    fails(&netns, without_rights("check", flags), "no way out");
    netns.link(&hub, "pod", ["10.88.7.2", "fd88:7::2"], ["10.88.7.1", "fd88:7::1"]);
    fails(&netns, without_rights("check", flags), "not redirected: one to 192.0.2.1:443");
    netns.must_run(program("apply", flags));
    let output = run(&netns, without_rights("check", flags));
    assert!(output.status.success() && said(&output).contains("one was tried"), "{}", said(&output));
    // One family alone has to do where the other has no way, or is left out.
    netns.ip("route del default");
    assert!(run(&netns, without_rights("check", flags)).status.success());
    fails(&netns, without_rights("check", &format!("{flags} --skip-subnets ::/0")), "no way out");
    // The proxy itself is not redirected, and cannot tell.
    let mut proxy = Command::new("setpriv");
    proxy.args(["--reuid", "15400", "--clear-groups", "--bounding-set", "-all", "--inh-caps", "-all"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let copy = folder.path().join("mesh-proxy");
    let mut install = Command::new("install");
    install.args(["-m", "755", env!("CARGO_BIN_EXE_mesh-proxy")]).arg(&copy);
    netns.must_run(install);
    proxy.arg(&copy).args(["redirect", "check"]).args(flags.split_whitespace());
    fails(&netns, proxy, "runs as the proxy's user");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let netns = Netns::new();
    let output = run(&netns, program("apply", "--proxy-uid 0"));
    assert!(output.status.code() == Some(2) && said(&output).contains("root"), "{}", said(&output));
    assert_eq!(ruleset(&netns), "");
}
