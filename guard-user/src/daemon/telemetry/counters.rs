//! Reads the pinned counters into the document of `trainguard stats`.

use std::{collections::BTreeMap, time::SystemTime};

use guard_common::{
    layout::Counter,
    verdict::{Action, Reason, Verdict},
};

use crate::{
    api::stats::{InterfaceStats, ReasonStats, STATS_SCHEMA, ServiceStats, Stats},
    bpf::pinned_maps::PinnedMaps,
    policy::compiled::service_name,
    system_error::SystemError,
    text::time,
};

/// Reads the counters. The daemon adds the name of the node, modes and top sources.
///
/// # Errors
/// The pinned maps cannot be read.
pub fn read(shared: &PinnedMaps) -> Result<Stats, SystemError> {
    let labels = shared.service_labels()?;
    let mut stats = Stats {
        schema: STATS_SCHEMA.to_owned(),
        time: time(SystemTime::now()),
        generation: shared.generation()?,
        policy_hash: shared.policy_hash()?,
        events: shared.event_counts()?.into(),
        ..Stats::default()
    };
    for reason in Reason::ALL {
        stats.reasons.insert(reason.name().to_owned(), ReasonStats::default());
    }
    let mut services: BTreeMap<u8, ServiceStats> = labels
        .iter()
        .map(|(slot, label)| {
            let (policy, _) = label.split_once('/').unwrap_or_default();
            let name = service_name(label, labels.values()).to_owned();
            let policy = policy.to_owned();
            (*slot, ServiceStats { name, policy, ..ServiceStats::default() })
        })
        .collect();
    let mut interfaces: BTreeMap<String, InterfaceStats> = shared
        .interface_labels()?
        .into_values()
        .map(|name| (name.clone(), InterfaceStats { name, ..InterfaceStats::default() }))
        .collect();
    for (interface, verdict, counter) in shared.counters()? {
        add_reason(&mut stats, verdict, counter);
        let entry = interfaces
            .entry(interface)
            .or_insert_with_key(|name| InterfaceStats { name: name.clone(), ..Default::default() });
        let InterfaceStats { passed, dropped, would_drop, .. } = entry;
        add(verdict, counter.packets, [passed, dropped, would_drop]);
        let InterfaceStats { passed_bytes, dropped_bytes, would_drop_bytes, .. } = entry;
        add(verdict, counter.bytes, [passed_bytes, dropped_bytes, would_drop_bytes]);
        if let Some(entry) = verdict.service.and_then(|slot| services.get_mut(&slot)) {
            let ServiceStats { passed, dropped, would_drop, reasons, .. } = entry;
            add(verdict, counter.packets, [passed, dropped, would_drop]);
            *reasons.entry(verdict.reason.name().to_owned()).or_default() += counter.packets;
        }
    }
    stats.interfaces = interfaces.into_values().collect();
    stats.services = services.into_values().collect();
    Ok(stats)
}

fn add_reason(stats: &mut Stats, verdict: Verdict, counter: Counter) {
    let entry = stats.reasons.entry(verdict.reason.name().to_owned()).or_default();
    entry.packets += counter.packets;
    entry.bytes += counter.bytes;
    match verdict.action {
        Action::Pass => {}
        Action::Drop => entry.dropped += counter.packets,
        Action::WouldDrop => entry.would_drop += counter.packets,
    }
}

fn add(verdict: Verdict, count: u64, [passed, dropped, would_drop]: [&mut u64; 3]) {
    *match verdict.action {
        Action::Pass => passed,
        Action::Drop => dropped,
        Action::WouldDrop => would_drop,
    } += count;
}
