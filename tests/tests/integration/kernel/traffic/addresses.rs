//! Own addresses, packets without a source address, and fragments.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use guard_test_support::packet::{Ethernet, Ipv4, Layer, Ports, SYN, frame, segment};
use guard_tests::{
    node::{MANIFEST, MEMBER, NODE, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT, enforcing},
    raw,
};

use super::{count, counted, ip};

/// Sends a segment with this source to the guarded port, and returns what it was counted as.
fn from(node: &Node, source: Ipv4Addr) -> Vec<(String, u64)> {
    let to: SocketAddr = (NODE[0], PORT).into();
    let frame = segment((source, 40_000), to, SYN, 0);
    counted(node, || {
        node.at_peer(|| assert_eq!(raw::send("eth0", &[frame]).expect("sending"), 1));
    })
}

/// An own address is one that the node holds, not one that the manifest gives to it.
#[test]
fn own_addresses_are_those_that_the_node_holds() {
    let Some(mut node) = Node::new("addresses/own") else { return };
    // A container of the node has this address.
    let listed = MANIFEST.replace("[10.77.0.10, ", "[10.77.0.10, 10.77.0.77, ");
    let networks = "networks:\n  lab: [10.77.0.64/30]\n";
    node.write("cluster.yaml", &(listed + networks));
    let allowed = "[worker, scheduler]\n      networks: [lab]";
    node.write("policy.yaml", &POLICY.replace("[worker]", allowed));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let [held, later] = [Ipv4Addr::new(10, 77, 0, 10), Ipv4Addr::new(10, 77, 0, 66)];
    assert_eq!(from(&node, held), count("martian", 1));
    assert_eq!(from(&node, Ipv4Addr::new(10, 77, 0, 77)), count("allowed", 1), "in a container");
    assert_eq!(from(&node, later), count("allowed", 1), "of a listed network");
    let generation = node.generation();
    let wait = |reason: &str| {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while from(&node, later) != count(reason, 1) {
            assert!(Instant::now() < deadline, "not {reason}: {}", node.log());
        }
    };
    node.ip(&["addr", "add", "10.77.0.66/32", "dev", "lo"]);
    wait("martian");
    node.ip(&["addr", "del", "10.77.0.66/32", "dev", "lo"]);
    wait("allowed");
    assert_eq!(node.generation(), generation, "no generation is loaded for it");
}

/// DHCP clients have no address. Ranges leave the ports of DHCP and NTP alone.
#[test]
fn clients_of_dhcp_reach_a_server() {
    let Some(mut node) = Node::new("addresses/dhcp") else { return };
    let send = |node: &Node, port: u16| {
        let frame = frame(&[
            Layer::Ethernet(Ethernet { to: [0xff; 6], ethertype: None }),
            Layer::Ipv4(Ipv4::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)),
            Layer::Ports(Ports { protocol: 17, from: 68, to: port, flags: 0, len: None }),
            Layer::Bytes(vec![0; 64]),
        ]);
        counted(node, || {
            node.at_peer(|| assert_eq!(raw::send("eth0", &[frame]).expect("sending"), 1));
        })
    };
    let range = POLICY.replace("[tcp/9091, udp/9091]", "[udp/1-1023]");
    node.write("policy.yaml", &range);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_eq!(send(&node, 67), [], "not guarded by a range");
    assert_eq!(send(&node, 66), count("martian", 1), "no client of DHCP");
    let generation = node.generation();
    let named = POLICY
        .replace("[tcp/9091, udp/9091]", "[udp/67]")
        .replace("allow:\n      roles: [worker]", "allow: { any: true }");
    node.write("policy.yaml", &named);
    node.wait("the next generation", |status| status["generation"] == generation + 1);
    assert_eq!(send(&node, 67), count("allowed", 1), "named by itself");
}

/// Fragments of a transport that no service guards pass; others are judged by their source.
#[test]
fn fragments_are_judged_by_their_protocol() {
    let Some(mut node) = Node::new("addresses/fragments") else { return };
    node.write("policy.yaml", &POLICY.replace("[tcp/9091, udp/9091]", "[tcp/9091]"));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    ip(&["-n", node.peer(), "link", "set", "eth0", "mtu", "1500"]);
    let bind = |address, port| UdpSocket::bind((address, port)).expect("an address");
    for family in 0..2 {
        let client = node.at_node(|| bind(NODE[family], 40_000));
        client.set_read_timeout(Some(WAIT_TIMEOUT)).expect("an option");
        let send = |source| {
            let socket = node.at_peer(|| bind(source, 53));
            socket.send_to(&[7; 4000], (NODE[family], 40_000)).expect("sent");
        };
        let received = || {
            send(UNLISTED[family]);
            assert_eq!(client.recv(&mut [0; 5000]).expect("a large answer"), 4000);
        };
        assert_eq!(counted(&node, received), [], "only TCP is guarded");
    }
    let generation = node.generation();
    node.write("policy.yaml", POLICY);
    node.wait("the next generation", |status| status["generation"] == generation + 1);
    for family in 0..2 {
        let client = node.at_node(|| bind(NODE[family], 40_000));
        client.set_read_timeout(Some(Duration::from_millis(300))).expect("an option");
        let send = |source| {
            let socket = node.at_peer(|| bind(source, 53));
            socket.send_to(&[7; 4000], (NODE[family], 40_000)).expect("sent");
        };
        let refused = || {
            send(UNLISTED[family]);
            assert!(client.recv(&mut [0; 5000]).is_err(), "its fragments are refused");
        };
        // Three fragments, the first of which is to a port that is not guarded.
        assert_eq!(counted(&node, refused), count("fragment", 2));
        let received = || {
            client.set_read_timeout(Some(WAIT_TIMEOUT)).expect("an option");
            send(MEMBER[family]);
            assert_eq!(client.recv(&mut [0; 5000]).expect("a datagram of a member"), 4000);
        };
        assert_eq!(counted(&node, received), count("fragment", 2));
    }
}
