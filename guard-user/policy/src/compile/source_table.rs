//! The source table of a node: which services each prefix may reach.

use guard_common::tables::Source;

use crate::compiled::Prefix;

/// The octets of an address of one family.
pub(crate) trait Octets: Copy + Ord {
    /// Bits of an address.
    const BITS: u32;
    /// The address as a number.
    fn number(self) -> u128;
}

impl Octets for [u8; 4] {
    const BITS: u32 = 32;
    fn number(self) -> u128 {
        u32::from_be_bytes(self).into()
    }
}

impl Octets for [u8; 16] {
    const BITS: u32 = 128;
    fn number(self) -> u128 {
        u128::from_be_bytes(self)
    }
}

/// Last address of a prefix.
fn last<A: Octets>(prefix: &Prefix<A>) -> u128 {
    let host_bits = A::BITS.saturating_sub(prefix.len.into());
    let size = 1_u128.checked_shl(host_bits);
    prefix.addr.number() | size.map_or(u128::MAX, |size| size.wrapping_sub(1))
}

/// First and last address of a prefix.
pub(crate) fn ends<A: Octets>(prefix: &Prefix<A>) -> (u128, u128) {
    (prefix.addr.number(), last(prefix))
}

/// The same addresses in ranges that neither overlap nor touch, in order.
pub(crate) fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// Whether one of these ranges, as [`merged`] gives them, holds an address.
pub(crate) fn holds(ranges: &[(u128, u128)], at: u128) -> bool {
    let before = ranges.partition_point(|(first, _)| *first <= at);
    before.checked_sub(1).and_then(|n| ranges.get(n)).is_some_and(|(_, last)| at <= *last)
}

/// Joins what is said about each prefix, and makes longest-prefix search right: every prefix gets
/// the services of all prefixes that cover it. Prefixes that then say nothing new are left out, so
/// that equal meanings have equal tables. The flags are those of exact addresses only.
pub(crate) fn close<A: Octets>(mut said: Vec<(Prefix<A>, Source)>) -> Vec<(Prefix<A>, Source)> {
    // By address, the shorter prefix first: a prefix comes before all that it covers.
    said.sort_unstable_by_key(|(prefix, _)| *prefix);
    let mut closed: Vec<(Prefix<A>, Source)> = Vec::with_capacity(said.len());
    // The prefixes that are open, outermost first: last address, services.
    let mut open: Vec<(u128, u64)> = Vec::new();
    let mut said = said.into_iter().peekable();
    while let Some((prefix, mut source)) = said.next() {
        while let Some((_, again)) = said.next_if(|(next, _)| *next == prefix) {
            source.services |= again.services;
            source.flags |= again.flags;
        }
        while open.last().is_some_and(|(end, _)| *end < prefix.addr.number()) {
            open.pop();
        }
        let outer = open.last().map_or(0, |(_, services)| *services);
        source.services |= outer;
        open.push((last(&prefix), source.services));
        if source.services != outer || source.flags != 0 {
            closed.push((prefix, source));
        }
    }
    closed
}
