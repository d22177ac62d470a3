//! Bytes that kernel and user space share: keys and values of maps, and where counters lie.
//!
//! Integers and byte arrays only, padding written out, sizes asserted. Whoever changes a layout
//! raises [`LAYOUT_VERSION`]: it is part of the path under which the shared maps are pinned, so a
//! daemon never reads maps of another layout.
use crate::{
    bucket::Limit,
    event::Event,
    flow::{Addr, Transport},
    tables::{Limits, Port, Service, Source},
    verdict::{Action, MAX_SERVICES, NO_SERVICE, NODE_REASONS, Reason, Verdict},
};

/// Version of everything in this file.
pub const LAYOUT_VERSION: u32 = 1;

/// Ports of one transport.
pub const PORTS: usize = 1 << 16;
/// What each (transport, port) is: the transports of [`Transport::ALL`], one after the other. An
/// entry is a service slot, [`PORT_TUNNEL`] or [`PORT_UNGUARDED`].
pub type PortTable = [u8; PORT_TABLE_LEN];
/// The ports of one transport: the kernel map has an entry of it for each.
pub type TransportPorts = [u8; PORTS];
/// Entries of a [`PortTable`].
pub const PORT_TABLE_LEN: usize = PORTS * 3;
/// [`PortTable`] entry: no service.
pub const PORT_UNGUARDED: u8 = 0xff;
/// [`PortTable`] entry: no service, but a tunnel device unpacks what comes to this port.
pub const PORT_TUNNEL: u8 = 0xfe;

/// Index of a port in a [`PortTable`].
#[inline(always)]
pub fn port_index(transport: Transport, port: u16) -> usize {
    ((transport as usize) << 16) | port as usize
}

/// Meaning of a [`PortTable`] entry.
#[inline(always)]
pub fn port_entry(entry: u8) -> Port {
    match entry {
        slot if slot < MAX_SERVICES => Port::Guarded(slot),
        PORT_TUNNEL => Port::Tunnel,
        _ => Port::Unguarded,
    }
}

/// Value of the source tries: a [`Source`] in words of 4 bytes, because the kernel puts the value
/// of an IPv4 trie behind a key of 4 bytes (`trie_lookup_elem` in `kernel/bpf/lpm_trie.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SourceEntry {
    services: [u32; 2],
    flags: [u32; 2],
}

impl From<Source> for SourceEntry {
    fn from(source: Source) -> Self {
        Self { services: halves(source.services), flags: halves(source.flags) }
    }
}

impl From<SourceEntry> for Source {
    #[inline(always)]
    fn from(entry: SourceEntry) -> Self {
        Self { services: whole(entry.services), flags: whole(entry.flags) }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[inline(always)]
fn whole([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

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
pub const MAX_MEMBER_BUCKETS: u32 = 1 << 20;
/// Prefixes of one family that fit: the million that a manifest may list, and its nodes.
pub const MAX_PREFIXES: u32 = 1 << 20;

/// One counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counter {
    /// Frames.
    pub packets: u64,
    /// Their bytes on the wire, Ethernet header included, frame check sequence not.
    pub bytes: u64,
}

/// Interfaces with a counter row of their own. The last row is shared by all further ones.
pub const MAX_INTERFACES: u32 = 16;
/// Counters of the node itself: each of its reasons with each action.
pub const NODE_COUNTERS: u32 = 3 * NODE_REASONS as u32;
/// Counters of one service: each of its reasons, enforced and observed.
pub const SERVICE_COUNTERS: u32 = 2 * (Reason::COUNT as u32 - NODE_REASONS as u32);
/// Counters of one interface: the node's, then those of each service slot.
pub const COUNTERS_PER_INTERFACE: u32 = NODE_COUNTERS + SERVICE_COUNTERS * MAX_SERVICES as u32;
/// All counters.
pub const COUNTERS: u32 = COUNTERS_PER_INTERFACE * MAX_INTERFACES;

/// Index of the counter of a packed verdict in the row of an interface.
#[inline(always)]
pub fn counter_index(row: u32, verdict: u32) -> u32 {
    let [_, service, reason, action] = verdict.to_be_bytes();
    let reason = u32::from(reason);
    let within = if service == NO_SERVICE {
        reason.wrapping_mul(3).wrapping_add(action.into())
    } else {
        NODE_COUNTERS
            .wrapping_add(u32::from(service).wrapping_mul(SERVICE_COUNTERS))
            .wrapping_add(reason.wrapping_sub(NODE_REASONS.into()).wrapping_mul(2))
            .wrapping_add(u32::from(action == Action::WouldDrop as u8))
    };
    row.wrapping_mul(COUNTERS_PER_INTERFACE).wrapping_add(within)
}

/// The row and the verdict that a counter counts: the inverse of [`counter_index`]. None for a
/// counter that no verdict moves.
pub fn counter_meaning(index: u32) -> Option<(u32, Verdict)> {
    let row = index.checked_div(COUNTERS_PER_INTERFACE)?;
    if row >= MAX_INTERFACES {
        return None;
    }
    let within = index.checked_rem(COUNTERS_PER_INTERFACE)?;
    let Some(of_service) = within.checked_sub(NODE_COUNTERS) else {
        let reason = Reason::from_number(u8::try_from(within / 3).ok()?)?;
        let action = *Action::ALL.get(usize::try_from(within % 3).ok()?)?;
        return (reason.is_refusal() || action == Action::Pass)
            .then_some((row, Verdict::of_node(action, reason)));
    };
    let slot = u8::try_from(of_service.checked_div(SERVICE_COUNTERS)?).ok()?;
    let within = u8::try_from(of_service.checked_rem(SERVICE_COUNTERS)?).ok()?;
    let reason = Reason::from_number((within / 2).checked_add(NODE_REASONS)?)?;
    let action = match (reason.is_refusal(), within % 2) {
        (false, 0) => Action::Pass,
        (true, 0) => Action::Drop,
        (true, _) => Action::WouldDrop,
        (false, _) => return None,
    };
    Some((row, Verdict::of_service(action, reason, slot)))
}

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

/// Events that one CPU may emit for one reason in one [`SAMPLING_WINDOW_NS`].
pub const SAMPLING_BUDGET: u32 = 32;
/// Length of a sampling window in nanoseconds.
pub const SAMPLING_WINDOW_NS: u64 = 250_000_000;
/// Bytes of the event ring.
pub const EVENT_RING_BYTES: u32 = 1 << 18;

/// Sampling state of one reason on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Sampling {
    /// Start of the window, in nanoseconds of the monotonic clock.
    pub window: u64,
    /// Drops beyond the budget, which no event tells of.
    pub suppressed: u64,
    /// Events that found the ring full.
    pub lost: u64,
    /// Events emitted.
    pub emitted: u64,
    /// Events emitted in this window.
    pub used: u64,
}

const _: () = {
    assert!(size_of::<Limit>() == 24);
    assert!(size_of::<Limits>() == 72);
    assert!(size_of::<Service>() == 152);
    assert!(size_of::<SourceEntry>() == 16);
    assert!(align_of::<SourceEntry>() == 4);
    assert!(size_of::<MemberKey>() == 24);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Event>() == 32);
    assert!(size_of::<Sampling>() == 40);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "`Pod` promises that a type is plain bytes; all promises are here")]
mod pod {
    use super::{Counter, Event, MemberKey, Sampling, Service, SourceEntry};

    // SAFETY: integers in `repr(C)` without padding (the sizes above are the sums of the fields),
    // every bit pattern is a value.
    unsafe impl aya::Pod for Service {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SourceEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for MemberKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Event {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Sampling {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_the_trie() {
        let source =
            Source { services: 0x8000_0001_0203_0405, flags: Source::OWN | Source::MEMBER };
        assert_eq!(Source::from(SourceEntry::from(source)), source);
    }

    #[test]
    fn every_counter_counts_one_verdict() {
        let mut meanings = 0;
        for index in 0..COUNTERS {
            if let Some((row, verdict)) = counter_meaning(index) {
                assert_eq!(counter_index(row, verdict.pack()), index);
                meanings += 1;
            }
        }
        let of_node = 2 + 6 * 3;
        let of_services = 64 * (2 + 8 * 2);
        assert_eq!(meanings, MAX_INTERFACES * (of_node + of_services));
        assert_eq!(counter_meaning(COUNTERS), None);
    }
}
