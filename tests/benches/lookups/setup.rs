//! The network namespace, the policies and the programs of the benchmark.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use guard_common::{
    layout::node::NodeState,
    stack::{LOOKUP_ROUTES, LOOKUP_SOCKETS},
};
use guard_test_support::bundle;
use guard_tests::{
    bench::{guard::Guard, object::Lookups},
    world,
};
use guard_user::{attach_mode::Hook, policy::Bundle};

/// The device that has the node's addresses, and its peer.
const DEVICE: &str = "hold2a";
const PEER: &str = "hold2b";
/// Index of the loopback interface, at which a test run receives its packets
/// (`bpf_prog_test_run_xdp`, `net/bpf/test_run.c`).
const LOOPBACK: u32 = 1;
/// Addresses of the node, IPv4 and IPv6.
pub(crate) const NODE: [&str; 2] = ["10.77.0.10", "fd77::10"];
/// Addresses of a host behind the node.
pub(crate) const BEHIND: [&str; 2] = ["10.99.0.7", "fd99::7"];
/// Addresses of a listed host.
pub(crate) const LISTED: [&str; 2] = ["10.77.0.30", "fd77::30"];
/// Addresses of a host that is not listed.
pub(crate) const UNLISTED: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];
/// The guarded port.
pub(crate) const PORT: u16 = 9091;
/// Limits that no test run reaches.
const LIMITS: &str = "    limits:\n      perSource:\n        packets: { rate: 1G/s, burst: 1G }\n";

/// What the service of a policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// It judges every packet.
    All,
    /// It judges segments that open connections.
    NewConnections,
    /// It judges every packet, and limits its sources.
    Limited,
}

/// Gives a device the addresses of the node, and routes to everywhere. The calling thread must be in a
/// namespace of its own.
pub(crate) fn network() -> Result<()> {
    for (address, route) in [("10.77.0.10/24", "10.77.0.1"), ("fd77::10/64", "fd77::1")] {
        let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
        ip(&[&["address", "add", address, "dev", DEVICE], nodad].concat())?;
        for device in [DEVICE, PEER] {
            ip(&["link", "set", device, "up"])?;
        }
        ip(&["route", "add", "default", "via", route, "dev", DEVICE])?;
        let lladdr = "02:00:00:00:00:01";
        ip(&["neighbour", "add", route, "lladdr", lladdr, "dev", DEVICE, "nud", "permanent"])?;
    }
    Ok(())
}

/// Switches forwarding on or off.
pub(crate) fn set_forwarding(on: bool) -> Result<()> {
    for file in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
        let path = format!("/proc/sys/net/{file}");
        fs::write(&path, if on { "1" } else { "0" }).with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

/// Opens a socket that listens on the guarded port, for both families.
pub(crate) fn listen() -> Result<TcpListener> {
    TcpListener::bind(("::", PORT)).context("listening on the guarded port")
}

fn ip(args: &[&str]) -> Result<()> {
    let mut ip = Command::new("ip");
    let made = ip.args(args).stdin(Stdio::null()).status().context("running ip")?;
    ensure!(made.success(), "{ip:?} failed");
    Ok(())
}

/// Loads a policy for the XDP hook. Its programs make lookups or not, on a node that forwards or not.
/// `mac` is the destination MAC address of the frames.
pub(crate) fn load(service: Service, lookups: bool, forwards: bool, mac: u64) -> Result<Guard> {
    let policy = world::compile(&world::load(&bundle(service)), "node");
    let lookups = if lookups { LOOKUP_ROUTES | LOOKUP_SOCKETS } else { 0 };
    let mut guard = Guard::load_with(Hook::Xdp, &policy, lookups, LOOPBACK, "lo", 1500)?;
    let mut maps = guard.node_maps()?;
    let mut state = maps.state()?;
    if forwards {
        state.flags |= NodeState::FORWARDS_IPV4 | NodeState::FORWARDS_IPV6;
    }
    // As for an interface without devices on top of it.
    state.add_plain(mac, LOOPBACK);
    maps.set_state(state)?;
    Ok(guard)
}

/// A lookup of the kernel: its program, and its expected result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// `bpf_skc_lookup_tcp`, which finds a socket in this state.
    Socket(u32),
    /// `bpf_fib_lookup`, with this result.
    Route(u32),
}

/// Sets the parameters of a lookup as the guard does for a TCP segment without options.
pub(crate) fn request(
    lookups: &mut Lookups,
    lookup: Lookup,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<()> {
    let words = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(addr) => vec![u32::from_ne_bytes(addr.octets())],
        IpAddr::V6(addr) => {
            addr.octets().as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
        }
    };
    let (source, destination) = (words(from), words(to));
    let port = |addr: SocketAddr| u32::from(addr.port().to_be());
    let mut request = [0; 16];
    let mut put = |at: usize, words: &[u32]| request[at..at + words.len()].copy_from_slice(words);
    match lookup {
        Lookup::Socket(_) => {
            let ports = port(from) | port(to) << 16;
            put(0, &[source, destination, vec![ports]].concat());
        }
        Lookup::Route(_) => {
            let (family, len) = if from.is_ipv4() { (2, 40) } else { (10, 60) };
            put(0, &[family | 6 << 8 | port(from) << 16, port(to) | len << 16, LOOPBACK]);
            put(4, &source);
            put(8, &destination);
        }
    }
    lookups.set(request)
}

/// Returns a manifest and a policy.
fn bundle(service: Service) -> Bundle {
    let addresses = |of: [&str; 2]| of.join(", ");
    let manifest = bundle::cluster("bench")
        .policies("policy.yaml")
        .node("node", &addresses(NODE), "target")
        .node("host", &addresses(LISTED), "member");
    let text = bundle::service("guarded", "target", &format!("tcp/{PORT}"), "roles: [member]");
    let text = match service {
        Service::All => text,
        Service::NewConnections => text.replace("match: all", "match: new-connections"),
        Service::Limited => text + LIMITS,
    };
    let policy = bundle::policy("bench", [text]);
    Bundle::new("cluster.yaml", [("cluster.yaml", manifest.to_string()), ("policy.yaml", policy)])
}
