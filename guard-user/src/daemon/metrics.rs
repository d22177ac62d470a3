//! What Prometheus scrapes: counters that only grow, of what the guard did, and gauges of what it
//! is. Names and labels are a contract; a source address is never a label.
//!
//! The counters are those of the kernel, by interface and service and reason, and the daemon's
//! tallies beside them. They live as long as their pins: neither a new generation nor a new daemon
//! starts them anew. Every series that is known is there from the start, at zero, so that `rate()`
//! sees the first drop. Their number is bounded by those of interfaces and services.

mod families;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use guard_common::{
    layout::{
        TALLY_CONNECTIONS_CUT, TALLY_LOADS_DONE, TALLY_LOADS_FAILED, TALLY_LOG_LOST,
        TALLY_LOG_SUPPRESSED, TALLY_MEMBER_DROPS, TALLY_MEMBER_DROPS_NODE, TALLY_REQUESTS_REFUSED,
        TALLY_REQUESTS_SERVED,
    },
    tally::{SIGNATURES_REFUSED, SIGNATURES_REPLAYED},
    verdict::{Action, NODE_REASONS, Reason},
};

use self::families::{Families, number};
use super::{doors::Door, view::Status};
use crate::{
    kernel::{
        error::KernelError,
        shared::{EventCounts, Shared},
    },
    policy::compiled::service_name,
};

/// What the status does not tell, or tells for people.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    /// When the daemon was started.
    pub(super) started: SystemTime,
    /// Since when the policy is in force.
    pub(super) in_force: Option<SystemTime>,
    /// When files were last loaded, and whether that put them into force.
    pub(super) last_load: Option<(SystemTime, bool)>,
    /// Open connections by [`Door`].
    pub(super) connections: [usize; 3],
}

/// Packets and bytes.
type Sums = [u64; 2];

/// By interface, service and reason; then by action.
type Counts = BTreeMap<(String, String, Reason), [Sums; 3]>;

/// All metrics in the text format of Prometheus 0.0.4. `shared` is none while no policy is in
/// force.
pub(super) fn text(
    status: &Status,
    shared: Option<&Shared>,
    moments: &Moments,
) -> Result<String, KernelError> {
    let mut families = Families::default();
    if let Some(shared) = shared {
        let counts = counts(shared)?;
        families.frames(&counts);
        families.reasons(&counts);
        families.member_drops(shared)?;
        families.events(shared.event_counts()?);
        families.daemon(shared)?;
        families.tables(status, shared.interface_labels()?.len());
    }
    families.policy(status, moments);
    families.interfaces(status);
    families.findings(status);
    families.process(status, moments);
    families.text()
}

impl Families {
    /// Frames and bytes by verdict.
    fn frames(&mut self, counts: &Counts) {
        let mut by_verdict: BTreeMap<(&str, &str, &str), Sums> = BTreeMap::new();
        for ((interface, service, _), actions) in counts {
            for (verdict, [packets, bytes]) in ["pass", "drop", "would_drop"].iter().zip(actions) {
                let sums = by_verdict.entry((interface, service, verdict)).or_default();
                *sums = [sums[0] + packets, sums[1] + bytes];
            }
        }
        for (unit, name, help) in [
            (0, "trainguard_packets_total", "Frames by what happened to them."),
            (1, "trainguard_bytes_total", "Bytes of frames by what happened to them."),
        ] {
            let rows = by_verdict.iter().map(|((interface, service, verdict), sums)| {
                let labels =
                    vec![("interface", *interface), ("service", *service), ("verdict", *verdict)];
                (labels, number(sums[unit]))
            });
            self.counter(name, help, &rows.collect::<Vec<_>>());
        }
    }

    /// Frames that were dropped, or would have been, by reason.
    fn reasons(&mut self, counts: &Counts) {
        for (action, name, help) in [
            (Action::Drop, "trainguard_dropped_packets_total", "Frames that were dropped."),
            (
                Action::WouldDrop,
                "trainguard_would_drop_packets_total",
                "Frames that passed because their service observes.",
            ),
        ] {
            let rows = counts.iter().filter(|((.., reason), _)| drops(*reason));
            let rows = rows.map(|((interface, service, reason), actions)| {
                let labels = vec![
                    ("interface", interface.as_str()),
                    ("service", service.as_str()),
                    ("reason", reason.name()),
                ];
                (labels, number(actions.get(action as usize).map_or(0, |sums| sums[0])))
            });
            self.counter(name, help, &rows.collect::<Vec<_>>());
        }
    }

    fn member_drops(&mut self, shared: &Shared) -> Result<(), KernelError> {
        let labels = shared.service_labels()?;
        let mut rows =
            vec![(vec![("service", "")], number(shared.tally(TALLY_MEMBER_DROPS_NODE)?))];
        for (slot, label) in &labels {
            let dropped = shared.tally(TALLY_MEMBER_DROPS + u32::from(*slot))?;
            let service = service_name(label, labels.values());
            rows.push((vec![("service", service)], number(dropped)));
        }
        self.counter(
            "trainguard_member_drops_estimated_total",
            "Dropped frames from addresses of nodes of the manifest, estimated from samples.",
            &rows,
        );
        Ok(())
    }

    fn events(&mut self, events: EventCounts) {
        for (name, help, value) in [
            ("trainguard_events_emitted_total", "Samples of refused frames.", events.emitted),
            (
                "trainguard_events_suppressed_total",
                "Refused frames beyond the sampling budget.",
                events.suppressed,
            ),
            (
                "trainguard_events_lost_total",
                "Samples that found no room because nobody read them.",
                events.lost,
            ),
        ] {
            self.counter(name, help, &[(Vec::new(), number(value))]);
        }
    }

    /// What the daemon has done.
    fn daemon(&mut self, shared: &Shared) -> Result<(), KernelError> {
        let mut loads = Vec::new();
        for (result, index) in [("success", TALLY_LOADS_DONE), ("failure", TALLY_LOADS_FAILED)] {
            loads.push((vec![("result", result)], number(shared.tally(index)?)));
        }
        let help = "Loads of the files, by whether that put them into force.";
        self.counter("trainguard_policy_loads_total", help, &loads);
        let mut refusals = Vec::new();
        for (reason, index) in [("bad", SIGNATURES_REFUSED), ("replay", SIGNATURES_REPLAYED)] {
            refusals.push((vec![("reason", reason)], number(shared.tally(index)?)));
        }
        let help = "Policies that were not accepted for the sake of their signature.";
        self.counter("trainguard_policy_signature_refusals_total", help, &refusals);
        let (mut requests, mut cut) = (Vec::new(), Vec::new());
        for door in Door::ALL {
            for (result, first) in
                [("served", TALLY_REQUESTS_SERVED), ("refused", TALLY_REQUESTS_REFUSED)]
            {
                let labels = vec![("socket", door.name()), ("result", result)];
                requests.push((labels, number(shared.tally(first + door.place())?)));
            }
            let count = shared.tally(TALLY_CONNECTIONS_CUT + door.place())?;
            cut.push((vec![("socket", door.name())], number(count)));
        }
        let help = "Requests by what they got.";
        self.counter("trainguard_requests_total", help, &requests);
        for (name, help, index) in [
            (
                "trainguard_log_records_suppressed_total",
                "Log records that were not written because they repeated.",
                TALLY_LOG_SUPPRESSED,
            ),
            (
                "trainguard_log_records_lost_total",
                "Log records that were not written because nobody took them.",
                TALLY_LOG_LOST,
            ),
        ] {
            self.counter(name, help, &[(Vec::new(), number(shared.tally(index)?))]);
        }
        let help = "Connections that were ended: too slow, or in the way of others.";
        self.counter("trainguard_connections_cut_total", help, &cut);
        Ok(())
    }
}

/// Whether frames are dropped for this reason.
fn drops(reason: Reason) -> bool {
    !matches!(reason, Reason::NotIp | Reason::Unguarded | Reason::Established | Reason::Allowed)
}

/// All counters, those at zero included. Of the node itself, where no service was asked, the
/// service is empty.
fn counts(shared: &Shared) -> Result<Counts, KernelError> {
    let labels = shared.service_labels()?;
    let names: BTreeMap<u8, &str> =
        labels.iter().map(|(slot, label)| (*slot, service_name(label, labels.values()))).collect();
    let interfaces: BTreeSet<String> = shared.interface_labels()?.into_values().collect();
    let mut counts = Counts::new();
    for interface in &interfaces {
        for reason in Reason::ALL {
            let of_node = (reason as u8) < NODE_REASONS;
            let services: Vec<&str> =
                if of_node { vec![""] } else { names.values().copied().collect() };
            for service in services {
                counts.insert((interface.clone(), service.to_owned(), reason), Default::default());
            }
        }
    }
    for (interface, verdict, counter) in shared.counters()? {
        let service =
            verdict.service.and_then(|slot| names.get(&slot)).copied().unwrap_or_default();
        let entry = counts.entry((interface, service.to_owned(), verdict.reason)).or_default();
        if let Some(sums) = entry.get_mut(verdict.action as usize) {
            sums[0] += counter.packets;
            sums[1] += counter.bytes;
        }
    }
    Ok(counts)
}
