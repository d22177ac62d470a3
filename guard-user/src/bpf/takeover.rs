//! Take-over from a guard of another layout: its counters and bucket states continue in the maps of
//! this guard.
//!
//! The program of the other guard counts until its link is switched, so its counts are carried over
//! twice: before the switch, for readers in between, and again after it. They are stored beside the
//! counters of this guard, in a slot for the guard that counted them (`Origin`), and never added to
//! its own. Therefore it is safe to carry the same counts again, after a restart of a killed daemon
//! or back to the guard that they came from.
//!
//! Decision: `docs/decisions/0020-upgrade-without-an-open-interval.md`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    layout_description::{CounterMeaning, LayoutDescription},
    pinned_maps::{LAST_ROW, Origin, PinnedMaps, claim_slots},
    pins,
};
use crate::{sys::RawMap, system_error::SystemError};
use guard_common::{
    layout::{self, BucketStates, Counter, MemberKey, TALLY_MEMBER_DROPS, daemon_counters},
    names,
    tables::Unit,
    verdict::Verdict,
};

/// Tallies by the names of their lines in the layout description: name, index in this layout, and
/// number of consecutive tallies.
const TALLIES: [(&str, u32, u32); 10] = [
    ("layout::TALLY_LOADS_DONE", layout::TALLY_LOADS_DONE, 1),
    ("layout::TALLY_LOADS_FAILED", layout::TALLY_LOADS_FAILED, 1),
    ("layout::TALLY_MEMBER_DROPS_NODE", layout::TALLY_MEMBER_DROPS_NODE, 1),
    ("layout::TALLY_LOG_SUPPRESSED", layout::TALLY_LOG_SUPPRESSED, 1),
    ("layout::TALLY_LOG_LOST", layout::TALLY_LOG_LOST, 1),
    ("tally::SIGNATURES_REFUSED", daemon_counters::SIGNATURES_REFUSED, 1),
    ("tally::SIGNATURES_REPLAYED", daemon_counters::SIGNATURES_REPLAYED, 1),
    ("layout::TALLY_REQUESTS_SERVED", layout::TALLY_REQUESTS_SERVED, 3),
    ("layout::TALLY_REQUESTS_REFUSED", layout::TALLY_REQUESTS_REFUSED, 3),
    ("layout::TALLY_CONNECTIONS_CUT", layout::TALLY_CONNECTIONS_CUT, 3),
];

/// Prefixes of the lines that must be equal in both layouts, so that bucket states have the same
/// meaning.
const BUCKETS: [&str; 3] = ["BucketStates", "Unit ", "TICKS_PER_NS"];
/// Prefixes of the lines that must also be equal, so that a source that is not a member has the same
/// bucket.
const HASHED: [&str; 2] = ["HASHED_BUCKETS", "hashed buckets of "];

/// A guard of another layout, found by its pins.
#[derive(Debug)]
pub struct OtherGuard {
    version: u32,
    directory: PathBuf,
    /// None if the layout is unknown.
    about: Option<LayoutDescription>,
}

/// The counters of a guard of another layout, and the slots of this guard that they are carried to.
struct Counts<'a> {
    about: &'a LayoutDescription,
    fields: CounterFields,
    /// The counters of the other guard's own programs.
    own: Map,
    /// The slot in this guard for those counters.
    origin: Origin,
    /// The counters that the other guard carried over from further guards.
    carried: Option<Map>,
    /// Further guards: their index in `Carried.of` of the other guard, and their slot in this one.
    /// The slot that belongs to this guard is left out.
    origins: Vec<(usize, Origin)>,
    /// Further guards for which this guard has no free slot, by index in `Carried.of`. This takes
    /// several take-overs in a row that were not completed. Their counts are added to the other
    /// guard's own.
    without_slot: Vec<usize>,
}

/// Byte offsets of the fields of a counter, and its size.
#[derive(Debug, Clone, Copy)]
struct CounterFields {
    packets: usize,
    bytes: usize,
    size: usize,
}

/// The services and interfaces of the other layout, with their positions in this one.
#[derive(Debug, Default)]
struct Places {
    /// Service slots: the other layout's to this layout's.
    services: BTreeMap<u32, u8>,
    /// Interface rows: the other layout's to this layout's.
    interfaces: BTreeMap<u32, u32>,
}

impl OtherGuard {
    /// Reads the layout of the guard whose pins are in `directory`.
    pub(super) fn at(directory: PathBuf, version: u32) -> Result<Self, SystemError> {
        let about = LayoutDescription::of(&directory, version)?;
        Ok(Self { version, directory, about })
    }

    /// Returns the layout version of the other guard.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Reports whether its layout is known, so that its counters can be carried over.
    pub fn is_known(&self) -> bool {
        self.about.is_some()
    }

    /// Assigns slots to its services in `labels`, as [`Self::carry`] will do.
    pub fn claim_slots(&self, labels: &mut BTreeMap<u8, String>) -> Result<(), SystemError> {
        if let Some(about) = &self.about
            && let Some(map) = self.map(names::MAP_LABELS)?
        {
            claim_slots(labels, services(about, &map)?);
        }
        Ok(())
    }

    /// Returns the names of the maps that are needed to carry the counters over, but are not pinned.
    pub fn missing_maps(&self) -> impl Iterator<Item = &'static str> {
        [names::MAP_COUNTERS, names::MAP_LABELS, names::MAP_TALLIES]
            .into_iter()
            .filter(|name| !self.directory.join(name).exists())
    }

    /// Carries over counters, events and tallies. Values never decrease: a larger value in this
    /// guard's maps stays.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn carry(&self, to: &mut PinnedMaps) -> Result<(), SystemError> {
        let Some(about) = &self.about else { return Ok(()) };
        // The counters are removed first; if they are gone, the other maps have no meaning.
        let Some(counters) = self.map(names::MAP_COUNTERS)? else { return Ok(()) };
        let places = self.places(about, to)?;
        if let Some(counts) = self.counts(about, counters, to)? {
            counts.carry_counters(&places, to)?;
            self.events(&counts, to)?;
        } else {
            tracing::warn!(
                layout = self.version,
                "counts of the other guard are lost: too many take-overs are incomplete"
            );
        }
        self.tallies(about, &places, to)?;
        if let Some(labels) = self.map(names::MAP_LABELS)?
            && let (Some(generation), Some(policy)) =
                (about.number("LABEL_GENERATION"), about.number("LABEL_POLICY"))
            && let Ok(generation) = labels.text(generation)?.parse()
            && generation > to.generation()?
        {
            to.set_generation(generation, &labels.text(policy)?)?;
        }
        Ok(())
    }

    /// Carries over the levels of the buckets, if they have the same meaning in both layouts. To be
    /// called before the switch, because no program of this layout charges the buckets until then.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn carry_buckets(&self, to: &mut PinnedMaps) -> Result<(), SystemError> {
        let Some(about) = &self.about else { return Ok(()) };
        let own = LayoutDescription::own();
        if !about.agrees(&own, &BUCKETS) {
            tracing::warn!(
                version = self.version,
                "bucket states not carried over: they have another meaning in that layout, so all \
                 buckets are full again"
            );
            return Ok(());
        }
        let places = self.places(about, to)?;
        if let Some(totals) = self.map(names::MAP_TOTALS)? {
            for (slot, new) in &places.services {
                to.raise_total(*new, states(&totals.value(*slot)?))?;
            }
        }
        if about.agrees(&own, &HASHED)
            && let Some(hashed) = self.map(names::MAP_HASHED)?
        {
            for index in 0..hashed.map.entries {
                to.raise_hashed(index, states(&hashed.value(index)?))?;
            }
        }
        if about.agrees(&own, &["MemberKey", "key of "]) {
            self.members(&places, to)?;
        }
        Ok(())
    }

    /// Removes the pinned maps of the other guard. Links stay.
    pub fn remove_maps(&self) -> Result<(), SystemError> {
        remove_maps(&self.directory)
    }

    /// Returns the directory of its pins.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Assigns slots and rows of this guard to the services and interfaces of the other layout, by
    /// name.
    fn places(
        &self,
        about: &LayoutDescription,
        to: &mut PinnedMaps,
    ) -> Result<Places, SystemError> {
        let mut places = Places::default();
        let Some(labels) = self.map(names::MAP_LABELS)? else { return Ok(places) };
        places.services = to.claim_services(services(about, &labels)?)?;
        let first = about.number("LABEL_INTERFACES").unwrap_or(0);
        let rows = about.number("MAX_INTERFACES").unwrap_or(0).min(labels.map.entries);
        for row in 0..rows {
            let label = labels.text(first.saturating_add(row))?;
            if !label.is_empty() {
                places.interfaces.insert(row, to.claim_row(&label)?);
            } else if row.saturating_add(1) == rows {
                // Frames of devices without a row are counted in the last row. It only has a label if
                // a device was assigned to it.
                places.interfaces.insert(row, LAST_ROW);
            }
        }
        Ok(places)
    }

    /// Returns none if the layout has no counters that this build knows, or if no slot is free for
    /// the other guard's own.
    fn counts<'a>(
        &self,
        about: &'a LayoutDescription,
        own: Map,
        to: &mut PinnedMaps,
    ) -> Result<Option<Counts<'a>>, SystemError> {
        let Some(fields) = CounterFields::of(about) else { return Ok(None) };
        let Some(origin) = to.origin(own.map.id)? else { return Ok(None) };
        let (mut origins, mut without_slot) = (Vec::new(), Vec::new());
        if let Some(first) = about.number("layout::TALLY_ORIGINS")
            && let Some(tallies) = self.map(names::MAP_TALLIES)?
        {
            let count = about.number("layout::ORIGINS").unwrap_or(0).min(tallies.map.entries);
            for (nth, index) in (0..).zip(first..first.saturating_add(count)) {
                let id = u32::try_from(word(&tallies.value(index)?, 0)).unwrap_or(0);
                if id == 0 || id == to.id() {
                    continue;
                }
                match to.origin(id)? {
                    Some(origin) => origins.push((nth, origin)),
                    None => without_slot.push(nth),
                }
            }
        }
        let carried = self.map(names::MAP_CARRIED)?;
        Ok(Some(Counts { about, fields, own, origin, carried, origins, without_slot }))
    }

    fn tallies(
        &self,
        about: &LayoutDescription,
        places: &Places,
        to: &mut PinnedMaps,
    ) -> Result<(), SystemError> {
        let Some(tallies) = self.map(names::MAP_TALLIES)? else { return Ok(()) };
        let mut raise = |from: u32, index: u32| -> Result<(), SystemError> {
            let count = word(&tallies.value(from)?, 0);
            to.raise_tally(index, count)
        };
        for (name, index, count) in TALLIES {
            let Some(from) = about.number(name) else { continue };
            for nth in 0..count {
                raise(from.saturating_add(nth), index.saturating_add(nth))?;
            }
        }
        if let Some(from) = about.number("layout::TALLY_MEMBER_DROPS") {
            for (slot, new) in &places.services {
                raise(from.saturating_add(*slot), TALLY_MEMBER_DROPS + u32::from(*new))?;
            }
        }
        Ok(())
    }

    /// Carries over only the numbers of events; the events in the ring are samples and are not
    /// copied.
    fn events(&self, counts: &Counts<'_>, to: &mut PinnedMaps) -> Result<(), SystemError> {
        let about = counts.about;
        let Some(sampling) = self.map(names::MAP_SAMPLING)? else { return Ok(()) };
        let Some(size) = about.value_size("Sampling") else { return Ok(()) };
        let fields = ["Sampling.emitted", "Sampling.suppressed", "Sampling.lost"];
        let mut emitted = [0_u64; 3];
        for (count, field) in emitted.iter_mut().zip(fields) {
            let Some(at) = about.word(field) else { continue };
            for reason in 0..about.reasons() {
                for value in sampling.value(reason)?.chunks_exact(size.next_multiple_of(8)) {
                    *count = count.saturating_add(word(value, at));
                }
            }
        }
        counts.carry_events(emitted, to)
    }

    fn members(&self, places: &Places, to: &mut PinnedMaps) -> Result<(), SystemError> {
        let (keys, buckets) = (self.map(names::MAP_MEMBER_KEYS)?, self.map(names::MAP_MEMBERS)?);
        let (Some(keys), Some(buckets)) = (keys, buckets) else { return Ok(()) };
        let mut next = keys.next_key(None)?;
        while let Some(key) = next {
            let addr = [word(&key, 0), word(&key, 8)];
            let slot = u32::try_from(word(&key, 16)).ok();
            let place = keys.map.lookup(&key).ok().and_then(|place| place.try_into().ok());
            if let (Some(slot), Some(place)) =
                (slot.and_then(|slot| places.services.get(&slot)), place)
            {
                let place = u32::from_ne_bytes(place);
                let key = MemberKey { addr, slot: u64::from(*slot) };
                to.raise_member(&key, states(&buckets.value(place)?))?;
            }
            next = keys.next_key(Some(&key))?;
        }
        Ok(())
    }

    /// Opens a map of the other layout; returns none if it is not pinned.
    fn map(&self, name: &'static str) -> Result<Option<Map>, SystemError> {
        match RawMap::open(&self.directory.join(name)) {
            Ok(map) => Ok(Some(Map { name, map })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let what = format!("opening {name} of layout {}", self.version);
                Err(SystemError::of(what, error))
            }
        }
    }
}

impl Counts<'_> {
    fn carry_counters(&self, places: &Places, to: &mut PinnedMaps) -> Result<(), SystemError> {
        let number = |name| self.about.number(name).unwrap_or(0);
        let of_interface = number("layout::COUNTERS_PER_INTERFACE");
        let (node, service) = (number("layout::NODE_COUNTERS"), number("layout::SERVICE_COUNTERS"));
        let meanings = self.about.counters();
        for (row, new_row) in &places.interfaces {
            let first = row.saturating_mul(of_interface);
            for &CounterMeaning { by_service, action, reason, number } in &meanings {
                if !by_service {
                    let verdict = Verdict::of_node(action, reason);
                    self.carry_counter(first.saturating_add(number), *new_row, verdict, to)?;
                    continue;
                }
                for (slot, new) in &places.services {
                    let within =
                        node.saturating_add(slot.saturating_mul(service)).saturating_add(number);
                    let verdict = Verdict::of_service(action, reason, *new);
                    self.carry_counter(first.saturating_add(within), *new_row, verdict, to)?;
                }
            }
        }
        Ok(())
    }

    fn carry_counter(
        &self,
        index: u32,
        row: u32,
        verdict: Verdict,
        to: &mut PinnedMaps,
    ) -> Result<(), SystemError> {
        let fields = self.fields;
        let of_cpus = self.own.value(index)?;
        let of_cpus = of_cpus.chunks_exact(fields.size.next_multiple_of(8));
        let own = of_cpus.fold(Counter::default(), |sum, of_cpu| add(sum, fields.read(of_cpu, 0)));
        let carried = self.carried(index)?;
        to.raise_counter(self.origin, row, verdict, add(own, self.settled(&carried)))?;
        for (nth, origin) in &self.origins {
            to.raise_counter(*origin, row, verdict, self.of(&carried, *nth))?;
        }
        Ok(())
    }

    /// Carries over the numbers of events. `own`: those that the other guard's own programs emitted,
    /// suppressed and lost.
    fn carry_events(&self, own: [u64; 3], to: &mut PinnedMaps) -> Result<(), SystemError> {
        // Layout 4 did not carry numbers of events.
        let first = self.about.number("layout::CARRIED").and(self.about.number("layout::COUNTERS"));
        for (nth, own) in (0..).zip(own) {
            let index = first.map(|first| first.saturating_add(nth));
            let carried = index.map_or(Ok(Vec::new()), |index| self.carried(index))?;
            let before = self.settled(&carried).packets;
            to.raise_events(self.origin, nth, own.saturating_add(before))?;
            for (place, origin) in &self.origins {
                to.raise_events(*origin, nth, self.of(&carried, *place).packets)?;
            }
        }
        Ok(())
    }

    /// Reads a value of the map of carried counters, as bytes. Empty if the other guard has no such
    /// map.
    fn carried(&self, index: u32) -> Result<Vec<u8>, SystemError> {
        self.carried.as_ref().map_or(Ok(Vec::new()), |carried| carried.value(index))
    }

    /// Returns the settled counts in a value of that map, plus the counts of guards without a slot
    /// here.
    fn settled(&self, carried: &[u8]) -> Counter {
        let of_guards = self.without_slot.iter().map(|nth| self.of(carried, *nth));
        of_guards.fold(self.fields.read(carried, 0), add)
    }

    /// Returns the counter in slot `nth` of a value of that map.
    fn of(&self, carried: &[u8], nth: usize) -> Counter {
        let first = self.about.at("Carried.of").unwrap_or(carried.len());
        self.fields.read(carried, first.saturating_add(nth.saturating_mul(self.fields.size)))
    }
}

impl CounterFields {
    fn of(about: &LayoutDescription) -> Option<Self> {
        let (packets, bytes) = (about.word("Counter.packets")?, about.word("Counter.bytes")?);
        Some(Self { packets, bytes, size: about.value_size("Counter")? })
    }

    /// Reads the counter at byte `at` of a value; zero beyond its end.
    fn read(&self, value: &[u8], at: usize) -> Counter {
        Counter {
            packets: word(value, at.saturating_add(self.packets)),
            bytes: word(value, at.saturating_add(self.bytes)),
        }
    }
}

/// Returns the services of the other layout, by slot.
fn services(about: &LayoutDescription, labels: &Map) -> Result<BTreeMap<u32, String>, SystemError> {
    let mut services = BTreeMap::new();
    for slot in 0..about.number("MAX_SERVICES").unwrap_or(0).min(labels.map.entries) {
        let label = labels.text(slot)?;
        if !label.is_empty() {
            services.insert(slot, label);
        }
    }
    Ok(services)
}

/// A map of the other layout, with its name for messages.
struct Map {
    name: &'static str,
    map: RawMap,
}

impl Map {
    /// Reads a value. Empty beyond the last index, because a damaged layout description may have
    /// wrong sizes.
    fn value(&self, index: u32) -> Result<Vec<u8>, SystemError> {
        match self.map.lookup(&index.to_ne_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            value => value.map_err(|error| self.failed(error)),
        }
    }

    fn next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>, SystemError> {
        self.map.next_key(key).map_err(|error| self.failed(error))
    }

    /// Reads a label.
    fn text(&self, index: u32) -> Result<String, SystemError> {
        let label = self.value(index)?;
        let text = label.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn failed(&self, error: io::Error) -> SystemError {
        SystemError::of(format_args!("reading {} of another layout", self.name), error)
    }
}

/// Removes the pinned maps in the directory of a layout, and the directory if it is then empty. The
/// counters are removed first, because the other maps have no meaning without them. Links stay.
///
/// # Errors
/// A map cannot be opened or removed.
pub(super) fn remove_maps(directory: &Path) -> Result<(), SystemError> {
    let mut paths = pins::read_dir(directory)?;
    paths.sort_by_key(|path| !path.ends_with(names::MAP_COUNTERS));
    for path in paths {
        match RawMap::open(&path).and_then(|_| fs::remove_file(&path)) {
            Ok(()) => {}
            // The pin was removed concurrently, or it is a link or a program.
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::InvalidInput]
                    .contains(&error.kind()) => {}
            Err(_) if path.is_dir() => {}
            // Counters that remain could be carried over a second time.
            Err(error) => return Err(SystemError::of(path.display(), error)),
        }
    }
    // Fails if the directory is not empty; it is then left in place.
    let _ = fs::remove_dir(directory);
    Ok(())
}

fn add(one: Counter, other: Counter) -> Counter {
    Counter {
        packets: one.packets.wrapping_add(other.packets),
        bytes: one.bytes.wrapping_add(other.bytes),
    }
}

/// Reads a 64-bit word at byte `at` of a value; 0 beyond its end.
fn word(value: &[u8], at: usize) -> u64 {
    let bytes = value.get(at..at.saturating_add(8)).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_ne_bytes)
}

fn states(value: &[u8]) -> BucketStates {
    Unit::ALL.map(|unit| word(value, unit as usize * 8))
}
