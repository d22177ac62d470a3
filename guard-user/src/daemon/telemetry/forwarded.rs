//! The services past which packets were forwarded: each is logged once, when the first packets are
//! seen, because these packets would be guarded if they were for the node.

use std::collections::BTreeSet;

use guard_common::Reason;

use crate::api::stats::Stats;

/// The services that were logged since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct ForwardedServices(BTreeSet<String>);

impl ForwardedServices {
    /// Logs the services whose first forwarded packets these statistics show.
    pub(crate) fn log_new(&mut self, stats: &Stats) {
        for (service, packets) in self.add(stats) {
            tracing::info!(
                service,
                packets,
                "packets that this node forwards pass, which the service would refuse or charge if \
                 they were for the node; `forwarded: guard` in the service guards them"
            );
        }
    }

    /// Adds the services of these statistics, and returns the new ones with their packets.
    fn add<'s>(&mut self, stats: &'s Stats) -> Vec<(&'s str, u64)> {
        let counted = stats.services.iter().filter_map(|service| {
            let packets = service
                .reasons
                .get(Reason::Forwarded.name())
                .copied()
                .filter(|count| *count > 0)?;
            Some((service.name.as_str(), packets))
        });
        counted.filter(|(name, _)| self.0.insert((*name).to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::stats::ServiceStats;

    #[test]
    fn each_service_is_reported_once() {
        let stats = |counts: &[(&str, u64)]| Stats {
            services: counts
                .iter()
                .map(|(name, count)| ServiceStats {
                    name: (*name).to_owned(),
                    reasons: [(Reason::Forwarded.name().to_owned(), *count)].into(),
                    ..ServiceStats::default()
                })
                .collect(),
            ..Stats::default()
        };
        let mut services = ForwardedServices::default();
        assert_eq!(services.add(&stats(&[("a", 0), ("b", 0)])), []);
        assert_eq!(services.add(&stats(&[("a", 3), ("b", 0)])), [("a", 3)]);
        assert_eq!(services.add(&stats(&[("a", 9), ("b", 1)])), [("b", 1)]);
        assert_eq!(services.add(&stats(&[("a", 10), ("b", 2)])), []);
    }
}
