//! What the kernel lists, held against what is wanted. Floor 2: imports `expression`.

use std::collections::BTreeMap;

use super::{
    expression::{Bound, ELEMENT, Expression, Set, VALUE},
    expressions, hook_number, number_of,
};
use crate::redirect::{
    netlink::{Attribute, Received, attributes, find},
    plan::{Chain, PRIORITY, TABLE, Table},
};

/// The table sleeps: `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;

/// What was listed of the table.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    dormant: bool,
    chains: BTreeMap<String, Found>,
    sets: BTreeMap<String, Set>,
}

/// A chain that was found.
#[derive(Clone, Debug, Default)]
struct Found {
    /// Type, hook, priority and policy, where it has them.
    base: Option<(String, u32, i32, u32)>,
    /// The steps of each rule; `None` for one that is not of our making.
    rules: Vec<Option<Vec<Expression>>>,
}

/// Where what is there is not what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// There is nothing.
    #[error("there is no table `{TABLE}` in this network namespace")]
    NoTable,
    /// The table is switched off.
    #[error("the table `{TABLE}` is there, but dormant")]
    Dormant,
    /// One that is wanted is missing.
    #[error("the table `{TABLE}` has no chain `{0}`")]
    NoChain(String),
    /// One that is not wanted is there.
    #[error("the table `{TABLE}` has a chain `{0}` that it should not have")]
    MoreChains(String),
    /// Packets do not come by as they should.
    #[error("the chain `{0}` is not a NAT chain at its hook with its priority and the policy accept")]
    Chain(String),
    /// A rule is another one.
    #[error("in the chain `{chain}` rule {nth} should be `{wanted}`, and is another")]
    Rule {
        /// Name of the chain.
        chain: String,
        /// Which, from 1.
        nth: usize,
        /// As it should be.
        wanted: String,
    },
    /// There are more or fewer of them.
    #[error("the chain `{chain}` has {found} rules, and should have {wanted}")]
    Rules {
        /// Name of the chain.
        chain: String,
        /// How many there are.
        found: usize,
        /// How many there should be.
        wanted: usize,
    },
}

impl Listing {
    /// Takes over the answer for the table itself.
    pub fn table(&mut self, received: Received<'_>) {
        let flags = find(received.attributes(), 2).and_then(Attribute::number).unwrap_or(0);
        self.dormant |= flags & DORMANT != 0;
    }

    /// Takes over one of the chains, where it is the table's.
    pub fn chain(&mut self, table: &Table, received: Received<'_>) {
        if !is_of(table, received) {
            return;
        }
        let get = |kind| find(received.attributes(), kind);
        let Some(name) = get(3).and_then(Attribute::text) else { return };
        let base = || {
            let hook = get(4)?;
            let number = |kind| find(hook.nested(), kind).and_then(Attribute::number);
            Some((get(7)?.text()?.to_owned(), number(1)?, number(2)?.cast_signed(), get(5)?.number()?))
        };
        self.chains.insert(name.to_owned(), Found { base: base(), rules: Vec::new() });
    }

    /// Takes over the name of one of the table's sets, and answers it: what it has in it is to be asked for.
    pub fn set(&mut self, table: &Table, received: Received<'_>) -> Option<String> {
        let get = |kind| find(received.attributes(), kind);
        let name = get(2).and_then(Attribute::text).filter(|_| is_of(table, received))?.to_owned();
        let kind = get(4).and_then(Attribute::number).unwrap_or(0);
        self.sets.insert(name.clone(), Set { kind, bounds: Vec::new() });
        Some(name)
    }

    /// Takes over some of what is in a set.
    pub fn elements(&mut self, set: &str, received: Received<'_>) {
        let Some(set) = self.sets.get_mut(set) else { return };
        let Some(list) = find(received.attributes(), 3) else { return };
        for element in list.nested().filter(|element| element.kind == ELEMENT) {
            let end = find(element.nested(), 3).and_then(Attribute::number).unwrap_or(0) & super::INTERVAL_END != 0;
            let key = find(element.nested(), 1).and_then(|key| find(attributes(key.value), VALUE));
            // One that cannot be read makes the set another than any that is wanted.
            set.bounds.push(Bound { at: key.map(|key| key.value.to_vec()).unwrap_or_default(), end });
        }
    }

    /// Takes over one of the table's rules. Chains and sets come first.
    pub fn rule(&mut self, table: &Table, received: Received<'_>) {
        let get = |kind| find(received.attributes(), kind);
        let name = get(2).and_then(Attribute::text).filter(|_| is_of(table, received));
        let Some(chain) = name.and_then(|name| self.chains.get_mut(name)) else { return };
        let sets = &self.sets;
        let set = |name: &str| sets.get(name).map(in_order);
        let read = |list: Attribute<'_>| list.nested().map(|element| Expression::read(element, set)).collect();
        chain.rules.push(get(4).and_then(read));
    }
}

/// Bounds in order. That nothing is below the first interval goes without saying, but some programs say it.
fn in_order(set: &Set) -> Set {
    let mut bounds = set.bounds.clone();
    bounds.sort();
    if bounds.first().is_some_and(|bound| bound.end) {
        bounds.remove(0);
    }
    Set { kind: set.kind, bounds }
}

fn is_of(table: &Table, received: Received<'_>) -> bool {
    received.family() == Some(number_of(table.family))
        && find(received.attributes(), 1).and_then(Attribute::text) == Some(TABLE)
}

/// Compares the table that is wanted with what was listed of the one that is there.
///
/// # Errors
/// The first difference.
pub fn compare(wanted: &Table, found: &Listing) -> Result<(), Difference> {
    if found.dormant {
        return Err(Difference::Dormant);
    }
    for chain in &wanted.chains {
        let there = found.chains.get(chain.name).ok_or_else(|| Difference::NoChain(chain.name.to_owned()))?;
        compare_chain(wanted, chain, there)?;
    }
    let known = |name: &str| wanted.chains.iter().any(|chain| chain.name == name);
    match found.chains.keys().find(|name| !known(name)) {
        Some(name) => Err(Difference::MoreChains(name.clone())),
        None => Ok(()),
    }
}

fn compare_chain(table: &Table, wanted: &Chain, found: &Found) -> Result<(), Difference> {
    let chain = || wanted.name.to_owned();
    let base = ("nat".to_owned(), hook_number(wanted.hook), PRIORITY, super::ACCEPT);
    if found.base.as_ref() != Some(&base) {
        return Err(Difference::Chain(chain()));
    }
    for (nth, (rule, there)) in wanted.rules.iter().zip(&found.rules).enumerate() {
        if there.as_ref() != Some(&expressions(table.family, rule)) {
            return Err(Difference::Rule { chain: chain(), nth: nth + 1, wanted: rule.to_string() });
        }
    }
    let (wanted, found) = (wanted.rules.len(), found.rules.len());
    if wanted == found { Ok(()) } else { Err(Difference::Rules { chain: chain(), found, wanted }) }
}
