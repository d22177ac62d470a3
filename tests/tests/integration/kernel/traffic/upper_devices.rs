//! Devices on top of the guarded interface: IP receives at them, so their settings count, and sockets
//! may be bound to them.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener},
    process::Command,
};

use guard_tests::{
    node::modes,
    oracle::{
        SENDER_MAC,
        bytes::flag::{ACK, FIN, PSH, RST},
    },
    skip,
};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    packets::{Packet, syn, tcp},
    site::{CONTAINER, Fate, MEMBERS, STRANGER, Site, policy, service},
};

/// Number of the VLAN.
const VLAN: u16 = 5;
/// Ethernet address of the macvlan.
const MACVLAN: [u8; 6] = [2, 0xaa, 0, 0, 0, 0x0b];
/// The guarded port.
const PORT: u16 = 9200;
/// A guarded port at which nothing listens.
const SILENT: u16 = 9201;

/// Kinds of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vlan,
    Macvlan,
}

/// The node's addresses at the device.
const ADDRESSES: [&str; 2] = ["10.78.0.10", "fd78::10"];
/// An unlisted host in the network of the device.
const OUTSIDE: [&str; 2] = ["10.78.0.98", "fd78::98"];

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Kind {
    const ALL: [Self; 2] = [Self::Vlan, Self::Macvlan];

    /// Adds the device `upper` with its addresses. Records the skip if this kernel has none.
    fn add(self, site: &Site) -> bool {
        let add = ["-n", site.node.namespace(), "link", "add", "link", "eth0", "name", "upper"];
        let mac = MACVLAN.map(|byte| format!("{byte:02x}")).join(":");
        let (skipped, kind): (_, &[&str]) = match self {
            Self::Vlan => ("traffic/vlan", &["type", "vlan", "id", "5"]),
            Self::Macvlan => ("traffic/macvlan", &["address", &mac, "type", "macvlan"]),
        };
        let output = Command::new("ip").args(add).args(kind).output().expect("ip");
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(
                stderr.contains("Unknown device type") || stderr.contains("not supported"),
                "{stderr}"
            );
            skip::skip(skipped, "this kernel has no such devices");
            return false;
        }
        let sender = SENDER_MAC.map(|byte| format!("{byte:02x}")).join(":");
        site.node.ip(&["link", "set", "upper", "up"]);
        for (here, outside, length) in
            [(ADDRESSES[0], OUTSIDE[0], 24), (ADDRESSES[1], OUTSIDE[1], 64)]
        {
            let here = format!("{here}/{length}");
            // A device that was just set up is not yet ready for IPv6.
            let no_detection: &[&str] = if length == 64 { &["nodad"] } else { &[] };
            site.node.ip(&[&["addr", "add", &here, "dev", "upper"], no_detection].concat());
            site.node.ip(&["neigh", "replace", outside, "lladdr", &sender, "dev", "upper"]);
        }
        true
    }

    /// Sends a packet to the device.
    fn via(self, packet: Packet) -> Packet {
        match self {
            Self::Vlan => packet.on_vlan(VLAN),
            Self::Macvlan => packet.with_mac(MACVLAN),
        }
    }
}

fn wait_for_device(site: &Site, index: u32, is_known: bool) {
    site.wait_for_maps("the device", |maps| {
        let devices = maps.devices().expect("the devices");
        devices.values().any(|receiver| *receiver == index) == is_known
    });
}

/// Runs a closure for each kind of device and each mode.
fn each(work: impl Fn(Kind, &str) -> bool) {
    for kind in Kind::ALL {
        // A kind that this kernel lacks is skipped once.
        let _ = modes().iter().all(|mode| work(kind, mode));
    }
}

#[test]
fn forwarding_is_asked_for_at_the_device_that_receives() {
    each(ask_at_device);
}

/// Returns whether this kernel has such devices.
fn ask_at_device(kind: Kind, mode: &str) -> bool {
    let Some(mut site) = Site::new("traffic/upper") else { return false };
    if !kind.add(&site) {
        return false;
    }
    let index = site.node.at_node(|| nix::net::if_::if_nametoindex("upper"));
    let index = index.expect("the device");
    site.forward("1");
    site.guard(mode, &policy(&[service("store", "tcp/9200", "all", MEMBERS, "")]));
    site.wait_for_forwarding("both families", [true; 2]);
    wait_for_device(&site, index, true);
    let check = |what: &str, below: bool, above: bool| {
        let fate = |forwards| if forwards { Fate::AtContainer } else { Fate::Nowhere };
        let count = u64::from(below) + u64::from(above);
        for family in 0..2 {
            let (stranger, outside) = (STRANGER[family], address(OUTSIDE[family]));
            let own = address(ADDRESSES[family]);
            site.check(
                &format!("{kind:?}, {mode}, {stranger}: {what}"),
                &[
                    (syn(stranger, CONTAINER[family], PORT), fate(below)),
                    (kind.via(syn(outside, CONTAINER[family], PORT)), fate(above)),
                    (kind.via(syn(outside, own, PORT)), Fate::Nowhere),
                ],
                &[("store", "forwarded", count), ("store", "not_allowed", 3 - count)],
            );
        }
    };
    let set = |device: &str, value: &str| {
        for version in ["ipv4", "ipv6"] {
            site.set(&format!("{version}/conf/{device}/forwarding"), value);
        }
    };
    check("both forward", true, true);
    set("eth0", "0");
    check("the device above forwards", false, true);
    set("upper", "0");
    set("eth0", "1");
    check("the device below forwards", true, false);
    set("upper", "1");
    check("both forward again", true, true);
    site.node.ip(&["link", "del", "upper"]);
    wait_for_device(&site, index, false);
    check("without the device", true, false);
    true
}

/// Such a listener is not found from the interface below. A correct SYN cookie would open a connection.
#[test]
fn a_listener_bound_to_the_device_gets_nothing_from_unlisted_hosts() {
    each(send_to_bound_listener);
}

/// Returns whether this kernel has such devices.
fn send_to_bound_listener(kind: Kind, mode: &str) -> bool {
    let Some(mut site) = Site::new("traffic/bound") else { return false };
    if !kind.add(&site) {
        return false;
    }
    site.set("ipv4/tcp_syncookies", "2");
    let listeners = [0, 1].map(|family| {
        site.node.at_node(|| listen_at_device(SocketAddr::new(address(ADDRESSES[family]), PORT)))
    });
    // Requests before the guard, whose cookies are right for two minutes.
    let ends = |family: usize| (address(OUTSIDE[family]), address(ADDRESSES[family]));
    let answers = [0, 1].map(|family| {
        let (from, to) = ends(family);
        let request = kind.via(syn(from, to, PORT).bare());
        let cookie = site.cookie(&request);
        let answer = tcp(from, to, PORT, ACK).with_source_port(request.ports[0]);
        kind.via(answer.numbers([1001, cookie.wrapping_add(1)]))
    });
    let ports = "tcp/9200-9299";
    site.guard(mode, &policy(&[service("new", ports, "new-connections", MEMBERS, "")]));
    site.wait_for_maps("the bound listener", |maps| {
        let word = maps.bound().expect("the bits")[usize::from(PORT >> 6)];
        word >> (PORT & 63) & 1 != 0
    });
    for family in 0..2 {
        let (from, to) = ends(family);
        let segment = |port, flags| kind.via(tcp(from, to, port, flags));
        site.check(
            &format!("{kind:?}, {mode}, {to}"),
            &[
                (answers[family].clone(), Fate::Nowhere),
                (kind.via(syn(from, to, PORT)), Fate::Nowhere),
                (segment(PORT, ACK).bare(), Fate::Nowhere),
                (segment(PORT, ACK | PSH), Fate::Nowhere),
                (segment(PORT, ACK | FIN), Fate::Nowhere),
                (segment(PORT, ACK | RST), Fate::Nowhere),
                (kind.via(syn(from, to, SILENT)), Fate::Nowhere),
                // Nothing listens, so nothing can be opened.
                (segment(SILENT, ACK), Fate::Reset),
            ],
            &[("new", "not_allowed", 7), ("new", "established", 1)],
        );
        let accepted = listeners[family].accept();
        assert!(accepted.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    }
    true
}

/// Opens a listener that is bound to the device `upper`, which does not block.
fn listen_at_device(at: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP));
    let socket = socket.expect("a socket");
    setsockopt(&socket, sockopt::BindToDevice, &"upper".into()).expect("binding");
    socket.set_nonblocking(true).expect("a flag");
    socket.bind(&at.into()).expect("an address");
    socket.listen(64).expect("a listener");
    socket.into()
}
