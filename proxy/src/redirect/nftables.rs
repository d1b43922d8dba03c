//! The table in the kernel's words: as messages that put it in force, and read back from what the kernel lists. Pure.
//! Floor 2: imports `plan`, `netlink`.

mod expression;
mod found;

pub use found::{Difference, Listing, compare};

use self::expression::{
    Bound, ELEMENT, EQUAL, Expression, FIB_DESTINATION, FIB_TYPE, NETWORK_HEADER, NOT_EQUAL, Set, SetName,
    TRANSPORT_HEADER, VALUE, meta,
};
use super::{
    netlink::{ACK, APPEND, Attributes, CREATE, DUMP, Head, message},
    plan::{Chain, Family, Hook, Match, PRIORITY, Rule, TABLE, Table, Verdict},
    settings::Owner,
};

/// Number of the subsystem, in the upper byte of each kind.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BATCH: [u16; 2] = [16, 17];
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// Anonymous, constant, of intervals.
const SET_FLAGS: u32 = 0x1 | 0x2 | 0x4;
/// The kernel makes a name of it.
const SET_NAME: &str = "__set%d";
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
/// Elements in one message: an attribute holds 64 KiB at most.
const ELEMENTS: usize = 512;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
const IPV6: u8 = 10;
/// Number of TCP.
const TCP: u8 = 6;
/// Number of loopback, in every network namespace.
const LOOPBACK: u32 = 1;
/// `RTN_LOCAL`: an address of this machine.
const LOCAL: u32 = 2;

/// Kinds of messages: `NFT_MSG_*`.
mod kind {
    pub const NEW_TABLE: u16 = 0;
    pub const GET_TABLE: u16 = 1;
    pub const DELETE_TABLE: u16 = 2;
    pub const NEW_CHAIN: u16 = 3;
    pub const GET_CHAIN: u16 = 4;
    pub const NEW_RULE: u16 = 6;
    pub const GET_RULE: u16 = 7;
    pub const NEW_SET: u16 = 9;
    pub const GET_SET: u16 = 10;
    pub const NEW_ELEMENT: u16 = 12;
    pub const GET_ELEMENT: u16 = 13;
}

/// Messages that the kernel takes as a whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// As they are sent.
    pub bytes: Vec<u8>,
    /// What each of them does; their sequence numbers are 1 and up.
    pub steps: Vec<Step>,
}

/// What a message of a batch does, for whoever has to say that it was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it makes.
    pub what: String,
    /// What the kernel needs for it.
    pub needs: &'static str,
}

/// Takes the table away, if it is there, and puts `table` in its place.
#[must_use]
pub fn replace(table: &Table) -> Batch {
    let mut batch = Batch::begin();
    batch.remove(table.family);
    batch.table(table.family, kind::NEW_TABLE);
    for chain in &table.chains {
        batch.chain(table.family, chain);
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            batch.rule(table.family, chain, rule);
        }
    }
    batch.end()
}

/// Takes the table away, if it is there.
#[must_use]
pub fn remove(family: Family) -> Batch {
    let mut batch = Batch::begin();
    batch.remove(family);
    batch.end()
}

/// Asks for something.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// The table itself; an error where there is none.
    Table,
    /// All chains of the family.
    Chains,
    /// The rules of the table.
    Rules,
    /// The sets of the table.
    Sets,
    /// What is in a set of the table.
    Elements(&'a str),
}

/// A question, as it is sent.
#[must_use]
pub fn ask(family: Family, question: Question<'_>) -> Vec<u8> {
    let (kind, flags) = match question {
        Question::Table => (kind::GET_TABLE, ACK),
        Question::Chains => (kind::GET_CHAIN, DUMP),
        Question::Rules => (kind::GET_RULE, DUMP),
        Question::Sets => (kind::GET_SET, DUMP),
        Question::Elements(_) => (kind::GET_ELEMENT, DUMP),
    };
    let mut bytes = Vec::new();
    message(&mut bytes, head(kind, flags, 1, family), |list| {
        list.text(1, TABLE);
        if let Question::Elements(set) = question {
            list.text(2, set);
        }
    });
    bytes
}

fn head(kind: u16, flags: u16, sequence: u32, family: Family) -> Head {
    Head { kind: SUBSYSTEM << 8 | kind, flags, sequence, family: number_of(family), resource: 0 }
}

fn number_of(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => IPV4,
    }
}

impl Batch {
    fn begin() -> Self {
        let mut batch = Self::default();
        batch.frame(0);
        batch
    }

    fn end(mut self) -> Self {
        self.frame(1);
        self
    }

    /// The first message or the last.
    fn frame(&mut self, which: usize) {
        let kind = BATCH.get(which).copied().unwrap_or_default();
        let head = Head { kind, flags: 0, sequence: 0, family: 0, resource: SUBSYSTEM };
        message(&mut self.bytes, head, |_| ());
    }

    fn step(
        &mut self,
        (what, needs): (String, &'static str),
        (family, kind, flags): (Family, u16, u16),
        write: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.steps.push(Step { what, needs });
        let sequence = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        message(&mut self.bytes, head(kind, flags | ACK, sequence, family), write);
    }

    fn remove(&mut self, family: Family) {
        // What is not there cannot be deleted: first it is made, if need be.
        self.table(family, kind::NEW_TABLE);
        self.table(family, kind::DELETE_TABLE);
    }

    fn table(&mut self, family: Family, kind: u16) {
        let needs = match family {
            Family::Inet => "nf_tables for IPv4 and IPv6 in one (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)",
            Family::Ip => "nf_tables for IPv4 (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)",
        };
        let flags = if kind == kind::NEW_TABLE { CREATE } else { 0 };
        self.step((format!("the table `{family} {TABLE}`"), needs), (family, kind, flags), |list| {
            list.text(1, TABLE);
        });
    }

    fn chain(&mut self, family: Family, chain: &Chain) {
        let what = (format!("the chain `{}`", chain.name), "NAT in nf_tables (CONFIG_NFT_NAT, module nft_chain_nat)");
        self.step(what, (family, kind::NEW_CHAIN, CREATE), |list| {
            list.text(1, TABLE);
            list.text(3, chain.name);
            list.nest(4, |list| {
                list.number(1, hook_number(chain.hook));
                list.bytes(2, &PRIORITY.to_be_bytes());
            });
            list.number(5, ACCEPT);
            list.text(7, "nat");
        });
    }

    fn rule(&mut self, family: Family, chain: &Chain, rule: &Rule) {
        let expressions = expressions(family, rule);
        let what = (format!("the rule `{rule}`"), needs(rule));
        // One set a rule at most: the number of the step before is as good as any.
        let name = SetName { name: SET_NAME, id: u32::try_from(self.steps.len()).unwrap_or(u32::MAX) };
        for expression in &expressions {
            if let Expression::Lookup(set) = expression {
                self.set(family, rule, set, &name);
            }
        }
        self.step(what, (family, kind::NEW_RULE, CREATE | APPEND), |list| {
            list.text(1, TABLE);
            list.text(2, chain.name);
            list.nest(4, |list| {
                for expression in &expressions {
                    expression.write(list, Some(&name));
                }
            });
        });
    }

    fn set(&mut self, family: Family, rule: &Rule, set: &Set, name: &SetName<'_>) {
        let what = || (format!("the set of the rule `{rule}`"), "sets in nf_tables (CONFIG_NF_TABLES)");
        let width = set.bounds.first().map_or(0, |bound| bound.at.len());
        self.step(what(), (family, kind::NEW_SET, CREATE), |list| {
            list.text(1, TABLE);
            list.text(2, name.name);
            list.number(3, SET_FLAGS);
            list.number(4, set.kind);
            list.number(5, u32::try_from(width).unwrap_or(u32::MAX));
            list.number(10, name.id);
        });
        for bounds in set.bounds.chunks(ELEMENTS) {
            self.step(what(), (family, kind::NEW_ELEMENT, CREATE), |list| {
                list.text(1, TABLE);
                list.text(2, name.name);
                list.number(4, name.id);
                list.nest(3, |list| bounds.iter().for_each(|bound| element(list, bound)));
            });
        }
    }
}

fn element(list: &mut Attributes<'_>, bound: &Bound) {
    list.nest(ELEMENT, |list| {
        list.nest(1, |list| list.bytes(VALUE, &bound.at));
        if bound.end {
            list.number(3, INTERVAL_END);
        }
    });
}

fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    }
}

fn needs(rule: &Rule) -> &'static str {
    match (&rule.when, rule.verdict) {
        (_, Verdict::Redirect(_)) => "redirection in nf_tables (CONFIG_NFT_REDIR, module nft_redir)",
        (Match::NotForUs, _) => "look-ups of routes in nf_tables (CONFIG_NFT_FIB_INET, module nft_fib_inet)",
        _ => "nf_tables (CONFIG_NF_TABLES)",
    }
}

/// The steps of a rule.
fn expressions(family: Family, rule: &Rule) -> Vec<Expression> {
    let mut steps = condition(family, &rule.when);
    match rule.verdict {
        Verdict::Return => steps.push(Expression::Return),
        Verdict::Redirect(port) => {
            steps.extend([Expression::Load(port.to_be_bytes().to_vec()), Expression::Redirect]);
        }
    }
    steps
}

fn condition(family: Family, when: &Match) -> Vec<Expression> {
    use Expression::{Fib, Lookup, Meta, Payload};
    let is = |with: &[u8]| Expression::Compare { how: EQUAL, with: with.to_vec() };
    let tcp = [Meta(meta::L4PROTO), is(&[TCP])];
    // A table for both families looks first which one it is.
    let network = |number| match family {
        Family::Inet => vec![Meta(meta::NFPROTO), is(&[number])],
        Family::Ip => Vec::new(),
    };
    match when {
        Match::FromLoopback => vec![Meta(meta::IIF), is(&LOOPBACK.to_ne_bytes())],
        Match::ToLoopback => vec![Meta(meta::OIF), is(&LOOPBACK.to_ne_bytes())],
        Match::NotForUs => vec![
            Fib { result: FIB_TYPE, flags: FIB_DESTINATION },
            Expression::Compare { how: NOT_EQUAL, with: LOCAL.to_ne_bytes().to_vec() },
        ],
        Match::By(Owner::User(id)) => vec![Meta(meta::SKUID), is(&id.to_ne_bytes())],
        Match::By(Owner::Group(id)) => vec![Meta(meta::SKGID), is(&id.to_ne_bytes())],
        Match::Tcp => tcp.to_vec(),
        Match::Ports(ports) => {
            let port = Payload { base: TRANSPORT_HEADER, offset: 2, length: 2 };
            let fits = match ports.as_slice() {
                [one] if one.first() == one.last() => is(&one.first().to_be_bytes()),
                many => Lookup(set(13, 2, many.iter().map(|range| (range.first().into(), range.last().into())))),
            };
            [tcp.as_slice(), &[port, fits]].concat()
        }
        Match::V4(networks) => {
            let ranges = networks.iter().map(|net| (net.network().to_bits().into(), net.broadcast().to_bits().into()));
            let address = Payload { base: NETWORK_HEADER, offset: 16, length: 4 };
            [network(IPV4), vec![address, Lookup(set(7, 4, ranges))]].concat()
        }
        Match::V6(networks) => {
            let ranges = networks.iter().map(|net| (net.network().to_bits(), net.broadcast().to_bits()));
            let address = Payload { base: NETWORK_HEADER, offset: 24, length: 16 };
            [network(IPV6), vec![address, Lookup(set(8, 16, ranges))]].concat()
        }
    }
}

/// Ranges in order, as a set of values that have `width` bytes.
fn set(kind: u32, width: usize, ranges: impl Iterator<Item = (u128, u128)>) -> Set {
    let bytes = |value: u128| value.to_be_bytes().get(16 - width..).unwrap_or_default().to_vec();
    let greatest = u128::MAX >> (8 * (16 - width));
    let mut bounds: Vec<Bound> = Vec::new();
    for (first, last) in ranges {
        // One that begins where the last one ended goes on with it.
        if bounds.pop_if(|bound| bound.end && bound.at == bytes(first)).is_none() {
            bounds.push(Bound { at: bytes(first), end: false });
        }
        if last < greatest {
            bounds.push(Bound { at: bytes(last + 1), end: true });
        }
    }
    Set { kind, bounds }
}

#[cfg(test)]
mod tests;
