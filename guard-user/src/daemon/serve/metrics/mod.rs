//! The metrics for Prometheus: counters of the guard's work, and gauges of its state. Names and labels
//! are a stable interface; a source address is never a label.
//!
//! The counters are those of the kernel, by interface, service and reason, and those of the daemon.
//! They live as long as their pins: neither a new generation nor a new daemon resets them. Every known
//! series exists from the start, at zero, so that `rate()` sees the first drop. The number of series is
//! bounded by the numbers of interfaces and services.
//!
//! Decision: `docs/decisions/0037-metrics-are-the-kernels-counters.md`.

pub mod declared;
mod families;
mod gauges;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use guard_common::{
    layout::{
        TALLY_CONNECTIONS_CUT, TALLY_LOADS_DONE, TALLY_LOADS_FAILED, TALLY_LOG_LOST,
        TALLY_LOG_SUPPRESSED, TALLY_MEMBER_DROPS, TALLY_MEMBER_DROPS_NODE, TALLY_REQUESTS_REFUSED,
        TALLY_REQUESTS_SERVED,
        daemon_counters::{SIGNATURES_REFUSED, SIGNATURES_REPLAYED},
    },
    verdict::{Action, Reason},
};

use self::families::{Families, number};
use super::connection_limits::Endpoint;
use crate::{
    api::status::Status,
    bpf::pinned_maps::{EventCounts, PinnedMaps},
    policy::compiled::service_name,
    system_error::SystemError,
};

/// Values that the status lacks, or has only as text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    /// When the daemon was started.
    pub(crate) started: SystemTime,
    /// When the policy in force came into force.
    pub(crate) in_force: Option<SystemTime>,
    /// When the files were last loaded, and whether they came into force.
    pub(crate) last_load: Option<(SystemTime, bool)>,
    /// Open connections by [`Endpoint`].
    pub(crate) connections: [usize; 3],
}

/// Packets and bytes.
type Sums = [u64; 2];

/// Counts by interface, service and reason; then by action.
type Counts = BTreeMap<(String, String, Reason), [Sums; 3]>;

/// Returns all metrics in the text format of Prometheus 0.0.4. `shared` is none while no policy is in
/// force.
pub(crate) fn text(
    status: &Status,
    shared: Option<&PinnedMaps>,
    moments: &Moments,
) -> Result<String, SystemError> {
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
    /// Adds frames and bytes by verdict.
    fn frames(&mut self, counts: &Counts) {
        let mut by_verdict: BTreeMap<(&str, &str, &str), Sums> = BTreeMap::new();
        for ((interface, service, _), actions) in counts {
            for (verdict, [packets, bytes]) in ["pass", "drop", "would_drop"].iter().zip(actions) {
                let sums = by_verdict.entry((interface, service, verdict)).or_default();
                *sums = [sums[0] + packets, sums[1] + bytes];
            }
        }
        for (unit, metric) in [(0, declared::PACKETS), (1, declared::BYTES)] {
            let rows = by_verdict.iter().map(|((interface, service, verdict), sums)| {
                (vec![*interface, *service, *verdict], number(sums[unit]))
            });
            self.add(&metric, &rows.collect::<Vec<_>>());
        }
    }

    /// Adds frames that were dropped, or would have been dropped, by reason.
    fn reasons(&mut self, counts: &Counts) {
        for (action, metric) in [
            (Action::Drop, declared::DROPPED_PACKETS),
            (Action::WouldDrop, declared::WOULD_DROP_PACKETS),
        ] {
            let rows = counts.iter().filter(|((.., reason), _)| reason.is_refusal());
            let rows = rows.map(|((interface, service, reason), actions)| {
                let labels = vec![interface.as_str(), service.as_str(), reason.name()];
                (labels, number(actions.get(action as usize).map_or(0, |sums| sums[0])))
            });
            self.add(&metric, &rows.collect::<Vec<_>>());
        }
    }

    fn member_drops(&mut self, shared: &PinnedMaps) -> Result<(), SystemError> {
        let labels = shared.service_labels()?;
        let mut rows = vec![(vec![""], number(shared.tally(TALLY_MEMBER_DROPS_NODE)?))];
        for (slot, label) in &labels {
            let dropped = shared.tally(TALLY_MEMBER_DROPS + u32::from(*slot))?;
            let service = service_name(label, labels.values());
            rows.push((vec![service], number(dropped)));
        }
        self.add(&declared::MEMBER_DROPS, &rows);
        Ok(())
    }

    fn events(&mut self, events: EventCounts) {
        for (metric, value) in [
            (declared::EVENTS_EMITTED, events.emitted),
            (declared::EVENTS_SUPPRESSED, events.suppressed),
            (declared::EVENTS_LOST, events.lost),
        ] {
            self.value(&metric, number(value));
        }
    }

    /// Adds the daemon's own counters.
    fn daemon(&mut self, shared: &PinnedMaps) -> Result<(), SystemError> {
        let mut loads = Vec::new();
        for (result, index) in [("success", TALLY_LOADS_DONE), ("failure", TALLY_LOADS_FAILED)] {
            loads.push((vec![result], number(shared.tally(index)?)));
        }
        self.add(&declared::POLICY_LOADS, &loads);
        let mut refusals = Vec::new();
        for (reason, index) in [("bad", SIGNATURES_REFUSED), ("replay", SIGNATURES_REPLAYED)] {
            refusals.push((vec![reason], number(shared.tally(index)?)));
        }
        self.add(&declared::SIGNATURE_REFUSALS, &refusals);
        let (mut requests, mut cut) = (Vec::new(), Vec::new());
        for endpoint in Endpoint::ALL {
            for (result, first) in
                [("served", TALLY_REQUESTS_SERVED), ("refused", TALLY_REQUESTS_REFUSED)]
            {
                let count = shared.tally(first + endpoint.place())?;
                requests.push((vec![endpoint.name(), result], number(count)));
            }
            let count = shared.tally(TALLY_CONNECTIONS_CUT + endpoint.place())?;
            cut.push((vec![endpoint.name()], number(count)));
        }
        self.add(&declared::REQUESTS, &requests);
        for (metric, index) in
            [(declared::LOG_SUPPRESSED, TALLY_LOG_SUPPRESSED), (declared::LOG_LOST, TALLY_LOG_LOST)]
        {
            self.value(&metric, number(shared.tally(index)?));
        }
        self.add(&declared::CONNECTIONS_CUT, &cut);
        Ok(())
    }
}

/// Returns all counters, including those at zero. The service is empty for reasons of the node itself,
/// for which no service was evaluated.
fn counts(shared: &PinnedMaps) -> Result<Counts, SystemError> {
    let labels = shared.service_labels()?;
    let names: BTreeMap<u8, &str> =
        labels.iter().map(|(slot, label)| (*slot, service_name(label, labels.values()))).collect();
    let interfaces: BTreeSet<String> = shared.interface_labels()?.into_values().collect();
    let mut counts = Counts::new();
    for interface in &interfaces {
        for reason in Reason::ALL {
            let of_node = reason.is_of_node().then_some("");
            let of_services = reason.is_of_service().then(|| names.values().copied());
            for service in of_node.into_iter().chain(of_services.into_iter().flatten()) {
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
