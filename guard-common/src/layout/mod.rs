//! Bytes that kernel and user space share: keys and values of maps.
//!
//! Integers and byte arrays only, padding written out, sizes asserted. Whoever changes a layout
//! raises [`LAYOUT_VERSION`]: it is part of the path under which the shared maps are pinned, so a
//! daemon never reads maps of another layout. `cargo xtask check` holds what pinned maps have to do
//! with, here and in other files, against `layout.lock`.

pub mod counters;
pub mod daemon_counters;
pub mod event;

use self::{
    counters::{COUNTERS, InterfaceRow, MAX_INTERFACES},
    event::Event,
};
use crate::{
    bucket::Limit,
    flow::Addr,
    tables::{Limits, Service, Source},
    trie::{self, Entry, Leaf, Node},
    verdict::MAX_SERVICES,
};

/// Version of what the pinned maps hold, and of where they are pinned.
pub const LAYOUT_VERSION: u32 = 6;

/// Key of a member's bucket states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct MemberKey {
    /// The address as [`Addr::mapped`].
    pub addr: [u64; 2],
    /// Slot of the service.
    pub slot: u64,
}

impl MemberKey {
    /// The key of an address at a service.
    #[inline(always)]
    pub fn new(slot: u8, addr: &Addr) -> Self {
        Self { addr: addr.mapped(), slot: slot.into() }
    }
}

/// Bucket states by [`crate::tables::Unit`]: theoretical arrival times in ticks.
pub type BucketStates = [u64; 3];

/// Member bucket states that fit, over all services.
pub const MAX_MEMBER_BUCKETS: u32 = 1 << 19;
/// Prefixes of one family that fit: the million that a manifest may list, and its nodes.
pub const MAX_PREFIXES: u32 = 1 << 20;
/// Nodes of a trie that fit. A node branches, or is the child of one that does; so there are fewer
/// than twice the prefixes.
pub const MAX_NODES: u32 = 2 * MAX_PREFIXES;
/// Leaves of a trie that fit: each prefix begins one and ends one.
pub const MAX_LEAVES: u32 = 4 * MAX_PREFIXES;
/// Classes of sources that fit: different sets of services, with and without being a member.
pub const MAX_CLASSES: u32 = 1 << 16;

/// One counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counter {
    /// Frames.
    pub packets: u64,
    /// Their bytes on the wire, Ethernet header included, frame check sequence not.
    pub bytes: u64,
}

/// Slots for other guards' counts. Rarely more than two are in use: a daemon that is killed between removing
/// another guard's maps and freeing its slot leaves the slot taken until a take-over completes.
pub const ORIGINS: u32 = 7;

/// Counts carried over from guards of other layouts. Each value is set to a guard's total, never added to, so
/// that carrying it twice counts it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Carried {
    /// Of guards that no longer exist.
    pub settled: Counter,
    /// Of guards whose maps may still be pinned, by slot.
    pub of: [Counter; ORIGINS as usize],
}

/// Entries of the map of carried counts: one for each counter, then three for the number of events emitted,
/// suppressed and lost (in `packets`).
pub const CARRIED: u32 = COUNTERS + 3;

/// Entries of the label map: one for each service slot, then one for each interface row, then
/// [`LABEL_GENERATION`] and [`LABEL_POLICY`].
pub const LABELS: u32 = MAX_SERVICES as u32 + MAX_INTERFACES + 2;
/// Index of the first interface label.
pub const LABEL_INTERFACES: u32 = MAX_SERVICES as u32;
/// Index of the label that describes the running generation: its number in decimal.
pub const LABEL_GENERATION: u32 = LABEL_INTERFACES + MAX_INTERFACES;
/// Index of the label that holds the hash of the running policy.
pub const LABEL_POLICY: u32 = LABEL_GENERATION + 1;
/// UTF-8 text, filled up with zeros. Longer names do not fit a policy.
pub type Label = [u8; 128];

/// Bytes of the map that says what the layout is: text as in `layout.lock`, filled up with zeros.
pub const ABOUT_BYTES: usize = 1 << 14;
/// That text.
pub type About = [u8; ABOUT_BYTES];

/// Entries of the tally map: what the daemon counts and the kernel cannot, kept where the kernel's
/// counters are, so that it lives as long as they do. Written by one daemon at a time, entry by
/// entry; those without a name below are zero.
pub const TALLIES: u32 = 256;
/// Tally: loads of the files that came into force.
pub const TALLY_LOADS_DONE: u32 = 0;
/// Tally: loads of the files that did not.
pub const TALLY_LOADS_FAILED: u32 = 1;
/// Tally: dropped frames of members, for reasons of the node. Estimated from samples.
pub const TALLY_MEMBER_DROPS_NODE: u32 = 2;
/// Tally: log records that were not written because they repeated.
pub const TALLY_LOG_SUPPRESSED: u32 = 3;
/// Tally: log records that were not written because nobody took them.
pub const TALLY_LOG_LOST: u32 = 4;
/// First of three tallies: requests that were answered, by socket (statistics, metrics over TCP,
/// control).
pub const TALLY_REQUESTS_SERVED: u32 = 8;
/// First of three tallies: requests that were refused, likewise.
pub const TALLY_REQUESTS_REFUSED: u32 = 12;
/// First of three tallies: connections that were ended before they had their answer, likewise.
pub const TALLY_CONNECTIONS_CUT: u32 = 16;
/// First of [`ORIGINS`] tallies: the guard that a slot of [`Carried::of`] belongs to, as the id of its counter
/// map; 0 if the slot is free. The kernel does not reuse map ids before a reboot.
pub const TALLY_ORIGINS: u32 = 32;
/// First of the tallies of services, by slot: dropped frames of members. Estimated from samples.
pub const TALLY_MEMBER_DROPS: u32 = 64;

/// Events that one CPU may emit for one reason in one window.
pub const SAMPLING_BUDGET: u32 = 64;
/// Events that it aims at, where more frames than that are refused: the others are skipped at
/// random, so that each frame has the same chance to be told of. As a power of two.
pub const SAMPLING_AIM_SHIFT: u32 = 5;
/// A sampling window is 2 to this power of timer ticks (jiffies), the only clock that costs
/// nothing: 64 ms to 640 ms, as the kernel ticks 1000 or 100 times a second.
pub const SAMPLING_WINDOW_SHIFT: u32 = 6;
/// How long somebody who said so is taken to be listening, in nanoseconds.
pub const LISTENING_NS: u64 = 5_000_000_000;
/// Bytes of the event ring.
pub const EVENT_RING_BYTES: u32 = 1 << 20;

/// Sampling state of one reason on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Sampling {
    /// Number of the window, counted from boot.
    pub window: u64,
    /// Frames refused in this window.
    pub seen: u64,
    /// Frames to be skipped between two events of this window, on average.
    pub gap: u64,
    /// Frames to be skipped before the next event.
    pub skip: u64,
    /// Events emitted in this window.
    pub used: u64,
    /// Drops that no event tells of: skipped, beyond the budget, or while nobody listened.
    pub suppressed: u64,
    /// Events that found the ring full.
    pub lost: u64,
    /// Events emitted.
    pub emitted: u64,
}

const _: () = {
    assert!(MAX_NODES <= MAX_LEAVES && MAX_LEAVES - 1 <= trie::MAX_INDEX);
    assert!(COUNTERS <= u16::MAX as u32);
    assert!(TALLY_ORIGINS + ORIGINS <= TALLY_MEMBER_DROPS);
    assert!(TALLY_MEMBER_DROPS + MAX_SERVICES as u32 <= TALLIES);
    assert!(size_of::<Limit>() == 32);
    assert!(size_of::<Limits>() == 96);
    assert!(size_of::<Service>() == 200);
    assert!(size_of::<Source>() == 16);
    assert!(size_of::<Entry>() == 4);
    assert!(size_of::<Node>() == 32);
    assert!(size_of::<Leaf<u32>>() == 16);
    assert!(size_of::<Leaf<[u64; 2]>>() == 32);
    assert!(size_of::<MemberKey>() == 24);
    assert!(size_of::<InterfaceRow>() == 8);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Carried>() == 128);
    assert!(size_of::<Event>() == 168);
    assert!(size_of::<Sampling>() == 64);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "`Pod` promises that a type is plain bytes; all promises are here")]
mod pod {
    use super::{
        Carried, Counter, Entry, Event, InterfaceRow, Leaf, MemberKey, Node, Sampling, Service,
        Source,
    };

    // SAFETY: integers in `repr(C)` without padding (the sizes above are the sums of the fields),
    // every bit pattern is a value.
    unsafe impl aya::Pod for Service {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Source {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Entry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Node {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Leaf<u32> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Leaf<[u64; 2]> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for MemberKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for InterfaceRow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Carried {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Event {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Sampling {}
}
