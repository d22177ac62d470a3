//! What Prometheus scrapes: counters that only grow, of what the guard did, and gauges of what it
//! is. Names and labels are a contract; a source address is never a label.
//!
//! The counters are those of the kernel, by interface and service and reason, and live as long as
//! their pins: neither a new generation nor a new daemon starts them anew. Every series that is
//! known is there from the start, at zero, so that `rate()` sees the first drop.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::verdict::{Action, NODE_REASONS, Reason};
use prometheus::{
    Encoder as _, TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::view::{Status, TrialStatus};
use crate::{
    kernel::{
        error::KernelError,
        shared::{EventCounts, Shared},
    },
    policy::compiled::service_name,
};

/// How often policies were loaded since the daemon was started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loads {
    /// Put into force.
    pub(super) success: u64,
    /// Refused.
    pub(super) failure: u64,
}

/// Packets and bytes.
type Sums = [u64; 2];

/// By interface, service and reason; then by action.
type Counts = BTreeMap<(String, String, Reason), [Sums; 3]>;

/// A value with its labels.
type Row<'a> = (Vec<(&'static str, &'a str)>, u64);

/// All metrics in the text format of Prometheus 0.0.4. `shared` is none while no policy is in
/// force.
pub(super) fn text(
    status: &Status,
    shared: Option<&Shared>,
    loads: Loads,
) -> Result<String, KernelError> {
    let mut families = Families::default();
    if let Some(shared) = shared {
        let counts = counts(shared)?;
        families.frames(&counts);
        families.reasons(&counts);
        families.events(shared.event_counts()?);
    }
    families.state(status, loads);
    let mut bytes = Vec::new();
    let encoded = TextEncoder::new().encode(&families.0, &mut bytes);
    encoded.map_err(|error| KernelError::of("writing the metrics", error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The families, in the order in which they are told.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn add(&mut self, kind: MetricType, name: &str, help: &str, rows: &[Row<'_>]) {
        if !rows.is_empty() {
            self.0.push(family(kind, name, help, rows));
        }
    }

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
                (labels, sums[unit])
            });
            self.add(MetricType::COUNTER, name, help, &rows.collect::<Vec<_>>());
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
                (labels, actions.get(action as usize).map_or(0, |sums| sums[0]))
            });
            self.add(MetricType::COUNTER, name, help, &rows.collect::<Vec<_>>());
        }
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
            self.add(MetricType::COUNTER, name, help, &[(Vec::new(), value)]);
        }
    }

    /// What the guard is.
    fn state(&mut self, status: &Status, loads: Loads) {
        let results = [("success", loads.success), ("failure", loads.failure)];
        self.add(
            MetricType::COUNTER,
            "trainguard_policy_loads_total",
            "Policies that were loaded since the daemon was started.",
            &results.map(|(result, count)| (vec![("result", result)], count)),
        );
        let drops = status.services.iter().any(|service| service.mode == "enforce");
        let enforcing = status.interfaces.iter().map(|interface| {
            let enforcing = drops && interface.state == "guarded";
            (vec![("interface", interface.name.as_str())], u64::from(enforcing))
        });
        let help = "1 while the interface is guarded by a policy that drops.";
        self.add(MetricType::GAUGE, "trainguard_enforcing", help, &enforcing.collect::<Vec<_>>());
        let info = status.interfaces.iter().map(|interface| {
            let mode = interface.mode.as_deref().unwrap_or("none");
            let labels =
                vec![("interface", &*interface.name), ("state", &*interface.state), ("mode", mode)];
            (labels, 1)
        });
        let help = "1 for each interface that is to be guarded, with its state and mode.";
        self.add(MetricType::GAUGE, "trainguard_interface_info", help, &info.collect::<Vec<_>>());
        if !status.policy_hash.is_empty() {
            let labels =
                vec![("name", status.cluster.as_str()), ("hash", status.policy_hash.as_str())];
            let help = "1 for what is in force: its cluster, and the hash of its meaning.";
            self.add(MetricType::GAUGE, "trainguard_policy_info", help, &[(labels, 1)]);
        }
        for (name, help, value) in [
            (
                "trainguard_policy_up_to_date",
                "1 while the files say what is in force.",
                u64::from(status.up_to_date),
            ),
            ("trainguard_generation", "Number of the generation in force.", status.generation),
        ] {
            self.add(MetricType::GAUGE, name, help, &[(Vec::new(), value)]);
        }
        let deadline = status.trial.as_ref().map_or(0, TrialStatus::deadline_seconds);
        self.add(
            MetricType::GAUGE,
            "trainguard_policy_trial_deadline_timestamp_seconds",
            "When the policy on trial is undone unless it is confirmed; 0 while none is.",
            &[(Vec::new(), deadline)],
        );
        let labels = vec![("version", status.version.as_str())];
        let help = "1, with the version of the daemon.";
        self.add(MetricType::GAUGE, "trainguard_build_info", help, &[(labels, 1)]);
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

fn family(kind: MetricType, name: &str, help: &str, rows: &[Row<'_>]) -> MetricFamily {
    let metrics = rows.iter().map(|(labels, value)| {
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        // Exact up to 2^53: a rate of 10^9 a second gets there in a hundred days.
        #[expect(clippy::cast_precision_loss, reason = "the format has floating point only")]
        let value = *value as f64;
        if kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    });
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.collect());
    family
}
