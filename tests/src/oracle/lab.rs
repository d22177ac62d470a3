//! A node in a namespace of its own, with the sockets that odd frames are sent to.

use std::{
    collections::HashSet,
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use guard_user::policy::{Bundle, compiled::CompiledPolicy};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    ELSEWHERE, Ends, FAR, LINK_LOCAL, MEMBER, NEW_PORT, NODE, NODE_MAC, PORT, ROUTER, SENDER,
    SENDER_MAC, VLANS,
    generate::{self, Carrier, Case},
    settings::{Settings, Switches},
    wire::{Answers, RECEIVE_BUFFER, Wire},
};
use crate::{
    node::{Node, enforcing},
    world,
};

/// Number of frames between two markers: fewer than the ring of a veth holds.
const AT_A_TIME: usize = 48;
/// Length of the queues of a listener.
const BACKLOG: i32 = 1_000_000;

/// The sources of cases, as far as packets can come from them.
const SENDERS: [&str; 11] = [
    "10.77.0.0/24",
    "100.64.0.0/10",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "fd77::/64",
    "fe80::/64",
    "fec0::/64",
    "2001:db8::/64",
    "2002:a4d:63::/64",
    "64:ff9b::/96",
    "::10.77.0.99/128",
];

/// Which sources a policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// Only [`MEMBER`].
    Members,
    /// Also the usual sources of the cases.
    Senders,
}

impl Allow {
    /// Returns manifest and policy.
    pub fn texts(self) -> [(&'static str, String); 2] {
        let senders = match self {
            Self::Members => String::new(),
            Self::Senders => {
                SENDERS.iter().fold(String::new(), |text, network| format!("{text}, \"{network}\""))
            }
        };
        let [[node4, node6], [other4, other6], [member4, member6]] = [NODE, ELSEWHERE, MEMBER];
        let manifest = format!(
            "apiVersion: trainguard/v1\nkind: Cluster\nname: oracle\ninterfaces: [eth0]\n\
             nodes:\n  - name: node\n    \
             addresses: [{node4}, \"{node6}\", {other4}, \"{other6}\"]\n    roles: [scheduler]\n\
             networks:\n  friends: [{member4}/32, \"{member6}/128\"{senders}]\n\
             policies: [policy.yaml]\n"
        );
        let service = |name: &str, ports: &str, matched: &str| {
            format!(
                "  - name: {name}\n    roles: [scheduler]\n    ports: [{ports}]\n    \
                 match: {matched}\n    allow:\n      networks: [friends]\n    mode: enforce\n"
            )
        };
        let all = service("all", &format!("tcp/{PORT}, udp/{PORT}"), "all");
        let new = service("new", &format!("tcp/{NEW_PORT}"), "new-connections");
        let policy =
            format!("apiVersion: trainguard/v1\nkind: Policy\nname: p\nservices:\n{all}{new}");
        [("cluster.yaml", manifest), ("policy.yaml", policy)]
    }

    /// Compiles the policy for the node.
    pub fn compile(self) -> CompiledPolicy {
        world::compile(&world::load(&Bundle::new("cluster.yaml", self.texts())), "node")
    }
}

/// How far a case got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// No socket received it, and no port answered.
    Nothing,
    /// The port answered, but opened no connection.
    Answered,
    /// A socket received the datagram, or the port opened a connection.
    Delivered,
}

/// A node, its sockets, and the sender.
#[derive(Debug)]
pub struct Lab {
    node: Node,
    datagrams: Vec<UdpSocket>,
    listeners: [Socket; 2],
    switches: Switches,
    wire: Wire,
}

/// What the node's sockets received, and what the sender got back.
#[derive(Debug, Default)]
pub struct Seen {
    numbers: HashSet<u32>,
    /// Data without the number of a case.
    pub unnumbered: Vec<Vec<u8>>,
    accepted: HashSet<u16>,
    answers: Answers,
}

impl Seen {
    /// Returns how far a case got.
    pub fn reached(&self, case: &Case) -> Reached {
        let port = generate::source_port(case.number);
        let delivered = match case.carrier {
            Carrier::Datagram => self.numbers.contains(&case.number),
            Carrier::Segment => {
                self.accepted.contains(&port)
                    || self.answers.to(port).is_some_and(super::wire::Answer::opens)
            }
        };
        match case.carrier {
            _ if delivered => Reached::Delivered,
            Carrier::Segment if self.answers.to(port).is_some() => Reached::Answered,
            _ => Reached::Nothing,
        }
    }

    /// Reports whether a connection of the case was accepted.
    pub fn accepted(&self, case: &Case) -> bool {
        self.accepted.contains(&generate::source_port(case.number))
    }

    /// Returns the sequence number of the answer that opens the case's connection: the cookie.
    pub fn cookie(&self, case: &Case) -> Option<u32> {
        let answer = self.answers.to(generate::source_port(case.number))?;
        answer.opens().then_some(answer.sequence)
    }
}

impl Lab {
    /// Sets up a node without a guard. Returns `None`, and records the skip, if this machine cannot.
    pub fn new(test: &str) -> Option<Self> {
        let node = Node::bare(test)?;
        set_up(&node);
        let switches = Switches::new(&node);
        let (datagrams, listeners) = node.at_node(|| {
            let datagrams = [17, 136].into_iter().filter_map(datagrams);
            (datagrams.collect(), [PORT, NEW_PORT].map(listener))
        });
        let mut lab = Self { datagrams, listeners, switches, wire: Wire::new(&node), node };
        // A device that has just been set up drops frames for a short time.
        lab.wire.settle(&mut Answers::default());
        Some(lab)
    }

    /// Starts the daemon and waits until it enforces the policy.
    pub fn guard(&mut self, mode: &str, allow: Allow) {
        for (name, text) in allow.texts() {
            self.node.write(name, &text);
        }
        self.node.start(&["--mode", mode]);
        let status = self.node.wait("enforcing", enforcing);
        assert_eq!(status["interfaces"][0]["mode"], mode, "{status}");
    }

    /// Changes the settings of the network stack.
    pub fn set(&mut self, settings: Settings) {
        self.switches.set(settings);
    }

    /// Sends cases and returns what they did.
    pub fn deliver<'c>(&mut self, cases: impl IntoIterator<Item = &'c Case>) -> Seen {
        let mut seen = Seen::default();
        let mut sent = 0;
        for case in cases {
            for frame in &case.frames {
                self.wire.send(frame);
            }
            sent += case.frames.len();
            if sent >= AT_A_TIME {
                self.wire.settle(&mut seen.answers);
                sent = 0;
            }
        }
        self.wire.settle(&mut seen.answers);
        self.read(&mut seen);
        seen
    }

    /// Makes the node send SYN cookies for these cases, and accept cookies for the next two minutes: a
    /// listener accepts none unless it has sent some (`tcp_synq_no_recent_overflow`,
    /// `include/net/tcp.h`). The member's requests do that, also where the cases' are refused.
    pub fn request_cookies(&mut self, cases: &[Case]) -> Seen {
        self.switches.force_cookies();
        for port in [PORT, NEW_PORT] {
            for family in 0..2 {
                let ends = Ends { from: MEMBER[family], to: NODE[family] };
                self.wire.send(&generate::syn(0, &ends, 1, port));
            }
        }
        self.deliver(cases)
    }

    /// Reads from all sockets.
    fn read(&self, seen: &mut Seen) {
        let mut buffer = vec![0; 1 << 16];
        for socket in &self.datagrams {
            loop {
                match socket.recv(&mut buffer) {
                    Ok(len) => match generate::number_in(&buffer[..len]) {
                        Some(number) => drop(seen.numbers.insert(number)),
                        None => seen.unnumbered.push(buffer[..len].to_vec()),
                    },
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("receiving: {error}"),
                }
            }
        }
        for listener in &self.listeners {
            loop {
                match listener.accept() {
                    Ok((socket, from)) => {
                        // Ends with a reset, and leaves no state.
                        let _ = socket.set_linger(Some(Duration::ZERO));
                        seen.accepted.insert(from.as_socket().expect("an address").port());
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // A connection that was reset while it waited.
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) => panic!("accepting: {error}"),
                }
            }
        }
    }

    /// Returns the number of frames that the guard passed because the node forwards them.
    pub fn forwarded(&self) -> u64 {
        self.node.packets("forwarded")
    }
}

/// Configures devices, addresses, routes and neighbours of a bare node.
fn set_up(node: &Node) {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let (node_mac, sender_mac) = (mac(NODE_MAC), mac(SENDER_MAC));
    node.add_link("eth0");
    let peer = |args: &[&str]| {
        let mut ip = Command::new("ip");
        let output = ip.args(["-n", node.peer()]).args(args).output().expect("ip");
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    // The sender has no network stack that would answer.
    peer(&["link", "set", "eth0", "arp", "off", "address", &sender_mac]);
    node.at_peer(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1"))
        .expect("a setting");
    node.ip(&["link", "set", "eth0", "address", &node_mac]);
    node.ip(&["link", "add", "elsewhere", "type", "bridge"]);
    node.ip(&["link", "set", "elsewhere", "up"]);
    let local = "fe80::10".parse().expect("an address");
    for (address, device) in [NODE[0], NODE[1], local]
        .map(|address| (address, "eth0"))
        .into_iter()
        .chain(ELSEWHERE.map(|address| (address, "elsewhere")))
    {
        let address = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        node.ip(&["addr", "add", &address, "dev", device]);
    }
    let [router4, router6] = ROUTER.map(|router| router.to_string());
    node.ip(&["route", "add", "default", "via", &router4]);
    node.ip(&["-6", "route", "add", "default", "via", &router6, "dev", "eth0"]);
    for neighbour in [ROUTER, SENDER, FAR].concat().into_iter().chain([LINK_LOCAL]) {
        let neighbour = neighbour.to_string();
        node.ip(&["neigh", "replace", &neighbour, "lladdr", &sender_mac, "dev", "eth0"]);
    }
    add_vlans(node);
}

/// Adds VLAN devices: a customer tag, a service tag, and the customer tag behind the service tag.
/// Without support for VLANs in the kernel, the bare node delivers no frame that needs one.
fn add_vlans(node: &Node) {
    let [customer, service] = VLANS.map(|number| number.to_string());
    for (below, name, protocol, number) in [
        ("eth0", "customer", "802.1Q", &customer),
        ("eth0", "service", "802.1ad", &service),
        ("service", "both", "802.1Q", &customer),
    ] {
        let add = ["link", "add", "link", below, "name", name, "type", "vlan"];
        let mut ip = Command::new("ip");
        ip.args(["-n", node.namespace()]).args(add).args(["proto", protocol, "id", number]);
        if !ip.output().expect("ip").status.success() {
            return;
        }
        node.ip(&["link", "set", name, "up"]);
    }
}

/// Opens a socket for datagrams of both families; `None` if the kernel does not know the protocol, which
/// is possible for UDP-Lite.
fn datagrams(protocol: i32) -> Option<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::from(protocol))).ok()?;
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).expect("a large buffer");
    bind(&socket, PORT);
    Some(socket.into())
}

fn listener(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    bind(&socket, port);
    socket.listen(BACKLOG).expect("a listener");
    socket
}

fn bind(socket: &Socket, port: u16) {
    socket.set_only_v6(false).expect("both families");
    socket.set_nonblocking(true).expect("a flag");
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    socket.bind(&any.into()).expect("a port of the node");
}
