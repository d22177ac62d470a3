//! Packets for hosts behind the node.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    process::Command,
    time::Instant,
};

use guard_tests::node::{MEMBER, NODE, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT, enforcing};

use super::{count, counted, ip};

/// Addresses of the container, in networks of its own.
const CONTAINER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 78, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 2)),
];
/// The routes to a container: its network, address of the node in it, and address of the node that the
/// peer knows.
const ROUTES: [(&str, &str, IpAddr); 2] =
    [("10.78.0.0/24", "10.78.0.1", NODE[0]), ("fd78::/64", "fd78::1", NODE[1])];

/// A routed container behind the node. Its namespace is removed with this value.
struct Container(String);

impl Container {
    /// Adds a container to the node, and routes to it at the peer.
    fn new(node: &Node) -> Self {
        let container = Self(format!("{}-box", node.namespace()));
        let name = container.0.as_str();
        ip(&["netns", "add", name]);
        let here = ["link", "add", "c0", "type", "veth", "peer", "name", "c0", "netns", name];
        node.ip(&here);
        node.ip(&["link", "set", "c0", "up"]);
        ip(&["-n", name, "link", "set", "c0", "up"]);
        for (family, (network, gateway, by)) in ROUTES.into_iter().enumerate() {
            let (_, length) = network.split_once('/').expect("a prefix");
            let of = |address: &str| format!("{address}/{length}");
            let nodad: &[&str] = if family == 0 { &[] } else { &["nodad"] };
            node.ip(&[&["addr", "add", &of(gateway), "dev", "c0"], nodad].concat());
            let address = of(&CONTAINER[family].to_string());
            ip(&[&["-n", name, "addr", "add", &address, "dev", "c0"], nodad].concat());
            ip(&["-n", name, "route", "add", "default", "via", gateway]);
            ip(&["-n", node.peer(), "route", "add", network, "via", &by.to_string()]);
        }
        container
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

fn set_forwarding(node: &Node, on: bool) {
    node.at_node(|| {
        for file in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
            let value = if on { "1" } else { "0" };
            fs::write(format!("/proc/sys/net/{file}"), value).expect("a setting of the namespace");
        }
    });
}

/// Waits until a packet of a stranger to the container's guarded port is counted for a reason.
fn wait_until_counted(node: &Node, family: usize, reason: &str) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let to = SocketAddr::new(CONTAINER[family], PORT);
    loop {
        let moved = counted(node, || {
            node.is_reached(UNLISTED[family], to);
        });
        if moved == count(reason, 1) {
            return;
        }
        assert!(Instant::now() < deadline, "{moved:?}, not {reason}: {}", node.log());
    }
}

/// The container's port has the number of a guarded one: the node judges its own port, and the
/// container's only if the service says so.
#[test]
fn routed_containers_are_judged_only_if_the_service_says_so() {
    for mode in ["native", "generic", "tcx"] {
        let Some(mut node) = Node::new(&format!("forwarded/{mode}")) else { return };
        let _container = Container::new(&node);
        set_forwarding(&node, true);
        node.start(&["--mode", mode]);
        node.wait("enforcing", enforcing);
        for family in 0..2 {
            let to = SocketAddr::new(CONTAINER[family], PORT);
            let is_reached = |from: IpAddr| node.is_reached(from, to);
            let moved = counted(&node, || assert!(is_reached(UNLISTED[family]), "{mode}, {to}"));
            assert_eq!(moved, count("forwarded", 1), "{mode}, {to}");
            let refused = || assert!(!node.answers(UNLISTED[family], PORT), "{mode}, {family}");
            assert_eq!(counted(&node, refused), count("not_allowed", 1), "{mode}, {family}");
            // The source is allowed and there is no limit, so nothing is asked.
            let moved = counted(&node, || assert!(is_reached(MEMBER[family]), "{mode}, {to}"));
            assert_eq!(moved, count("allowed", 1), "{mode}, {to}");
        }
        let status = node.status().expect("a status").to_string();
        assert!(status.contains("forwarded"), "{mode}: {status}");

        let generation = node.generation();
        let guarded = POLICY.replace("match: all", "match: all\n    forwarded: guard");
        node.write("policy.yaml", &guarded);
        node.wait("the next generation", |status| status["generation"] == generation + 1);
        for family in 0..2 {
            let to = SocketAddr::new(CONTAINER[family], PORT);
            let refused = || assert!(!node.is_reached(UNLISTED[family], to), "{mode}, {to}");
            assert_eq!(counted(&node, refused), count("not_allowed", 1), "{mode}, {to}");
            assert!(node.is_reached(MEMBER[family], to), "{mode}, {to}");
        }
    }
}

/// A forwarded packet is charged to no limit.
#[test]
fn limits_are_about_packets_for_the_node() {
    let Some(mut node) = Node::new("forwarded/limits") else { return };
    let _container = Container::new(&node);
    set_forwarding(&node, true);
    let limits = "    limits:\n      perSource:\n        newConnections: { rate: 1/s, burst: 1 }\n";
    node.write("policy.yaml", &(POLICY.to_owned() + limits));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    for family in 0..2 {
        let to = SocketAddr::new(CONTAINER[family], PORT);
        let through = || (0..20).for_each(|_| assert!(node.is_reached(MEMBER[family], to)));
        assert_eq!(counted(&node, through), count("forwarded", 20));
        let here = || assert!(node.answers(MEMBER[family], PORT));
        assert_eq!(counted(&node, here), count("allowed", 1));
    }
}

/// The node begins to forward, and ends, while the guard is in force: no generation is loaded for it.
#[test]
fn forwarding_may_be_switched_at_any_time() {
    let Some(mut node) = Node::new("forwarded/switched") else { return };
    let _container = Container::new(&node);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let generation = node.generation();
    for family in 0..2 {
        wait_until_counted(&node, family, "not_allowed");
    }
    set_forwarding(&node, true);
    for family in 0..2 {
        wait_until_counted(&node, family, "forwarded");
        assert!(node.is_reached(UNLISTED[family], SocketAddr::new(CONTAINER[family], PORT)));
        assert!(!node.answers(UNLISTED[family], PORT), "the node's own port");
    }
    set_forwarding(&node, false);
    for family in 0..2 {
        wait_until_counted(&node, family, "not_allowed");
    }
    assert_eq!(node.generation(), generation);
}

/// Destinations that a default route covers, but that the node delivers to itself or to nobody.
#[test]
fn what_is_not_sent_on_is_judged() {
    let Some(mut node) = Node::new("forwarded/never") else { return };
    let _container = Container::new(&node);
    set_forwarding(&node, true);
    node.ip(&["route", "add", "default", "via", &CONTAINER[0].to_string()]);
    node.ip(&["-6", "route", "add", "default", "via", &CONTAINER[1].to_string()]);
    for (kind, network) in [
        ("blackhole", "10.79.0.0/24"),
        ("unreachable", "10.79.1.0/24"),
        ("prohibit", "10.79.2.0/24"),
    ] {
        node.ip(&["route", "add", kind, network]);
    }
    let peer = node.peer();
    ip(&["-n", peer, "route", "add", "10.79.0.0/16", "via", &NODE[0].to_string()]);
    ip(&["-n", peer, "route", "add", "default", "via", &NODE[0].to_string()]);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let datagram = |to: IpAddr| {
        node.at_peer(|| {
            let socket = UdpSocket::bind((UNLISTED[usize::from(to.is_ipv6())], 0)).expect("bound");
            socket.set_broadcast(true).expect("an option");
            let scope = nix::net::if_::if_nametoindex("eth0").expect("a device");
            let to = match to {
                IpAddr::V4(_) => SocketAddr::new(to, PORT),
                IpAddr::V6(to) => SocketAddrV6::new(to, PORT, 0, scope).into(),
            };
            socket.send_to(b"x", to).expect("sent");
        });
    };
    for to in [
        "255.255.255.255",
        "10.77.0.255",
        "224.0.0.251",
        "10.77.0.10",
        "10.78.0.1",
        "10.79.0.1",
        "10.79.1.1",
        "10.79.2.1",
        "ff02::fb",
        "fd77::10",
        "fd78::1",
    ] {
        let moved = counted(&node, || datagram(to.parse().expect("an address")));
        assert_eq!(moved, count("not_allowed", 1), "{to}");
    }
    // The same from the same source is sent on, if it is for somebody else.
    let moved = counted(&node, || datagram(CONTAINER[0]));
    assert_eq!(moved, count("forwarded", 1));
    let moved = counted(&node, || datagram("192.0.2.1".parse().expect("an address")));
    assert_eq!(moved, count("forwarded", 1), "by the default route");
}
