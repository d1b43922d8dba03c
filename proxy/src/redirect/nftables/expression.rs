//! The small steps that a rule is made of, as the kernel knows them, and their attributes. Floor 1: imports `netlink`.
//!
//! Every step works on one register; a rule ends as soon as one of its comparisons fails. Names and numbers are those of
//! `linux/netfilter/nf_tables.h`.

use crate::redirect::netlink::{Attribute, Attributes, find};

/// The register that ends a rule.
const VERDICT_REGISTER: u32 = 0;
/// The register that everything else is in.
const REGISTER: u32 = 1;
/// `NFT_RETURN`.
const RETURN: i32 = -5;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: a port is named.
const WITH_PORT: u32 = 2;

/// `NFTA_LIST_ELEM`.
pub const ELEMENT: u16 = 1;
/// `NFTA_EXPR_NAME`.
const NAME: u16 = 1;
/// `NFTA_EXPR_DATA`.
const DATA: u16 = 2;
/// `NFTA_DATA_VALUE`.
pub const VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`.
const VERDICT: u16 = 2;
/// `NFTA_VERDICT_CODE`.
const CODE: u16 = 1;

/// What [`Expression::Meta`] loads: `NFT_META_*`.
pub mod meta {
    /// Number of the interface that it came in by.
    pub const IIF: u32 = 4;
    /// Number of the interface that it goes out by.
    pub const OIF: u32 = 5;
    /// User of the socket.
    pub const SKUID: u32 = 10;
    /// Group of the socket.
    pub const SKGID: u32 = 11;
    /// Network protocol.
    pub const NFPROTO: u32 = 15;
    /// Transport protocol.
    pub const L4PROTO: u32 = 16;
}

/// `NFT_PAYLOAD_NETWORK_HEADER`.
pub const NETWORK_HEADER: u32 = 1;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`.
pub const TRANSPORT_HEADER: u32 = 2;
/// `NFT_CMP_EQ`.
pub const EQUAL: u32 = 0;
/// `NFT_CMP_NEQ`.
pub const NOT_EQUAL: u32 = 1;
/// `NFT_FIB_RESULT_ADDRTYPE`.
pub const FIB_TYPE: u32 = 3;
/// `NFTA_FIB_F_DADDR`.
pub const FIB_DESTINATION: u32 = 2;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads something known of the packet.
    Meta(u32),
    /// Loads what the routing tables say.
    Fib {
        /// What of it.
        result: u32,
        /// About what.
        flags: u32,
    },
    /// Loads bytes of the packet.
    Payload {
        /// Of which header.
        base: u32,
        /// From where in it.
        offset: u32,
        /// How many.
        length: u32,
    },
    /// Loads a value.
    Load(Vec<u8>),
    /// Goes on where the comparison holds.
    Compare {
        /// How.
        how: u32,
        /// With what.
        with: Vec<u8>,
    },
    /// Goes on where the set has it.
    Lookup(Set),
    /// Leaves the chain.
    Return,
    /// To the loaded port of this machine.
    Redirect,
}

/// A set without a name, of intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What kind of things: a number that only `nft` makes use of, to list it as people write it.
    pub kind: u32,
    /// Each begins an interval, or the gap after one; in order.
    pub bounds: Vec<Bound>,
}

/// Where an interval begins or ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    /// The first in it, or the first after it.
    pub at: Vec<u8>,
    /// True where nothing is in the set from here on.
    pub end: bool,
}

/// How the kernel calls a set that is asked for or told of.
#[derive(Clone, Debug)]
pub struct SetName<'a> {
    /// Its name, or the pattern for one.
    pub name: &'a str,
    /// Its number within a batch.
    pub id: u32,
}

impl Expression {
    /// Writes it. `set` is the name of its set, where it has one.
    pub fn write(&self, list: &mut Attributes<'_>, set: Option<&SetName<'_>>) {
        list.nest(ELEMENT, |list| {
            list.text(NAME, self.name());
            list.nest(DATA, |list| self.write_data(list, set));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta(_) => "meta",
            Self::Fib { .. } => "fib",
            Self::Payload { .. } => "payload",
            Self::Load(_) | Self::Return => "immediate",
            Self::Compare { .. } => "cmp",
            Self::Lookup(_) => "lookup",
            Self::Redirect => "redir",
        }
    }

    fn write_data(&self, list: &mut Attributes<'_>, set: Option<&SetName<'_>>) {
        match self {
            Self::Meta(key) => {
                list.number(1, REGISTER);
                list.number(2, *key);
            }
            Self::Fib { result, flags } => {
                list.number(1, REGISTER);
                list.number(2, *result);
                list.number(3, *flags);
            }
            Self::Payload { base, offset, length } => {
                list.number(1, REGISTER);
                list.number(2, *base);
                list.number(3, *offset);
                list.number(4, *length);
            }
            Self::Load(value) => {
                list.number(1, REGISTER);
                list.nest(2, |list| list.bytes(VALUE, value));
            }
            Self::Return => {
                list.number(1, VERDICT_REGISTER);
                list.nest(2, |list| list.nest(VERDICT, |list| list.bytes(CODE, &RETURN.to_be_bytes())));
            }
            Self::Compare { how, with } => {
                list.number(1, REGISTER);
                list.number(2, *how);
                list.nest(3, |list| list.bytes(VALUE, with));
            }
            Self::Lookup(_) => {
                list.number(2, REGISTER);
                if let Some(set) = set {
                    list.text(1, set.name);
                    list.number(4, set.id);
                }
            }
            Self::Redirect => {
                list.number(1, REGISTER);
                list.number(3, WITH_PORT);
            }
        }
    }

    /// Reads one, as the kernel lists it; `sets` tells what a set has in it. `None` for one that [`Self::write`] would not
    /// have written.
    pub fn read(element: Attribute<'_>, sets: impl Fn(&str) -> Option<Set>) -> Option<Self> {
        let name = find(element.nested(), NAME)?.text()?;
        let data = find(element.nested(), DATA)?;
        let number = |kind| find(data.nested(), kind).and_then(Attribute::number);
        let value = |kind| find(find(data.nested(), kind)?.nested(), VALUE).map(|value| value.value.to_vec());
        // Every step reads from, or writes to, the one register.
        let plain = number(1) == Some(REGISTER);
        match name {
            "meta" if plain => Some(Self::Meta(number(2)?)),
            "fib" if plain => Some(Self::Fib { result: number(2)?, flags: number(3)? }),
            "payload" if plain => Some(Self::Payload { base: number(2)?, offset: number(3)?, length: number(4)? }),
            "cmp" if plain => Some(Self::Compare { how: number(2)?, with: value(3)? }),
            "immediate" if plain => Some(Self::Load(value(2)?)),
            "immediate" if number(1) == Some(VERDICT_REGISTER) => {
                let verdict = find(find(data.nested(), 2)?.nested(), VERDICT)?;
                let code = find(verdict.nested(), CODE)?.number()?;
                (code.to_be_bytes() == RETURN.to_be_bytes()).then_some(Self::Return)
            }
            "lookup" if number(2) == Some(REGISTER) && number(3).is_none() && number(5).unwrap_or(0) == 0 => {
                Some(Self::Lookup(sets(find(data.nested(), 1)?.text()?)?))
            }
            "redir" if plain && number(2).unwrap_or(REGISTER) == REGISTER && number(3) == Some(WITH_PORT) => {
                Some(Self::Redirect)
            }
            _ => None,
        }
    }
}
