//! Listening sockets: on ports that are not guarded, and of root.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::port_table::Transport;

use super::{
    facts::{MaybeHidden, RootService},
    traffic,
};
use crate::{
    api::status::{OpenPorts, Status},
    daemon::interfaces::{
        open_ports::{GuardedPorts, OpenPortCollector},
        select::Selection,
    },
    netlink::{
        devices::Device,
        sock_diag::{self, Listening},
    },
    policy::compiled::CompiledPolicy,
};

/// Maximum number of root's sockets that are examined.
const MAX_ROOT_SOCKETS: usize = 256;
/// Maximum number of sockets bound to a device that are examined.
const MAX_ON_DEVICES: usize = 4096;
/// Prefixes of the process names of training frameworks. Most processes are called `python`.
const TRAINING: [&str; 22] = [
    "python",
    "torchrun",
    "pt_main_thread",
    "raylet",
    "ray::",
    "gcs_server",
    "plasma_store",
    "dask-",
    "dask",
    "horovodrun",
    "orted",
    "prted",
    "prterun",
    "mpirun",
    "mpiexec",
    "hydra_",
    "deepspeed",
    "bpslaunch",
    "tensorboard",
    "jupyter-",
    "tensorflow_mode",
    "mlflow",
];

/// What was found about listening sockets.
pub(super) struct Listeners {
    /// The open ports that no service guards.
    pub(super) open: OpenPorts,
    /// Sockets of root's processes that look like a training framework.
    pub(super) of_root: Vec<RootService>,
    /// Sockets that are bound to a device on top of a selected one.
    pub(super) bound: Vec<String>,
}

/// Returns the open ports that are not guarded, and root's processes that look like training. If
/// the daemon responds, its list of open ports is used, because its policy may differ from the
/// files.
pub(super) fn look(
    policy: Option<&CompiledPolicy>,
    selection: &Selection,
    devices: &[Device],
    daemon: &MaybeHidden<Box<Status>>,
) -> Listeners {
    let none = CompiledPolicy::no_ports();
    let ports = GuardedPorts::of(policy.map_or(&none, |policy| &policy.ports));
    let guarded: BTreeSet<u32> = selection.devices.iter().map(|device| device.index).collect();
    let mut open = OpenPortCollector::new(&ports, devices, guarded, sock_diag::ephemeral_ports());
    let mut of_root: Vec<Listening> = Vec::new();
    let mut on_devices: Vec<Listening> = Vec::new();
    let listed = sock_diag::listening(|socket| {
        open.add(socket);
        if socket.ifindex != 0 && on_devices.len() < MAX_ON_DEVICES {
            on_devices.push(socket);
        }
        let reachable = socket.uid == 0 && socket.inode != 0 && !socket.address.is_loopback();
        if reachable && socket.transport == Transport::Tcp && of_root.len() < MAX_ROOT_SOCKETS {
            of_root.push(socket);
        }
    });
    let mut open = match (daemon, policy, listed) {
        (MaybeHidden::Known(status), _, _) => status.open_ports.clone(),
        (_, Some(_), Ok(more)) => open.finish(more),
        (_, None, Ok(_)) => OpenPorts::default(),
        (_, _, Err(error)) => {
            OpenPorts { problem: Some(error.to_string()), ..OpenPorts::default() }
        }
    };
    let mut inodes = open.inodes();
    inodes.extend(of_root.iter().map(|socket| socket.inode));
    let commands = sock_diag::commands(&inodes);
    open.set_commands(&commands);
    Listeners {
        open,
        of_root: root_services(&of_root, &commands),
        bound: traffic::bound_listeners(&on_devices, selection, devices),
    }
}

fn root_services(sockets: &[Listening], commands: &BTreeMap<u32, String>) -> Vec<RootService> {
    let found: BTreeSet<(u16, &str, &String)> = sockets
        .iter()
        .filter_map(|socket| {
            let command = commands.get(&socket.inode)?;
            let training = TRAINING.iter().any(|name| command.starts_with(name));
            training.then_some((socket.port, socket.transport.name(), command))
        })
        .collect();
    let service = |(port, transport, command): (u16, &str, &String)| RootService {
        port: format!("{transport}/{port}"),
        command: command.clone(),
    };
    found.into_iter().map(service).collect()
}
