//! Collects the facts about this machine. Changes nothing: objects that an attempt creates are
//! removed at its end.

use std::{collections::BTreeMap, path::Path, thread};

use nix::{
    sys::{
        statfs::statfs,
        statvfs::{FsFlags, statvfs},
    },
    unistd::{AccessFlags, User, access, geteuid},
};

use super::{
    attempts,
    facts::{
        self, BpfFs, Directory, Interface, MachineFacts, MaybeHidden, Network, Policy, Program,
        Rights, ServicePorts, Traffic, Unmet,
    },
    files, listeners,
    sysfs::Tree,
    system, traffic,
};
use crate::{
    api::{client::Client, status::Status},
    bpf::pins::{self, Pins},
    daemon::interfaces::{
        bridge_ports::{self, BridgePort},
        select::{self, Selection},
    },
    host,
    netlink::{
        devices::{self, Device},
        ethtool,
        topology::{self, Stacked},
    },
    policy::{
        self, Disk, Loaded, Placement,
        compiled::CompiledPolicy,
        resolve::load::Loader,
        syntax::{
            diagnostic::{Report, Severity},
            document::Match,
        },
    },
    system_error::SystemError,
};

/// User of the daemon, if a package created it.
const DAEMON_USER: &str = "trainguard";

/// The sources of the facts.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Path of the manifest.
    pub manifest: Option<&'a Path>,
    /// Name of the node.
    pub node: Option<&'a str>,
    /// Interface patterns; override the manifest's if not empty.
    pub interfaces: &'a [String],
    /// The client that requests the daemon's status.
    pub client: &'a Client,
    /// The pin directory.
    pub bpf_dir: &'a Path,
    /// The directory of the last known good policy.
    pub state_dir: &'a Path,
}

/// The facts, and the cluster whose names a report must replace.
#[derive(Debug)]
pub struct Gathered {
    /// The facts.
    pub facts: MachineFacts,
    /// The cluster; none if there is no manifest, or it has errors.
    pub loaded: Option<Loaded>,
}

/// Collects all facts.
///
/// # Errors
/// The kernel does not list the network interfaces; without them there is no diagnosis.
pub fn gather(scope: &Scope<'_>) -> Result<Gathered, SystemError> {
    let tree = Tree::of_this_machine();
    let rights = Rights { uid: geteuid().as_raw(), capabilities: tree.capabilities() };
    let devices = devices::devices_now()?;
    let daemon: MaybeHidden<Box<Status>> = scope.client.status().map(Box::new).into();
    let (policy, loaded, compiled) = scope.manifest.map_or((None, None, None), |manifest| {
        let (policy, loaded, compiled) = policy_of(manifest, scope.node);
        (Some(policy), loaded, compiled)
    });
    let patterns = patterns(scope, loaded.as_ref(), policy.as_ref(), &daemon);
    let chosen = patterns.is_some();
    let selection =
        patterns.map_or_else(|| select::all_up(&devices), |it| select::select(&it, &devices));
    let interfaces = describe(&tree, scope.bpf_dir, &selection, &devices, &daemon, chosen);
    let listeners = listeners::look(compiled.as_ref(), &selection, &devices, &daemon);
    let traffic = Traffic { bound_listeners: listeners.bound, ..traffic::look(&rights) };
    let facts = MachineFacts {
        kernel: kernel(&tree),
        abilities: attempts::try_kernel(compiled.as_ref()),
        bpffs: bpffs(scope.bpf_dir),
        policy,
        interfaces,
        unguarded: if chosen { unguarded(&selection, &devices) } else { Vec::new() },
        unmet: Unmet { missing: selection.missing, not_ethernet: selection.not_ethernet },
        interfaces_chosen: chosen,
        tunnels: select::describe_tunnels(&devices),
        rdma: tree.rdma(),
        network: network(&tree),
        traffic,
        open_ports: listeners.open,
        root_services: listeners.of_root,
        state_dir: directory(scope.state_dir),
        run_dir: directory(scope.client.run_dir()),
        unit: system::unit(),
        daemon,
        cpus: thread::available_parallelism().map_or(1, Into::into),
        rights,
    };
    Ok(Gathered { facts, loaded })
}

fn kernel(tree: &Tree) -> facts::Kernel {
    let text = |path| tree.text(path).known().cloned().unwrap_or_default();
    facts::Kernel {
        release: text("proc/sys/kernel/osrelease"),
        version: text("proc/sys/kernel/version"),
        architecture: std::env::consts::ARCH,
        jit_harden: tree.number("proc/sys/net/core/bpf_jit_harden"),
        lockdown: tree.text("sys/kernel/security/lockdown"),
        unprivileged_bpf_disabled: tree.number("proc/sys/kernel/unprivileged_bpf_disabled"),
    }
}

fn bpffs(path: &Path) -> BpfFs {
    let existing = path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let mounted = statvfs(existing);
    BpfFs {
        path: path.to_owned(),
        existing: existing.to_owned(),
        is_bpf: statfs(existing).map(|known| pins::is_bpf(&known)).into(),
        read_only: mounted.is_ok_and(|facts| facts.flags().contains(FsFlags::ST_RDONLY)),
        writable: access(existing, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
        directory: files::owned(path),
    }
}

fn directory(path: &Path) -> Directory {
    let free = statvfs(path)
        .ok()
        .map(|facts| facts.blocks_available().saturating_mul(facts.fragment_size()));
    Directory { path: path.to_owned(), owned: files::owned(path), free }
}

fn network(tree: &Tree) -> Network {
    let ephemeral = match tree.port_ranges("ip_local_port_range") {
        MaybeHidden::Known(ranges) => {
            ranges.first().copied().ok_or("ip_local_port_range is empty").into()
        }
        MaybeHidden::Hidden(why) => MaybeHidden::Hidden(why),
    };
    Network {
        syncookies: tree.ipv4("tcp_syncookies"),
        rp_filter: tree.ipv4_of("all", "rp_filter"),
        route_localnet: tree.ipv4_of("all", "route_localnet"),
        ephemeral,
        reserved: tree.port_ranges("ip_local_reserved_ports"),
    }
}

/// Lints the manifest, and compiles the policy of this node.
fn policy_of(
    manifest: &Path,
    node: Option<&str>,
) -> (Policy, Option<Loaded>, Option<CompiledPolicy>) {
    let mut lint = Loader::new(&Disk);
    lint.check_manifest(manifest);
    let (report, _, sources) = lint.finish(manifest);
    let first = |report: &Report| {
        let mut errors = report.diagnostics.iter().filter(|it| it.severity == Severity::Error);
        errors.next().map(|finding| finding.message.clone())
    };
    let mut policy = Policy {
        manifest: manifest.to_owned(),
        errors: (report.count(Severity::Error), first(&report)),
        warnings: report.count(Severity::Warning),
        node: None,
        node_problem: None,
        ports: Vec::new(),
        files: files::path_entries(&sources),
        trusted: trusted(),
    };
    let Ok(loaded) = policy::load(manifest, &Disk) else { return (policy, None, None) };
    let mut compiled = None;
    match loaded.find_node(&host::node_choice(node)) {
        Ok(node) => {
            policy.node = Some(node.name.clone());
            let services = loaded.cluster.services.iter().filter(|it| it.runs_on(&node.roles));
            let ports = services.flat_map(|service| {
                service.ports.iter().map(|range| ServicePorts {
                    service: service.label.clone(),
                    transport: range.transport.name(),
                    first: range.first,
                    last: range.last,
                    every_packet: service.matching == Match::All,
                })
            });
            policy.ports = ports.collect();
            compiled = policy::compile(&loaded, node, &Placement::default()).ok();
        }
        Err(error) => policy.node_problem = Some(error.to_string()),
    }
    (policy, Some(loaded), compiled)
}

/// Returns the users besides root that may own policy files: the daemon's user, if it exists.
fn trusted() -> Vec<u32> {
    let daemon = User::from_name(DAEMON_USER).ok().flatten();
    daemon.map(|user| user.uid.as_raw()).into_iter().collect()
}

/// Returns the patterns of the interfaces to guard; none if neither a flag, a manifest nor the
/// daemon gives any.
fn patterns(
    scope: &Scope<'_>,
    loaded: Option<&Loaded>,
    policy: Option<&Policy>,
    daemon: &MaybeHidden<Box<Status>>,
) -> Option<Vec<String>> {
    if !scope.interfaces.is_empty() {
        return Some(scope.interfaces.to_vec());
    }
    let node = policy.and_then(|policy| policy.node.as_deref());
    if let Some(node) = node.and_then(|name| loaded?.cluster.node(name)) {
        return Some(node.interfaces.to_vec());
    }
    let status = daemon.known()?;
    Some(status.interfaces.iter().map(|interface| interface.name.clone()).collect())
}

/// Returns the devices that are up, not selected, and do not share the frames of a selected device.
fn unguarded(selection: &Selection, devices: &[Device]) -> Vec<String> {
    let wanted = |device: &Device| selection.selects(device.index);
    let bare = topology::unguarded(devices, wanted, |index| selection.selects(index));
    bare.map(|device| device.name.clone()).collect()
}

fn describe(
    tree: &Tree,
    bpf_dir: &Path,
    selection: &Selection,
    devices: &[Device],
    daemon: &MaybeHidden<Box<Status>>,
    chosen: bool,
) -> Vec<Interface> {
    let (xdp, offloads) = (ethtool::xdp_support(), ethtool::offloads());
    let queues = ethtool::receive_queues().unwrap_or_default();
    let by_index: BTreeMap<u32, &Device> =
        devices.iter().map(|device| (device.index, device)).collect();
    let of = |index: Option<u32>| index.and_then(|index| by_index.get(&index).copied());
    // Without a selection, ports of bridges are only not examined.
    let bridged: &[BridgePort] = if chosen { &selection.bridged } else { &[] };
    let one = |device: &Device| {
        let Stacked { controller, lower } = device.stacked;
        let (driver, virtual_functions) = tree.driver(&device.name);
        let siblings = devices.iter().filter(|other| {
            controller.is_some()
                && other.index != device.index
                && other.stacked.controller == controller
                && !selection.selects(other.index)
        });
        Interface {
            name: device.name.clone(),
            up: device.up,
            mtu: device.mtu,
            kind: device.kind.clone(),
            driver,
            xdp: about(&xdp, device.index, "the kernel does not list it"),
            program: device.xdp.map(|attached| Program {
                id: attached.program_id,
                mode: attached.mode,
                ours: is_ours(bpf_dir, device.index, attached.program_id, daemon),
            }),
            offloads: about(&offloads, device.index, "the kernel does not list it"),
            queues: queues.get(&device.index).copied(),
            virtual_functions,
            controller: of(controller).map(|controller| {
                let kind = controller.kind.clone().unwrap_or_default();
                (controller.name.clone(), kind)
            }),
            bridged: bridged
                .iter()
                .find(|port| port.device.index == device.index)
                .map(|port| (port.problem(), port.remedy(&selection.patterns))),
            bridged_vlans: bridge_ports::bridged_vlans(device, devices, |index| {
                selection.selects(index)
            }),
            controller_guarded: controller.is_some_and(|index| selection.selects(index)),
            siblings_unguarded: siblings.map(|device| device.name.clone()).collect(),
            lower: of(lower).map(|lower| lower.name.clone()),
            lower_guarded: lower.is_some_and(|index| selection.selects(index)),
            rp_filter: tree.ipv4_of(&device.name, "rp_filter"),
            route_localnet: tree.ipv4_of(&device.name, "route_localnet"),
        }
    };
    selection.devices.iter().chain(bridged.iter().map(|port| &port.device)).map(one).collect()
}

fn about<T: Clone>(
    answer: &Result<BTreeMap<u32, T>, SystemError>,
    index: u32,
    absent: &str,
) -> MaybeHidden<T> {
    match answer {
        Ok(answer) => answer.get(&index).cloned().ok_or(absent).into(),
        Err(error) => MaybeHidden::Hidden(error.to_string()),
    }
}

/// Reports whether a program is trainguard's: the daemon's status or a pinned link names it.
fn is_ours(
    bpf_dir: &Path,
    index: u32,
    id: u32,
    daemon: &MaybeHidden<Box<Status>>,
) -> MaybeHidden<bool> {
    let program = daemon.known().and_then(|status| status.program.as_ref());
    if program.is_some_and(|program| program.id == id) {
        return MaybeHidden::Known(true);
    }
    match Pins::at(bpf_dir).links() {
        Ok(links) => MaybeHidden::Known(links.iter().any(|pinned| {
            pinned.link.info().is_ok_and(|info| info.ifindex == index && info.program_id == id)
        })),
        Err(error) => MaybeHidden::Hidden(error.to_string()),
    }
}
