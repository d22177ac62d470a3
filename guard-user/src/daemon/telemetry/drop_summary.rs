//! The summary of refused frames in the log: at most one line a minute, however many frames there were,
//! with exact numbers from the counters and the main source.

use crate::api::stats::{ServiceStats, Stats, TopSource};

/// The frames refused between two readings of the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DropSummary {
    /// Frames that were dropped.
    pub(crate) dropped: u64,
    /// Frames that passed only because their service observes.
    pub(crate) would_drop: u64,
    /// The reason for most of them.
    pub(crate) reason: String,
    /// The service that refused most; none if no service refused any.
    pub(crate) service: Option<String>,
    /// The source of most sampled frames; none if nothing was sampled.
    pub(crate) source: Option<String>,
    /// The node of that source; none if the source is not in the manifest.
    pub(crate) node: Option<String>,
}

impl DropSummary {
    /// Returns the summary between two readings; none if no frames were refused. A counter that is
    /// smaller than before has restarted from zero.
    pub(crate) fn between(before: &Stats, now: &Stats) -> Option<Self> {
        let mut summary = Self {
            dropped: 0,
            would_drop: 0,
            reason: String::new(),
            service: None,
            source: None,
            node: None,
        };
        let mut most = 0;
        for (name, reason) in &now.reasons {
            let was = before.reasons.get(name).copied().unwrap_or_default();
            let dropped = since(reason.dropped, was.dropped);
            let would_drop = since(reason.would_drop, was.would_drop);
            summary.dropped += dropped;
            summary.would_drop += would_drop;
            if dropped + would_drop > most {
                most = dropped + would_drop;
                summary.reason.clone_from(name);
            }
        }
        if most == 0 {
            return None;
        }
        let refused = |service: &ServiceStats| service.dropped + service.would_drop;
        let services = now.services.iter().map(|service| {
            let was =
                before.services.iter().find(|was| was.name == service.name).map_or(0, refused);
            (since(refused(service), was), &service.name)
        });
        let service = services.max().filter(|(count, _)| *count > 0);
        summary.service = service.map(|(_, name)| name.clone());
        let sources = now.top_sources.iter().map(|source| {
            let same = |was: &&TopSource| was.address == source.address;
            let was = before.top_sources.iter().find(same).map_or(0, |was| was.packets);
            (since(source.packets, was), source)
        });
        let source = sources.max_by_key(|(count, _)| *count).filter(|(count, _)| *count > 0);
        summary.source = source.map(|(_, source)| source.address.clone());
        summary.node = source.and_then(|(_, source)| source.node.clone());
        Some(summary)
    }

    /// Writes the summary to the log.
    pub(crate) fn log(&self) {
        let Self { dropped, would_drop, reason, service, source, node } = self;
        let unknown = source.as_ref().map(|_| "not in the manifest");
        tracing::info!(
            dropped,
            would_drop,
            reason,
            service = service.as_deref(),
            source = source.as_deref(),
            node = node.as_deref().or(unknown),
            "frames refused since the last summary, with the main reason, service and source"
        );
    }
}

/// Returns the increase of a counter.
fn since(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::stats::ReasonStats;

    fn stats(not_allowed: u64, martian: u64, sources: &[(&str, u64)]) -> Stats {
        let mut stats = Stats::default();
        for (name, dropped) in [("not_allowed", not_allowed), ("martian", martian)] {
            let reason = ReasonStats { dropped, would_drop: dropped / 2, ..ReasonStats::default() };
            stats.reasons.insert(name.to_owned(), reason);
        }
        stats.services = vec![ServiceStats {
            name: "scheduler".to_owned(),
            dropped: not_allowed,
            ..ServiceStats::default()
        }];
        stats.top_sources = sources
            .iter()
            .map(|(address, packets)| TopSource {
                address: (*address).to_owned(),
                packets: *packets,
                node: (*address == "10.0.0.1").then(|| "worker-1".to_owned()),
                ..TopSource::default()
            })
            .collect();
        stats
    }

    #[test]
    fn a_minute_without_drops_has_no_summary() {
        let stats = stats(10, 4, &[("10.0.0.1", 7)]);
        assert_eq!(DropSummary::between(&stats, &stats), None);
    }

    #[test]
    fn the_largest_increase_is_reported_not_the_largest_total() {
        let before = stats(1000, 0, &[("10.0.0.9", 900), ("10.0.0.1", 5)]);
        let now = stats(1010, 40, &[("10.0.0.9", 901), ("10.0.0.1", 30)]);
        let summary = DropSummary::between(&before, &now).expect("an increase");
        assert_eq!((summary.dropped, summary.would_drop), (50, 25));
        assert_eq!(summary.reason, "martian");
        assert_eq!(summary.service.as_deref(), Some("scheduler"));
        assert_eq!(summary.source.as_deref(), Some("10.0.0.1"));
        assert_eq!(summary.node.as_deref(), Some("worker-1"));
    }

    #[test]
    fn counters_that_restart_from_zero_add_nothing_from_before() {
        let summary = DropSummary::between(&stats(1000, 9, &[]), &stats(3, 9, &[]));
        let summary = summary.expect("an increase");
        assert_eq!((summary.dropped, summary.source), (3, None));
    }
}
