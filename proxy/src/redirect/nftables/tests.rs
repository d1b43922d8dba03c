use std::fmt::Write as _;

use super::*;
use crate::redirect::{
    netlink::{Attribute, attributes, messages},
    plan::plan_for,
    settings::{PortRange, Settings},
};

fn settings() -> Settings {
    let ports = |text: &str| text.split(',').map(|one| one.parse::<PortRange>().unwrap()).collect();
    Settings {
        skip_inbound_ports: ports("22"),
        skip_outbound_ports: ports("25,8000-8100,65535"),
        skip_subnets: ["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8", "255.255.255.255/32", "fd00::/8", "::1/128"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
        ..Settings::new(Owner::User(15400))
    }
}

/// One line for each message: what it is for, its kind and flags, and its attributes, nested in brackets.
fn dump(batch: &Batch) -> String {
    let mut text = String::new();
    for message in messages(&batch.bytes) {
        let nth = usize::try_from(message.sequence).unwrap();
        let what = nth.checked_sub(1).map_or("batch", |nth| &batch.steps[nth].what);
        write!(text, "{what}\n   {:#06x} {:#06x}", message.kind, message.flags).unwrap();
        message.attributes().for_each(|attribute| show(&mut text, attribute));
        text.push('\n');
    }
    text
}

fn show(text: &mut String, attribute: Attribute<'_>) {
    let consumed: usize = attributes(attribute.value).map(|inner| (inner.value.len() + 4).next_multiple_of(4)).sum();
    // A text ends with one zero.
    let printable = attribute.value.strip_suffix(&[0]).filter(|text| text.len() > 1 && text.is_ascii());
    let printable = printable.and_then(|text| std::str::from_utf8(text).ok());
    let printable = printable.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    write!(text, " {}", attribute.kind).unwrap();
    match printable {
        Some(printable) => write!(text, "={printable}").unwrap(),
        None if consumed > 4 && consumed == attribute.value.len().next_multiple_of(4) => {
            text.push('[');
            attributes(attribute.value).for_each(|inner| show(text, inner));
            text.push_str(" ]");
        }
        None => {
            text.push('=');
            attribute.value.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        }
    }
}

/// Held against a real kernel, and against `nft`, by the tests in network namespaces.
#[test]
#[cfg(target_endian = "little")]
fn golden() {
    let check = |name: &str, batch: &Batch, golden: &str| {
        let dump = dump(batch);
        if std::env::var_os("MESH_UPDATE_DOCS").is_some() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/redirect/golden");
            return std::fs::write(format!("{folder}/{name}"), &dump).unwrap();
        }
        assert_eq!(dump, golden, "{name} differs: MESH_UPDATE_DOCS=1 writes it anew");
    };
    let table = |family| plan_for(&settings(), family);
    check("inet.messages", &replace(&table(Family::Inet)), include_str!("../golden/inet.messages"));
    check("ip.messages", &replace(&table(Family::Ip)), include_str!("../golden/ip.messages"));
    check("remove.messages", &remove(Family::Inet), include_str!("../golden/remove.messages"));
}

#[test]
fn a_batch_is_framed_and_each_step_has_its_number() {
    let batch = replace(&plan_for(&settings(), Family::Inet));
    let kinds: Vec<u16> = messages(&batch.bytes).map(|message| message.kind).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&16), Some(&17)));
    let numbers: Vec<u32> = messages(&batch.bytes).map(|message| message.sequence).collect();
    let wanted: Vec<u32> = (1..=u32::try_from(batch.steps.len()).unwrap()).collect();
    assert_eq!(numbers[1..numbers.len() - 1], wanted);
    assert_eq!(batch.bytes.len() % 4, 0);
}

#[test]
fn bounds_of_a_set() {
    let bounds = |ranges: &[(u128, u128)]| -> Vec<(u128, bool)> {
        let number = |at: &[u8]| at.iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
        let set = set(13, 2, ranges.iter().copied());
        assert!(set.bounds.iter().all(|bound| bound.at.len() == 2));
        set.bounds.iter().map(|bound| (number(&bound.at), bound.end)).collect()
    };
    assert_eq!(bounds(&[(25, 25)]), [(25, false), (26, true)]);
    assert_eq!(bounds(&[(1, 3), (4, 9)]), [(1, false), (10, true)]);
    assert_eq!(bounds(&[(7, 65535)]), [(7, false)]);
    assert_eq!(set(8, 16, [(0, u128::MAX)].into_iter()).bounds, [Bound { at: vec![0; 16], end: false }]);
}

#[test]
fn many_entries_are_sent_in_messages_that_fit() {
    let ports = |nth: u16| PortRange::new(nth * 3 + 1, nth * 3 + 1).unwrap();
    let settings = Settings { skip_inbound_ports: (0..4000).map(ports).collect(), ..settings() };
    let batch = replace(&plan_for(&settings, Family::Inet));
    let longest = messages(&batch.bytes).flat_map(|message| message.attributes()).map(|one| one.value.len()).max();
    assert!(longest.unwrap() < 60_000);
}

/// What the kernel would list of a batch with one set at most, as if it gave back what it was given.
fn listed(table: &Table, batch: &Batch) -> Listing {
    let mut listing = Listing::default();
    let of = |kind: u16| messages(&batch.bytes).filter(move |message| message.kind == SUBSYSTEM << 8 | kind);
    of(kind::NEW_CHAIN).for_each(|message| listing.chain(table, message));
    for message in of(kind::NEW_SET) {
        assert_eq!(listing.set(table, message).unwrap(), SET_NAME);
    }
    of(kind::NEW_ELEMENT).for_each(|message| listing.elements(SET_NAME, message));
    of(kind::NEW_RULE).for_each(|message| listing.rule(table, message));
    listing
}

#[test]
fn a_table_is_known_again_and_each_difference_is_told() {
    let plain = Settings { skip_inbound_ports: vec![], skip_outbound_ports: vec![], ..settings() };
    let plain = Settings { skip_subnets: vec!["10.0.0.0/8".parse().unwrap()], ..plain };
    for family in [Family::Inet, Family::Ip] {
        let table = plan_for(&plain, family);
        let found = listed(&table, &replace(&table));
        assert_eq!(compare(&table, &found), Ok(()));
        let told = |change: &dyn Fn(&mut Settings)| {
            let mut other = plain.clone();
            change(&mut other);
            compare(&plan_for(&other, family), &found).unwrap_err().to_string()
        };
        assert!(told(&|other| other.proxy = Owner::User(1)).contains("rule 2 should be `meta skuid 1 return`"));
        assert!(told(&|other| other.proxy = Owner::Group(15400)).contains("skgid"));
        assert!(told(&|other| other.inbound_port = 1).contains("redirect to :1`"));
        assert!(told(&|other| other.skip_subnets = vec!["10.0.0.0/9".parse().unwrap()]).contains("10.0.0.0/9"));
        assert!(told(&|other| other.skip_subnets = vec![]).contains("rule 3"));
        let mut fewer = table.clone();
        fewer.chains[1].rules.pop();
        assert!(compare(&fewer, &found).unwrap_err().to_string().contains("has 4 rules, and should have 3"));
        fewer.chains.pop();
        assert!(compare(&fewer, &found).unwrap_err().to_string().contains("`outbound` that it should not have"));
        assert_eq!(compare(&table, &Listing::default()), Err(Difference::NoChain("inbound".into())));
    }
}
