//! Checks of the interfaces to guard: XDP support of the driver, attached programs of other
//! software, and traffic that bypasses the guard.

use super::{Check, State, listed, quoted};
use crate::{
    attach_mode::DeviceMode,
    doctor::facts::{Interface, MachineFacts, MaybeHidden, Program},
    netlink::{
        devices,
        ethtool::{MERGING, VLAN_PARSE},
    },
    text::counted,
};

/// Maximum size in bytes of a frame in one buffer, for any driver: a page of 4096 bytes. Many
/// drivers take less.
const ONE_BUFFER: u32 = 4096;
/// Maximum size in bytes of a frame that the `virtio_net` driver puts into one page before Linux
/// 6.3: a page minus the headroom (256 bytes), the tailroom (320) and the headers (26);
/// `xdp_linearize_page`, `drivers/net/virtio_net.c`.
const VIRTIO_ONE_PAGE: u32 = 4096 - 256 - 320 - 26;

pub(super) fn all(facts: &MachineFacts) -> Vec<Check> {
    let mut checks = Vec::new();
    for interface in &facts.interfaces {
        let about = |check: Check| check.about(&interface.name);
        checks.push(about(device(interface)));
        checks.push(about(driver(interface)));
        checks.extend(interface.program.as_ref().map(|program| about(foreign(interface, program))));
        checks.push(about(offloads(interface)));
        checks.extend(queues(interface, facts.cpus).map(about));
        checks.extend(stacked(interface).map(about));
        checks.extend(bridged_vlans(interface).map(about));
        checks.extend(functions(interface).map(about));
    }
    checks.extend(facts.unmet.missing.iter().map(|pattern| missing(pattern)));
    checks.extend(facts.unmet.not_ethernet.iter().map(|name| not_ethernet(name)));
    if facts.interfaces.is_empty() && facts.unmet.missing.is_empty() {
        let found = "there is no interface to guard";
        checks.push(
            Check::new("interface", State::Failed, found)
                .fix("name them under `interfaces` of the manifest, or with --interface"),
        );
    }
    checks.push(unguarded(facts));
    checks.push(tunnels(facts));
    checks.push(rdma(facts));
    checks
}

fn device(interface: &Interface) -> Check {
    const ID: &str = "interface";
    let driver = interface.driver.as_deref().or(interface.kind.as_deref());
    let driver = driver.map_or_else(String::new, |driver| format!(", {driver}"));
    let queues = interface
        .queues
        .map_or_else(String::new, |queues| format!(", {}", counted(queues, "receive queue")));
    let state = if interface.up { "up" } else { "down" };
    let found = format!("{state}, MTU {}{driver}{queues}", interface.mtu);
    if interface.up {
        return Check::ok(ID, found);
    }
    Check::new(ID, State::Note, found)
        .why("no frames arrive on it; it is guarded nevertheless")
        .fix(format!("ip link set dev {} up  # if you want to use it", quoted(&interface.name)))
}

fn missing(pattern: &str) -> Check {
    Check::new("interface", State::Warning, format!("no device matches `{pattern}`"))
        .about(pattern)
        .why("the daemon guards it once it appears; a device with another name stays open")
        .fix("compare `interfaces` of the manifest with `ip -br link`")
}

fn not_ethernet(name: &str) -> Check {
    Check::new("interface", State::Failed, format!("frames of `{name}` have no Ethernet header"))
        .about(name)
        .why("the guard reads Ethernet headers: IP over InfiniBand, tun and WireGuard devices cannot \
              be guarded")
        .fix("remove it from `interfaces`, and close its ports with nftables")
}

fn driver(interface: &Interface) -> Check {
    const ID: &str = "xdp-driver";
    let Interface { mtu, name, .. } = interface;
    let generic = "start the daemon with `--mode tcx` (Linux 6.6), on older kernels with `--mode \
                   generic` (slower), or with `--mode auto`, which uses the best available mode";
    match &interface.xdp {
        MaybeHidden::Known(support) if !support.native => {
            Check::new(ID, State::Warning, "the driver has no native XDP")
                .why(
                    "`--mode native` is refused; in generic mode a frame costs more, and frames \
                     that tc redirects to this interface bypass the program; in tcx mode they do \
                     not",
                )
                .fix(generic)
        }
        MaybeHidden::Known(support)
            if !support.several_buffers && !devices::has_one_buffer(*mtu) =>
        {
            let is_certain = *mtu >= ONE_BUFFER;
            let state = if is_certain { State::Failed } else { State::Warning };
            let refuses = if is_certain { "refuses" } else { "may refuse" };
            Check::new(
                ID,
                state,
                format!("the driver runs XDP only on frames in one buffer; the MTU is {mtu}"),
            )
            .why(format!("it {refuses} the program at this MTU (EINVAL or ERANGE)"))
            .fix(format!("ip link set dev {} mtu 1500; or {generic}", quoted(name)))
        }
        MaybeHidden::Known(support) => {
            let buffers =
                if support.several_buffers { ", also for frames in several buffers" } else { "" };
            Check::ok(ID, format!("native XDP{buffers}"))
        }
        MaybeHidden::Hidden(_) if loses_long_frames(interface) => Check::new(
            ID,
            State::Failed,
            format!(
                "virtio_net of this kernel runs XDP only on frames in one page; the MTU is {mtu}"
            ),
        )
        .why(format!(
            "before Linux 6.3 it refuses the program at this MTU; if the MTU is raised while a \
             program is attached, frames longer than about {VIRTIO_ONE_PAGE} bytes are lost, also \
             those of members"
        ))
        .fix(format!(
            "start the daemon with `--mode generic` (slower), or `ip link set dev {} mtu 1500`",
            quoted(name)
        )),
        MaybeHidden::Hidden(why) => {
            Check::new(ID, State::Note, format!("the driver does not report XDP support: {why}"))
                .why("kernels report it since 6.3; on older ones only attaching shows it")
                .fix(
                    "see the log of the daemon after its start; `--mode tcx` works on all drivers \
                      since Linux 6.6, `--mode generic` on older kernels",
                )
        }
    }
}

/// Reports whether the driver loses frames that the MTU allows. Kernels that report XDP features
/// have a later `virtio_net` driver without this limit.
fn loses_long_frames(interface: &Interface) -> bool {
    let generic =
        interface.program.as_ref().is_some_and(|program| program.mode == DeviceMode::Generic);
    interface.driver.as_deref() == Some("virtio_net") && interface.mtu > VIRTIO_ONE_PAGE && !generic
}

fn foreign(interface: &Interface, program: &Program) -> Check {
    const ID: &str = "xdp-foreign";
    let Program { id, mode, ours } = program;
    match ours {
        MaybeHidden::Known(true) => {
            Check::ok(ID, format!("trainguard's program {id} is attached ({mode})"))
        }
        MaybeHidden::Known(false) => Check::new(
            ID,
            State::Failed,
            format!("another XDP program is attached ({mode}), id {id}"),
        )
        .why("an interface runs only one; trainguard does not replace programs of other software. It \
              may be the cluster's network (CNI)")
        .fix(format!(
            "identify it: `bpftool prog show id {id}`; if not needed: `ip link set dev {} xdp off`",
            quoted(&interface.name)
        )),
        MaybeHidden::Hidden(why) => Check::new(
            ID,
            State::Unknown,
            format!("an XDP program is attached ({mode}), id {id}; its owner is unknown: {why}"),
        )
        .fix("run doctor as root"),
    }
}

fn offloads(interface: &Interface) -> Check {
    const ID: &str = "offloads";
    let on = match &interface.offloads {
        MaybeHidden::Known(on) => on,
        MaybeHidden::Hidden(why) => {
            return Check::new(ID, State::Note, format!("not visible: {why}"));
        }
    };
    let has = |name: &str| on.iter().any(|other| other == name);
    let merging: Vec<_> = MERGING.iter().filter(|(name, _)| has(name)).collect();
    if !merging.is_empty() {
        let names: Vec<&str> = merging.iter().map(|(name, _)| *name).collect();
        let flags: Vec<String> = merging.iter().map(|(_, flag)| format!("{flag} off")).collect();
        return Check::new(ID, State::Warning, format!("enabled: {}", listed(&names)))
            .why(
                "the card merges frames before the program sees them; drivers disable that when a \
                  program is attached, or refuse the program",
            )
            .fix(format!("ethtool -K {} {}", quoted(&interface.name), flags.join(" ")));
    }
    if has(VLAN_PARSE.0) {
        return Check::new(ID, State::Note, "the card removes VLAN tags (rx-vlan-hw-parse)")
            .why("policies match ports, for which the tag is not needed");
    }
    Check::ok(ID, "none that hides or merges frames is enabled")
}

fn queues(interface: &Interface, cpus: usize) -> Option<Check> {
    if interface.queues != Some(1) || cpus < 2 || interface.kind.is_some() {
        return None;
    }
    let found = format!("one receive queue, {}", counted(cpus, "processor"));
    let check = Check::new("queues", State::Note, found)
        .why("one processor evaluates all frames, so a flood only has to saturate that one")
        .fix(format!("ethtool -L {} combined {cpus}", quoted(&interface.name)));
    Some(check)
}

fn stacked(interface: &Interface) -> Option<Check> {
    const ID: &str = "stacked";
    if let Some((found, fix)) = &interface.bridged {
        let check = Check::new(ID, State::Failed, found.as_str())
            .why(
                "the daemon does not attach to it; a guard that is attached already stays, and the \
                  status reports it",
            )
            .fix(fix.as_str());
        return Some(check);
    }
    if let Some((controller, kind)) = &interface.controller {
        if interface.controller_guarded {
            let found = format!("a port of {controller} ({kind}), which is guarded as well");
            return Some(
                Check::new(ID, State::Warning, found)
                    .why("each frame is evaluated and counted twice, or the second attachment is refused")
                    .fix(format!("guard `{controller}` or its ports, not both")),
            );
        }
        let open = &interface.siblings_unguarded;
        let found = format!("a port of {controller} ({kind})");
        if open.is_empty() {
            return Some(Check::ok(ID, found));
        }
        return Some(
            Check::new(
                ID,
                State::Warning,
                format!("{found}; its other ports are not guarded: {}", listed(open)),
            )
            .why("packets that arrive there reach the same addresses")
            .fix(format!("guard all ports, or `{controller}` itself")),
        );
    }
    let is_stacked = matches!(
        interface.kind.as_deref(),
        Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap")
    );
    let lower = interface.lower.as_deref().filter(|_| is_stacked)?;
    let kind = interface.kind.as_deref().unwrap_or_default();
    if interface.lower_guarded {
        return Some(Check::ok(ID, format!("stacked on {lower} ({kind}), which is guarded")));
    }
    Some(
        Check::new(
            ID,
            State::Warning,
            format!("stacked on {lower} ({kind}), which is not guarded"),
        )
        .why(
            "the guard reads VLAN tags itself: on the card it runs in the driver and sees the \
                  frames for all such devices",
        )
        .fix(format!("guard `{lower}` instead")),
    )
}

/// Checks for VLAN devices whose bridges pass on what is not for this node.
fn bridged_vlans(interface: &Interface) -> Option<Check> {
    let ports = &interface.bridged_vlans;
    let first = ports.first()?;
    let named: Vec<String> =
        ports.iter().map(|(vlan, bridge)| format!("{vlan} of {bridge}")).collect();
    let found = format!("VLAN devices on it are ports of bridges: {}", listed(&named));
    Some(
        Check::new("bridged-vlans", State::Warning, found)
            .why(
                "the guard reads VLAN tags itself, and evaluates by the services of this node also what \
                 such a bridge passes on to virtual machines and containers",
            )
            .fix(format!(
                "guard the devices that have this node's addresses, such as `{}`, instead of this one; \
                 or leave the ports of these machines out of `ports`",
                first.1
            )),
    )
}

fn functions(interface: &Interface) -> Option<Check> {
    let count = interface.virtual_functions;
    if count == 0 {
        return None;
    }
    let found = counted(count, "virtual function");
    let check = Check::new("sr-iov", State::Warning, found)
        .why("the card delivers their frames without running this interface's program")
        .fix("guard each function on its own interface, in the container or guest that uses it");
    Some(check)
}

fn unguarded(facts: &MachineFacts) -> Check {
    const ID: &str = "unguarded";
    if !facts.interfaces_chosen {
        let (why, fix) = match &facts.policy {
            None => (
                "neither a manifest nor a flag selects the interfaces to guard",
                "give a manifest with --manifest",
            ),
            Some(policy) if policy.errors.0 > 0 => (
                "the manifest has errors, so it selects no interface to guard",
                "correct the errors; the check `manifest` names the first one",
            ),
            Some(policy) if policy.node_problem.is_some() => (
                "the manifest selects no interface to guard, because this node was not found in it",
                "give the node's name with --node, or add this machine to the manifest",
            ),
            Some(_) => (
                "the manifest selects no interface to guard",
                "name the interfaces under `interfaces` of the manifest",
            ),
        };
        return Check::new(ID, State::Note, format!("{why}; all that are up were examined"))
            .fix(fix);
    }
    if facts.unguarded.is_empty() {
        return Check::ok(ID, "no other interface is up");
    }
    Check::new(
        ID,
        State::Warning,
        format!("up, but not selected for guarding: {}", listed(&facts.unguarded)),
    )
    .why(
        "Linux accepts packets for any of its addresses on any interface, so an unguarded \
              interface bypasses the guard",
    )
    .fix("add them to `interfaces` of the manifest, unless only members can reach them")
}

fn tunnels(facts: &MachineFacts) -> Check {
    const ID: &str = "tunnels";
    if facts.tunnels.is_empty() {
        return Check::ok(ID, "no device decapsulates tunnels");
    }
    Check::new(ID, State::Note, format!("devices decapsulate tunnels: {}", listed(&facts.tunnels))).why(
        "the guard sees only the outer packet: it passes tunnelled packets from sources that any \
         service allows, and drops others. FOU, GUE and L2TP ports have no device: list them with \
         `--tunnel`",
    )
}

fn rdma(facts: &MachineFacts) -> Check {
    const ID: &str = "rdma";
    let devices = match &facts.rdma {
        MaybeHidden::Known(devices) => devices,
        MaybeHidden::Hidden(why) => {
            return Check::new(ID, State::Note, format!("not visible: {why}"));
        }
    };
    if devices.is_empty() {
        return Check::ok(ID, "no RDMA device");
    }
    let names: Vec<String> = devices
        .iter()
        .map(|device| {
            let layer = device.link_layer.iter().cloned();
            let facts: Vec<String> = layer.chain(device.netdevs.iter().cloned()).collect();
            if facts.is_empty() {
                device.name.clone()
            } else {
                format!("{} ({})", device.name, facts.join(", "))
            }
        })
        .collect();
    Check::new(ID, State::Warning, format!("RDMA devices: {}", listed(&names)))
        .why(
            "RDMA (RoCE, InfiniBand verbs) goes from the card directly to memory: no packet filter \
              of this host sees it, including trainguard",
        )
        .fix(
            "restrict that fabric to members: partition keys on InfiniBand, filters for udp/4791 on \
              the switches for RoCE",
        )
}
