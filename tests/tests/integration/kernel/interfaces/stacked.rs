//! Stacked devices, while a member and an attacker send: a bond whose ports are added and removed, and a
//! VLAN device on a card. Wherever the guard is, the member gets in, the attacker does not, and each
//! frame is counted at the interface that decided.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use guard_tests::{
    node::{
        MANIFEST, MEMBER, NODE, Node, PORT, UNLISTED, WAIT_TIMEOUT, enforcing, inside, modes, moved,
    },
    raw, skip, text,
};
use serde_json::{Value, json};

/// Datagrams of each sender that are counted one by one. At the MTU of training clusters each takes a
/// page of the socket's buffer, which has room for about fifty.
const DATAGRAMS: u64 = 40;

/// Returns the mode that `auto` takes where the device does not support native XDP.
fn after_native() -> &'static str {
    if modes().contains(&"tcx") { "tcx" } else { "generic" }
}

/// Runs `ip` in the namespaces of node and peer.
fn at_both(node: &Node, args: &[&str]) {
    for namespace in [node.namespace(), node.peer()] {
        let output = Command::new("ip").args(["-n", namespace]).args(args).output().expect("ip");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {}: {stderr}", args.join(" "));
    }
}

/// Reports whether the kernel can create devices of a kind; if not, records the skip of the test.
fn can_create(node: &Node, test: &str, module: &str, args: &[&str]) -> bool {
    let add = ["-n", node.namespace(), "link", "add", "try0"];
    let output = Command::new("ip").args(add).args(args).output().expect("ip");
    if output.status.success() {
        node.ip(&["link", "del", "try0"]);
        return true;
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("Unknown device type") || stderr.contains("not supported"), "{stderr}");
    skip::skip(test, &format!("no {module} module"));
    false
}

/// Creates a node where `eth0` is a bond of `m0` and `m1` on both sides. The bond sends frames round
/// robin, so both ports carry traffic.
fn bond(test: &str) -> Option<Node> {
    let node = Node::bare(test)?;
    let kind = ["type", "bond", "mode", "balance-rr", "miimon", "50"];
    if !can_create(&node, test, "bonding", &kind) {
        return None;
    }
    at_both(&node, &[&["link", "add", "eth0", "mtu", "9000"], &kind[..]].concat());
    at_both(&node, &["link", "set", "eth0", "up"]);
    for port in ["m0", "m1"] {
        node.add_link(port);
        add_port(&node, port);
    }
    node.add_addresses();
    Some(node)
}

/// Adds both ends of a cable to the bonds.
fn add_port(node: &Node, port: &str) {
    at_both(node, &["link", "set", port, "down"]);
    at_both(node, &["link", "set", port, "master", "eth0"]);
}

/// Creates a node where `eth0` is VLAN 5 on `card`, on both sides.
fn vlan(test: &str) -> Option<Node> {
    let node = Node::bare(test)?;
    node.add_link("card");
    let kind = ["link", "card", "type", "vlan", "id", "6"];
    if !can_create(&node, test, "8021q", &kind) {
        return None;
    }
    at_both(&node, &["link", "add", "link", "card", "name", "eth0", "type", "vlan", "id", "5"]);
    at_both(&node, &["link", "set", "eth0", "up"]);
    node.add_addresses();
    Some(node)
}

fn guard_interfaces(node: &Node, patterns: &str) {
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", patterns));
}

fn modes_of(status: &Value) -> BTreeMap<String, String> {
    let interfaces = status["interfaces"].as_array().into_iter().flatten();
    let guarded = interfaces.filter(|interface| interface["state"] == "guarded");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    guarded.map(|interface| (text(&interface["name"]), text(&interface["mode"]))).collect()
}

fn names<const N: usize>(names: [&str; N], mode: &str) -> BTreeMap<String, String> {
    names.into_iter().map(|name| (name.to_owned(), mode.to_owned())).collect()
}

/// Frames passed and dropped, by interface.
type ByInterface = BTreeMap<String, (u64, u64)>;

/// Returns the increase since `before`.
fn by_interface(before: &Value, after: &Value) -> ByInterface {
    let of = |stats: &Value| -> ByInterface {
        let count = |entry: &Value, what: &str| entry[what].as_u64().expect("a count");
        let all = stats["interfaces"].as_array().into_iter().flatten();
        all.map(|entry| {
            let name = entry["name"].as_str().expect("a name").to_owned();
            (name, (count(entry, "passed"), count(entry, "dropped")))
        })
        .collect()
    };
    let before = of(before);
    let mut moved = of(after);
    for (name, (passed, dropped)) in &mut moved {
        let (passed_before, dropped_before) = before.get(name).copied().unwrap_or_default();
        (*passed, *dropped) = (*passed - passed_before, *dropped - dropped_before);
    }
    moved
}

/// A socket of the node that checks which sender's datagrams arrive.
struct Listener<'n> {
    node: &'n Node,
    socket: UdpSocket,
    /// The mode and the guarded interfaces, for messages.
    what: String,
}

impl<'n> Listener<'n> {
    fn new(node: &'n Node, what: String) -> Self {
        let socket = node.at_node(|| UdpSocket::bind((NODE[0], PORT)).expect("a port"));
        socket.set_nonblocking(true).expect("not blocking");
        Self { node, socket, what }
    }

    /// Returns how many datagrams of the member have arrived since the last call. None may come from an
    /// attacker.
    fn members(&self, when: &str) -> u64 {
        let (mut buffer, mut count) = ([0; 16], 0);
        while let Ok((_, from)) = self.socket.recv_from(&mut buffer) {
            let Self { what, node, .. } = self;
            assert_eq!(
                from.ip(),
                MEMBER[0],
                "{what}: an unlisted source got in {when}: {}",
                node.log()
            );
            count += 1;
        }
        count
    }

    /// Asserts, while both send, that the member gets in, that the attacker is refused, and that the
    /// status is right.
    fn assert_works(&self, when: &str) {
        let Self { node, what, .. } = self;
        let (refused, mut arrived) = (node.packets("not_allowed"), 0);
        // Discard earlier datagrams.
        self.members(when);
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while arrived < 20 || node.packets("not_allowed") < refused + 20 {
            assert!(Instant::now() < deadline, "{what}: {arrived} arrived {when}: {}", node.log());
            thread::sleep(Duration::from_millis(50));
            arrived += self.members(when);
        }
        let status = node.status().expect("a status");
        assert_eq!(status["enforcing"], true, "{what}, {when}: {status}");
    }

    /// Makes both send a number of datagrams, one by one. Returns the counts by reason, and those by
    /// interface, passed and dropped.
    fn count_exactly(&self) -> (Vec<(String, u64)>, ByInterface) {
        let Self { node, what, .. } = self;
        thread::sleep(Duration::from_millis(300));
        self.members("before");
        let before = node.stats();
        node.at_peer(|| {
            for from in [MEMBER[0], UNLISTED[0]] {
                let socket = UdpSocket::bind((from, 0)).expect("an address of the peer");
                for _ in 0..DATAGRAMS {
                    socket.send_to(b"counted", (NODE[0], PORT)).expect("sending");
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        thread::sleep(Duration::from_millis(500));
        assert_eq!(self.members("when counted"), DATAGRAMS, "{what}");
        let after = node.stats();
        (moved(&before, &after), by_interface(&before, &after))
    }
}

/// Lets the member and the attacker send while a closure runs.
fn while_sending(listener: &Listener<'_>, work: impl FnOnce()) {
    let (stop, peer) = (AtomicBool::new(false), listener.node.peer().to_owned());
    thread::scope(|scope| {
        scope.spawn(|| {
            inside(&peer, || {
                let sockets = [MEMBER[0], UNLISTED[0]]
                    .map(|from| UdpSocket::bind((from, 0)).expect("an address of the peer"));
                while !stop.load(Ordering::Relaxed) {
                    for socket in &sockets {
                        // The device may be unavailable at the moment.
                        let _ = socket.send_to(b"sent", SocketAddr::new(NODE[0], PORT));
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Replaces every port of the bond while both send. `added` is called when a device exists and is not
/// yet a port.
fn swap(listener: &Listener<'_>, added: impl Fn(&str)) {
    let node = listener.node;
    while_sending(listener, || {
        listener.assert_works("at first");
        node.add_link("m2");
        added("m2");
        add_port(node, "m2");
        listener.assert_works("with a third port");
        for port in ["m0", "m1"] {
            // Set it down first: outside of the bond it is an interface of its own that still has the
            // bond's Ethernet address, and Linux accepts packets for any local address on any interface.
            at_both(node, &["link", "set", port, "down"]);
            at_both(node, &["link", "set", port, "nomaster"]);
            listener.assert_works("without a port");
            node.ip(&["link", "del", port]);
            listener.assert_works("without its device");
        }
        node.add_link("m3");
        added("m3");
        add_port(node, "m3");
        // Without removing it from the bond, as when a card is pulled.
        node.ip(&["link", "del", "m2"]);
        listener.assert_works("with another port than at first");
        node.add_link("m4");
        added("m4");
        add_port(node, "m4");
        listener.assert_works("with two other ports");
    });
}

fn reasons(allowed: u64, refused: u64) -> Vec<(String, u64)> {
    vec![("allowed".to_owned(), allowed), ("not_allowed".to_owned(), refused)]
}

/// Case 78: in the driver the program runs on the ports, to which the bond passes it; the stack's hooks
/// run on the bond. All counts are the bond's.
#[test]
fn a_bond_stays_guarded_while_its_ports_change() {
    for mode in modes() {
        let Some(mut node) = bond("stacked/bond") else { return };
        node.start(&["--mode", mode]);
        let status = node.wait("enforcing", enforcing);
        assert_eq!(modes_of(&status), names(["eth0"], mode), "{status}");
        assert_eq!(status["problems"], json!([]), "{mode}");
        assert_eq!(status["unguarded"], json!([]), "{mode}: its ports are guarded by it");
        let listener = Listener::new(&node, format!("bond, {mode}"));
        swap(&listener, |_| {});
        let (by_reason, by_interface) = listener.count_exactly();
        assert_eq!(by_reason, reasons(DATAGRAMS, DATAGRAMS), "{mode}");
        // ARP and similar traffic passes as well.
        let others = by_interface.iter().filter(|(name, _)| *name != "eth0");
        assert!(others.clone().all(|(_, counts)| *counts == (0, 0)), "{mode}: {by_interface:?}");
        assert_eq!(by_interface["eth0"].1, DATAGRAMS, "{mode}: {by_interface:?}");
        assert!(by_interface["eth0"].0 >= DATAGRAMS, "{mode}: {by_interface:?}");
        assert_eq!(node.status().expect("a status")["generation"], 1);
    }
}

/// Case 78, the other way round: each port has its own guard before it is added to the bond.
#[test]
fn each_port_of_a_bond_is_guarded() {
    for mode in modes() {
        let Some(mut node) = bond("stacked/ports") else { return };
        guard_interfaces(&node, "[\"m*\"]");
        node.start(&["--mode", mode]);
        let status = node.wait("enforcing", enforcing);
        assert_eq!(modes_of(&status), names(["m0", "m1"], mode), "{status}");
        assert_eq!(status["problems"], json!([]), "{mode}");
        assert_eq!(status["unguarded"], json!([]), "{mode}: the bond is guarded by its ports");
        let listener = Listener::new(&node, format!("ports, {mode}"));
        swap(&listener, |port| {
            node.wait("guarded", |status| {
                modes_of(status).get(port).is_some_and(|has| has == mode)
            });
        });
        let (by_reason, by_interface) = listener.count_exactly();
        assert_eq!(by_reason, reasons(DATAGRAMS, DATAGRAMS), "{mode}");
        // The bond distributes the frames.
        let dropped = ["m3", "m4"].map(|port| by_interface[port].1);
        assert_eq!(dropped.iter().sum::<u64>(), DATAGRAMS, "{mode}: {by_interface:?}");
        assert!(dropped.iter().all(|count| *count >= DATAGRAMS / 3), "{mode}: {by_interface:?}");
    }
}

/// Returns the Ethernet address of the node.
fn address(node: &Node) -> Vec<u8> {
    let show = ["-n", node.namespace(), "-brief", "link", "show", "eth0"];
    let output = Command::new("ip").args(show).output().expect("ip");
    let stdout = String::from_utf8(output.stdout).expect("text");
    let address = stdout.split_whitespace().nth(2).expect("an address");
    address.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect()
}

/// Returns how many of an attacker's frames get in by a port while it is being added, with the cable
/// full of them.
fn got_in_by_a_new_port(node: &Node, port: &str, added: impl FnOnce()) -> usize {
    let listener = node.at_node(|| UdpSocket::bind((NODE[0], PORT)).expect("a port"));
    listener.set_nonblocking(true).expect("not blocking");
    node.add_link(port);
    added();
    let mut frame =
        text::frame("ipv4 from=10.77.0.99 to=10.77.0.10 / udp to=9091").expect("a frame");
    frame[..6].copy_from_slice(&address(node));
    let (stop, peer) = (AtomicBool::new(false), node.peer().to_owned());
    let frames = vec![frame; 64];
    thread::scope(|scope| {
        scope.spawn(|| {
            inside(&peer, || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = raw::send(port, &frames);
                }
            });
        });
        thread::sleep(Duration::from_millis(100));
        node.ip(&["link", "set", port, "down"]);
        node.ip(&["link", "set", port, "master", "eth0"]);
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
    });
    let mut count = 0;
    while listener.recv(&mut [0; 16]).is_ok() {
        count += 1;
    }
    count
}

/// Case 78: with the stack's hooks on the bond, and with a guard on each port, a port admits no frame of
/// an attacker from its first one on. In the driver, the bond passes its program to a port only after
/// frames can arrive (`bond_enslave`, `drivers/net/bonding/bond_main.c`), so a guard on the bond in
/// native mode is not tested here.
#[test]
fn a_port_is_guarded_from_its_first_frame() {
    for mode in modes() {
        for patterns in ["[eth0]", "[\"m*\"]"] {
            let on_bond = patterns == "[eth0]";
            if on_bond && *mode == "native" {
                continue;
            }
            let Some(mut node) = bond("stacked/new-port") else { return };
            guard_interfaces(&node, patterns);
            node.start(&["--mode", mode]);
            node.wait("enforcing", enforcing);
            for port in ["m2", "m3", "m4"] {
                let before = node.packets("not_allowed");
                let count = got_in_by_a_new_port(&node, port, || {
                    if !on_bond {
                        node.wait("guarded", |status| modes_of(status).contains_key(port));
                    }
                });
                assert_eq!(count, 0, "{mode}, {patterns}, {port}: {}", node.log());
                assert!(node.packets("not_allowed") - before > 100, "{mode}, {patterns}: no flood");
            }
        }
    }
}

/// Case 78: the kernel accepts XDP programs either on a bond or on its ports. A configuration with both
/// gets an error that names the conflicting interfaces, and guarded interfaces stay guarded.
#[test]
fn guarding_a_bond_and_its_ports_in_the_driver_is_an_error() {
    for patterns in ["[eth0, \"m*\"]", "[\"m*\", eth0]"] {
        let Some(mut node) = bond("stacked/both") else { return };
        guard_interfaces(&node, patterns);
        node.start(&["--mode", "native"]);
        let status = node.wait("decided", |status| {
            status["interfaces"].as_array().is_some_and(|all| all.len() == 3)
        });
        let first = if patterns.starts_with("[eth0") { &["eth0"][..] } else { &["m0", "m1"] };
        let guarded: Vec<String> = modes_of(&status).into_keys().collect();
        assert_eq!(guarded, first, "{status}");
        let problems = status["problems"].to_string();
        assert!(problems.contains("bond") && problems.contains("port"), "{problems}");
        node.assert_guarded();
    }
}

/// Case 79: a tagged frame reaches the card before the VLAN device. With a guard on the card it is
/// decided once; with guards on both, frames that the card passes are decided and counted by the VLAN
/// device, too.
#[test]
fn a_vlan_device_and_the_card_below_it() {
    let both = BTreeMap::from([
        ("card".to_owned(), "native".to_owned()),
        ("eth0".to_owned(), after_native().to_owned()),
    ]);
    let cases = [
        ("[card]", names(["card"], "native"), [("card", DATAGRAMS)], DATAGRAMS),
        ("[eth0]", names(["eth0"], after_native()), [("eth0", DATAGRAMS)], DATAGRAMS),
        ("[card, eth0]", both.clone(), [("card", DATAGRAMS)], 2 * DATAGRAMS),
        ("[eth0, card]", both, [("card", DATAGRAMS)], 2 * DATAGRAMS),
    ];
    for (patterns, expected, dropped, allowed) in cases {
        let Some(mut node) = vlan("stacked/vlan") else { return };
        guard_interfaces(&node, patterns);
        node.start(&["--mode", "auto"]);
        let status = node.wait("enforcing", enforcing);
        assert_eq!(modes_of(&status), expected, "{patterns}: {status}");
        // With a guard on the VLAN device alone, other frames of the card are not guarded.
        let bare = if patterns == "[eth0]" { json!(["card"]) } else { json!([]) };
        assert_eq!(status["unguarded"], bare, "{patterns}");
        let listener = Listener::new(&node, format!("VLAN, {patterns}"));
        while_sending(&listener, || listener.assert_works("at first"));
        let (by_reason, by_interface) = listener.count_exactly();
        assert_eq!(by_reason, reasons(allowed, DATAGRAMS), "{patterns}");
        for (name, (_, count)) in &by_interface {
            let expected = dropped.iter().find(|(dropper, _)| dropper == name);
            assert_eq!(*count, expected.map_or(0, |(_, count)| *count), "{by_interface:?}");
        }
    }
}
