//! What the daemon itself counts. Kept in a pinned map beside the kernel's counters, and so, like
//! them, never less than it was: over generations, restarts and crashes.

use std::collections::BTreeMap;

use guard_common::{
    event::Event,
    layout::{TALLY_LOADS_DONE, TALLY_LOADS_FAILED, TALLY_MEMBER_DROPS, TALLY_MEMBER_DROPS_NODE},
    verdict::{Action, Reason},
};

use super::guard::Facts;
use crate::{
    kernel::{error::KernelError, shared::Shared},
    policy::compiled::name_of,
};

/// Counts that are not in the map yet, by the indices of `guard_common::layout`: the first files
/// are loaded before there is a map.
#[derive(Debug, Default)]
pub(super) struct Tallies(BTreeMap<u32, u64>);

impl Tallies {
    /// Counts.
    pub(super) fn add(&mut self, index: u32, count: u64) {
        let sum = self.0.entry(index).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Counts a load of the files.
    pub(super) fn add_load(&mut self, success: bool) {
        self.add(if success { TALLY_LOADS_DONE } else { TALLY_LOADS_FAILED }, 1);
    }

    /// Counts the frames that an event stands for, if they were dropped and their source is a node
    /// of the manifest. The node's own address is not: nobody else sends from it.
    pub(super) fn add_member_drops(&mut self, event: &Event, facts: &Facts) {
        let (Some(source), Some(verdict)) = (event.source(), event.verdict()) else { return };
        let forged = verdict.reason == Reason::Martian;
        if verdict.action != Action::Drop || forged || name_of(&facts.names, &source).is_none() {
            return;
        }
        let index = match verdict.service {
            Some(slot) => TALLY_MEMBER_DROPS + u32::from(slot),
            None => TALLY_MEMBER_DROPS_NODE,
        };
        self.add(index, event.weight.into());
    }

    /// Puts the counts into the map. Those that cannot be put there wait.
    pub(super) fn flush(&mut self, shared: &mut Shared) -> Result<(), KernelError> {
        while let Some(first) = self.0.first_entry() {
            shared.add_to_tally(*first.key(), *first.get())?;
            first.remove();
        }
        Ok(())
    }
}
