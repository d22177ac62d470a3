//! Whether this node is guarded. Links and devices are queried from the kernel for each status, not
//! remembered.

use std::{collections::BTreeMap, time::SystemTime};

use guard_common::Reason;

use super::{
    interfaces::{select, unguarded},
    main_loop::Daemon,
    policy::{
        InForce,
        documents::{ActiveOverride, Trial},
    },
};
use crate::{
    api::{
        stats::Events,
        status::{
            ForwardedStatus, InterfaceState, LogStatus, NodeMode, ProgramStatus, STATUS_SCHEMA,
            ServiceMode, ServiceStatus, Status,
        },
    },
    bpf::{
        pinned_maps::{EventCounts, PinnedMaps},
        program::Program,
    },
    logs::Missing,
    netlink::devices::Device,
    policy::compile::hash::hexadecimal,
    system_error::SystemError,
    text::time,
};

impl Daemon {
    /// Returns the whole status.
    pub(super) async fn status(&mut self) -> Status {
        let (devices, problem) = self.interfaces.devices_now().await;
        let mut status = self.status_without_ports(&devices);
        status.problems.extend(problem);
        if let Some(in_force) = self.policy.in_force() {
            status.open_ports = self.interfaces.open_ports(&in_force.info.ports, &devices);
            if let Some(shared) = self.interfaces.shared() {
                match forwarded(shared) {
                    Ok(by_slot) => {
                        add_forwarded(&mut status, in_force, &by_slot);
                        let since = self.interfaces.counted_since().map(time);
                        if let Some(forwarded) = &mut status.forwarded {
                            forwarded.since = since;
                            forwarded.suspended = self.interfaces.forwards_untold();
                        }
                    }
                    Err(error) => status.problems.push(error.to_string()),
                }
            }
        }
        status
    }

    /// Returns the status without the open ports. `devices`: as listed just now.
    pub(super) fn status_without_ports(&self, devices: &[Device]) -> Status {
        let Self { policy, interfaces, serving, log, .. } = self;
        let mut status = Status {
            schema: STATUS_SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            daemon: true,
            time: time(SystemTime::now()),
            up_to_date: policy.is_up_to_date(),
            trial: policy.trial().map(Trial::status),
            mode_override: policy.mode_override().map(ActiveOverride::status),
            manifest: policy.manifest().display().to_string(),
            source: policy.source(),
            tunnels: select::describe_tunnels(devices),
            log: log.missing().into(),
            problems: policy.lasting_problems(),
            ..Status::default()
        };
        if let Some(in_force) = policy.in_force() {
            let info = &in_force.info;
            status.generation = in_force.number;
            status.policy_hash = hexadecimal(&in_force.hash);
            status.files_hash = hexadecimal(&info.files_hash);
            status.in_force_since = Some(time(in_force.since));
            status.cluster.clone_from(&info.cluster);
            status.node.clone_from(&info.node);
            status.tables = info.tables.clone();
            status.services = info.services.values().cloned().collect();
            match interfaces.program() {
                Some(Ok(program)) => status.program = Some(program.into()),
                Some(Err(error)) => status.problems.push(error.to_string()),
                None => {}
            }
            match interfaces.shared().map(PinnedMaps::event_counts) {
                Some(Ok(counts)) => status.events = Some(counts.into()),
                Some(Err(error)) => status.problems.push(error.to_string()),
                None => {}
            }
            status.interfaces = interfaces.status(&info.patterns, devices);
        }
        status.mode = Some(mode(&status.services));
        status.enforcing = enforces(&status);
        status.problems.extend(policy.switch_problems().iter().cloned());
        status.problems.extend(interfaces.problems());
        status.problems.extend(serving.audit.problem.clone());
        status.add_interface_problems();
        status.unguarded = unguarded(&status.interfaces, devices);
        status
    }
}

/// Returns the numbers of forwarded packets by service slot; those that no service decided have none.
///
/// # Errors
/// The counters cannot be read.
pub(super) fn forwarded(shared: &PinnedMaps) -> Result<BTreeMap<Option<u8>, u64>, SystemError> {
    let mut by_slot = BTreeMap::new();
    for (_, verdict, counter) in shared.counters()? {
        if verdict.reason == Reason::Forwarded {
            *by_slot.entry(verdict.service).or_default() += counter.packets;
        }
    }
    Ok(by_slot)
}

/// Adds the numbers of forwarded packets to a status.
fn add_forwarded(status: &mut Status, in_force: &InForce, by_slot: &BTreeMap<Option<u8>, u64>) {
    // `status.services` has the order of the slots.
    for (slot, service) in in_force.info.services.keys().zip(&mut status.services) {
        service.forwarded_packets = by_slot.get(&Some(*slot)).copied().unwrap_or(0);
    }
    let packets = by_slot.values().sum();
    status.forwarded = Some(ForwardedStatus { packets, ..ForwardedStatus::default() });
}

/// Returns the mode of the node: the common mode of all services, or mixed.
fn mode(services: &[ServiceStatus]) -> NodeMode {
    let enforcing = services.iter().filter(|service| service.mode == ServiceMode::Enforce).count();
    match enforcing {
        _ if services.is_empty() => NodeMode::None,
        0 => NodeMode::Observe,
        count if count == services.len() => NodeMode::Enforce,
        _ => NodeMode::Mixed,
    }
}

/// Whether at least one service enforces, at least one interface is guarded, and none is failed or
/// detached.
fn enforces(status: &Status) -> bool {
    let has = |state| status.interfaces.iter().any(|interface| interface.state == state);
    let drops = status.services.iter().any(|service| service.mode == ServiceMode::Enforce);
    drops
        && has(InterfaceState::Guarded)
        && !has(InterfaceState::Failed)
        && !has(InterfaceState::Detached)
}

impl From<EventCounts> for Events {
    fn from(counts: EventCounts) -> Self {
        let EventCounts { emitted, suppressed, lost } = counts;
        Self { emitted, suppressed, lost }
    }
}

impl From<Program> for ProgramStatus {
    fn from(program: Program) -> Self {
        let Program { id, name, tag } = program;
        Self { id, name, tag: tag.map(|tag| hexadecimal(&tag)) }
    }
}

impl From<Missing> for LogStatus {
    fn from(missing: Missing) -> Self {
        let Missing { suppressed, lost } = missing;
        Self { suppressed, lost }
    }
}
