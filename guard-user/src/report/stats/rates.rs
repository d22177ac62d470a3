//! Rates between two readings of the counters. They are never negative, and independent of the
//! system clock.

use std::{collections::BTreeMap, time::Duration};

use crate::api::stats::{InterfaceStats, ReasonStats, ServiceStats, Stats, TopSource};

/// Minimum interval between two readings for a rate.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Change of a row's counters since the previous reading.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Change<const N: usize> {
    /// There is no previous reading of the row, or it was too recent.
    #[default]
    New,
    /// A counter decreased, because it was created anew and counts from zero.
    Restarted,
    /// Increments per second, each finite and at least 0.
    Rates([f64; N]),
}

impl<const N: usize> Change<N> {
    /// Compares two sets of counters, read `span` apart.
    pub fn between(before: Option<&[u64; N]>, now: &[u64; N], span: Duration) -> Self {
        let Some(before) = before.filter(|_| span >= MIN_INTERVAL) else { return Self::New };
        let mut rates = [0.0; N];
        for ((rate, before), now) in rates.iter_mut().zip(before).zip(now) {
            let Some(more) = now.checked_sub(*before) else { return Self::Restarted };
            *rate = real(more) / span.as_secs_f64();
        }
        Self::Rates(rates)
    }

    /// Returns one of the rates, if there are any.
    pub fn rate(&self, index: usize) -> Option<f64> {
        match self {
            Self::Rates(rates) => rates.get(index).copied(),
            Self::New | Self::Restarted => None,
        }
    }

    /// Reports whether a counter decreased.
    pub fn restarted(&self) -> bool {
        matches!(self, Self::Restarted)
    }
}

/// Converts a count to a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "16 digits are exact enough for a rate")]
pub fn real(count: u64) -> f64 {
    count as f64
}

/// Index of the passed frames in the result of [`interface`].
pub const PASSED: usize = 0;
/// Index of the dropped frames.
pub const DROPPED: usize = 1;
/// Index of the frames that passed only because their service observes.
pub const WOULD_DROP: usize = 2;
/// Index of the bytes of [`PASSED`]; those of the other two follow.
pub const BYTES: usize = 3;

/// Returns an interface's counters: passed, dropped, would drop; then their bytes.
pub fn interface(row: &InterfaceStats) -> [u64; 6] {
    let InterfaceStats { passed, dropped, would_drop, .. } = *row;
    [passed, dropped, would_drop, row.passed_bytes, row.dropped_bytes, row.would_drop_bytes]
}

/// Returns a service's counters: passed, dropped, would drop.
pub fn service(row: &ServiceStats) -> [u64; 3] {
    [row.passed, row.dropped, row.would_drop]
}

/// Returns a reason's counters: all frames, dropped, would drop, bytes.
pub fn reason(row: &ReasonStats) -> [u64; 4] {
    [row.packets, row.dropped, row.would_drop, row.bytes]
}

/// Changes since the previous reading, by row.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// Time between the readings, by the monotonic clock; none for the first reading.
    pub span: Option<Duration>,
    interfaces: BTreeMap<String, Change<6>>,
    services: BTreeMap<(String, String), Change<3>>,
    reasons: BTreeMap<String, Change<4>>,
    sources: BTreeMap<String, Change<1>>,
}

impl Rates {
    /// Compares two readings, taken `span` apart.
    pub fn between(before: &Stats, now: &Stats, span: Duration) -> Self {
        // If a row is listed twice, its last line counts, in both readings.
        let old: BTreeMap<_, _> =
            before.interfaces.iter().map(|row| (&row.name, interface(row))).collect();
        let interfaces = now.interfaces.iter().map(|row| {
            let change = Change::between(old.get(&row.name), &interface(row), span);
            (row.name.clone(), change)
        });
        let old: BTreeMap<_, _> =
            before.services.iter().map(|row| ((&row.policy, &row.name), service(row))).collect();
        let services = now.services.iter().map(|row| {
            let change = Change::between(old.get(&(&row.policy, &row.name)), &service(row), span);
            ((row.policy.clone(), row.name.clone()), change)
        });
        let reasons = now.reasons.iter().map(|(name, row)| {
            let old = before.reasons.get(name).map(reason);
            (name.clone(), Change::between(old.as_ref(), &reason(row), span))
        });
        // An entry with another first-seen time is a new entry with a new count.
        let old: BTreeMap<_, _> = before
            .top_sources
            .iter()
            .map(|row| ((&row.address, &row.first_seen), [row.packets]))
            .collect();
        let sources = now.top_sources.iter().map(|row| {
            let old = old.get(&(&row.address, &row.first_seen));
            (row.address.clone(), Change::between(old, &[row.packets], span))
        });
        Self {
            span: Some(span),
            interfaces: interfaces.collect(),
            services: services.collect(),
            reasons: reasons.collect(),
            sources: sources.collect(),
        }
    }

    /// Returns the changes of an interface: passed, dropped, would drop; then their bytes.
    pub fn interface(&self, row: &InterfaceStats) -> Change<6> {
        self.interfaces.get(&row.name).copied().unwrap_or_default()
    }

    /// Returns the changes of a service: passed, dropped, would drop.
    pub fn service(&self, row: &ServiceStats) -> Change<3> {
        let key = (row.policy.clone(), row.name.clone());
        self.services.get(&key).copied().unwrap_or_default()
    }

    /// Returns the changes of a reason: all frames, dropped, would drop, bytes.
    pub fn reason(&self, name: &str) -> Change<4> {
        self.reasons.get(name).copied().unwrap_or_default()
    }

    /// Returns the change of a source: refused frames, estimated.
    pub fn source(&self, row: &TopSource) -> Change<1> {
        self.sources.get(&row.address).copied().unwrap_or_default()
    }

    /// Reports whether a counter of an interface, a service or a reason decreased.
    pub fn restarted(&self) -> bool {
        self.interfaces.values().any(Change::restarted)
            || self.services.values().any(Change::restarted)
            || self.reasons.values().any(Change::restarted)
    }

    /// Returns the sum of a rate over all interfaces; none if no interface has it.
    pub fn total(&self, index: usize) -> Option<f64> {
        let rates: Vec<f64> =
            self.interfaces.values().filter_map(|change| change.rate(index)).collect();
        (!rates.is_empty()).then(|| rates.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_rate_is_finite_and_never_negative(
            before in any::<Option<[u64; 6]>>(),
            now in any::<[u64; 6]>(),
            span in any::<u64>(),
        ) {
            let span = Duration::from_nanos(span);
            match Change::between(before.as_ref(), &now, span) {
                Change::Rates(rates) => {
                    let before = before.expect("rates need a previous reading");
                    prop_assert!(rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0));
                    prop_assert!(before.iter().zip(now).all(|(before, now)| *before <= now));
                    for ((rate, before), now) in rates.iter().zip(before).zip(now) {
                        let back = rate * span.as_secs_f64();
                        let more = real(now - before);
                        prop_assert!((back - more).abs() <= more * 1e-9, "{back} {more}");
                    }
                }
                Change::Restarted => {
                    let before = before.expect("only a known row can restart");
                    prop_assert!(before.iter().zip(now).any(|(before, now)| *before > now));
                }
                Change::New => prop_assert!(before.is_none() || span < MIN_INTERVAL),
            }
        }
    }

    #[test]
    fn a_source_that_was_added_again_has_no_rate_yet() {
        let source = |first: &str, packets| Stats {
            top_sources: vec![TopSource {
                address: "10.0.0.9".to_owned(),
                first_seen: first.to_owned(),
                packets,
                ..TopSource::default()
            }],
            ..Stats::default()
        };
        let second = Duration::from_secs(1);
        let (before, now) = (source("a", 10), source("a", 30));
        let same = Rates::between(&before, &now, second);
        assert_eq!(same.source(&now.top_sources[0]), Change::Rates([20.0]));
        let now = source("b", 30);
        let other = Rates::between(&before, &now, second);
        assert_eq!(other.source(&now.top_sources[0]), Change::New);
    }
}
