//! The sources that are refused most at present, in bounded memory.
//!
//! This is the Space-Saving algorithm (Metwally, Agrawal, El Abbadi, 2005) over sampled frames, each
//! weighted by the number of frames that it stands for. When the table is full, a new source replaces
//! the smallest entry and inherits its count. A source that sent more than one in [`CAPACITY`] of the
//! refused frames is in the table, whatever a flood of forged sources does. Counts are halved every
//! [`HALF_LIFE`], so that a present flood ranks before an old one.
//!
//! Accuracy: under a flood, each CPU samples about 32 frames per window and reason
//! ([`guard_common::layout::SAMPLING_AIM_SHIFT`]), each frame with the same probability. With `n`
//! samples of a source, the relative error of its estimate is about one divided by the square root of
//! `n`. A source that sends one percent of a flood on one CPU is sampled once or twice a second if the
//! kernel has 250 timer ticks a second: it stands out after ten seconds, and after a minute its
//! estimate is off by about an eighth.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use guard_common::{Addr, layout::event::Event, verdict::Verdict};

/// Maximum number of sources that are kept.
const CAPACITY: usize = 1024;
/// Time after which a count is worth half.
const HALF_LIFE: Duration = Duration::from_mins(1);

/// A refused source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Sampled frames since it entered the table.
    pub(crate) sampled: u64,
    /// Estimated frames: the sum of the weights of the samples.
    pub(crate) packets: u64,
    /// When it entered the table.
    pub(crate) first: SystemTime,
    /// When it was last seen.
    pub(crate) last: SystemTime,
    /// The verdict on its last sample.
    pub(crate) verdict: Verdict,
    /// The destination port of its last sample.
    pub(crate) port: u16,
    /// The IP protocol of its last sample.
    pub(crate) protocol: u8,
    /// Estimated recent frames, including `inherited`.
    recent: u64,
    /// Share of `recent` that was inherited from a replaced source.
    inherited: u64,
}

impl Entry {
    /// Returns the estimated recent frames without the inherited ones.
    fn certain(&self) -> u64 {
        self.recent.saturating_sub(self.inherited)
    }
}

/// The sources that were refused most.
#[derive(Debug)]
pub(crate) struct TopSources {
    entries: BTreeMap<Addr, Entry>,
    /// The keys of `entries` by `recent`, smallest first.
    order: BTreeSet<(u64, Addr)>,
    /// When the counts were last halved.
    halved: SystemTime,
}

impl Default for TopSources {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), order: BTreeSet::new(), halved: SystemTime::UNIX_EPOCH }
    }
}

impl TopSources {
    /// Counts a sampled frame.
    pub(crate) fn add(&mut self, event: &Event, now: SystemTime) {
        let (Some(source), Some(verdict)) = (event.source(), event.verdict()) else { return };
        self.age(now);
        let weight = u64::from(event.weight);
        let mut inherited = 0;
        if let Some(entry) = self.entries.get(&source) {
            self.order.remove(&(entry.recent, source));
        } else if self.entries.len() >= CAPACITY
            && let Some((count, smallest)) = self.order.pop_first()
        {
            self.entries.remove(&smallest);
            inherited = count;
        }
        let entry = self.entries.entry(source).or_insert(Entry {
            sampled: 0,
            packets: 0,
            first: now,
            last: now,
            verdict,
            port: event.port,
            protocol: event.protocol,
            recent: inherited,
            inherited,
        });
        entry.sampled = entry.sampled.saturating_add(1);
        entry.packets = entry.packets.saturating_add(weight);
        entry.recent = entry.recent.saturating_add(weight);
        self.order.insert((entry.recent, source));
        entry.last = now;
        entry.verdict = verdict;
        entry.port = event.port;
        entry.protocol = event.protocol;
    }

    /// Returns at most `limit` sources: those with the most recent frames of their own first, ties by
    /// when they were last seen.
    pub(crate) fn most(&mut self, limit: usize, now: SystemTime) -> Vec<(Addr, Entry)> {
        self.age(now);
        let mut all: Vec<(Addr, Entry)> =
            self.entries.iter().map(|(addr, entry)| (*addr, *entry)).collect();
        all.sort_by_key(|(_, entry)| Reverse((entry.certain(), entry.last, entry.packets)));
        all.truncate(limit);
        all
    }

    /// Halves the counts once per elapsed [`HALF_LIFE`]. If the clock was set back, the time restarts
    /// at `now`.
    fn age(&mut self, now: SystemTime) {
        let Ok(passed) = now.duration_since(self.halved) else {
            self.halved = now;
            return;
        };
        let times = passed.as_secs() / HALF_LIFE.as_secs();
        if times == 0 {
            return;
        }
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        for entry in self.entries.values_mut() {
            entry.recent = entry.recent.checked_shr(times).unwrap_or(0);
            entry.inherited = entry.inherited.checked_shr(times).unwrap_or(0);
        }
        self.order = self.entries.iter().map(|(addr, entry)| (entry.recent, *addr)).collect();
        self.halved = now;
    }
}

#[cfg(test)]
mod tests {
    use guard_common::verdict::{Action, Reason};
    use proptest::prelude::*;

    use super::*;

    const HEAVY: u32 = 7;

    fn event(source: u32, weight: u32) -> Event {
        Event {
            source: Addr::V4(source).mapped(),
            verdict: Verdict::of_service(Action::Drop, Reason::NotAllowed, 0).pack(),
            family: Event::IPV4,
            weight,
            ..Event::default()
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn a_flood_of_forged_sources_hides_no_frequent_source() {
        let mut top = TopSources::default();
        for round in 0..1_000_000_u32 {
            top.add(&event(0x0a00_0000 + round, 1), at(0));
            if round % 100 == 0 {
                top.add(&event(HEAVY, 1), at(0));
            }
        }
        assert_eq!(top.entries.len(), CAPACITY);
        let most = top.most(2, at(0));
        let [(first, heavy), (_, next)] = most[..] else { panic!("{most:?}") };
        assert_eq!(first, Addr::V4(HEAVY));
        assert!(heavy.certain() > 100 * next.certain(), "{heavy:?} {next:?}");
    }

    #[test]
    fn a_present_flood_ranks_before_an_old_one() {
        let mut top = TopSources::default();
        for _ in 0..1000 {
            top.add(&event(1, 100), at(0));
        }
        for _ in 0..10 {
            top.add(&event(2, 100), at(3600));
        }
        let most = top.most(2, at(3600));
        let order: Vec<_> = most.iter().map(|(addr, entry)| (*addr, entry.packets)).collect();
        assert_eq!(order, [(Addr::V4(2), 1000), (Addr::V4(1), 100_000)]);
    }

    #[test]
    fn a_clock_that_was_set_back_loses_nothing() {
        let mut top = TopSources::default();
        top.add(&event(1, 8), at(3600));
        top.add(&event(1, 8), at(0));
        assert_eq!(top.most(1, at(1))[0].1.certain(), 16);
    }

    proptest! {
        /// The guarantee of the algorithm, for any sequence: a source with more than one in `CAPACITY`
        /// of the refused frames is kept, and no certain count exceeds the true one.
        #[test]
        fn frequent_sources_are_kept(
            events in prop::collection::vec((0..3000_u32, 1..50_u32), 0..5000),
        ) {
            let mut top = TopSources::default();
            let mut truth: BTreeMap<Addr, u64> = BTreeMap::new();
            for (source, weight) in events {
                // Half of the events come from a few sources.
                let source = if source % 2 == 0 { source % 20 } else { source };
                top.add(&event(source, weight), at(0));
                *truth.entry(Addr::V4(source)).or_default() += u64::from(weight);
            }
            let total: u64 = truth.values().sum();
            for (addr, count) in &truth {
                if count * CAPACITY as u64 > total {
                    prop_assert!(top.entries.contains_key(addr));
                }
            }
            prop_assert_eq!(top.entries.len(), top.order.len());
            for (addr, entry) in &top.entries {
                prop_assert!(entry.certain() <= truth[addr] && truth[addr] <= entry.recent);
            }
        }
    }
}
