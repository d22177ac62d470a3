//! Taking over from a guard of another layout: what it counted and charged goes on in the maps of this
//! one.
//!
//! The program of the other layout counts until its link is switched, so what it counted is carried
//! before, for who reads meanwhile, and once more behind the switch. What is carried is kept beside the
//! counters of this layout and never added to them: carried twice, or by a daemon that was killed and
//! started again, it is the same.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use guard_common::{
    layout::{
        self, BucketStates, Counter, LABEL_GENERATION, LABEL_POLICY, MemberKey,
        TALLY_EVENTS_CARRIED, TALLY_MEMBER_DROPS,
    },
    names,
    tables::Unit,
    verdict::{MAX_SERVICES, Verdict},
};

use super::{
    about::{About, Counted},
    error::KernelError,
    pins,
    shared::Shared,
    sys::RawMap,
};

/// Tallies by the names of their lines, those that are one each and those that are three.
const TALLIES: [(&str, u32, u32); 10] = [
    ("layout::TALLY_LOADS_DONE", layout::TALLY_LOADS_DONE, 1),
    ("layout::TALLY_LOADS_FAILED", layout::TALLY_LOADS_FAILED, 1),
    ("layout::TALLY_MEMBER_DROPS_NODE", layout::TALLY_MEMBER_DROPS_NODE, 1),
    ("layout::TALLY_LOG_SUPPRESSED", layout::TALLY_LOG_SUPPRESSED, 1),
    ("layout::TALLY_LOG_LOST", layout::TALLY_LOG_LOST, 1),
    ("tally::SIGNATURES_REFUSED", guard_common::tally::SIGNATURES_REFUSED, 1),
    ("tally::SIGNATURES_REPLAYED", guard_common::tally::SIGNATURES_REPLAYED, 1),
    ("layout::TALLY_REQUESTS_SERVED", layout::TALLY_REQUESTS_SERVED, 3),
    ("layout::TALLY_REQUESTS_REFUSED", layout::TALLY_REQUESTS_REFUSED, 3),
    ("layout::TALLY_CONNECTIONS_CUT", layout::TALLY_CONNECTIONS_CUT, 3),
];

/// Lines that must agree for a bucket's state to mean the same.
const BUCKETS: [&str; 3] = ["BucketStates", "Unit ", "TICKS_PER_NS"];
/// And the bucket of a source that is no member to be the same one.
const HASHED: [&str; 2] = ["HASHED_BUCKETS", "hashed buckets of "];

/// A guard of another layout, by what it has pinned.
#[derive(Debug)]
pub struct Other {
    version: u32,
    directory: PathBuf,
    /// None if nobody knows what the layout is.
    about: Option<About>,
}

/// Where the services and interfaces of the other layout are in this one.
#[derive(Debug, Default)]
struct Places {
    /// Slots.
    services: BTreeMap<u32, u8>,
    /// Rows.
    interfaces: BTreeMap<u32, u32>,
}

impl Other {
    /// What is pinned in the directory of a layout version.
    pub(super) fn at(directory: PathBuf, version: u32) -> Result<Self, KernelError> {
        let about = About::of(&directory, version)?;
        Ok(Self { version, directory, about })
    }

    /// Its layout version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether what it counted can be carried on.
    pub fn is_known(&self) -> bool {
        self.about.is_some()
    }

    /// Which service has which slot, as far as there are such slots here.
    pub fn service_labels(&self) -> Result<BTreeMap<u8, String>, KernelError> {
        let Some(about) = &self.about else { return Ok(BTreeMap::new()) };
        let Some(labels) = self.map(names::MAP_LABELS)? else { return Ok(BTreeMap::new()) };
        let services = services(about, &labels)?.into_iter();
        let here = services.filter_map(|(slot, label)| Some((u8::try_from(slot).ok()?, label)));
        Ok(here.filter(|(slot, _)| *slot < MAX_SERVICES).collect())
    }

    /// Carries on what was counted and charged. None of it falls: what is here already stays if it is
    /// more.
    pub fn carry(&self, to: &mut Shared) -> Result<(), KernelError> {
        let Some(about) = &self.about else { return Ok(()) };
        // Removed first: what is left says nothing any more.
        let Some(counters) = self.map(names::MAP_COUNTERS)? else { return Ok(()) };
        let places = self.places(about, to)?;
        self.counters(about, &counters, &places, to)?;
        self.tallies(about, &places, to)?;
        self.events(about, to)?;
        if to.generation()? == 0
            && let Some(labels) = self.map(names::MAP_LABELS)?
            && let (Some(generation), Some(policy)) =
                (about.number("LABEL_GENERATION"), about.number("LABEL_POLICY"))
        {
            to.set_label(LABEL_GENERATION, &labels.text(generation)?)?;
            to.set_label(LABEL_POLICY, &labels.text(policy)?)?;
        }
        Ok(())
    }

    /// Carries on how full the buckets are, where they mean the same. Before the switch: until then no
    /// program of this layout charges.
    pub fn carry_buckets(&self, to: &mut Shared) -> Result<(), KernelError> {
        let Some(about) = &self.about else { return Ok(()) };
        let own = About::own();
        if !about.agrees(&own, &BUCKETS) {
            tracing::warn!(
                version = self.version,
                "buckets of that layout mean something else: all are full again"
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

    /// Removes the maps, those first without which nothing is carried. Links stay.
    pub fn remove_maps(&self) -> Result<(), KernelError> {
        let mut paths = pins::read_dir(&self.directory)?;
        paths.sort_by_key(|path| !path.ends_with(names::MAP_COUNTERS));
        for path in paths {
            // What is no map is no business of ours here.
            if RawMap::open(&path).is_err() {
                continue;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(KernelError::of(path.display(), error));
                }
                _ => {}
            }
        }
        // Not empty: leave it.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives the services and interfaces of the other layout places here, by their names.
    fn places(&self, about: &About, to: &mut Shared) -> Result<Places, KernelError> {
        let mut places = Places::default();
        let Some(labels) = self.map(names::MAP_LABELS)? else { return Ok(places) };
        for (slot, label) in services(about, &labels)? {
            if let Some(place) = to.claim_service(slot, &label)? {
                places.services.insert(slot, place);
            }
        }
        let first = about.number("LABEL_INTERFACES").unwrap_or(0);
        for row in 0..about.number("MAX_INTERFACES").unwrap_or(0) {
            let label = labels.text(first.saturating_add(row))?;
            if !label.is_empty() {
                places.interfaces.insert(row, to.claim_row(&label)?);
            }
        }
        Ok(places)
    }

    fn counters(
        &self,
        about: &About,
        counters: &Map,
        places: &Places,
        to: &mut Shared,
    ) -> Result<(), KernelError> {
        let number = |name| about.number(name).unwrap_or(0);
        let (packets, bytes) = (about.word("Counter.packets"), about.word("Counter.bytes"));
        let size = about.value_size("Counter");
        let (Some(packets), Some(bytes), Some(size)) = (packets, bytes, size) else {
            return Ok(());
        };
        let carried = self.map(names::MAP_CARRIED)?;
        let of_interface = number("layout::COUNTERS_PER_INTERFACE");
        let (node, service) = (number("layout::NODE_COUNTERS"), number("layout::SERVICE_COUNTERS"));
        let meant = about.counters();
        for (row, new_row) in &places.interfaces {
            let first = row.saturating_mul(of_interface);
            for &Counted { by_service, action, reason, number } in &meant {
                let mut meanings = Vec::new();
                if by_service {
                    for (slot, new) in &places.services {
                        let offset = node + slot.saturating_mul(service) + number;
                        meanings.push((offset, Verdict::of_service(action, reason, *new)));
                    }
                } else {
                    meanings.push((number, Verdict::of_node(action, reason)));
                }
                for (offset, verdict) in meanings {
                    let index = first.saturating_add(offset);
                    let mut counted = counters.sum(index, size, packets, bytes)?;
                    if let Some(carried) = &carried {
                        // One layout before that one.
                        let before = carried.sum(index, size, packets, bytes)?;
                        counted.packets = counted.packets.saturating_add(before.packets);
                        counted.bytes = counted.bytes.saturating_add(before.bytes);
                    }
                    if counted.packets > 0 {
                        to.raise_carried(*new_row, verdict, counted)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn tallies(&self, about: &About, places: &Places, to: &mut Shared) -> Result<(), KernelError> {
        let Some(tallies) = self.map(names::MAP_TALLIES)? else { return Ok(()) };
        let mut raise = |from: u32, index: u32| -> Result<(), KernelError> {
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

    /// Of events, only how many there were: those in the ring are examples.
    fn events(&self, about: &About, to: &mut Shared) -> Result<(), KernelError> {
        let Some(sampling) = self.map(names::MAP_SAMPLING)? else { return Ok(()) };
        let Some(size) = about.value_size("Sampling") else { return Ok(()) };
        let before = about.number("layout::TALLY_EVENTS_CARRIED");
        let tallies = self.map(names::MAP_TALLIES)?;
        for (nth, field) in (0..).zip(["Sampling.emitted", "Sampling.suppressed", "Sampling.lost"])
        {
            let Some(at) = about.word(field) else { continue };
            let mut count = 0_u64;
            for reason in 0..about.reasons() {
                let of_cpus = sampling.value(reason)?;
                for value in of_cpus.chunks_exact(size.next_multiple_of(8)) {
                    count = count.saturating_add(word(value, at));
                }
            }
            if let (Some(before), Some(tallies)) = (before, &tallies) {
                count = count.saturating_add(word(&tallies.value(before.saturating_add(nth))?, 0));
            }
            to.raise_tally(TALLY_EVENTS_CARRIED + nth, count)?;
        }
        Ok(())
    }

    fn members(&self, places: &Places, to: &mut Shared) -> Result<(), KernelError> {
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

    /// A map of the other layout. None if it has none.
    fn map(&self, name: &'static str) -> Result<Option<Map>, KernelError> {
        match RawMap::open(&self.directory.join(name)) {
            Ok(map) => Ok(Some(Map { name, map })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let what = format!("opening {name} of layout {}", self.version);
                Err(KernelError::of(what, error))
            }
        }
    }
}

/// The services of the other layout, by slot.
fn services(about: &About, labels: &Map) -> Result<BTreeMap<u32, String>, KernelError> {
    let mut services = BTreeMap::new();
    for slot in 0..about.number("MAX_SERVICES").unwrap_or(0) {
        let label = labels.text(slot)?;
        if !label.is_empty() {
            services.insert(slot, label);
        }
    }
    Ok(services)
}

/// A map of the other layout.
struct Map {
    name: &'static str,
    map: RawMap,
}

impl Map {
    fn value(&self, index: u32) -> Result<Vec<u8>, KernelError> {
        self.map.lookup(&index.to_ne_bytes()).map_err(|error| self.failed(error))
    }

    fn next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>, KernelError> {
        self.map.next_key(key).map_err(|error| self.failed(error))
    }

    /// A label.
    fn text(&self, index: u32) -> Result<String, KernelError> {
        let label = self.value(index)?;
        let text = label.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// A counter, of all CPUs together.
    fn sum(
        &self,
        index: u32,
        size: usize,
        packets: usize,
        bytes: usize,
    ) -> Result<Counter, KernelError> {
        let values = self.value(index)?;
        let mut sum = Counter::default();
        for value in values.chunks_exact(size.next_multiple_of(8)) {
            sum.packets = sum.packets.wrapping_add(word(value, packets));
            sum.bytes = sum.bytes.wrapping_add(word(value, bytes));
        }
        Ok(sum)
    }

    fn failed(&self, error: io::Error) -> KernelError {
        KernelError::of(format_args!("reading {} of another layout", self.name), error)
    }
}

/// A word of a value; 0 beyond its end.
fn word(value: &[u8], at: usize) -> u64 {
    let bytes = value.get(at..at.saturating_add(8)).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_ne_bytes)
}

fn states(value: &[u8]) -> BucketStates {
    Unit::ALL.map(|unit| word(value, unit as usize * 8))
}
