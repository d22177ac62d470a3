//! The guard on virtio-net: two cards of a virtual machine on one cable, at the MTU of training
//! clusters. `cargo xtask vm` runs these tests; the driver's abilities depend on the kernel.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    thread,
    time::Duration,
};

use guard_tests::node::{MEMBER, NODE, Node, PORT, UNLISTED, enforcing, moved};
use serde_json::Value;

/// Ethernet addresses of the cards that `xtask/src/vm/run.rs` gives a guest.
const CARDS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];

/// Reports whether virtio-net accepts programs for frames in several buffers, which it does from 6.3 on
/// (`virtnet_xdp_set`, `drivers/net/virtio_net.c`).
fn supports_several_buffers() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

fn mode(status: &Value) -> &str {
    status["interfaces"][0]["mode"].as_str().unwrap_or("none")
}

/// Asserts that jumbo datagrams from a member and from an unlisted host, in both families, are decided
/// and counted correctly.
fn assert_evaluates_long_frames(node: &Node) {
    let before = node.stats();
    node.at_peer(|| {
        for family in 0..2 {
            for from in [MEMBER[family], UNLISTED[family]] {
                let socket = UdpSocket::bind((from, 0)).expect("an address of the peer");
                socket.send_to(&[0; 8900], (NODE[family], PORT)).expect("sending");
            }
        }
    });
    thread::sleep(Duration::from_millis(500));
    let expected = [("allowed".to_owned(), 2), ("not_allowed".to_owned(), 2)];
    assert_eq!(moved(&before, &node.stats()), expected);
}

/// Cases 83 and 84: no silent generic attach where the driver refuses, and native mode where it does
/// not.
#[test]
fn at_mtu_9000_native_mode_works_or_is_refused_with_a_remedy() {
    let Some(mut node) = Node::on_cards("virtio/jumbo", CARDS) else { return };
    if supports_several_buffers() {
        node.start(&[]);
        assert_eq!(mode(&node.wait("enforcing", enforcing)), "native");
        node.assert_guarded();
        assert_evaluates_long_frames(&node);
        node.signal("TERM");
        node.assert_guarded();
        return;
    }
    let output = node.start_expecting_exit(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("eth0") && stderr.contains("MTU"), "{stderr}");
    assert!(stderr.contains("--mode generic"), "{stderr}");
    assert!(node.answers(UNLISTED[0], PORT), "refused, but a program is attached");
}

/// Case 83: on request the guard runs in generic mode, on every kernel.
#[test]
fn at_mtu_9000_generic_mode_works_on_request() {
    let Some(mut node) = Node::on_cards("virtio/generic", CARDS) else { return };
    node.start(&["--mode", "generic"]);
    assert_eq!(mode(&node.wait("enforcing", enforcing)), "generic");
    node.assert_guarded();
    assert_evaluates_long_frames(&node);
}

/// `auto` takes a mode that the driver supports, and reports it.
#[test]
fn at_mtu_9000_auto_mode_finds_one_that_works() {
    let Some(mut node) = Node::on_cards("virtio/auto", CARDS) else { return };
    node.start(&["--mode", "auto"]);
    let status = node.wait("enforcing", enforcing);
    // The status states the mode, also one between native and generic.
    assert_eq!(mode(&status) == "native", supports_several_buffers(), "{status}");
    assert_ne!(mode(&status), "none");
    node.assert_guarded();
    assert_evaluates_long_frames(&node);
}

/// Case 86: the larger MTU works if the driver supports it; the guard stays in any case. Before 6.3 the
/// kernel accepts the MTU all the same, and the driver drops longer frames from any source.
#[test]
fn raising_the_mtu_under_the_guard_opens_nothing() {
    let Some(mut node) = Node::on_cards("virtio/mtu", CARDS) else { return };
    node.ip(&["link", "set", "eth0", "mtu", "1500"]);
    node.start(&[]);
    assert_eq!(mode(&node.wait("enforcing", enforcing)), "native", "at an MTU of 1500");
    node.assert_guarded();
    node.ip(&["link", "set", "eth0", "mtu", "9000"]);
    node.assert_guarded();
    let arrives = |from: IpAddr, to: IpAddr| {
        let listener = node.at_node(|| UdpSocket::bind((to, PORT)).expect("the guarded port"));
        listener.set_read_timeout(Some(Duration::from_secs(1))).expect("a time limit");
        node.at_peer(|| {
            let socket = UdpSocket::bind((from, 0)).expect("an address of the peer");
            socket.send_to(&[0; 8900], (to, PORT)).expect("sending");
        });
        listener.recv(&mut [0; 9000]).is_ok()
    };
    for family in 0..2 {
        assert!(
            !arrives(UNLISTED[family], NODE[family]),
            "a long frame of an unlisted source got in"
        );
        assert_eq!(arrives(MEMBER[family], NODE[family]), supports_several_buffers());
    }
    assert_eq!(mode(&node.wait("enforcing", enforcing)), "native");
    node.assert_guarded();
    let output = node.trainguard(&["doctor", "--interface", "eth0"]).output().expect("doctor");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let warns = stdout.contains("virtio_net of this kernel") && stdout.contains("--mode generic");
    assert_eq!(warns, !supports_several_buffers(), "{stdout}");
    // At the larger MTU the driver of 6.1 cannot even detach the program, and the kernel warns
    // (`dev_xdp_detach_link`, `net/core/dev.c`).
    node.ip(&["link", "set", "eth0", "mtu", "1500"]);
}
