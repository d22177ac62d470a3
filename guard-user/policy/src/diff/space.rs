//! Divides the source addresses into regions whose addresses neither of two policies distinguishes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use guard_common::{Addr, tables::Source};

use crate::{
    compile::source_table::{self, Octets, ends},
    compiled::{CompiledPolicy, Prefix},
    syntax::scalars::Cidr,
};

/// A range of addresses as numbers, both ends included.
pub type Range = (u128, u128);

/// Addresses of both families, as sorted ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    /// IPv4 ranges.
    pub v4: Vec<Range>,
    /// IPv6 ranges.
    pub v6: Vec<Range>,
}

impl Region {
    /// Reports whether the region contains an address.
    pub fn holds(&self, addr: &Addr) -> bool {
        match IpAddr::from(*addr) {
            IpAddr::V4(v4) => source_table::holds(&self.v4, u32::from(v4).into()),
            IpAddr::V6(v6) => source_table::holds(&self.v6, v6.into()),
        }
    }

    /// Returns the union of some regions.
    pub(super) fn of<'r>(regions: impl IntoIterator<Item = &'r Self>) -> Self {
        let mut all = Self::default();
        for region in regions {
            all.v4.extend(&region.v4);
            all.v6.extend(&region.v6);
        }
        all.v4 = source_table::merged(all.v4);
        all.v6 = source_table::merged(all.v6);
        all
    }

    /// Returns the first IPv4 address of the region, else the first IPv6 address.
    pub(super) fn first(&self) -> Option<IpAddr> {
        let four = self.v4.first().map(|(first, _)| address(false, *first));
        four.or_else(|| self.v6.first().map(|(first, _)| address(true, *first)))
    }

    /// Returns an address that a host can have, or the first address if the region has only martians.
    pub(super) fn possible_source(&self) -> Option<IpAddr> {
        let possible_source = |six: bool| {
            let ranges = if six { &self.v6 } else { &self.v4 };
            // A range may begin with an address that no host can have.
            let turns: &[u128] = if six { &MARTIAN_BOUNDS6 } else { &MARTIAN_BOUNDS4 };
            ranges.iter().find_map(|(first, last)| {
                let within = turns.iter().copied().filter(|turn| first < turn && turn <= last);
                let starts = std::iter::once(*first).chain(within);
                let mut starts = starts.map(|at| address(six, at));
                starts.find(|addr| !Addr::from(*addr).is_martian())
            })
        };
        possible_source(false).or_else(|| possible_source(true)).or_else(|| self.first())
    }

    /// Returns the addresses that a host can have and that are not in the region.
    #[must_use]
    pub fn rest(&self) -> Self {
        Self { v4: without(&NON_MARTIANS4, &self.v4), v6: without(&NON_MARTIANS6, &self.v6) }
    }

    /// Returns the region as the smallest number of prefixes.
    pub fn prefixes(&self) -> Vec<Cidr> {
        let mut prefixes = Vec::new();
        for (range, bits) in
            self.v4.iter().map(|range| (range, 32)).chain(self.v6.iter().map(|range| (range, 128)))
        {
            let (mut first, last) = *range;
            loop {
                // The largest aligned block that does not exceed the range.
                let aligned = first.trailing_zeros().min(bits);
                let left = (last - first).saturating_add(1);
                let fits = if last - first == u128::MAX { 128 } else { left.ilog2() };
                let host_bits = aligned.min(fits);
                prefixes.push(prefix(bits, first, bits - host_bits));
                let step = 1_u128.checked_shl(host_bits).unwrap_or(0);
                match first.checked_add(step) {
                    Some(next) if step != 0 && next <= last => first = next,
                    _ => break,
                }
            }
        }
        prefixes
    }
}

fn address(six: bool, number: u128) -> IpAddr {
    if six {
        return Ipv6Addr::from(number).into();
    }
    Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into()
}

fn prefix(bits: u32, number: u128, len: u32) -> Cidr {
    let len = u8::try_from(len).unwrap_or(0);
    match address(bits == 128, number) {
        IpAddr::V4(v4) => Cidr::V4(Prefix { addr: v4.octets(), len }),
        IpAddr::V6(v6) => Cidr::V6(Prefix { addr: v6.octets(), len }),
    }
}

/// Values that apply from an address up to the next point.
type Points<T> = Vec<(u128, T)>;

/// Converts a table to points: the value for each address. The longest prefix that contains an address
/// decides; outer prefixes sort before inner ones.
fn points<A: Octets>(table: &[(Prefix<A>, Source)]) -> Points<Source> {
    let mut points = vec![(0, Source::default())];
    // The prefixes that contain the current position, outermost first.
    let mut open: Vec<(u128, Source)> = Vec::new();
    let close =
        |points: &mut Points<Source>, open: &mut Vec<(u128, Source)>, before: Option<u128>| {
            while let Some((end, _)) = open.last().copied() {
                if before.is_some_and(|start| start <= end) {
                    break;
                }
                open.pop();
                let outer = open.last().map_or_else(Source::default, |(_, source)| *source);
                if let Some(next) = end.checked_add(1) {
                    set(points, next, outer);
                }
            }
        };
    for (prefix, source) in table {
        let (start, end) = ends(prefix);
        close(&mut points, &mut open, Some(start));
        set(&mut points, start, *source);
        open.push((end, *source));
    }
    close(&mut points, &mut open, None);
    points
}

/// Sets the value from a point on. Points must be added in order.
fn set<T: Copy>(points: &mut Points<T>, at: u128, what: T) {
    match points.last_mut() {
        Some((last, known)) if *last == at => *known = what,
        _ => points.push((at, what)),
    }
}

/// The addresses at which [`Addr::is_martian`] may change its result. That function decides; these are
/// only the points where it must be called.
const MARTIAN_BOUNDS4: [u128; 6] = [0, 1 << 24, 127 << 24, 128 << 24, 224 << 24, 240 << 24];
const LAST4: u128 = u32::MAX as u128;
const MARTIAN_BOUNDS6: [u128; 5] = [0, 2, 0xffff << 32, 0x1_0000 << 32, 0xff << 120];

/// The addresses that are not martians.
const NON_MARTIANS4: [Range; 3] =
    [(1 << 24, (127 << 24) - 1), (128 << 24, (224 << 24) - 1), (240 << 24, LAST4 - 1)];
const NON_MARTIANS6: [Range; 2] = [(2, (0xffff << 32) - 1), (0x1_0000 << 32, (0xff << 120) - 1)];

/// Subtracts ranges from ranges. Both must be sorted, without overlapping or touching ranges.
fn without(ranges: &[Range], holes: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    for (first, last) in ranges {
        let mut next = *first;
        let from = holes.partition_point(|(_, end)| end < first);
        for (start, end) in holes.iter().skip(from).take_while(|(start, _)| start <= last) {
            if next < *start {
                left.push((next, start - 1));
            }
            next = end.saturating_add(1);
        }
        if next <= *last {
            left.push((next, *last));
        }
    }
    left
}

/// The properties that distinguish sources: the values in the old and the new table, and whether the
/// address is a martian.
pub(super) type Key = (Source, Source, bool);

/// Groups all source addresses by their key.
pub(super) fn pieces(old: &CompiledPolicy, new: &CompiledPolicy) -> BTreeMap<Hashed, Region> {
    let mut pieces: BTreeMap<Hashed, Region> = BTreeMap::new();
    let four = joint(
        &points(&old.sources4),
        &points(&new.sources4),
        MARTIAN_BOUNDS4.into_iter().chain([LAST4]),
        LAST4,
        |number| Addr::from(address(false, number)).is_martian(),
    );
    for (key, range) in four {
        pieces.entry(Hashed::of(key)).or_default().v4.push(range);
    }
    let six = joint(
        &points(&old.sources6),
        &points(&new.sources6),
        MARTIAN_BOUNDS6.into_iter(),
        u128::MAX,
        |number| Addr::from(address(true, number)).is_martian(),
    );
    for (key, range) in six {
        pieces.entry(Hashed::of(key)).or_default().v6.push(range);
    }
    for region in pieces.values_mut() {
        *region = Region::of([&*region]);
    }
    pieces
}

/// A key that can be ordered, for use in a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hashed([u64; 4], bool);

impl Hashed {
    fn of((old, new, martian): Key) -> Self {
        Self([old.services, old.flags, new.services, new.flags], martian)
    }
}

/// Returns the ranges between the points of both tables and the bounds of the martians.
fn joint(
    old: &Points<Source>,
    new: &Points<Source>,
    turns: impl Iterator<Item = u128>,
    last: u128,
    is_martian: impl Fn(u128) -> bool,
) -> Vec<(Key, Range)> {
    let mut starts: Vec<u128> = old.iter().chain(new).map(|(at, _)| *at).chain(turns).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut old_points = old.iter().peekable();
    let mut new_points = new.iter().peekable();
    let (mut of_old, mut of_new) = (Source::default(), Source::default());
    let mut ranges = Vec::with_capacity(starts.len());
    for (number, start) in starts.iter().enumerate() {
        while let Some((_, source)) = old_points.next_if(|(at, _)| at <= start) {
            of_old = *source;
        }
        while let Some((_, source)) = new_points.next_if(|(at, _)| at <= start) {
            of_new = *source;
        }
        let end = starts.get(number + 1).map_or(last, |next| next - 1);
        if *start <= end {
            ranges.push(((of_old, of_new, is_martian(*start)), (*start, end)));
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn regions_are_as_few_prefixes_as_possible() {
        let text = |v4: &[Range], v6: &[Range]| {
            let region = Region { v4: v4.to_vec(), v6: v6.to_vec() };
            region.prefixes().iter().map(Cidr::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&[(0, LAST4)], &[(0, u128::MAX)]), "0.0.0.0/0 ::/0");
        assert_eq!(text(&[(10 << 24, (11 << 24) - 1)], &[]), "10.0.0.0/8");
        assert_eq!(text(&[(1, 6)], &[]), "0.0.0.1/32 0.0.0.2/31 0.0.0.4/31 0.0.0.6/32");
        assert_eq!(
            text(&[(LAST4, LAST4)], &[(u128::MAX, u128::MAX)]),
            "255.255.255.255/32 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"
        );
    }

    proptest! {
        /// A region and its rest together contain every address that a host can have.
        #[test]
        fn a_region_and_its_rest_cover_all_addresses(
            cuts in prop::collection::btree_set(any::<u32>(), 0..9),
            number: u32,
            six in prop::collection::btree_set(any::<u128>(), 0..9),
            number6: u128,
        ) {
            let pairs = |cuts: Vec<u128>| -> Vec<Range> {
                source_table::merged(cuts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
            };
            let region = Region {
                v4: pairs(cuts.into_iter().map(u128::from).collect()),
                v6: pairs(six.into_iter().collect()),
            };
            let rest = region.rest();
            for addr in [address(false, number.into()), address(true, number6)].map(Addr::from) {
                prop_assert_eq!(rest.holds(&addr), !region.holds(&addr) && !addr.is_martian());
            }
        }

        /// The bounds include every address at which `is_martian` changes.
        #[test]
        fn the_martian_bounds_are_complete(number: u32, high: u128, near in -3_i128..3) {
            let between = |turns: &[u128], at: u128| {
                *turns.iter().rev().find(|turn| **turn <= at).expect("the first is 0")
            };
            let mut turns = MARTIAN_BOUNDS4.to_vec();
            turns.push(LAST4);
            let number = u128::from(number);
            let martian = |six, at| Addr::from(address(six, at)).is_martian();
            prop_assert_eq!(martian(false, number), martian(false, between(&turns, number)));
            prop_assert_eq!(martian(true, high), martian(true, between(&MARTIAN_BOUNDS6, high)));
            for turn in MARTIAN_BOUNDS6 {
                let at = turn.saturating_add_signed(near);
                prop_assert_eq!(martian(true, at), martian(true, between(&MARTIAN_BOUNDS6, at)));
            }
            for turn in turns.clone() {
                let at = turn.saturating_add_signed(near).min(LAST4);
                prop_assert_eq!(martian(false, at), martian(false, between(&turns, at)));
            }
        }
    }
}
