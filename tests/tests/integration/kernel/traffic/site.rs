//! A node with a container behind it and a peer in front of it. No device sends anything by itself:
//! neighbours are static, and the peer's device has no addresses, so that every counted frame is one
//! that a test has sent.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use guard_common::layout::node::NodeState;
use guard_tests::{
    node::{MEMBER, MEMBER_TOO, NODE, Node, UNLISTED, WAIT_TIMEOUT, enforcing, inside, ip, pair},
    oracle::{
        NODE_MAC, SENDER_MAC,
        bytes::flag::{ACK, RST, SYN},
        wire::Answer,
    },
    raw,
};
use guard_user::bpf::pinned_maps::node::NodeMaps;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::packets::{Packet, udp};

/// The container's addresses.
pub(super) const CONTAINER: [IpAddr; 2] = [v4([172, 20, 0, 2]), v6([0xfd20, 2])];
/// The node's addresses on the device that leads to the container.
pub(super) const NODE_BEHIND: [IpAddr; 2] = [v4([172, 20, 0, 1]), v6([0xfd20, 1])];
/// Addresses of an unlisted host that the peer does not have: nothing answers there.
pub(super) const STRANGER: [IpAddr; 2] = pair(98);
/// The router of the node, which is the peer's device.
pub(super) const ROUTER: [IpAddr; 2] = pair(1);

/// Port of the marker, which no policy of these tests guards.
const MARKER_PORT: u16 = 40_404;
/// Size in bytes of receive buffers.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The states of a listener, and of a socket that waits for late segments (`TIME_WAIT`), in
/// `/proc/net/tcp`.
const LISTEN: &str = "0A";
pub(super) const TIME_WAIT: &str = "06";

/// The expected count of packets whose exact number the kernel decides: at least one.
pub(super) const SOME: u64 = u64::MAX;

/// Counts by service, or `node`, and reason.
pub(super) type Counts = BTreeMap<(String, String), u64>;

const fn v4(octets: [u8; 4]) -> IpAddr {
    let [a, b, c, d] = octets;
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// Returns the IPv6 address with this first and last group.
const fn v6(groups: [u16; 2]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(groups[0], 0, 0, 0, 0, 0, 0, groups[1]))
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// No socket receives it, nothing answers, and it is not sent on.
    Nowhere,
    /// A UDP socket of the node receives it.
    Received,
    /// The node's answer opens a connection.
    Accepted,
    /// The node answers with a reset.
    Reset,
    /// The node answers with an acknowledgement alone.
    Acknowledged,
    /// The node sends it on to the container.
    AtContainer,
    /// The node sends it on to the peer.
    SentBack,
    /// Where it goes cannot be seen: a segment that nothing answers.
    Unseen,
}

/// Everything that arrived somewhere.
#[derive(Debug, Default)]
struct Seen {
    received: Vec<Vec<u8>>,
    at_container: Vec<Vec<u8>>,
    at_peer: Vec<Vec<u8>>,
}

impl Seen {
    /// Returns where a packet got to. One that was sent on may have an answer of the container, too.
    fn fate(&self, packet: &Packet) -> Fate {
        let has = |frames: &[Vec<u8>]| frames.iter().any(|frame| packet.is_in(frame));
        if has(&self.received) {
            return Fate::Received;
        }
        if has(&self.at_container) {
            return Fate::AtContainer;
        }
        if has(&self.at_peer) {
            return Fate::SentBack;
        }
        let [source, port] = packet.ports;
        let answers = self.at_peer.iter().filter_map(|frame| Answer::parse(frame));
        let mut answers = answers.filter(|answer| (answer.from, answer.to) == (port, source));
        match answers.next().map(|answer| answer.flags) {
            Some(flags) if flags & (SYN | ACK) == SYN | ACK => Fate::Accepted,
            Some(flags) if flags & RST != 0 => Fate::Reset,
            Some(flags) if flags & ACK != 0 => Fate::Acknowledged,
            _ => Fate::Nowhere,
        }
    }
}

/// The namespace of the container; removed with this value.
#[derive(Debug)]
struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// The node, its container and its peer.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) node: Node,
    container: Container,
    marker: UdpSocket,
    datagrams: Vec<UdpSocket>,
    /// Packet sockets in the container and at the peer, by protocol: a socket for all protocols would
    /// receive its own frames, too.
    taps: [[Socket; 2]; 2],
}

impl Site {
    /// Sets up the namespaces. The node forwards nothing, and has no guard. Returns `None`, and records
    /// the skip, if this machine cannot.
    pub(super) fn new(test: &str) -> Option<Self> {
        let node = Node::bare(test)?;
        let container = Container(node.namespace().replace("-node", "-behind"));
        ip(&["netns", "add", &container.0]);
        set_up(&node, &container.0);
        let tap = || {
            [0x0800_u16, 0x86dd].map(|ethertype| {
                let protocol = Protocol::from(i32::from(ethertype.to_be()));
                let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol));
                let socket = socket.expect("a packet socket");
                socket.set_nonblocking(true).expect("a flag");
                socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("a buffer");
                socket
            })
        };
        let taps = [inside(&container.0, tap), node.at_peer(tap)];
        let marker = node.at_node(|| datagrams(NODE[0], MARKER_PORT));
        let site = Self { node, container, marker, datagrams: Vec::new(), taps };
        // A device that has just been set up drops frames for a short time.
        site.settle();
        Some(site)
    }

    /// Opens sockets of the node that receive datagrams, of both families.
    pub(super) fn receive_at(&mut self, ports: &[u16]) {
        let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let sockets: Vec<_> = self.node.at_node(|| {
            let of = |address| ports.iter().map(move |port| datagrams(address, *port));
            any.into_iter().flat_map(of).collect()
        });
        self.datagrams.extend(sockets);
    }

    /// Opens a socket of the node that is connected to a peer.
    pub(super) fn receive_from(&mut self, port: u16, peer: SocketAddr) {
        let node = NODE[usize::from(peer.is_ipv6())];
        let socket = self.node.at_node(|| {
            let socket = datagrams(node, port);
            socket.connect(peer).expect("a route");
            socket
        });
        self.datagrams.push(socket);
    }

    /// Opens a listener of the node, which does not block.
    pub(super) fn listen(&self, family: usize, port: u16) -> TcpListener {
        let listener = self.node.at_node(|| TcpListener::bind((NODE[family], port)));
        let listener = listener.expect("a port of the node");
        listener.set_nonblocking(true).expect("a flag");
        listener
    }

    /// Sends a segment that opens a connection, and returns the sequence number of the node's answer.
    /// For a node without a guard.
    pub(super) fn cookie(&self, opening: &Packet) -> u32 {
        self.empty();
        let frames = [opening.frame()];
        self.node.at_peer(|| raw::send("eth0", &frames)).expect("sending");
        let seen = self.observe(&[(opening.clone(), Fate::Accepted)]);
        let answers = seen.at_peer.iter().filter_map(|frame| Answer::parse(frame));
        let answer = answers.into_iter().find(|answer| answer.to == opening.ports[0]);
        answer.filter(|answer| answer.opens()).expect("an answer").sequence
    }

    /// Starts the daemon with a policy, and waits until the policy is in force.
    pub(super) fn guard(&mut self, mode: &str, policy: &str) {
        self.node.write("policy.yaml", policy);
        self.node.start(&["--mode", mode]);
        let status = self.node.wait("enforcing", enforcing);
        assert_eq!(status["interfaces"][0]["mode"], mode, "{status}");
    }

    /// Changes the policy, and waits until it is in force.
    pub(super) fn change(&self, policy: &str) {
        let before = self.node.status().expect("a status")["policy_hash"].clone();
        self.node.write("policy.yaml", policy);
        self.node.wait("followed", |status| {
            status["policy_hash"] != before && status["enforcing"] == true
        });
    }

    /// Changes a setting of the node's network stack, such as `ipv4/ip_forward`.
    pub(super) fn set(&self, setting: &str, value: &str) {
        self.node.at_node(|| set(setting, value));
    }

    /// Changes whether the node forwards packets of both families.
    pub(super) fn forward(&self, value: &str) {
        self.set("ipv4/ip_forward", value);
        self.set("ipv6/conf/all/forwarding", value);
    }

    /// Runs a closure on a thread inside the container.
    pub(super) fn at_container<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.container.0, work)
    }

    /// Returns the maps with the node's state, which the daemon writes.
    pub(super) fn maps(&self) -> NodeMaps {
        NodeMaps::open(&self.node.own_pins()).expect("the maps of the node")
    }

    /// Waits until the maps of the node's state satisfy a condition.
    pub(super) fn wait_for_maps(&self, what: &str, wanted: impl Fn(&NodeMaps) -> bool) {
        let (maps, deadline) = (self.maps(), Instant::now() + WAIT_TIMEOUT);
        while !wanted(&maps) {
            assert!(Instant::now() < deadline, "{what}: {:?} {}", maps.state(), self.node.log());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the programs know whether packets count as forwarded, by family.
    pub(super) fn wait_for_forwarding(&self, what: &str, families: [bool; 2]) {
        self.wait_for_maps(what, |maps| {
            let flags = maps.state().expect("the state").flags;
            [NodeState::FORWARDS_IPV4, NodeState::FORWARDS_IPV6].map(|flag| flags & flag != 0)
                == families
        });
    }

    /// Sends packets, and asserts where each gets to, and which counters move by how much. All others
    /// must not move.
    pub(super) fn check(&self, what: &str, sent: &[(Packet, Fate)], moved: &[(&str, &str, u64)]) {
        let frames: Vec<_> = sent.iter().map(|(packet, _)| packet.frame()).collect();
        self.check_frames(what, &frames, sent, moved);
    }

    /// As [`Self::check`], with other frames than those of the packets.
    pub(super) fn check_frames(
        &self,
        what: &str,
        frames: &[Vec<u8>],
        sent: &[(Packet, Fate)],
        moved: &[(&str, &str, u64)],
    ) {
        // The marker comes in addition.
        let mut moved = moved.to_vec();
        match moved.iter_mut().find(|(owner, reason, _)| (*owner, *reason) == ("node", "unguarded"))
        {
            Some((_, _, count)) => *count += 1,
            None => moved.push(("node", "unguarded", 1)),
        }
        self.empty();
        let seen = self.counted(what, &moved, || {
            let accepted = self.node.at_peer(|| raw::send("eth0", frames)).expect("sending");
            assert_eq!(accepted, frames.len(), "{what}: the device is full");
            // Frames are processed in order, so what has not arrived when the marker has, never will.
            self.send_marker();
            self.wait_for_marker();
            self.observe(sent)
        });
        for (packet, fate) in sent {
            if *fate != Fate::Unseen {
                assert_eq!(seen.fate(packet), *fate, "{what}: {packet:?} {}", self.node.log());
            }
        }
    }

    /// Runs a closure, and asserts which counters it moves by how much.
    pub(super) fn counted<T>(
        &self,
        what: &str,
        moved: &[(&str, &str, u64)],
        work: impl FnOnce() -> T,
    ) -> T {
        let before = self.counts();
        let result = work();
        let wanted: Counts = moved
            .iter()
            .filter(|(_, _, count)| *count > 0)
            .map(|(owner, reason, count)| (((*owner).to_owned(), (*reason).to_owned()), *count))
            .collect();
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let mut now = self.counts();
            now.retain(|key, count| {
                *count -= before.get(key).copied().unwrap_or(0);
                *count > 0
            });
            for (key, count) in &wanted {
                if *count == SOME
                    && let Some(found) = now.get_mut(key)
                {
                    *found = SOME;
                }
            }
            if now == wanted {
                return result;
            }
            // Waiting helps only as long as packets are still to be counted.
            let is_wrong = now.iter().any(|(key, count)| {
                wanted.get(key).is_none_or(|wanted| *wanted != SOME && count > wanted)
            });
            assert!(
                !is_wrong && Instant::now() < deadline,
                "{what}: counted {now:?}, expected {wanted:?} {}",
                self.node.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns all counts; without a daemon, none.
    fn counts(&self) -> Counts {
        let Ok(stats) = self.node.client().stats() else { return Counts::new() };
        let mut counts = Counts::new();
        let mut of_node: BTreeMap<String, u64> =
            stats.reasons.iter().map(|(name, stats)| (name.clone(), stats.packets)).collect();
        for service in &stats.services {
            for (reason, count) in &service.reasons {
                *of_node.get_mut(reason).expect("a reason of the list") -= count;
                counts.insert((service.name.clone(), reason.clone()), *count);
            }
        }
        counts.extend(of_node.into_iter().map(|(name, n)| (("node".to_owned(), name), n)));
        counts
    }

    /// Waits until the daemon has an event whose line has these parts.
    pub(super) fn wait_for_event(&self, parts: &[&str]) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let output = self.node.trainguard(&["events"]).output().expect("events");
            let events = String::from_utf8_lossy(&output.stdout);
            if events.lines().any(|line| parts.iter().all(|part| line.contains(part))) {
                return;
            }
            assert!(Instant::now() < deadline, "no event with {parts:?}: {events}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the result of `doctor` for a check.
    pub(super) fn diagnosis(&self, id: &str) -> Value {
        let manifest = self.node.path("cluster.yaml");
        let manifest = manifest.to_str().expect("a path");
        let args = ["doctor", "--manifest", manifest, "--node", "node", "--format", "json"];
        let output = self.node.trainguard(&args).output().expect("running trainguard");
        let diagnosis: Value = serde_json::from_slice(&output.stdout).expect("a diagnosis");
        let checks = diagnosis["checks"].as_array().expect("checks");
        let check = checks.iter().find(|check| check["id"] == id);
        check.unwrap_or_else(|| panic!("no check `{id}`: {diagnosis}")).clone()
    }

    /// Reads from all sockets until each packet that must arrive has.
    fn observe(&self, sent: &[(Packet, Fate)]) -> Seen {
        let mut seen = Seen::default();
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            self.read(&mut seen);
            let waits_for = |fate: &Fate| ![Fate::Nowhere, Fate::Unseen].contains(fate);
            let missing = sent
                .iter()
                .filter(|(packet, fate)| waits_for(fate) && seen.fate(packet) == Fate::Nowhere);
            // A fault that drops a packet would otherwise take the whole timeout.
            let patience = Duration::from_secs(3);
            if missing.count() == 0 || Instant::now() + WAIT_TIMEOUT > deadline + patience {
                return seen;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn read(&self, seen: &mut Seen) {
        let mut buffer = vec![0; 1 << 16];
        for socket in &self.datagrams {
            while let Ok(len) = socket.recv(&mut buffer) {
                seen.received.push(buffer[..len].to_vec());
            }
        }
        let [container, peer] = &self.taps;
        for (taps, frames) in [(container, &mut seen.at_container), (peer, &mut seen.at_peer)] {
            for mut tap in taps {
                loop {
                    match tap.read(&mut buffer) {
                        Ok(len) => frames.push(buffer[..len].to_vec()),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => panic!("receiving: {error}"),
                    }
                }
            }
        }
    }

    /// Discards what has arrived so far.
    fn empty(&self) {
        self.read(&mut Seen::default());
    }

    fn send_marker(&self) {
        let marker = udp(STRANGER[0], NODE[0], MARKER_PORT).frame();
        self.node.at_peer(|| raw::send("eth0", &[marker])).expect("sending");
    }

    fn wait_for_marker(&self) {
        self.marker.recv(&mut [0; 64]).expect("the marker arrives");
    }

    /// Waits until the cable carries frames.
    fn settle(&self) {
        let wait = Some(Duration::from_millis(20));
        self.marker.set_nonblocking(false).expect("a flag");
        self.marker.set_read_timeout(wait).expect("a time limit");
        let deadline = Instant::now() + WAIT_TIMEOUT;
        self.send_marker();
        while self.marker.recv(&mut [0; 64]).is_err() {
            assert!(Instant::now() < deadline, "no frame comes through");
            self.send_marker();
        }
        while self.marker.recv(&mut [0; 64]).is_ok() {}
        self.marker.set_read_timeout(Some(WAIT_TIMEOUT)).expect("a time limit");
    }
}

/// Waits until the TCP sockets of this thread's namespace with a local port have these states, as
/// `/proc/net/tcp` shows them, listeners left out. All earlier segments have arrived then.
pub(super) fn wait_for_tcp(port: u16, states: &[&str]) {
    let port = format!(":{port:04X}");
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let tables = ["tcp", "tcp6"].map(|file| {
            fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("the sockets")
        });
        let lines = tables.iter().flat_map(|table| table.lines().skip(1));
        let found: Vec<&str> = lines
            .filter_map(|line| {
                // Number, local address, remote address, state.
                let mut fields = line.split_whitespace().skip(1);
                let is_local = fields.next()?.ends_with(&port);
                fields.nth(1).filter(|state| is_local && *state != LISTEN)
            })
            .collect();
        if found == states {
            return;
        }
        assert!(Instant::now() < deadline, "port {port}: {found:?}, expected {states:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns a policy with these services.
pub(super) fn policy(services: &[String]) -> String {
    let head = "apiVersion: trainguard/v1\nkind: Policy\nname: test\nservices:\n";
    format!("{head}{}", services.concat())
}

/// Returns a service of the node that enforces. `more` are further fields, in one line.
pub(super) fn service(name: &str, ports: &str, matching: &str, allow: &str, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!("    {more}\n") };
    format!(
        "  - name: {name}\n    roles: [scheduler]\n    ports: [{ports}]\n    match: {matching}\n    \
         allow: {{ {allow} }}\n    mode: enforce\n{more}"
    )
}

/// The field `allow` of a service for members.
pub(super) const MEMBERS: &str = "roles: [worker]";

/// Changes a setting of this thread's namespace.
fn set(setting: &str, value: &str) {
    let path = format!("/proc/sys/net/{setting}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Opens a socket for datagrams, which does not block.
fn datagrams(address: IpAddr, port: u16) -> UdpSocket {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(address, port)),
        Type::DGRAM,
        Some(Protocol::UDP),
    );
    let socket = socket.expect("a socket");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("a flag");
    }
    socket.set_nonblocking(true).expect("a flag");
    socket.bind(&SocketAddr::new(address, port).into()).expect("a port of the node");
    socket.into()
}

/// Configures devices, addresses, routes and neighbours.
fn set_up(node: &Node, container: &str) {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let (node_mac, peer_mac) = (mac(NODE_MAC), mac(SENDER_MAC));
    let (behind_mac, container_mac) = ("02:aa:00:00:00:14", "02:aa:00:00:00:15");
    let (here, peer) = (node.namespace(), node.peer());
    for namespace in [here, peer, container] {
        inside(namespace, || {
            for which in ["all", "default"] {
                set(&format!("ipv4/conf/{which}/rp_filter"), "0");
                set(&format!("ipv6/conf/{which}/accept_dad"), "0");
                // No link-local address, and none of its group reports and router solicitations.
                set(&format!("ipv6/conf/{which}/addr_gen_mode"), "1");
            }
        });
    }
    node.add_link("eth0");
    let add = ["link", "add", "behind", "type", "veth", "peer", "name", "eth0", "netns", container];
    node.ip(&add);
    let [mut at_node, mut at_peer, mut behind] = [(); 3].map(|()| Batch::default());
    at_node.line(&format!("link set eth0 address {node_mac} up"));
    at_node.line(&format!("link set behind address {behind_mac} up"));
    at_peer.line(&format!("link set eth0 address {peer_mac} up"));
    behind.line(&format!("link set eth0 address {container_mac} up"));
    behind.line("link set lo up");
    for family in 0..2 {
        let [net, host] = [[24, 32], [64, 128]][family];
        let [our, ours_behind] = [NODE[family], NODE_BEHIND[family]];
        at_node.line(&format!("addr add {our}/{net} dev eth0"));
        at_node.line(&format!("addr add {ours_behind}/{net} dev behind"));
        behind.line(&format!("addr add {}/{net} dev eth0", CONTAINER[family]));
        // On its device, the peer would report the groups of IPv6 addresses.
        for address in [MEMBER[family], UNLISTED[family]] {
            at_peer.line(&format!("addr add {address}/{host} dev lo"));
        }
        for address in [MEMBER, MEMBER_TOO, UNLISTED, STRANGER, ROUTER].map(|pair| pair[family]) {
            at_node.line(&format!("neigh replace {address} lladdr {peer_mac} dev eth0"));
        }
        let container = CONTAINER[family];
        at_node.line(&format!("neigh replace {container} lladdr {container_mac} dev behind"));
        behind.line(&format!("neigh replace {ours_behind} lladdr {behind_mac} dev eth0"));
        at_peer.line(&format!("neigh replace {our} lladdr {node_mac} dev eth0"));
        behind.line(&format!("route add default via {ours_behind}"));
        at_peer.line(&format!("route add {our} dev eth0"));
        at_peer.line(&format!("route add default via {our} dev eth0"));
    }
    at_node.run(node, here);
    at_peer.run(node, peer);
    behind.run(node, container);
}

/// Commands of `ip` that one process executes.
#[derive(Debug, Default)]
struct Batch(String);

impl Batch {
    fn line(&mut self, line: &str) {
        self.0 += line;
        self.0.push('\n');
    }

    fn run(&self, node: &Node, namespace: &str) {
        node.write("batch", &self.0);
        let path = node.path("batch");
        ip(&["-n", namespace, "-batch", path.to_str().expect("a path")]);
    }
}
