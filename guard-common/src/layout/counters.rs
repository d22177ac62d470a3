//! Where counters lie: one for each verdict that an interface may have.

use crate::verdict::{Action, MAX_SERVICES, NODE_REASONS, Reason, Verdict};

/// Interfaces with a counter row of their own. The last row is shared by all further ones.
pub const MAX_INTERFACES: u32 = 16;

/// Entries of the interface map. More than there are rows, so that an interface nearly always lies
/// where its index says.
pub const INTERFACE_SLOTS: u32 = 64;

/// Entries in which an interface may lie, from the one its index says on.
pub const INTERFACE_PROBES: u32 = 4;

/// Entry of the interface map, in one word, which is loaded at once. From the lowest bit: index of
/// the interface (32), 0 for a free entry; index of the first counter of its row (16); whether the
/// kernel need not be asked for the length of its frames, because each lies in one buffer (1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct InterfaceRow(u64);

impl InterfaceRow {
    /// The row that all interfaces share that have no entry.
    pub const OTHERS: Self = Self::new(0, MAX_INTERFACES - 1, false);

    /// The entry of an interface, with the number of its row.
    pub const fn new(ifindex: u32, row: u32, one_buffer: bool) -> Self {
        let first = row.wrapping_mul(COUNTERS_PER_INTERFACE);
        Self(ifindex as u64 | (first as u64) << 32 | (one_buffer as u64) << 48)
    }

    /// Index of the interface.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub fn ifindex(self) -> u32 {
        self.0 as u32
    }

    /// Index of the first counter.
    #[inline(always)]
    pub fn first(self) -> u32 {
        (self.0 >> 32 & 0xffff) as u32
    }

    /// Whether each frame lies in one buffer.
    #[inline(always)]
    pub fn has_one_buffer(self) -> bool {
        self.0 >> 48 != 0
    }

    /// Where the entry of an interface may lie, likeliest first.
    #[inline(always)]
    pub fn places(ifindex: u32) -> impl Iterator<Item = u32> {
        (0..INTERFACE_PROBES).map(move |probe| ifindex.wrapping_add(probe) % INTERFACE_SLOTS)
    }
}

/// Counters of the node itself: each of its reasons with each action.
pub const NODE_COUNTERS: u32 = 3 * NODE_REASONS as u32;

/// Counters of one service: each of its reasons, enforced and observed.
pub const SERVICE_COUNTERS: u32 = 2 * (Reason::COUNT as u32 - NODE_REASONS as u32);

/// Counters of one interface: the node's, then those of each service slot.
pub const COUNTERS_PER_INTERFACE: u32 = NODE_COUNTERS + SERVICE_COUNTERS * MAX_SERVICES as u32;

/// All counters.
pub const COUNTERS: u32 = COUNTERS_PER_INTERFACE * MAX_INTERFACES;

/// Number of the counter of a verdict among those of an interface.
#[inline(always)]
pub fn counter(verdict: Verdict) -> u32 {
    let Verdict { action, reason, service } = verdict;
    let (action, reason) = (action as u32, reason as u32);
    match service {
        None => reason.wrapping_mul(3).wrapping_add(action),
        Some(slot) => u32::from(slot).wrapping_mul(SERVICE_COUNTERS).wrapping_add(
            NODE_COUNTERS
                .wrapping_add(reason.wrapping_sub(NODE_REASONS.into()).wrapping_mul(2))
                // 1 for `WouldDrop`.
                .wrapping_add(action >> 1),
        ),
    }
}

/// The row and the verdict that a counter counts: the inverse of [`counter`]. None for a
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

/// What the decision answers: a verdict and the number of its counter. Both are constants but for
/// the slot, so they are put together where the decision falls, and not taken apart and put
/// together again where the frame is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The packed verdict.
    pub packed: u32,
    /// Number of its counter among those of an interface.
    pub counter: u32,
}

impl Decision {
    /// A decision without a service.
    #[inline(always)]
    pub fn of_node(action: Action, reason: Reason) -> Self {
        Self::of(Verdict::of_node(action, reason))
    }

    /// A decision of the service in this slot.
    #[inline(always)]
    pub fn of_service(action: Action, reason: Reason, slot: u8) -> Self {
        Self::of(Verdict::of_service(action, reason, slot))
    }

    #[inline(always)]
    fn of(verdict: Verdict) -> Self {
        Self { packed: verdict.pack(), counter: counter(verdict) }
    }

    /// The verdict.
    pub fn verdict(self) -> Verdict {
        // Made of a verdict, it holds one.
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
        let of_node = 2 + 6 * 3;
        let of_services = 64 * (2 + 8 * 2);
        assert_eq!(meanings, MAX_INTERFACES * (of_node + of_services));
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
