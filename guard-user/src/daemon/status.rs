//! Whether this node is guarded: asked of the kernel in the moment of the question, not remembered.

use std::{collections::BTreeSet, time::SystemTime};

use super::{
    drift,
    facts::{LoadStatus, OpenPorts, SourceStatus},
    guard::{Guard, hexadecimal},
    interfaces,
    mode::Override,
    trial::Trial,
    view::{self, InterfaceStatus, ServiceStatus, Status},
};
use crate::kernel::{netlink::Device, sockets, stacking};

/// The last time that the files were loaded.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    /// When it began.
    pub(super) began: SystemTime,
    /// Whether they came into force.
    pub(super) success: bool,
}

impl Guard {
    /// The whole status.
    pub(super) async fn status(&mut self) -> Status {
        let (devices, problem) = self.devices_now().await;
        let mut status = self.condition(&devices);
        status.problems.extend(problem);
        status.open_ports = self.open_ports(&devices);
        status
    }

    /// The devices as they are now. If the kernel cannot be asked: as they were, and why.
    pub(super) async fn devices_now(&self) -> (Vec<Device>, Option<String>) {
        let listed = tokio::time::timeout(self.wanted.timing.netlink, self.netlink.devices());
        let why = match listed.await {
            Ok(Ok(devices)) => return (devices, None),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "listing the network interfaces takes too long".to_owned(),
        };
        (self.devices.clone(), Some(format!("{why}; interfaces are told as they were before")))
    }

    /// The status without the ports that are open.
    pub(super) fn condition(&self, devices: &[Device]) -> Status {
        let mut status = Status {
            schema: view::STATUS_SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            daemon: true,
            time: view::time(SystemTime::now()),
            up_to_date: self.outdated.is_empty() && self.trial.is_none(),
            trial: self.trial.as_ref().map(Trial::status),
            mode_override: self.mode_override.as_ref().map(Override::status),
            manifest: self.wanted.manifest.display().to_string(),
            source: self.source(),
            tunnels: interfaces::describe_tunnels(devices),
            log: self.wanted.log.missing().into(),
            problems: [self.mode_problems(), self.outdated.clone(), self.lasting.clone()].concat(),
            ..Status::default()
        };
        if let Some(running) = &self.running {
            status.generation = running.number;
            status.policy_hash = hexadecimal(&running.hash);
            status.files_hash = hexadecimal(&running.facts.files_hash);
            status.in_force_since = Some(view::time(running.since));
            status.cluster.clone_from(&running.facts.cluster);
            status.node.clone_from(&running.facts.node);
            status.tables = running.facts.tables.clone();
            status.services = running.facts.services.values().cloned().collect();
            let hook = self.links.hooks().first().copied();
            let hook = hook.unwrap_or_else(|| self.wanted.mode.first_hook());
            match running.generation.describe(hook) {
                Ok(program) => status.program = Some(program.into()),
                Err(error) => status.problems.push(error.to_string()),
            }
            match running.shared.event_counts() {
                Ok(counts) => status.events = Some(counts.into()),
                Err(error) => status.problems.push(error.to_string()),
            }
            let selection = interfaces::select(&running.facts.patterns, devices);
            let programs = running.generation.program_ids();
            status.interfaces = self.links.status(&selection, programs, devices);
        }
        status.mode = Some(mode(&status.services).to_owned());
        status.enforcing = enforces(&status);
        status.problems.extend(self.problems.iter().cloned());
        status.problems.extend(self.unpinned.clone());
        status.problems.extend(self.takeover.trouble().cloned());
        status.problems.extend(self.audit.problem.clone());
        let interfaces = status.interfaces.iter();
        status.problems.extend(interfaces.filter_map(|interface| {
            Some(format!("{}: {}", interface.name, interface.problem.as_deref()?))
        }));
        status.unguarded = unguarded(&status.interfaces, devices);
        status
    }

    fn source(&self) -> SourceStatus {
        let (kind, path) = match (&self.trial, &self.applied_from) {
            (Some(trial), _) => ("trial", trial.bundle.manifest.clone()),
            (None, Some(manifest)) => ("applied", manifest.clone()),
            (None, None) if self.kept_because.is_some() => {
                ("last_good", self.state.last_good_path())
            }
            (None, None) => ("files", self.wanted.manifest.clone()),
        };
        SourceStatus {
            kind: self.running.as_ref().map_or("", |_| kind).to_owned(),
            path: path.display().to_string(),
            serial: self.serial,
            why: self.kept_because.clone(),
            changed: self.watch.differs(),
            refused_files: self.refused_files.as_ref().map(|hash| hexadecimal(hash)),
            last_load: self.last_load.as_ref().map(|Attempt { began, success }| LoadStatus {
                time: view::time(*began),
                result: if *success { "success" } else { "failure" }.to_owned(),
            }),
        }
    }

    /// What is open besides what the running policy guards.
    fn open_ports(&mut self, devices: &[Device]) -> OpenPorts {
        let Self { running: Some(running), links, open_ports, .. } = self else {
            return OpenPorts::default();
        };
        let look = || {
            let (ports, ephemeral) = (&running.facts.ports, sockets::ephemeral_ports());
            let mut open = drift::Collector::new(ports, devices, links.indices(), ephemeral);
            match sockets::listening(|socket| open.add(socket)) {
                Ok(more) => open.finish(more),
                Err(error) => {
                    OpenPorts { problem: Some(error.to_string()), ..OpenPorts::default() }
                }
            }
        };
        let renewed = drift::Look::renew(open_ports.take(), look);
        open_ports.insert(renewed).found().clone()
    }
}

/// What all services together do.
fn mode(services: &[ServiceStatus]) -> &'static str {
    let enforcing = services.iter().filter(|service| service.mode == "enforce").count();
    match enforcing {
        _ if services.is_empty() => "none",
        0 => "observe",
        count if count == services.len() => "enforce",
        _ => "mixed",
    }
}

/// Whether some service drops, on every interface that is there and to be guarded.
fn enforces(status: &Status) -> bool {
    let has = |state: &str| status.interfaces.iter().any(|interface| interface.state == state);
    let drops = status.services.iter().any(|service| service.mode == "enforce");
    drops && has("guarded") && !has("failed") && !has("detached")
}

/// Devices that are up, that nobody wants guarded, and whose frames no other guard sees.
pub(super) fn unguarded(interfaces: &[InterfaceStatus], devices: &[Device]) -> Vec<String> {
    let wanted: BTreeSet<&str> =
        interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let guarded: BTreeSet<u32> = interfaces
        .iter()
        .filter(|interface| interface.state == "guarded")
        .filter_map(|interface| interface.index)
        .collect();
    let bare = stacking::unguarded(
        devices,
        |device| wanted.contains(&*device.name),
        |index| guarded.contains(&index),
    );
    bare.map(|device| device.name.clone()).collect()
}
