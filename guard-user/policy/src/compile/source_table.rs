//! The source table of a node: which services each prefix may reach.

use guard_common::tables::Source;

use crate::compiled::Prefix;

/// An address of one family as octets in network byte order.
pub(crate) trait Octets: Copy + Ord {
    /// Number of bits of an address.
    const BITS: u32;
    /// Returns the address as a number.
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

/// Returns the last address of a prefix.
fn last<A: Octets>(prefix: &Prefix<A>) -> u128 {
    let host_bits = A::BITS.saturating_sub(prefix.len.into());
    let size = 1_u128.checked_shl(host_bits);
    prefix.addr.number() | size.map_or(u128::MAX, |size| size.wrapping_sub(1))
}

/// Returns the first and the last address of a prefix.
pub(crate) fn ends<A: Octets>(prefix: &Prefix<A>) -> (u128, u128) {
    (prefix.addr.number(), last(prefix))
}

/// Merges ranges that overlap or touch; returns them sorted.
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

/// Reports whether one of these ranges, as returned by [`merged`], contains an address.
pub(crate) fn holds(ranges: &[(u128, u128)], at: u128) -> bool {
    let before = ranges.partition_point(|(first, _)| *first <= at);
    before.checked_sub(1).and_then(|n| ranges.get(n)).is_some_and(|(_, last)| at <= *last)
}

/// Prepares a table for longest-prefix matching: joins equal prefixes, and gives every prefix the
/// services of all prefixes that cover it.
///
/// Prefixes that then add nothing are omitted, so that tables with the same effect are equal. Flags are
/// not inherited, because they belong to exact addresses.
pub(crate) fn close<A: Octets>(mut items: Vec<(Prefix<A>, Source)>) -> Vec<(Prefix<A>, Source)> {
    // Sorted by address, the shorter prefix first: a prefix comes before all prefixes that it covers.
    items.sort_unstable_by_key(|(prefix, _)| *prefix);
    let mut closed: Vec<(Prefix<A>, Source)> = Vec::with_capacity(items.len());
    // The prefixes that contain the current position, outermost first: last address, services.
    let mut open: Vec<(u128, u64)> = Vec::new();
    let mut items = items.into_iter().peekable();
    while let Some((prefix, mut source)) = items.next() {
        while let Some((_, again)) = items.next_if(|(next, _)| *next == prefix) {
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
