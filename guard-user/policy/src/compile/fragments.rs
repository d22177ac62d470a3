//! Chooses the service to which the later fragments of a source are charged.
//!
//! A later fragment has no ports, so it belongs to no service. Its bytes would be free of charge if
//! it were charged to none, and a source could send any amount under a limit on bytes. So it is
//! charged to one of the services that list the source, the strictest one: the limits of the others
//! are not exceeded either.

use guard_common::{
    port_table::Transport,
    tables::{FragmentKind, Limits, Service, Source},
};

use crate::compiled::CompiledPolicy;

/// Bytes as which a packet counts where a limit on packets is compared with one on bytes: a fragment
/// other than the last fills an Ethernet frame.
const FULL_FRAME: u64 = 1514;

/// The services of a node that later fragments can be charged to.
#[derive(Debug)]
pub(crate) struct Charges {
    /// For each kind, the slots of the services that guard a port of its transport and limit packets
    /// or bytes. The strictest comes first.
    slots: [(FragmentKind, Vec<u8>); 4],
}

impl Charges {
    /// Finds the services of a policy whose services have their slots.
    pub(crate) fn of(policy: &CompiledPolicy) -> Self {
        let mut ranked: Vec<((bool, u64), &str, u8)> = policy
            .services
            .iter()
            .filter_map(|known| Some((rank(&known.service)?, known.label.as_str(), known.slot)))
            .collect();
        // Equally strict services are ordered by label, because slots depend on earlier generations.
        ranked.sort_unstable();
        let guarding = |transports: &[Transport]| -> Vec<u8> {
            let runs: Vec<u8> = transports
                .iter()
                .flat_map(|transport| policy.port_runs(*transport))
                .map(|(_, entry)| entry)
                .collect();
            let slots = ranked.iter().map(|(_, _, slot)| *slot);
            slots.filter(|slot| runs.contains(slot)).collect()
        };
        let slots = FragmentKind::ALL.map(|kind| {
            let slots = match kind {
                FragmentKind::Tcp => guarding(&[Transport::Tcp]),
                FragmentKind::Udp => guarding(&[Transport::Udp]),
                FragmentKind::Sctp => guarding(&[Transport::Sctp]),
                FragmentKind::Unknown => guarding(&Transport::ALL),
            };
            (kind, slots)
        });
        Self { slots }
    }

    /// Returns a source with the services to which its later fragments are charged: for each kind the
    /// strictest of those that list the source, none if none of them limits packets or bytes.
    pub(crate) fn charge(&self, source: Source) -> Source {
        self.slots.iter().fold(source, |source, (kind, slots)| {
            let listing = slots.iter().find(|slot| source.services >> **slot & 1 != 0);
            listing.map_or(source, |slot| source.with_fragments_charged(*kind, *slot))
        })
    }
}

/// Returns how strict the limits of a service on packets and bytes are; lower is stricter. Services
/// that only observe come last, because a fragment that they refuse passes. None without such a limit.
fn rank(service: &Service) -> Option<(bool, u64)> {
    let rates = |limits: &Limits| {
        let Limits { packets, bytes, .. } = limits;
        [bytes.rate, packets.rate.saturating_mul(FULL_FRAME)]
    };
    let rates = [rates(&service.per_source), rates(&service.total)];
    let lowest = rates.into_iter().flatten().filter(|rate| *rate != 0).min()?;
    Some((service.has(Service::OBSERVE), lowest))
}

#[cfg(test)]
mod tests {
    use guard_common::bucket::Limit;

    use super::*;

    fn service(flags: u64, per_source: (u64, u64), total: (u64, u64)) -> Service {
        let limits = |(packets, bytes): (u64, u64)| Limits {
            new_connections: Limit::per_unit(1, 1),
            packets: if packets == 0 { Limit::default() } else { Limit::per_unit(packets, 100) },
            bytes: if bytes == 0 { Limit::default() } else { Limit::per_byte(bytes, 1 << 20) },
        };
        Service { flags, per_source: limits(per_source), total: limits(total) }
    }

    #[test]
    fn the_lowest_rate_of_all_limits_decides() {
        for (per_source, total, expected) in [
            ((0, 0), (0, 0), None),
            ((0, 5000), (0, 0), Some(5000)),
            ((0, 0), (0, 5000), Some(5000)),
            ((0, 9000), (0, 5000), Some(5000)),
            ((10, 0), (0, 0), Some(15_140)),
            ((10, 20_000), (0, 90_000), Some(15_140)),
            ((10, 10_000), (1, 90_000), Some(1514)),
        ] {
            let found = rank(&service(0, per_source, total));
            assert_eq!(found, expected.map(|rate| (false, rate)), "{per_source:?} {total:?}");
        }
        let observing = rank(&service(Service::OBSERVE, (0, 1), (0, 0)));
        assert!(observing > rank(&service(0, (0, 0), (1000, 0))), "{observing:?}");
    }
}
