//! Counters and bucket states that were carried over from guards of other layouts.
//!
//! Each other guard has a slot ([`Origin`]), identified by the id of its counter map. The values of a
//! slot are only raised to the values that the guard reports. If two guards have carried from each
//! other, because a take-over was killed and then reversed, each of them skips the slot of its own
//! counters, so no frame is counted twice. Slots of guards that no longer exist are added to
//! [`Carried::settled`] and freed.

use std::collections::BTreeMap;

use aya::maps::{Array, MapData, MapError};

use super::{LAST_ROW, OTHERS_LABEL, PinnedMaps, read, row_of, sum, write};
use crate::system_error::SystemError;
use guard_common::{
    layout::{
        BucketStates, CARRIED, Carried, Counter, LABEL_INTERFACES, MemberKey, ORIGINS,
        TALLY_ORIGINS,
        counters::{self, COUNTERS},
    },
    names,
    verdict::{MAX_SERVICES, Verdict},
};

/// The slot of another guard: an index of [`Carried::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bpf) struct Origin(usize);

impl PinnedMaps {
    /// Returns the id of the counter map of this guard, which identifies the guard.
    pub(in crate::bpf) fn id(&self) -> u32 {
        self.id
    }

    /// Returns the slot of another guard, and assigns one if it has none yet. None if all slots are
    /// taken.
    pub(in crate::bpf) fn origin(&mut self, id: u32) -> Result<Option<Origin>, SystemError> {
        let mut free = None;
        for (nth, index) in (0..).zip(TALLY_ORIGINS..TALLY_ORIGINS + ORIGINS) {
            let taken = self.tally(index)?;
            if taken == u64::from(id) {
                return Ok(Some(Origin(nth)));
            }
            if taken == 0 {
                free = free.or(Some((nth, index)));
            }
        }
        let Some((nth, index)) = free else { return Ok(None) };
        self.tallies.set(index, u64::from(id), 0).map_err(write(names::MAP_TALLIES))?;
        Ok(Some(Origin(nth)))
    }

    /// Adds all slots to the settled counts and frees them. Only allowed when no other guard is left:
    /// a remaining guard could report the same counts again.
    pub(crate) fn settle(&mut self) -> Result<(), SystemError> {
        let mut tallies = TALLY_ORIGINS..TALLY_ORIGINS + ORIGINS;
        if tallies.try_fold(true, |none, index| Ok(none && self.tally(index)? == 0))? {
            return Ok(());
        }
        for index in 0..CARRIED {
            let Carried { settled, of } = self.carried_apart(index)?;
            if of != <[Counter; ORIGINS as usize]>::default() {
                // Each entry takes one system call, so after a kill it is either merged or unchanged.
                let settled = sum(of.iter().chain([&settled]));
                self.set_carried(index, Carried { settled, ..Carried::default() })?;
            }
        }
        for index in TALLY_ORIGINS..TALLY_ORIGINS + ORIGINS {
            self.tallies.set(index, 0, 0).map_err(write(names::MAP_TALLIES))?;
        }
        Ok(())
    }

    /// Raises the counter of a verdict in the slot of another guard.
    pub(in crate::bpf) fn raise_counter(
        &mut self,
        origin: Origin,
        row: u32,
        verdict: Verdict,
        counted: Counter,
    ) -> Result<(), SystemError> {
        let index = row * counters::COUNTERS_PER_INTERFACE + counters::counter(verdict);
        self.raise_carried(origin, index, counted)
    }

    /// Raises the number of events that another guard emitted (`which` 0), suppressed (1) or lost
    /// (2).
    pub(in crate::bpf) fn raise_events(
        &mut self,
        origin: Origin,
        which: u32,
        packets: u64,
    ) -> Result<(), SystemError> {
        self.raise_carried(origin, COUNTERS + which, Counter { packets, bytes: 0 })
    }

    /// Returns the sum of the counts of guards of other layouts, at an index of the map of carried
    /// counts.
    pub(super) fn carried(&self, index: u32) -> Result<Counter, SystemError> {
        let Carried { settled, of } = self.carried_apart(index)?;
        Ok(sum(of.iter().chain([&settled])))
    }

    fn carried_apart(&self, index: u32) -> Result<Carried, SystemError> {
        self.carried.get(&index, 0).map_err(read(names::MAP_CARRIED))
    }

    fn set_carried(&mut self, index: u32, carried: Carried) -> Result<(), SystemError> {
        self.carried.set(index, carried, 0).map_err(write(names::MAP_CARRIED))
    }

    fn raise_carried(
        &mut self,
        Origin(nth): Origin,
        index: u32,
        counted: Counter,
    ) -> Result<(), SystemError> {
        if counted == Counter::default() {
            return Ok(());
        }
        let mut carried = self.carried_apart(index)?;
        let before = carried;
        if let Some(of) = carried.of.get_mut(nth) {
            of.packets = of.packets.max(counted.packets);
            of.bytes = of.bytes.max(counted.bytes);
        }
        if carried == before { Ok(()) } else { self.set_carried(index, carried) }
    }

    /// Assigns slots to the services of another layout ([`claim_slots`]). Returns them by the slots
    /// of that layout.
    pub(in crate::bpf) fn claim_services(
        &mut self,
        services: BTreeMap<u32, String>,
    ) -> Result<BTreeMap<u32, u8>, SystemError> {
        let taken = self.service_labels()?;
        let mut labels = taken.clone();
        let slots = claim_slots(&mut labels, services);
        for (slot, label) in labels.iter().filter(|(slot, _)| !taken.contains_key(slot)) {
            self.set_label((*slot).into(), label)?;
        }
        Ok(slots)
    }

    /// Assigns a row to an interface of another layout: the one with its name, otherwise a free one,
    /// otherwise the last.
    pub(in crate::bpf) fn claim_row(&mut self, name: &str) -> Result<u32, SystemError> {
        let labels = self.interface_labels()?;
        let (row, is_new) = row_of(&labels, name);
        if is_new {
            self.set_label(
                LABEL_INTERFACES + row,
                if row == LAST_ROW { OTHERS_LABEL } else { name },
            )?;
        }
        Ok(row)
    }

    /// Raises a tally to the value of another layout.
    pub(in crate::bpf) fn raise_tally(
        &mut self,
        index: u32,
        count: u64,
    ) -> Result<(), SystemError> {
        if count > self.tally(index)? {
            self.tallies.set(index, count, 0).map_err(write(names::MAP_TALLIES))?;
        }
        Ok(())
    }

    /// Raises the state of the bucket of a service to that of another layout: the bucket is then at
    /// least as empty.
    pub(in crate::bpf) fn raise_total(
        &mut self,
        slot: u8,
        states: BucketStates,
    ) -> Result<(), SystemError> {
        raise(&mut self.totals, slot.into(), states, names::MAP_TOTALS)
    }

    /// Raises the state of a hashed bucket, of sources that are not members, likewise.
    pub(in crate::bpf) fn raise_hashed(
        &mut self,
        index: u32,
        states: BucketStates,
    ) -> Result<(), SystemError> {
        raise(&mut self.hashed, index, states, names::MAP_HASHED)
    }

    /// Raises the state of the bucket of a member likewise, if it has a place in this layout.
    pub(in crate::bpf) fn raise_member(
        &mut self,
        key: &MemberKey,
        states: BucketStates,
    ) -> Result<(), SystemError> {
        match self.member_keys.get(key, 0) {
            Ok(place) => raise(&mut self.members, place, states, names::MAP_MEMBERS),
            Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(read(names::MAP_MEMBER_KEYS)(error)),
        }
    }
}

/// Assigns slots to the services of another layout: the slot in `taken` with the same label,
/// otherwise the same slot or a free one, which is added to `taken`. Services that find no free slot
/// are left out.
pub(in crate::bpf) fn claim_slots(
    taken: &mut BTreeMap<u8, String>,
    services: BTreeMap<u32, String>,
) -> BTreeMap<u32, u8> {
    let mut slots = BTreeMap::new();
    for (slot, label) in services {
        let known = taken.iter().find(|(_, known)| **known == label).map(|(own, _)| *own);
        let same = u8::try_from(slot).ok().filter(|slot| *slot < MAX_SERVICES);
        let free =
            || same.into_iter().chain(0..MAX_SERVICES).find(|slot| !taken.contains_key(slot));
        let Some(own) = known.or_else(free) else { continue };
        slots.insert(slot, own);
        taken.insert(own, label);
    }
    slots
}

/// Raises bucket states. A state is the time at which the bucket is full again, so the later one
/// wins.
fn raise(
    buckets: &mut Array<MapData, BucketStates>,
    index: u32,
    states: BucketStates,
    name: &'static str,
) -> Result<(), SystemError> {
    if states == [0; 3] {
        return Ok(());
    }
    let mut later = buckets.get(&index, 0).map_err(read(name))?;
    for (now, state) in later.iter_mut().zip(states) {
        *now = state.max(*now);
    }
    buckets.set(index, later, 0).map_err(write(name))
}
