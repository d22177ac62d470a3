//! Keys and values of the maps that kernel and user space share.
//!
//! They consist of integers and byte arrays only, with explicit padding and asserted sizes. A
//! change of the layout requires a new [`LAYOUT_VERSION`]. The version is part of the path under
//! which the shared maps are pinned, so a daemon never reads maps of another layout.
//! `cargo xtask check` compares everything that affects the pinned maps, here and in other files,
//! with `layout.lock`.
//!
//! Decision: `docs/decisions/0019-pins-carry-the-layout-version.md`.

pub mod counters;
pub mod daemon_counters;
pub mod event;
pub mod node;

use self::{
    counters::{COUNTERS, InterfaceRow, MAX_INTERFACES},
    event::Event,
    node::{DeviceKey, NodeState},
};
use crate::{
    bucket::Limit,
    flow::Addr,
    tables::{Limits, Service, Source},
    trie::{self, Entry, Leaf, Node},
    verdict::MAX_SERVICES,
};

/// Version of the content of the pinned maps, and of the path under which they are pinned.
pub const LAYOUT_VERSION: u32 = 7;

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
    /// Returns the key of an address at the service in `slot`.
    #[inline(always)]
    pub fn new(slot: u8, addr: &Addr) -> Self {
        Self { addr: addr.mapped(), slot: slot.into() }
    }
}

/// The states of one bucket, by [`crate::tables::Unit`]: theoretical arrival times in ticks (see
/// [`crate::bucket`]).
pub type BucketStates = [u64; 3];

/// Maximum number of buckets of members, over all services.
pub const MAX_MEMBER_BUCKETS: u32 = 1 << 19;
/// Maximum number of prefixes of one family: the million that a manifest may list, and its nodes.
pub const MAX_PREFIXES: u32 = 1 << 20;
/// Maximum number of nodes of a trie. A node branches or is the child of one that does, so there
/// are fewer than twice as many nodes as prefixes.
pub const MAX_NODES: u32 = 2 * MAX_PREFIXES;
/// Maximum number of leaves of a trie. Each prefix begins one and ends one.
pub const MAX_LEAVES: u32 = 4 * MAX_PREFIXES;
/// Maximum number of classes of sources. A class is a set of services, with or without membership.
pub const MAX_CLASSES: u32 = 1 << 16;

/// One counter of frames and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counter {
    /// Number of frames.
    pub packets: u64,
    /// Bytes of these frames on the wire, Ethernet header included, frame check sequence not.
    pub bytes: u64,
}

/// Number of slots for the counts of other guards. Rarely more than two are in use: a daemon that
/// is killed between removing another guard's maps and freeing its slot leaves the slot taken until
/// a take-over completes.
pub const ORIGINS: u32 = 7;

/// Counts carried over from guards of other layouts. Each value is set to the total of a guard and
/// never added to, so that carrying it over twice counts it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Carried {
    /// The counts of guards that no longer exist.
    pub settled: Counter,
    /// The counts of guards whose maps may still be pinned, by slot.
    pub of: [Counter; ORIGINS as usize],
}

/// Number of entries of the map of carried counts: one for each counter, then three for the numbers
/// of events emitted, suppressed and lost (in `packets`).
pub const CARRIED: u32 = COUNTERS + 3;

/// Number of entries of the label map: one for each service slot, one for each interface row, then
/// [`LABEL_GENERATION`] and [`LABEL_POLICY`].
pub const LABELS: u32 = MAX_SERVICES as u32 + MAX_INTERFACES + 2;
/// Index of the first interface label.
pub const LABEL_INTERFACES: u32 = MAX_SERVICES as u32;
/// Index of the label that contains the number of the running generation, in decimal.
pub const LABEL_GENERATION: u32 = LABEL_INTERFACES + MAX_INTERFACES;
/// Index of the label that contains the hash of the running policy.
pub const LABEL_POLICY: u32 = LABEL_GENERATION + 1;
/// UTF-8 text, padded with zeros. Names in a policy are never longer.
pub type Label = [u8; 128];

/// Size of [`About`] in bytes.
pub const ABOUT_BYTES: usize = 1 << 14;
/// The description of the layout: text as in `layout.lock`, padded with zeros.
pub type About = [u8; ABOUT_BYTES];

/// Number of entries of the tally map.
///
/// It contains counts of the daemon that the kernel cannot make. They are in a map because they
/// must exist as long as the counters of the kernel. One daemon at a time writes the map, entry by
/// entry. Entries without a constant for them are zero.
pub const TALLIES: u32 = 256;
/// Tally: loads of the files whose policy came into force.
pub const TALLY_LOADS_DONE: u32 = 0;
/// Tally: loads of the files that failed.
pub const TALLY_LOADS_FAILED: u32 = 1;
/// Tally: dropped frames of members, for reasons of the node. Estimated from sampled events.
pub const TALLY_MEMBER_DROPS_NODE: u32 = 2;
/// Tally: log records that were not written because they repeat earlier ones.
pub const TALLY_LOG_SUPPRESSED: u32 = 3;
/// Tally: log records that were lost because the reader of the log was too slow.
pub const TALLY_LOG_LOST: u32 = 4;
/// First of three tallies: requests that were answered with success, by socket (statistics, metrics
/// over TCP, control).
pub const TALLY_REQUESTS_SERVED: u32 = 8;
/// First of three tallies: requests that were answered with an error or malformed, by socket as
/// above.
pub const TALLY_REQUESTS_REFUSED: u32 = 12;
/// First of three tallies: connections that the daemon closed before they had their answer, by
/// socket as above.
pub const TALLY_CONNECTIONS_CUT: u32 = 16;
/// First of [`ORIGINS`] tallies: the guard to which a slot of [`Carried::of`] belongs, as the id of
/// its counter map; 0 if the slot is free. The kernel does not reuse map ids before a reboot.
pub const TALLY_ORIGINS: u32 = 32;
/// First of the tallies of services, by slot: dropped frames of members. Estimated from sampled
/// events.
pub const TALLY_MEMBER_DROPS: u32 = 64;

/// Maximum number of events that one CPU emits for one reason in one window.
pub const SAMPLING_BUDGET: u32 = 64;
/// Target number of events of one CPU for one reason in one window, as a power of two. If more
/// frames are refused, frames are skipped at random, so that each has the same chance of an event.
pub const SAMPLING_AIM_SHIFT: u32 = 5;
/// Length of a sampling window in timer ticks (jiffies), as a power of two. Jiffies are the only
/// clock without cost. A window takes 64 ms to 640 ms, because the kernel ticks 1000 to 100 times
/// per second.
pub const SAMPLING_WINDOW_SHIFT: u32 = 6;
/// How long the kernel emits events after the daemon has announced that it reads them, in
/// nanoseconds.
pub const LISTENING_NS: u64 = 5_000_000_000;
/// Size of the event ring in bytes.
pub const EVENT_RING_BYTES: u32 = 1 << 20;

/// Sampling state of one reason on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Sampling {
    /// Number of the current window, counted from boot.
    pub window: u64,
    /// Frames refused in the current window.
    pub seen: u64,
    /// Average number of frames to skip between two events in this window.
    pub gap: u64,
    /// Number of frames to skip before the next event.
    pub skip: u64,
    /// Events emitted in the current window.
    pub used: u64,
    /// Refused frames without an event since the map was created: skipped, beyond the budget, or
    /// while the daemon did not read events.
    pub suppressed: u64,
    /// Events lost since the map was created because the ring was full.
    pub lost: u64,
    /// Events emitted since the map was created.
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
    assert!(size_of::<NodeState>() == 104);
    assert!(size_of::<DeviceKey>() == 24);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "`Pod` promises that a type is plain bytes; all promises are here")]
mod pod {
    use super::{
        Carried, Counter, DeviceKey, Entry, Event, InterfaceRow, Leaf, MemberKey, Node, NodeState,
        Sampling, Service, Source,
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
    // SAFETY: as above.
    unsafe impl aya::Pod for NodeState {}
    // SAFETY: as above.
    unsafe impl aya::Pod for DeviceKey {}
}
