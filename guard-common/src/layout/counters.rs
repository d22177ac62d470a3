//! Positions of the counters: each interface has one counter for every verdict.

use crate::verdict::{Action, FIRST_SERVICE_REASON, MAX_SERVICES, NODE_REASONS, Reason, Verdict};

/// Number of counter rows. An interface has a row of its own; the last row is shared by all
/// interfaces beyond that.
pub const MAX_INTERFACES: u32 = 16;

/// Number of entries of the interface map. There are more entries than rows, so that an interface
/// is nearly always found at the entry that its index selects.
pub const INTERFACE_SLOTS: u32 = 64;

/// Number of consecutive entries that may contain an interface, beginning with the entry that its
/// index selects.
pub const INTERFACE_PROBES: u32 = 4;

/// An entry of the interface map, in one word, which takes one load.
///
/// From the lowest bit: index of the interface (32), 0 for a free entry; index of the first counter
/// of its row (16); whether each of its frames is in one buffer (1), so that the program need not
/// call the kernel for the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct InterfaceRow(u64);

impl InterfaceRow {
    /// The entry for all interfaces that are not in the map: the shared row.
    pub const OTHERS: Self = Self::new(0, MAX_INTERFACES - 1, false);

    /// Returns the entry of an interface. `row` is the number of its counter row.
    pub const fn new(ifindex: u32, row: u32, one_buffer: bool) -> Self {
        let first = row.wrapping_mul(COUNTERS_PER_INTERFACE);
        Self(ifindex as u64 | (first as u64) << 32 | (one_buffer as u64) << 48)
    }

    /// Returns the index of the interface.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub fn ifindex(self) -> u32 {
        self.0 as u32
    }

    /// Returns the index of the first counter of the row.
    #[inline(always)]
    pub fn first(self) -> u32 {
        (self.0 >> 32 & 0xffff) as u32
    }

    /// Returns whether each frame is in one buffer.
    #[inline(always)]
    pub fn has_one_buffer(self) -> bool {
        self.0 >> 48 != 0
    }

    /// Returns the entries that may contain an interface, the most likely one first.
    #[inline(always)]
    pub fn places(ifindex: u32) -> impl Iterator<Item = u32> {
        (0..INTERFACE_PROBES).map(move |probe| ifindex.wrapping_add(probe) % INTERFACE_SLOTS)
    }
}

/// Number of counters of the node itself: each reason of the node with each action.
pub const NODE_COUNTERS: u32 = 3 * NODE_REASONS as u32;

/// Number of counters of one service: each of its reasons, enforced and observed.
pub const SERVICE_COUNTERS: u32 = 2 * (Reason::COUNT as u32 - FIRST_SERVICE_REASON as u32);

/// Number of counters of one interface: those of the node, then those of each service slot.
pub const COUNTERS_PER_INTERFACE: u32 = NODE_COUNTERS + SERVICE_COUNTERS * MAX_SERVICES as u32;

/// Number of all counters.
pub const COUNTERS: u32 = COUNTERS_PER_INTERFACE * MAX_INTERFACES;

/// Returns the number of a verdict's counter within the row of an interface.
#[inline(always)]
pub fn counter(verdict: Verdict) -> u32 {
    let Verdict { action, reason, service } = verdict;
    let (action, reason) = (action as u32, reason as u32);
    match service {
        None => reason.wrapping_mul(3).wrapping_add(action),
        Some(slot) => u32::from(slot).wrapping_mul(SERVICE_COUNTERS).wrapping_add(
            NODE_COUNTERS
                .wrapping_add(reason.wrapping_sub(FIRST_SERVICE_REASON.into()).wrapping_mul(2))
                // 1 for `WouldDrop`, 0 for the other actions.
                .wrapping_add(action >> 1),
        ),
    }
}

/// Returns the row and the verdict of a counter: the inverse of [`counter`]. `None` for a counter
/// that no verdict uses.
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
    let reason = Reason::from_number((within / 2).checked_add(FIRST_SERVICE_REASON)?)?;
    let action = match (reason.is_refusal(), within % 2) {
        (false, 0) => Action::Pass,
        (true, 0) => Action::Drop,
        (true, _) => Action::WouldDrop,
        (false, _) => return None,
    };
    Some((row, Verdict::of_service(action, reason, slot)))
}

/// The result of a decision: a verdict and the number of its counter.
///
/// Both are constants except for the slot. They are therefore computed together where the decision
/// is made, and the verdict need not be unpacked where the frame is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The verdict as [`Verdict::pack`] encodes it.
    pub packed: u32,
    /// Number of the counter within the row of an interface, as [`counter`] returns it.
    pub counter: u32,
}

impl Decision {
    /// Returns a decision without a service.
    #[inline(always)]
    pub fn of_node(action: Action, reason: Reason) -> Self {
        Self::of(Verdict::of_node(action, reason))
    }

    /// Returns a decision of the service in this slot.
    #[inline(always)]
    pub fn of_service(action: Action, reason: Reason, slot: u8) -> Self {
        Self::of(Verdict::of_service(action, reason, slot))
    }

    #[inline(always)]
    fn of(verdict: Verdict) -> Self {
        Self { packed: verdict.pack(), counter: counter(verdict) }
    }

    /// Returns the decision about a packet that the node only forwards: it passes, and is counted at
    /// the service that would have refused or charged it. A `slot` of at least [`MAX_SERVICES`] stands
    /// for no service.
    #[inline(always)]
    pub fn forwarded(slot: u8) -> Self {
        if slot < MAX_SERVICES {
            Self::of_service(Action::Pass, Reason::Forwarded, slot)
        } else {
            Self::of_node(Action::Pass, Reason::Forwarded)
        }
    }

    /// Returns the verdict.
    pub fn verdict(self) -> Verdict {
        // `packed` was made from a verdict, so unpacking succeeds.
        Verdict::unpack(self.packed).unwrap_or(Verdict::of_node(Action::Drop, Reason::Undecodable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_counts_one_verdict() {
        let mut meanings = 0;
        for index in 0..COUNTERS {
            if let Some((row, verdict)) = counter_meaning(index) {
                assert_eq!(row * COUNTERS_PER_INTERFACE + counter(verdict), index);
                meanings += 1;
            }
        }
        let of_node = 3 + 6 * 3;
        let of_services = 64 * (3 + 8 * 2);
        let expected = MAX_INTERFACES * (of_node + of_services);
        assert_eq!(meanings, expected, "a new reason changes `of_node` or `of_services`");
        assert_eq!(counter_meaning(COUNTERS), None);
    }

    #[test]
    fn a_decision_holds_its_verdict() {
        for action in Action::ALL {
            for reason in Reason::ALL {
                for service in (0..MAX_SERVICES).map(Some).chain([None]) {
                    let verdict = Verdict { action, reason, service };
                    assert_eq!(Decision::of(verdict).verdict(), verdict);
                }
            }
        }
    }
}
