//! Interfaces through all their states while an attacker sends: none of the datagrams arrives as long as
//! the interface is guarded, and the counters show that they were received.

use std::{
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{
    MANIFEST, MEMBER, NODE, Node, PORT, UNLISTED, WAIT_TIMEOUT, enforcing, inside,
};
use serde_json::{Value, json};

/// Modes to test, one for each hook.
const MODES: [&str; 2] = ["native", "tcx"];

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {stderr}", args.join(" "));
}

/// An attacker that sends until the work is done, and the socket that must receive nothing.
struct Attack<'n> {
    node: &'n Node,
    listener: UdpSocket,
    mode: &'static str,
}

/// Lets an attacker send while a closure runs.
fn under_attack(node: &Node, mode: &'static str, work: impl FnOnce(&Attack<'_>)) {
    let listener = node.at_node(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("a port"));
    listener.set_nonblocking(true).expect("not blocking");
    let (stop, peer) = (AtomicBool::new(false), node.peer().to_owned());
    thread::scope(|scope| {
        scope.spawn(|| {
            inside(&peer, || {
                let socket = UdpSocket::bind((UNLISTED[0], 0)).expect("an address of the peer");
                while !stop.load(Ordering::Relaxed) {
                    // The node may be unreachable at the moment.
                    let _ = socket.send_to(b"probe", (NODE[0], PORT));
                    thread::sleep(Duration::from_millis(1));
                }
            });
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            work(&Attack { node, listener, mode });
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Attack<'_> {
    /// Asserts that datagrams are counted as refused, that none has arrived so far, and that the status
    /// says so.
    fn assert_refused(&self, when: &str) {
        self.assert_dropped(when);
        let status = self.node.status().expect("a status");
        assert_eq!(status["enforcing"], true, "{}, {when}: {status}", self.mode);
    }

    /// Asserts that datagrams are counted as refused and that none has arrived so far.
    fn assert_dropped(&self, when: &str) {
        let Self { node, mode, .. } = self;
        let before = node.packets("not_allowed");
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while node.packets("not_allowed") < before + 20 {
            assert!(
                Instant::now() < deadline,
                "{mode}: no datagrams are refused {when}: {}",
                node.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        self.assert_nothing_arrived(when);
    }

    fn assert_nothing_arrived(&self, when: &str) {
        let mut buffer = [0; 16];
        let arrived = self.listener.recv(&mut buffer);
        assert!(
            arrived.is_err(),
            "{}: a datagram of the attacker arrived {when}: {}",
            self.mode,
            self.node.log()
        );
    }

    /// Flushes the peer's neighbour table.
    fn forget_neighbours(&self) {
        self.node.forget_neighbours();
    }
}

fn guarded<'a>(name: &'a str, mode: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |status: &Value| {
        status["interfaces"].as_array().into_iter().flatten().any(|interface| {
            interface["name"] == name
                && interface["state"] == "guarded"
                && interface["mode"] == mode
        })
    }
}

/// Cases 86 and 100: the interface is set down and up, and gets another Ethernet address, MTU and name.
#[test]
fn an_interface_stays_guarded_through_its_life() {
    for mode in MODES {
        let Some(mut node) = Node::new("interface_lifecycle/states") else { return };
        node.start(&["--mode", mode]);
        node.wait("enforcing", enforcing);
        under_attack(&node, mode, |attack| {
            attack.assert_refused("at first");
            node.ip(&["link", "set", "eth0", "down"]);
            node.ip(&["link", "set", "eth0", "up"]);
            attack.assert_refused("after down and up");
            node.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:07"]);
            attack.forget_neighbours();
            attack.assert_refused("with another address");
            for mtu in ["1500", "9000", "1280", "9000"] {
                node.ip(&["link", "set", "eth0", "mtu", mtu]);
                attack.assert_refused("with another MTU");
            }
            node.ip(&["link", "set", "eth0", "down"]);
            node.ip(&["link", "set", "eth0", "name", "gx"]);
            node.ip(&["link", "set", "gx", "up"]);
            node.wait("aware of the name", guarded("gx", mode));
            attack.assert_refused("with another name");
            node.ip(&["link", "set", "gx", "down"]);
            node.ip(&["link", "set", "gx", "name", "eth0"]);
            node.ip(&["link", "set", "eth0", "up"]);
            node.wait("aware of the name", guarded("eth0", mode));
            attack.assert_refused("with its own name");
        });
        assert_eq!(node.status().expect("a status")["generation"], 1);
        assert!(node.answers(MEMBER[0], PORT), "{mode}: {}", node.log());
    }
}

/// Case 100: an interface that moves to another network namespace takes its guard along; when it
/// returns, it is guarded before it has an address again.
#[test]
fn an_interface_comes_back_from_another_namespace() {
    for mode in MODES {
        let Some(mut node) = Node::new("interface_lifecycle/namespace") else { return };
        node.add_link("eth1");
        node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, eth1]"));
        node.start(&["--mode", mode, "--timing", "look=200ms"]);
        node.wait("enforcing", enforcing);
        let elsewhere = format!("{}-else", node.peer());
        ip(&["netns", "add", &elsewhere]);
        for stays in [false, true] {
            node.ip(&["link", "set", "eth0", "netns", &elsewhere]);
            if stays {
                node.wait("gone", |status| !guarded("eth0", mode)(status));
                // Long enough for several checks of the interfaces.
                thread::sleep(Duration::from_secs(1));
            }
            ip(&["-n", &elsewhere, "link", "set", "eth0", "netns", node.namespace()]);
            node.wait("guarded again", guarded("eth0", mode));
            under_attack(&node, mode, |attack| {
                node.ip(&["addr", "add", &format!("{}/24", NODE[0]), "dev", "eth0"]);
                node.ip(&["link", "set", "eth0", "up"]);
                attack.assert_refused("after coming back");
            });
        }
        ip(&["netns", "del", &elsewhere]);
    }
}

/// Case 99: an interface is recreated, as when a driver is reloaded. The dead pin is replaced.
#[test]
fn a_recreated_interface_is_guarded_again() {
    for mode in MODES {
        let Some(mut node) = Node::new("interface_lifecycle/recreated") else { return };
        node.add_link("keep0");
        node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[\"eth*\", keep0]"));
        node.start(&["--mode", mode]);
        node.wait("enforcing", enforcing);
        for _ in 0..3 {
            node.ip(&["link", "del", "eth0"]);
            node.wait("gone", |status| !guarded("eth0", mode)(status));
            node.add_link("eth0");
            node.wait("guarded again", guarded("eth0", mode));
            node.add_addresses();
            under_attack(&node, mode, |attack| attack.assert_refused("after it was recreated"));
        }
        let status = node.status().expect("a status");
        assert_eq!(status["problems"], json!([]), "{status}");
    }
}

/// Cases 76 and 77: an interface that appears with an address and matches no pattern is reported in the
/// status and as an event.
#[test]
fn an_unguarded_interface_is_reported() {
    let Some(mut node) = Node::new("interface_lifecycle/unguarded") else { return };
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["unguarded"], json!([]));
    node.add_link("cni0");
    node.ip(&["addr", "add", "10.88.0.1/24", "dev", "cni0"]);
    node.wait("reported", |status| status["unguarded"] == json!(["cni0"]));
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let output = node.trainguard(&["events", "--format", "json"]).output().expect("events");
        let events = String::from_utf8_lossy(&output.stdout).into_owned();
        if events.lines().any(|line| line.contains("\"unguarded\"") && line.contains("cni0")) {
            break;
        }
        assert!(Instant::now() < deadline, "no event: {events}");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(node.log().contains("up and unguarded"), "{}", node.log());
}

/// A frame that a bridge or a macvlan passes on is decided and counted at the port where it came in,
/// once.
#[test]
fn devices_on_top_of_a_guarded_interface_are_guarded_by_it() {
    for mode in MODES {
        for kind in ["bridge", "macvlan"] {
            let Some(mut node) = Node::new("interface_lifecycle/upper") else { return };
            node.start(&["--mode", mode]);
            node.wait("enforcing", enforcing);
            node.ip(&["addr", "flush", "dev", "eth0"]);
            match kind {
                "bridge" => {
                    node.ip(&["link", "add", "up0", "type", "bridge"]);
                    node.ip(&["link", "set", "eth0", "master", "up0"]);
                }
                _ => node.ip(&["link", "add", "link", "eth0", "name", "up0", "type", "macvlan"]),
            }
            node.ip(&["addr", "add", &format!("{}/24", NODE[0]), "dev", "up0"]);
            node.ip(&["link", "set", "up0", "up"]);
            under_attack(&node, mode, |attack| {
                attack.forget_neighbours();
                attack.assert_dropped(kind);
                // The guard also evaluates what a bridge passes on to others.
                let status = node.status().expect("a status");
                assert_eq!(status["enforcing"], kind != "bridge", "{mode}, {kind}: {status}");
            });
            assert!(node.answers(MEMBER[0], PORT), "{mode}, {kind}: {}", node.log());
            let sent = 50;
            let before = node.packets("not_allowed");
            node.at_peer(|| {
                let socket = UdpSocket::bind((UNLISTED[0], 0)).expect("an address of the peer");
                for _ in 0..sent {
                    socket.send_to(b"probe", (NODE[0], PORT)).expect("sending");
                }
            });
            thread::sleep(Duration::from_millis(300));
            assert_eq!(node.packets("not_allowed") - before, sent, "{mode}, {kind}");
        }
    }
}
