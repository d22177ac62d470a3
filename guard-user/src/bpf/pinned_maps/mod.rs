//! The maps that all generations share: counters, bucket states, labels and events. They are pinned,
//! so they outlive the daemon and can be read without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};

use nix::time::{ClockId, clock_gettime};

mod carried;
pub mod node;

use super::loader::missing;
use crate::system_error::SystemError;
pub(super) use carried::{Origin, claim_slots};
use guard_common::{
    layout::{
        About, BucketStates, Carried, Counter, LABEL_GENERATION, LABEL_INTERFACES, LABEL_POLICY,
        LISTENING_NS, Label, MemberKey, Sampling, TALLY_MEMBER_DROPS,
        counters::{
            self, COUNTERS, INTERFACE_SLOTS, InterfaceRow, MAX_INTERFACES, NODE_COUNTERS,
            SERVICE_COUNTERS,
        },
        event::{Event, HEAD_LEN},
    },
    names,
    verdict::{MAX_SERVICES, Reason, Verdict},
};

/// The row that is shared by all interfaces without a row of their own.
pub(super) const LAST_ROW: u32 = MAX_INTERFACES - 1;
/// The label of that row.
const OTHERS_LABEL: &str = "others";

/// Typed handles of the shared maps of a guard: counters, labels, tallies, bucket states and events.
///
/// The daemon takes them from a generation
/// ([`Generation::shared`](super::loader::Generation::shared)); other processes open the pins
/// ([`PinnedMaps::open`], [`Pins::shared`](super::pins::Pins::shared)). Counters are frames and bytes
/// and never decrease, unless a slot is given to another service. One daemon at a time writes: the
/// one that holds the lock of the pin directory. The layout of keys and values is that of
/// [`guard_common::layout`].
///
/// Unless noted otherwise, the methods fail if the kernel cannot read or write a map.
#[expect(missing_debug_implementations, reason = "aya's typed maps have none")]
pub struct PinnedMaps {
    /// Id of the counter map, which identifies the guard.
    id: u32,
    counters: PerCpuArray<MapData, Counter>,
    sampling: PerCpuArray<MapData, Sampling>,
    labels: Array<MapData, Label>,
    tallies: Array<MapData, u64>,
    carried: Array<MapData, Carried>,
    about: Array<MapData, About>,
    interfaces: Array<MapData, InterfaceRow>,
    member_keys: HashMap<MapData, MemberKey, u32>,
    members: Array<MapData, BucketStates>,
    hashed: Array<MapData, BucketStates>,
    totals: Array<MapData, BucketStates>,
    credits: PerCpuArray<MapData, BucketStates>,
    listener: Array<MapData, u64>,
    events: Option<RingBuf<MapData>>,
}

/// Numbers of events of refused frames, since the maps were created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Events that the program emitted.
    pub emitted: u64,
    /// Refused frames without an event: not sampled, beyond the sampling budget, or without a
    /// listening daemon.
    pub suppressed: u64,
    /// Events that were lost because the ring was full.
    pub lost: u64,
}

impl PinnedMaps {
    /// Takes the shared maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, SystemError> {
        let mut take = |name| ebpf.take_map(name).ok_or_else(|| missing(name));
        let counters = take(names::MAP_COUNTERS)?;
        Ok(Self {
            id: id(&counters)?,
            counters: typed(names::MAP_COUNTERS, counters)?,
            sampling: typed(names::MAP_SAMPLING, take(names::MAP_SAMPLING)?)?,
            labels: typed(names::MAP_LABELS, take(names::MAP_LABELS)?)?,
            tallies: typed(names::MAP_TALLIES, take(names::MAP_TALLIES)?)?,
            carried: typed(names::MAP_CARRIED, take(names::MAP_CARRIED)?)?,
            about: typed(names::MAP_ABOUT, take(names::MAP_ABOUT)?)?,
            interfaces: typed(names::MAP_INTERFACES, take(names::MAP_INTERFACES)?)?,
            member_keys: typed(names::MAP_MEMBER_KEYS, take(names::MAP_MEMBER_KEYS)?)?,
            members: typed(names::MAP_MEMBERS, take(names::MAP_MEMBERS)?)?,
            hashed: typed(names::MAP_HASHED, take(names::MAP_HASHED)?)?,
            totals: typed(names::MAP_TOTALS, take(names::MAP_TOTALS)?)?,
            credits: typed(names::MAP_CREDITS, take(names::MAP_CREDITS)?)?,
            listener: typed(names::MAP_LISTENER, take(names::MAP_LISTENER)?)?,
            events: Some(typed(names::MAP_EVENTS, take(names::MAP_EVENTS)?)?),
        })
    }

    /// Opens the maps that are pinned in a directory, without the ring of events, which only the
    /// daemon reads. The caller must have checked the layout
    /// ([`Pins::check_layout`](super::pins::Pins::check_layout)).
    ///
    /// # Errors
    /// A map is not pinned, cannot be opened, or has another type.
    pub fn open(directory: &Path) -> Result<Self, SystemError> {
        let open = |name| open(directory, name);
        let counters = open(names::MAP_COUNTERS)?;
        Ok(Self {
            id: id(&counters)?,
            counters: typed(names::MAP_COUNTERS, counters)?,
            sampling: typed(names::MAP_SAMPLING, open(names::MAP_SAMPLING)?)?,
            labels: typed(names::MAP_LABELS, open(names::MAP_LABELS)?)?,
            tallies: typed(names::MAP_TALLIES, open(names::MAP_TALLIES)?)?,
            carried: typed(names::MAP_CARRIED, open(names::MAP_CARRIED)?)?,
            about: typed(names::MAP_ABOUT, open(names::MAP_ABOUT)?)?,
            interfaces: typed(names::MAP_INTERFACES, open(names::MAP_INTERFACES)?)?,
            member_keys: typed(names::MAP_MEMBER_KEYS, open(names::MAP_MEMBER_KEYS)?)?,
            members: typed(names::MAP_MEMBERS, open(names::MAP_MEMBERS)?)?,
            hashed: typed(names::MAP_HASHED, open(names::MAP_HASHED)?)?,
            totals: typed(names::MAP_TOTALS, open(names::MAP_TOTALS)?)?,
            credits: typed(names::MAP_CREDITS, open(names::MAP_CREDITS)?)?,
            listener: typed(names::MAP_LISTENER, open(names::MAP_LISTENER)?)?,
            events: None,
        })
    }

    /// Returns the non-zero counters of all interfaces and services that have labels, as (interface,
    /// verdict, counter). Counts that were carried over from other layouts are included.
    pub fn counters(&self) -> Result<Vec<(String, Verdict, Counter)>, SystemError> {
        let slots: Vec<u8> = self.service_labels()?.into_keys().collect();
        let mut all = Vec::new();
        let mut rows = self.interface_labels()?;
        // The last row counts frames of a device that the program does not know yet, such as a port
        // that was just added to a guarded bond.
        rows.entry(LAST_ROW).or_insert_with(|| OTHERS_LABEL.to_owned());
        for (row, interface) in rows {
            let first = row * counters::COUNTERS_PER_INTERFACE;
            let services = slots.iter().flat_map(|&slot| {
                let first = NODE_COUNTERS + u32::from(slot) * SERVICE_COUNTERS;
                first..first + SERVICE_COUNTERS
            });
            for index in (0..NODE_COUNTERS).chain(services).map(|within| first + within) {
                let Some((_, verdict)) = counters::counter_meaning(index) else { continue };
                let values = self.counters.get(&index, 0).map_err(read(names::MAP_COUNTERS))?;
                let counter = sum(values.iter().chain([&self.carried(index)?]));
                if counter.packets != 0 {
                    all.push((interface.clone(), verdict, counter));
                }
            }
        }
        Ok(all)
    }

    /// Returns the numbers of events, including those carried over from other layouts.
    pub fn event_counts(&self) -> Result<EventCounts, SystemError> {
        let mut counts = EventCounts::default();
        for reason in Reason::ALL {
            let values = self.sampling.get(&u32::from(reason as u8), 0);
            for of_cpu in values.map_err(read(names::MAP_SAMPLING))?.iter() {
                counts.emitted = counts.emitted.wrapping_add(of_cpu.emitted);
                counts.suppressed = counts.suppressed.wrapping_add(of_cpu.suppressed);
                counts.lost = counts.lost.wrapping_add(of_cpu.lost);
            }
        }
        let EventCounts { emitted, suppressed, lost } = &mut counts;
        for (index, count) in (COUNTERS..).zip([emitted, suppressed, lost]) {
            *count = count.wrapping_add(self.carried(index)?.packets);
        }
        Ok(counts)
    }

    /// Returns the tally at an index below [`guard_common::layout::TALLIES`]: a counter that the
    /// daemon maintains.
    pub fn tally(&self, index: u32) -> Result<u64, SystemError> {
        self.tallies.get(&index, 0).map_err(read(names::MAP_TALLIES))
    }

    /// Adds `count` to a tally. Not atomic: only the process that holds the lock of the pin directory
    /// may call it.
    pub fn add_to_tally(&mut self, index: u32, count: u64) -> Result<(), SystemError> {
        let sum = self.tally(index)?.saturating_add(count);
        self.tallies.set(index, sum, 0).map_err(write(names::MAP_TALLIES))
    }

    /// Makes the programs emit events for the next [`LISTENING_NS`] nanoseconds.
    pub fn listen(&mut self) -> Result<(), SystemError> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_err(|error| SystemError::of("reading the clock", std::io::Error::from(error)))?;
        let now = Duration::from(now).as_nanos();
        let until = u64::try_from(now).unwrap_or(u64::MAX).saturating_add(LISTENING_NS);
        self.listener.set(0, until, 0).map_err(write(names::MAP_LISTENER))
    }

    /// Takes the events since the last call out of the ring, at most `limit`. Returns none if the
    /// maps were opened without the ring.
    pub fn events(&mut self, limit: usize) -> Vec<Event> {
        let Some(ring) = &mut self.events else { return Vec::new() };
        let mut events = Vec::new();
        while events.len() < limit {
            let Some(record) = ring.next() else { break };
            events.extend(decode(&record));
        }
        events
    }

    /// Returns a descriptor of the ring of events, which becomes readable when the kernel signals
    /// that the ring fills up. None if the maps were opened without the ring.
    pub fn ring(&self) -> Result<Option<OwnedFd>, SystemError> {
        let ring = self.events.as_ref().map(|ring| ring.as_fd().try_clone_to_owned());
        ring.transpose().map_err(|error| SystemError::of(names::MAP_EVENTS, error))
    }

    /// Returns the labels of the service slots: slot to `policy/service`.
    pub fn service_labels(&self) -> Result<BTreeMap<u8, String>, SystemError> {
        labels_by_slot(&self.labels)
    }

    /// Returns the labels of the counter rows: row to name of the interface.
    pub fn interface_labels(&self) -> Result<BTreeMap<u32, String>, SystemError> {
        let mut labels = BTreeMap::new();
        for row in 0..MAX_INTERFACES {
            let label = self.label(LABEL_INTERFACES + row)?;
            if !label.is_empty() {
                labels.insert(row, label);
            }
        }
        Ok(labels)
    }

    /// Returns the number of the generation that was last put into force; 0 if there was none.
    pub fn generation(&self) -> Result<u64, SystemError> {
        Ok(self.label(LABEL_GENERATION)?.parse().unwrap_or(0))
    }

    /// Returns the hash of the policy that was last put into force, in hexadecimal; empty if there
    /// was none.
    pub fn policy_hash(&self) -> Result<String, SystemError> {
        self.label(LABEL_POLICY)
    }

    /// Records the number of the generation and the hash of the policy that were put into force.
    pub fn set_generation(&mut self, generation: u64, hash: &str) -> Result<(), SystemError> {
        self.set_label(LABEL_GENERATION, &generation.to_string())?;
        self.set_label(LABEL_POLICY, hash)
    }

    /// Assigns a slot to a service. If another service had the slot, its counters and bucket states
    /// are cleared first.
    pub fn set_service(&mut self, slot: u8, label: &str) -> Result<(), SystemError> {
        let known = self.label(slot.into())?;
        if known == label {
            return Ok(());
        }
        if !known.is_empty() {
            self.clear_service(slot)?;
        }
        self.set_label(slot.into(), label)
    }

    fn clear_service(&mut self, slot: u8) -> Result<(), SystemError> {
        let cpus = aya::util::nr_cpus()
            .map_err(|(what, error)| SystemError::of(format_args!("reading {what}"), error))?;
        let zeros = || aya::maps::PerCpuValues::try_from(vec![Counter::default(); cpus]);
        for row in 0..MAX_INTERFACES {
            let first = row * counters::COUNTERS_PER_INTERFACE
                + NODE_COUNTERS
                + u32::from(slot) * SERVICE_COUNTERS;
            for index in first..first + SERVICE_COUNTERS {
                let zeros = zeros().map_err(|error| SystemError::of("counters", error))?;
                self.counters.set(index, zeros, 0).map_err(write(names::MAP_COUNTERS))?;
                let zero = Carried::default();
                self.carried.set(index, zero, 0).map_err(write(names::MAP_CARRIED))?;
            }
        }
        let member_drops = TALLY_MEMBER_DROPS + u32::from(slot);
        self.tallies.set(member_drops, 0, 0).map_err(write(names::MAP_TALLIES))?;
        self.totals.set(slot.into(), [0; 3], 0).map_err(write(names::MAP_TOTALS))?;
        let none = aya::maps::PerCpuValues::try_from(vec![[0; 3]; cpus])
            .map_err(|error| SystemError::of("credits", error))?;
        self.credits.set(slot.into(), none, 0).map_err(write(names::MAP_CREDITS))
    }

    /// Frees the places of the bucket states of all members but those in `keep`. Only allowed when no
    /// program charges them any more.
    pub fn keep_members(&mut self, keep: &[MemberKey]) -> Result<(), SystemError> {
        let keep: BTreeSet<&MemberKey> = keep.iter().collect();
        // The keys are collected first, because an iteration restarts when its current key is
        // removed.
        let keys = self.member_keys.keys().filter_map(Result::ok);
        let stale: Vec<MemberKey> = keys.filter(|key| !keep.contains(key)).collect();
        for key in stale {
            self.member_keys.remove(&key).map_err(write(names::MAP_MEMBER_KEYS))?;
        }
        Ok(())
    }

    /// Writes the description of this layout, for guards of other layouts.
    pub fn describe(&mut self) -> Result<(), SystemError> {
        self.about
            .set(0, super::layout_description::LayoutDescription::text(), 0)
            .map_err(write(names::MAP_ABOUT))
    }

    /// Assigns a counter row to an interface: its previous row, by name; otherwise a free one;
    /// otherwise the last row, which several interfaces share. `one_buffer` is true if the program
    /// gets each frame of the interface in one buffer.
    pub fn set_interface(
        &mut self,
        ifindex: u32,
        name: &str,
        one_buffer: bool,
    ) -> Result<(), SystemError> {
        let row = self.claim_row(name)?;
        self.remove_stale_rows(row, ifindex)?;
        if row == LAST_ROW {
            return Ok(());
        }
        self.set_row(InterfaceRow::new(ifindex, row, one_buffer))
    }

    /// Counts the frames of the ports of an interface in the row of the interface. Without effect if
    /// the interface has no row of its own. A program on a bond runs at its ports, and sees their
    /// indices (`bond_xdp_set`, `drivers/net/bonding/bond_main.c`).
    pub fn set_ports(
        &mut self,
        ifindex: u32,
        name: &str,
        ports: &[u32],
    ) -> Result<(), SystemError> {
        let labels = self.interface_labels()?;
        let own = labels.iter().find(|(_, label)| *label == name).map(|(row, _)| *row);
        let Some(row) = own.filter(|row| *row < LAST_ROW) else { return Ok(()) };
        let first = row * counters::COUNTERS_PER_INTERFACE;
        for place in 0..INTERFACE_SLOTS {
            let there = self.interfaces.get(&place, 0).map_err(read(names::MAP_INTERFACES))?;
            let is_port = ports.contains(&there.ifindex());
            let is_other = there.ifindex() != 0 && there.ifindex() != ifindex;
            // The entry of a former port, or a row that a port had of its own.
            if is_other && is_port != (there.first() == first) {
                let free = InterfaceRow::default();
                self.interfaces.set(place, free, 0).map_err(write(names::MAP_INTERFACES))?;
            }
        }
        ports.iter().try_for_each(|port| self.set_row(InterfaceRow::new(*port, row, false)))
    }

    fn set_row(&mut self, entry: InterfaceRow) -> Result<(), SystemError> {
        let ifindex = entry.ifindex();
        for place in InterfaceRow::places(ifindex) {
            let there = self.interfaces.get(&place, 0).map_err(read(names::MAP_INTERFACES))?;
            if there.ifindex() == 0 || there.ifindex() == ifindex {
                return self.interfaces.set(place, entry, 0).map_err(write(names::MAP_INTERFACES));
            }
        }
        // All places of the index are occupied by other interfaces: without an entry, its frames are
        // counted in the shared row.
        Ok(())
    }

    /// Removes the previous indices of the interface of `row`, and the previous row of `ifindex`.
    fn remove_stale_rows(&mut self, row: u32, ifindex: u32) -> Result<(), SystemError> {
        let first = row * counters::COUNTERS_PER_INTERFACE;
        for place in 0..INTERFACE_SLOTS {
            let there = self.interfaces.get(&place, 0).map_err(read(names::MAP_INTERFACES))?;
            if there.ifindex() != 0 && (there.ifindex() == ifindex) != (there.first() == first) {
                let free = InterfaceRow::default();
                self.interfaces.set(place, free, 0).map_err(write(names::MAP_INTERFACES))?;
            }
        }
        Ok(())
    }

    fn label(&self, index: u32) -> Result<String, SystemError> {
        label(&self.labels, index)
    }

    fn set_label(&mut self, index: u32, text: &str) -> Result<(), SystemError> {
        let mut label: Label = [0; size_of::<Label>()];
        // Longer names are rejected when a policy is checked. A label that is too long is truncated.
        for (to, from) in label.iter_mut().take(size_of::<Label>() - 1).zip(text.bytes()) {
            *to = from;
        }
        self.labels.set(index, label, 0).map_err(write(names::MAP_LABELS))
    }
}

/// Returns the labels of the service slots from the maps in a directory, whose layout must have been
/// checked: slot to `policy/service`. Only the map of labels is opened; the result is empty if it is
/// not pinned.
pub fn service_labels(directory: &Path) -> Result<BTreeMap<u8, String>, SystemError> {
    if !directory.join(names::MAP_LABELS).exists() {
        return Ok(BTreeMap::new());
    }
    labels_by_slot(&typed(names::MAP_LABELS, open(directory, names::MAP_LABELS)?)?)
}

fn open(directory: &Path, name: &'static str) -> Result<Map, SystemError> {
    MapData::from_pin(directory.join(name))
        .and_then(Map::from_map_data)
        .map_err(|error| SystemError::of(format_args!("opening {name}"), error))
}

fn labels_by_slot(labels: &Array<MapData, Label>) -> Result<BTreeMap<u8, String>, SystemError> {
    let mut by_slot = BTreeMap::new();
    for slot in 0..MAX_SERVICES {
        let label = label(labels, slot.into())?;
        if !label.is_empty() {
            by_slot.insert(slot, label);
        }
    }
    Ok(by_slot)
}

fn label(labels: &Array<MapData, Label>, index: u32) -> Result<String, SystemError> {
    let label = labels.get(&index, 0).map_err(read(names::MAP_LABELS))?;
    let text = label.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Returns the row of an interface: the one with its name, otherwise a free one, otherwise the last.
/// The flag is true if the row did not have its name before.
fn row_of(labels: &BTreeMap<u32, String>, name: &str) -> (u32, bool) {
    let own = labels.iter().find(|(_, label)| *label == name).map(|(row, _)| *row);
    let free = (0..LAST_ROW).find(|row| name != OTHERS_LABEL && !labels.contains_key(row));
    (own.or(free).unwrap_or(LAST_ROW), own.is_none())
}

/// Returns the id of the counter map.
fn id(map: &Map) -> Result<u32, SystemError> {
    let Map::PerCpuArray(counters) = map else { return Err(missing(names::MAP_COUNTERS)) };
    let info = counters.info().map_err(read(names::MAP_COUNTERS))?;
    Ok(info.id())
}

/// Returns the sum over all CPUs. The kernel has a value for each possible CPU, so the counts of CPUs
/// that have gone offline are included.
fn sum<'c>(values: impl IntoIterator<Item = &'c Counter>) -> Counter {
    values.into_iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets.wrapping_add(value.packets),
        bytes: sum.bytes.wrapping_add(value.bytes),
    })
}

/// Decodes a record of the ring; returns none if it is too short.
fn decode(record: &[u8]) -> Option<Event> {
    let half = |at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?))
    };
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?))
    };
    Some(Event {
        source: [word(0)?, word(8)?],
        verdict: half(16)?,
        ifindex: half(20)?,
        len: half(24)?,
        port: u16::from_ne_bytes(record.get(28..30)?.try_into().ok()?),
        protocol: *record.get(30)?,
        family: *record.get(31)?,
        weight: half(32)?,
        head_len: half(36)?,
        head: record.get(40..40 + HEAD_LEN)?.try_into().ok()?,
    })
}

fn typed<T: TryFrom<Map, Error = MapError>>(
    name: &'static str,
    map: Map,
) -> Result<T, SystemError> {
    T::try_from(map).map_err(|error| SystemError::of(name, error))
}

fn read(name: &'static str) -> impl Fn(MapError) -> SystemError {
    move |error| SystemError::of(format_args!("reading {name}"), error)
}

fn write(name: &'static str) -> impl Fn(MapError) -> SystemError {
    move |error| SystemError::of(format_args!("writing {name}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case 110: only two of 288 possible CPUs are present.
    #[test]
    fn counts_of_offline_cpus_are_included() {
        let mut values = vec![Counter::default(); 288];
        for (cpu, packets) in [(0, 3), (1, 4), (200, 50), (287, 600)] {
            values[cpu] = Counter { packets, bytes: packets * 100 };
        }
        let Counter { packets, bytes } = sum(&values);
        assert_eq!((packets, bytes), (657, 65_700));
    }

    /// Case 110: the kernel writes a value for each possible CPU, regardless of how many are present.
    #[test]
    fn each_possible_cpu_has_a_value() {
        let listed = std::fs::read_to_string("/sys/devices/system/cpu/possible").expect("a list");
        let cpus = listed.trim().split(',').map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.parse::<usize>().expect("a number");
            number(last) - number(first) + 1
        });
        assert_eq!(aya::util::nr_cpus().expect("the CPUs"), cpus.sum::<usize>());
    }
}
