//! The maps that all generations share: counters, bucket states, labels, events. Pinned, so that
//! they outlive the daemon, and readable without it.

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

/// The row that all interfaces share that have none of their own.
pub(super) const LAST_ROW: u32 = MAX_INTERFACES - 1;
/// Its label.
const OTHERS_LABEL: &str = "others";

/// Counters, labels, bucket states and events.
#[expect(missing_debug_implementations, reason = "aya's typed maps have none")]
pub struct PinnedMaps {
    /// Of the map of counters, which tells one guard's from another's.
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

/// How many events were told, and how many not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Told.
    pub emitted: u64,
    /// Beyond the sampling budget.
    pub suppressed: u64,
    /// The ring was full.
    pub lost: u64,
}

impl PinnedMaps {
    /// Those of a loaded object.
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

    /// Those pinned in a directory, whose layout was checked. Events are for the daemon alone.
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

    /// Every counter that has counted something, of the interfaces and services that have labels:
    /// (interface, verdict, counter).
    pub fn counters(&self) -> Result<Vec<(String, Verdict, Counter)>, SystemError> {
        let slots: Vec<u8> = self.service_labels()?.into_keys().collect();
        let mut all = Vec::new();
        let mut rows = self.interface_labels()?;
        // Frames of a device that the program has not been told of, as a port that has just been
        // added to a guarded bond, are counted there.
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

    /// How many events there were.
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

    /// What the daemon has counted under an index of [`guard_common::layout::TALLIES`].
    pub fn tally(&self, index: u32) -> Result<u64, SystemError> {
        self.tallies.get(&index, 0).map_err(read(names::MAP_TALLIES))
    }

    /// Counts on from what was there. By one process at a time: who holds the pin directory.
    pub fn add_to_tally(&mut self, index: u32, count: u64) -> Result<(), SystemError> {
        let sum = self.tally(index)?.saturating_add(count);
        self.tallies.set(index, sum, 0).map_err(write(names::MAP_TALLIES))
    }

    /// Tells the kernel that somebody listens to events, for the next [`LISTENING_NS`].
    pub fn listen(&mut self) -> Result<(), SystemError> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_err(|error| SystemError::of("reading the clock", std::io::Error::from(error)))?;
        let now = Duration::from(now).as_nanos();
        let until = u64::try_from(now).unwrap_or(u64::MAX).saturating_add(LISTENING_NS);
        self.listener.set(0, until, 0).map_err(write(names::MAP_LISTENER))
    }

    /// The events since the last call, at most `limit`.
    pub fn events(&mut self, limit: usize) -> Vec<Event> {
        let Some(ring) = &mut self.events else { return Vec::new() };
        let mut events = Vec::new();
        while events.len() < limit {
            let Some(record) = ring.next() else { break };
            events.extend(decode(&record));
        }
        events
    }

    /// The ring of events, to wait for: readable when the kernel says that it fills up. None where
    /// events are not for us.
    pub fn ring(&self) -> Result<Option<OwnedFd>, SystemError> {
        let ring = self.events.as_ref().map(|ring| ring.as_fd().try_clone_to_owned());
        ring.transpose().map_err(|error| SystemError::of(names::MAP_EVENTS, error))
    }

    /// Service slot to `policy/service`.
    pub fn service_labels(&self) -> Result<BTreeMap<u8, String>, SystemError> {
        labels_by_slot(&self.labels)
    }

    /// Counter row to interface name.
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

    /// Number of the generation that was switched to last; 0 if there was none.
    pub fn generation(&self) -> Result<u64, SystemError> {
        Ok(self.label(LABEL_GENERATION)?.parse().unwrap_or(0))
    }

    /// Hash of the policy that was switched to last; empty if there was none.
    pub fn policy_hash(&self) -> Result<String, SystemError> {
        self.label(LABEL_POLICY)
    }

    /// Writes down what was switched to.
    pub fn set_generation(&mut self, generation: u64, hash: &str) -> Result<(), SystemError> {
        self.set_label(LABEL_GENERATION, &generation.to_string())?;
        self.set_label(LABEL_POLICY, hash)
    }

    /// Gives a slot to a service. If it was another's, what was counted and charged under it is
    /// forgotten first.
    pub fn set_service(&mut self, slot: u8, label: &str) -> Result<(), SystemError> {
        let known = self.label(slot.into())?;
        if known == label {
            return Ok(());
        }
        if !known.is_empty() {
            self.forget_service(slot)?;
        }
        self.set_label(slot.into(), label)
    }

    fn forget_service(&mut self, slot: u8) -> Result<(), SystemError> {
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

    /// Gives back the bucket states of members that the policy no longer knows. Only once no
    /// program charges them any more.
    pub fn keep_members(&mut self, keep: &[MemberKey]) -> Result<(), SystemError> {
        let keep: BTreeSet<&MemberKey> = keep.iter().collect();
        // The keys first: a walk restarts when the key it stands on is removed.
        let keys = self.member_keys.keys().filter_map(Result::ok);
        let stale: Vec<MemberKey> = keys.filter(|key| !keep.contains(key)).collect();
        for key in stale {
            self.member_keys.remove(&key).map_err(write(names::MAP_MEMBER_KEYS))?;
        }
        Ok(())
    }

    /// Says what the layout is, for guards of other layouts.
    pub fn describe(&mut self) -> Result<(), SystemError> {
        self.about
            .set(0, super::layout_description::About::text(), 0)
            .map_err(write(names::MAP_ABOUT))
    }

    /// Gives an interface a row of counters: its old one by name, else a free one, else the last,
    /// which further interfaces share. `one_buffer` says that the program gets each of its frames
    /// in one buffer.
    pub fn set_interface(
        &mut self,
        ifindex: u32,
        name: &str,
        one_buffer: bool,
    ) -> Result<(), SystemError> {
        let row = self.claim_row(name)?;
        self.forget_interface(row, ifindex)?;
        if row == LAST_ROW {
            return Ok(());
        }
        self.set_row(InterfaceRow::new(ifindex, row, one_buffer))
    }

    /// Counts what comes in by the ports of an interface as the interface's, which has a row. A
    /// program on a bond runs at its ports, and sees their indices (`bond_xdp_set`,
    /// `drivers/net/bonding/bond_main.c`).
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
            // What was a port; and the row that a port had of its own.
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
        // Others lie in all its places: it counts in the shared row, as one without an entry does.
        Ok(())
    }

    /// Removes the indices that the interface of a row had before, and the row that an index had.
    fn forget_interface(&mut self, row: u32, ifindex: u32) -> Result<(), SystemError> {
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
        // Names are checked to be shorter; a longer one is cut, never refused.
        for (to, from) in label.iter_mut().take(size_of::<Label>() - 1).zip(text.bytes()) {
            *to = from;
        }
        self.labels.set(index, label, 0).map_err(write(names::MAP_LABELS))
    }
}

/// Service slot to `policy/service`, of the maps in a directory, whose layout was checked. It is empty if no
/// labels are pinned there; whether other maps are makes no difference.
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

/// The row of an interface: its own by its name, else a free one, else the last. Whether it is new to
/// it.
fn row_of(labels: &BTreeMap<u32, String>, name: &str) -> (u32, bool) {
    let own = labels.iter().find(|(_, label)| *label == name).map(|(row, _)| *row);
    let free = (0..LAST_ROW).find(|row| name != OTHERS_LABEL && !labels.contains_key(row));
    (own.or(free).unwrap_or(LAST_ROW), own.is_none())
}

/// The id of a map.
fn id(map: &Map) -> Result<u32, SystemError> {
    let Map::PerCpuArray(counters) = map else { return Err(missing(names::MAP_COUNTERS)) };
    let info = counters.info().map_err(read(names::MAP_COUNTERS))?;
    Ok(info.id())
}

/// What all CPUs together have counted. The kernel has a value for each CPU that may ever be there,
/// so those of one that was taken out still count.
fn sum<'c>(values: impl IntoIterator<Item = &'c Counter>) -> Counter {
    values.into_iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets.wrapping_add(value.packets),
        bytes: sum.bytes.wrapping_add(value.bytes),
    })
}

/// A record of the ring, field by field.
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

    /// Case 110: two of 288 CPUs are there, and others were.
    #[test]
    fn what_cpus_counted_that_are_gone_still_counts() {
        let mut values = vec![Counter::default(); 288];
        for (cpu, packets) in [(0, 3), (1, 4), (200, 50), (287, 600)] {
            values[cpu] = Counter { packets, bytes: packets * 100 };
        }
        let Counter { packets, bytes } = sum(&values);
        assert_eq!((packets, bytes), (657, 65_700));
    }

    /// Case 110: the kernel fills a value for each CPU that may ever be there into the memory that it
    /// is given, however many there are now.
    #[test]
    fn there_is_room_for_each_cpu_that_may_ever_be_there() {
        let listed = std::fs::read_to_string("/sys/devices/system/cpu/possible").expect("a list");
        let cpus = listed.trim().split(',').map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.parse::<usize>().expect("a number");
            number(last) - number(first) + 1
        });
        assert_eq!(aya::util::nr_cpus().expect("the CPUs"), cpus.sum::<usize>());
    }
}
