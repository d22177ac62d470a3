//! Who is refused most, in bounded memory.
//!
//! The Space-Saving algorithm (Metwally, Agrawal, El Abbadi, 2005): a newcomer to a full table
//! takes the place of the smallest entry and inherits its count. No frequent source is ever lost,
//! whatever a flood of forged ones does.

use std::{collections::BTreeMap, time::SystemTime};

use guard_common::{Addr, event::Event, verdict::Verdict};

/// Sources that are kept.
const CAPACITY: usize = 1024;

/// A refused source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Sampled frames; at most `inherited` of them were another's.
    pub(super) count: u64,
    inherited: u64,
    /// When it came into the table.
    pub(super) first: SystemTime,
    /// When it was last seen.
    pub(super) last: SystemTime,
    /// The last verdict.
    pub(super) verdict: Verdict,
    /// The last destination port.
    pub(super) port: u16,
    /// The last protocol.
    pub(super) protocol: u8,
}

/// The sources that were refused most.
#[derive(Debug, Default)]
pub(super) struct TopSources(BTreeMap<Addr, Entry>);

impl TopSources {
    /// Counts an event.
    pub(super) fn add(&mut self, event: &Event, now: SystemTime) {
        let (Some(source), Some(verdict)) = (event.source(), event.verdict()) else { return };
        if let Some(entry) = self.0.get_mut(&source) {
            entry.count += 1;
            entry.last = now;
            entry.verdict = verdict;
            entry.port = event.port;
            entry.protocol = event.protocol;
            return;
        }
        let mut inherited = 0;
        if self.0.len() >= CAPACITY {
            let smallest = self.0.iter().min_by_key(|(_, entry)| entry.count);
            if let Some((addr, count)) = smallest.map(|(addr, entry)| (*addr, entry.count)) {
                self.0.remove(&addr);
                inherited = count;
            }
        }
        let (port, protocol) = (event.port, event.protocol);
        let (first, last) = (now, now);
        let count = inherited + 1;
        let entry = Entry { count, inherited, first, last, verdict, port, protocol };
        self.0.insert(source, entry);
    }

    /// The sources that were certainly seen most, at most `limit` of them.
    pub(super) fn most(&self, limit: usize) -> Vec<(Addr, Entry)> {
        let mut all: Vec<(Addr, Entry)> =
            self.0.iter().map(|(addr, entry)| (*addr, *entry)).collect();
        all.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.count - entry.inherited));
        all.truncate(limit);
        all
    }
}

#[cfg(test)]
mod tests {
    use guard_common::verdict::{Action, Reason};

    use super::*;

    fn event(source: u32) -> Event {
        Event {
            source: Addr::V4(source).mapped(),
            verdict: Verdict::of_service(Action::Drop, Reason::NotAllowed, 0).pack(),
            family: Event::IPV4,
            ..Event::default()
        }
    }

    #[test]
    fn a_flood_of_forged_sources_hides_nobody() {
        let mut top = TopSources::default();
        for round in 0..50_000_u32 {
            top.add(&event(0x0a00_0000 + round), SystemTime::UNIX_EPOCH);
            if round % 16 == 0 {
                top.add(&event(7), SystemTime::UNIX_EPOCH);
            }
        }
        assert_eq!(top.0.len(), CAPACITY);
        let most = top.most(1);
        assert_eq!(most.first().map(|(addr, _)| *addr), Some(Addr::V4(7)));
    }
}
