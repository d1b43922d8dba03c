use ipnet::IpNet;
use mesh_api::config::Validate as _;

use super::{
    plan::merged,
    settings::{MAX_ENTRIES, Owner, PortRange, Settings},
    *,
};

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
    assert_eq!(plan(&Settings::new(Owner::User(15400))).script(), include_str!("golden/plain.nft"));
    assert_eq!(plan(&everything()).script(), include_str!("golden/everything.nft"));
    assert!(everything().mistakes().is_empty(), "{:?}", everything().mistakes());
}

#[test]
fn a_kernel_without_ipv6_gets_what_it_knows() {
    let script = plan::plan_for(&everything(), Family::Ip).script();
    let both = include_str!("golden/everything.nft").replace("table inet", "table ip");
    let without: Vec<&str> = both.lines().filter(|line| !line.contains("ip6 ")).collect();
    assert_eq!(script.lines().collect::<Vec<_>>(), without);
}

#[test]
fn flags_say_the_same() {
    let flags = "--proxy-gid 2102 --inbound-port 1 --outbound-port 2 --admin-port 3 \
                 --skip-inbound-ports 8100-8190,22,8000-8099,8050 --skip-outbound-ports 65535,25,3306,25 \
                 --skip-subnets fd00:1::/32,10.1.2.3/16,10.0.0.0/8,192.168.7.7/32,fd12::1/8";
    let flags: Vec<&str> = flags.split_whitespace().collect();
    assert_eq!(Settings::from_flags(&flags).unwrap(), everything());
    assert_eq!(Settings::from_flags(&["--proxy-uid", "15400"]).unwrap(), Settings::new(Owner::User(15400)));
    for (wrong, why) in [
        (vec![], "required"),
        (vec!["--proxy-uid", "0"], "root"),
        (vec!["--proxy-uid", "1", "--proxy-gid", "1"], "cannot be used with"),
        (vec!["--proxy-uid", "1", "--skip-subnets", "10.0.0.0/40"], "10.0.0.0/40"),
        (vec!["--proxy-uid", "1", "--help"], "--help"),
        (vec!["--proxy-uid", "1", "; reboot"], "; reboot"),
    ] {
        let error = Settings::from_flags(&wrong).unwrap_err().to_string();
        assert!(error.contains(why), "{wrong:?}: {error}");
    }
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

/// Kernels without IPv6 are rare; what is written for them is held against any other.
#[test]
fn the_older_family_alone_is_taken_by_the_kernel() {
    let done = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
        let table = plan::plan_for(&everything(), Family::Ip);
        Kernel::open().unwrap().run(&nftables::replace(&table)).unwrap();
        assert_eq!(Kernel::open().unwrap().compare(&table).unwrap(), Ok(()));
        // The namespace has IPv6: the table for both is looked for.
        assert!(check(&everything()).unwrap_err().to_string().contains("no table"));
        Kernel::open().unwrap().run(&nftables::remove(Family::Ip)).unwrap();
        assert_eq!(Kernel::open().unwrap().compare(&table).unwrap(), Err(Difference::NoTable));
    });
    done.join().unwrap();
}

#[test]
fn an_error_of_the_kernel_names_what_is_missing() {
    let batch = nftables::replace(&plan(&everything()));
    let step = batch.steps.iter().find(|step| step.what.contains("fib daddr")).unwrap();
    let answered = |errno: nix::errno::Errno| {
        KernelError::answered(errno as i32, Some("as it says".into()), (&step.what, step.needs))
    };
    let lacking = answered(nix::errno::Errno::ENOENT);
    assert!(lacking.is_lacking());
    let said = lacking.to_string();
    assert!(said.contains("`fib daddr type != local return`") && said.contains("CONFIG_NFT_FIB_INET"), "{said}");
    assert!(said.ends_with(": as it says"), "{said}");
    assert!(answered(nix::errno::Errno::EPERM).to_string().contains("NET_ADMIN"));
    assert!(answered(nix::errno::Errno::EINVAL).to_string().starts_with("the kernel refused the rule `fib"));
}
