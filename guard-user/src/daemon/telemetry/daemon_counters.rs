//! The daemon's own counters. They are kept in a pinned map beside the kernel's counters, and so, like
//! these, never decrease over generations, restarts and crashes.

use std::collections::BTreeMap;

use guard_common::{
    Addr,
    layout::{
        TALLY_LOADS_DONE, TALLY_LOADS_FAILED, TALLY_LOG_LOST, TALLY_LOG_SUPPRESSED,
        TALLY_MEMBER_DROPS, TALLY_MEMBER_DROPS_NODE, event::Event,
    },
    verdict::{Action, Reason},
};

use crate::{
    bpf::pinned_maps::PinnedMaps, logs::Missing, policy::compiled::name_of,
    system_error::SystemError,
};

/// Counts that are not in the pinned map yet.
#[derive(Debug, Default)]
pub(crate) struct DaemonCounters {
    /// Counts by the indices of `guard_common::layout`. They wait here because the first files are
    /// loaded before the map exists.
    waiting: BTreeMap<u32, u64>,
    /// The log's own counts, as far as they have been added here.
    log: Missing,
}

impl DaemonCounters {
    /// Adds `count` to the counter `index`.
    pub(crate) fn add(&mut self, index: u32, count: u64) {
        if count > 0 {
            let sum = self.waiting.entry(index).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// Adds the records that the log has omitted since the last call.
    pub(crate) fn add_log(&mut self, now: Missing) {
        let before = std::mem::replace(&mut self.log, now);
        self.add(TALLY_LOG_SUPPRESSED, now.suppressed.saturating_sub(before.suppressed));
        self.add(TALLY_LOG_LOST, now.lost.saturating_sub(before.lost));
    }

    /// Counts a load of the files.
    pub(crate) fn add_load(&mut self, success: bool) {
        self.add(if success { TALLY_LOADS_DONE } else { TALLY_LOADS_FAILED }, 1);
    }

    /// Counts the frames that an event stands for, if they were dropped and their source is a node of
    /// the manifest. Frames from the node's own address are left out: they are forged.
    pub(crate) fn add_member_drops(&mut self, event: &Event, names: &[(Addr, String)]) {
        let (Some(source), Some(verdict)) = (event.source(), event.verdict()) else { return };
        let forged = verdict.reason == Reason::Martian;
        if verdict.action != Action::Drop || forged || name_of(names, &source).is_none() {
            return;
        }
        let index = match verdict.service {
            Some(slot) => TALLY_MEMBER_DROPS + u32::from(slot),
            None => TALLY_MEMBER_DROPS_NODE,
        };
        self.add(index, event.weight.into());
    }

    /// Adds the counts to the pinned map. Counts that cannot be added stay for the next call.
    pub(crate) fn flush(&mut self, shared: &mut PinnedMaps) -> Result<(), SystemError> {
        while let Some(first) = self.waiting.first_entry() {
            shared.add_to_tally(*first.key(), *first.get())?;
            first.remove();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_counts_of_the_log_are_added() {
        let mut counters = DaemonCounters::default();
        for (suppressed, lost) in [(0, 0), (5, 0), (5, 1), (9, 1)] {
            counters.add_log(Missing { suppressed, lost });
        }
        assert_eq!(counters.waiting, [(TALLY_LOG_SUPPRESSED, 9), (TALLY_LOG_LOST, 1)].into());
    }
}
