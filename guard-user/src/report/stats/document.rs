//! The statistics as JSON: the daemon's document, and the rates since the previous one.
#![expect(clippy::struct_field_names, reason = "they are the names in the document")]

use std::collections::BTreeMap;

use serde::Serialize;

use super::rates::{BYTES, Change, DROPPED, PASSED, Rates, WOULD_DROP};
use crate::api::stats::{Events, InterfaceStats, ReasonStats, ServiceStats, Stats, TopSource};

/// [`Stats`] with rates. Every field of [`Stats`] is here under the same name.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    schema: &'a str,
    time: &'a str,
    node: &'a str,
    enforcing: Option<bool>,
    generation: u64,
    policy_hash: &'a str,
    in_force_since: Option<&'a str>,
    /// Seconds since the previous reading, by the monotonic clock; null in the first document.
    interval_seconds: Option<f64>,
    interfaces: Vec<Rated<'a, InterfaceStats, InterfaceRates>>,
    services: Vec<Rated<'a, ServiceStats, ServiceRates>>,
    reasons: BTreeMap<&'a str, Rated<'a, ReasonStats, ReasonRates>>,
    top_sources: Vec<Rated<'a, TopSource, SourceRates>>,
    events: Events,
}

/// A row with its rates: null in the first document, in a new row, and after a restart.
#[derive(Debug, Serialize)]
struct Rated<'a, T, R> {
    #[serde(flatten)]
    row: &'a T,
    #[serde(flatten)]
    rates: R,
    /// Whether a counter decreased, because it was created anew and counts from zero.
    restarted: bool,
}

#[derive(Debug, Serialize)]
struct InterfaceRates {
    passed_per_second: Option<f64>,
    dropped_per_second: Option<f64>,
    would_drop_per_second: Option<f64>,
    passed_bytes_per_second: Option<f64>,
    dropped_bytes_per_second: Option<f64>,
    would_drop_bytes_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ServiceRates {
    passed_per_second: Option<f64>,
    dropped_per_second: Option<f64>,
    would_drop_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ReasonRates {
    packets_per_second: Option<f64>,
    dropped_per_second: Option<f64>,
    would_drop_per_second: Option<f64>,
    bytes_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct SourceRates {
    packets_per_second: Option<f64>,
}

impl<'a> Document<'a> {
    /// Combines a reading with the rates since the previous one.
    pub fn new(stats: &'a Stats, rates: &Rates) -> Self {
        // Every field is named, so that a new one cannot be forgotten here.
        let Stats {
            schema,
            time,
            node,
            enforcing,
            generation,
            policy_hash,
            in_force_since,
            interfaces,
            services,
            reasons,
            top_sources,
            events,
        } = stats;
        Self {
            schema,
            time,
            node,
            enforcing: *enforcing,
            generation: *generation,
            policy_hash,
            in_force_since: in_force_since.as_deref(),
            interval_seconds: rates.span.map(|span| span.as_secs_f64()),
            interfaces: interfaces.iter().map(|row| of_interface(row, rates)).collect(),
            services: services.iter().map(|row| of_service(row, rates)).collect(),
            reasons: reasons
                .iter()
                .map(|(name, row)| (name.as_str(), of_reason(row, rates.reason(name))))
                .collect(),
            top_sources: top_sources.iter().map(|row| of_source(row, rates)).collect(),
            events: *events,
        }
    }
}

fn of_interface<'a>(
    row: &'a InterfaceStats,
    rates: &Rates,
) -> Rated<'a, InterfaceStats, InterfaceRates> {
    let change = rates.interface(row);
    let rates = InterfaceRates {
        passed_per_second: change.rate(PASSED),
        dropped_per_second: change.rate(DROPPED),
        would_drop_per_second: change.rate(WOULD_DROP),
        passed_bytes_per_second: change.rate(BYTES + PASSED),
        dropped_bytes_per_second: change.rate(BYTES + DROPPED),
        would_drop_bytes_per_second: change.rate(BYTES + WOULD_DROP),
    };
    Rated { row, rates, restarted: change.restarted() }
}

fn of_service<'a>(row: &'a ServiceStats, rates: &Rates) -> Rated<'a, ServiceStats, ServiceRates> {
    let change = rates.service(row);
    let rates = ServiceRates {
        passed_per_second: change.rate(PASSED),
        dropped_per_second: change.rate(DROPPED),
        would_drop_per_second: change.rate(WOULD_DROP),
    };
    Rated { row, rates, restarted: change.restarted() }
}

fn of_reason(row: &ReasonStats, change: Change<4>) -> Rated<'_, ReasonStats, ReasonRates> {
    let rates = ReasonRates {
        packets_per_second: change.rate(0),
        dropped_per_second: change.rate(1),
        would_drop_per_second: change.rate(2),
        bytes_per_second: change.rate(3),
    };
    Rated { row, rates, restarted: change.restarted() }
}

fn of_source<'a>(row: &'a TopSource, rates: &Rates) -> Rated<'a, TopSource, SourceRates> {
    let change = rates.source(row);
    let rates = SourceRates { packets_per_second: change.rate(0) };
    Rated { row, rates, restarted: change.restarted() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    fn stats(passed: u64) -> Stats {
        let interface =
            InterfaceStats { name: "eth0".to_owned(), passed, ..InterfaceStats::default() };
        let reason = ReasonStats { packets: passed, ..ReasonStats::default() };
        Stats {
            schema: crate::api::stats::STATS_SCHEMA.to_owned(),
            interfaces: vec![interface],
            services: vec![ServiceStats { passed, ..ServiceStats::default() }],
            reasons: [("allowed".to_owned(), reason)].into(),
            top_sources: vec![TopSource { packets: passed, ..TopSource::default() }],
            ..Stats::default()
        }
    }

    /// Reports whether everything in `some` is also in `all`.
    fn includes(all: &Value, some: &Value) -> bool {
        match (all, some) {
            (Value::Object(all), Value::Object(some)) => some
                .iter()
                .all(|(key, value)| all.get(key).is_some_and(|found| includes(found, value))),
            (Value::Array(all), Value::Array(some)) => {
                all.len() == some.len() && all.iter().zip(some).all(|(a, b)| includes(a, b))
            }
            (all, some) => all == some,
        }
    }

    #[test]
    fn all_fields_of_the_daemons_document_are_included() {
        let stats = stats(3);
        let document = serde_json::to_value(Document::new(&stats, &Rates::default()));
        let document = document.expect("a document");
        assert!(includes(&document, &serde_json::to_value(&stats).expect("the daemon's")));
        assert_eq!(document["interval_seconds"], Value::Null);
        let interface = &document["interfaces"][0];
        assert_eq!(interface.get("passed_per_second"), Some(&Value::Null));
        assert_eq!(interface["restarted"], false);
        let read: Stats = serde_json::from_value(document).expect("valid as the daemon's document");
        assert_eq!(read, stats);
    }

    #[test]
    fn rates_are_per_second() {
        let (before, now) = (stats(3), stats(13));
        let rates = Rates::between(&before, &now, Duration::from_secs(2));
        let document = serde_json::to_value(Document::new(&now, &rates)).expect("a document");
        assert_eq!(document["interval_seconds"], 2.0);
        assert_eq!(document["interfaces"][0]["passed_per_second"], 5.0);
        assert_eq!(document["services"][0]["passed_per_second"], 5.0);
        assert_eq!(document["reasons"]["allowed"]["packets_per_second"], 5.0);
        assert_eq!(document["top_sources"][0]["packets_per_second"], 5.0);
        let back = Rates::between(&now, &before, Duration::from_secs(2));
        let document = serde_json::to_value(Document::new(&before, &back)).expect("a document");
        assert_eq!(document["interfaces"][0]["passed_per_second"], Value::Null);
        assert_eq!(document["interfaces"][0]["restarted"], true);
    }
}
