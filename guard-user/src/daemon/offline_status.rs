//! Status from pins and devices, for a node whose daemon does not respond: the guard outlives the
//! daemon.

use std::{path::Path, time::SystemTime};

use super::interfaces::{attach::device_of, select, unguarded};
use crate::{
    api::status::{InterfaceState, InterfaceStatus, STATUS_SCHEMA, Status},
    bpf::{
        pins::{PinnedLink, Pins},
        program::Program,
    },
    netlink::devices::{self, Device},
    system_error::SystemError,
    text::time,
};

/// Returns the status of a node whose daemon does not respond. `why`: the reason, reported as a
/// problem.
pub fn status(bpf_dir: &Path, why: String) -> Status {
    let mut status = Status {
        schema: STATUS_SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: time(SystemTime::now()),
        problems: vec![why],
        ..Status::default()
    };
    let pins = Pins::at(bpf_dir);
    let devices = match devices::devices_now() {
        Ok(devices) => devices,
        Err(error) => {
            status.problems.push(error.with_hint());
            Vec::new()
        }
    };
    match pins.links() {
        Ok(links) => {
            status.interfaces = links.iter().map(|pinned| interface(pinned, &devices)).collect();
        }
        Err(error) => status.problems.push(error.with_hint()),
    }
    if let Err(error) = read(&pins, &mut status) {
        status.problems.push(error.with_hint());
    }
    let guarded = |interface: &&InterfaceStatus| interface.is_guarded();
    if let Some(id) = status.interfaces.iter().find(guarded).and_then(|first| first.program_id) {
        // Only root may query the program. The link already shows that it is attached.
        status.program = Program::find(id).ok().flatten().map(Into::into);
        status.problems.push(
            "the policy in force stays in force, but changes of files and interfaces are not \
             applied: start the daemon"
                .to_owned(),
        );
    }
    status.add_interface_problems();
    status.unguarded = unguarded(&status.interfaces, &devices);
    status.tunnels = select::describe_tunnels(&devices);
    status
}

/// Reads generation, policy hash and event counts of the last generation from the shared maps.
fn read(pins: &Pins, status: &mut Status) -> Result<(), SystemError> {
    let Some(shared) = pins.shared()? else { return Ok(()) };
    status.generation = shared.generation()?;
    status.policy_hash = shared.policy_hash()?;
    status.events = Some(shared.event_counts()?.into());
    Ok(())
}

/// Returns the status of an interface with a pinned link. The name is the device's present name, or
/// that of the pin if the device is not found.
fn interface(pinned: &PinnedLink, devices: &[Device]) -> InterfaceStatus {
    let PinnedLink { interface: name, link, .. } = pinned;
    let info = match link.info() {
        Ok(info) => info,
        Err(error) => {
            return InterfaceStatus {
                name: name.clone(),
                state: InterfaceState::Failed,
                problem: Some(error.with_hint()),
                ..InterfaceStatus::default()
            };
        }
    };
    // An index identifies a device only within a namespace, and a link does not report its namespace.
    let device = device_of(link, devices);
    let (state, problem) = match device {
        Some(_) => (InterfaceState::Guarded, None),
        None if info.ifindex == 0 => {
            (InterfaceState::Missing, Some("the interface is gone, or the program was detached"))
        }
        None => (InterfaceState::Failed, Some("the interface is in another network namespace")),
    };
    InterfaceStatus {
        name: device.map_or(name, |device| &device.name).clone(),
        mode: device.and_then(|device| device.mode_of(info.program_id)),
        program_id: (info.ifindex != 0).then_some(info.program_id),
        state,
        index: device.map(|device| device.index),
        up: device.map(|device| device.up),
        problem: problem.map(str::to_owned),
        remedy: None,
    }
}
