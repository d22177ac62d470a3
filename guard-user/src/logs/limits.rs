//! Rate limit of log records, for each place in the code (call site).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Level, callsite::Identifier};

use super::record::Record;

/// Maximum number of records of a call site per minute.
pub(super) const PER_MINUTE: u32 = 20;
const MINUTE: Duration = Duration::from_mins(1);
/// Maximum length of the last suppressed record in a summary, in characters.
const MAX_SHOWN: usize = 200;

/// State of each call site. The number of call sites is fixed, so the memory is bounded.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<HashMap<Identifier, CallSite>>);

#[derive(Debug)]
struct CallSite {
    since: Instant,
    written: u32,
    suppressed: u64,
    last: Option<(Level, String)>,
}

impl Limits {
    /// Reports whether a record of this call site may be written, and counts it as suppressed if not.
    pub(super) fn admit(&self, place: Identifier, record: &Record) -> bool {
        self.admit_at(Instant::now(), place, record)
    }

    fn admit_at(&self, now: Instant, place: Identifier, record: &Record) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || CallSite { since: now, written: 0, suppressed: 0, last: None };
        let place = places.entry(place).or_insert_with(fresh);
        if now.duration_since(place.since) >= MINUTE {
            place.since = now;
            place.written = 0;
        }
        if place.written < PER_MINUTE {
            place.written += 1;
            return true;
        }
        place.suppressed += 1;
        let first_line = record.message.lines().next().unwrap_or_default();
        place.last = Some((record.level, first_line.chars().take(MAX_SHOWN).collect()));
        false
    }

    /// Returns a summary for each call site with records that were suppressed since the last call.
    pub(super) fn take_suppressed(&self) -> Vec<Record> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let summaries = places.values_mut().filter_map(|place| {
            let count = std::mem::take(&mut place.suppressed);
            let (level, last) = place.last.take()?;
            let message = format!("{count} more like this were not written; the last was: {last}");
            Some(Record::new(level, message))
        });
        summaries.collect()
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Callsite as _, callsite::DefaultCallsite};

    use super::*;

    #[test]
    fn a_call_site_may_log_again_in_the_next_minute() {
        static CALLSITE: DefaultCallsite = {
            static METADATA: tracing::Metadata<'static> = tracing::Metadata::new(
                "a test",
                "a test",
                Level::INFO,
                None,
                None,
                None,
                tracing::field::FieldSet::new(&[], Identifier(&CALLSITE)),
                tracing::metadata::Kind::EVENT,
            );
            DefaultCallsite::new(&METADATA)
        };
        let place = || CALLSITE.metadata().callsite();
        let limits = Limits::default();
        let start = Instant::now();
        let record = Record::new(Level::INFO, "said".to_owned());
        let written =
            |at: Instant| (0..100).filter(|_| limits.admit_at(at, place(), &record)).count();
        assert_eq!(written(start), PER_MINUTE as usize);
        assert_eq!(written(start + MINUTE / 2), 0);
        assert_eq!(written(start + MINUTE), PER_MINUTE as usize);
        let summaries = limits.take_suppressed();
        assert_eq!(summaries.len(), 1);
        assert!(summaries[0].message.starts_with("260 more like this"), "{summaries:?}");
        assert!(limits.take_suppressed().is_empty());
    }
}
