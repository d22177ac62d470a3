//! Devices that are missing, appear, disappear, are renamed, or decapsulate tunnels.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use guard_common::layout::counters::InterfaceRow;
use guard_tests::node::{
    MANIFEST, MEMBER, NODE, Node, PORT, UNLISTED, WAIT_TIMEOUT, enforcing, moved, pinned_array,
};
use serde_json::{Value, json};

#[test]
fn a_missing_interface_is_waited_for_if_there_are_others() {
    let Some(mut node) = Node::new("devices/missing") else { return };
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, eth7]"));
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(
        status["interfaces"][1],
        json!({
            "name": "eth7", "mode": null, "program_id": null, "state": "missing", "index": null,
            "up": null, "problem": "there is no such interface; waiting for it", "remedy": null
        })
    );
    node.assert_guarded();
    node.add_link("eth7");
    let guarded = |status: &Value| status["interfaces"][1]["state"] == "guarded";
    node.wait("guarded on both", guarded);
    node.ip(&["link", "del", "eth7"]);
    node.wait("missing again", |status| status["interfaces"][1]["state"] == "missing");
    // The device reappears and is guarded again.
    node.add_link("eth7");
    node.wait("guarded on both", guarded);
    node.assert_guarded();
}

#[test]
fn without_any_interface_the_daemon_does_not_start() {
    let Some(node) = Node::new("devices/none") else { return };
    let output = node.start_expecting_exit(&["--interface", "eth9"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("eth9: there is no such interface"), "{stderr}");
    assert!(!node.own_pins().exists(), "nothing is left behind");
}

#[test]
fn an_interface_with_a_dot_in_its_name_can_be_guarded() {
    let Some(mut node) = Node::new("devices/dot") else { return };
    node.add_link("eth0.7");
    node.start(&["--interface", "eth0*"]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"][1]["name"], "eth0.7");
    assert_eq!(status["interfaces"][1]["state"], "guarded");
    node.signal("TERM");
    node.start(&["--interface", "eth0.7"]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"].as_array().map(Vec::len), Some(1), "{status}");
    assert!(node.answers(UNLISTED[0], PORT), "eth0 is no longer configured, so it is released");
}

#[test]
fn a_renamed_interface_stays_guarded_under_its_new_name() {
    let Some(mut node) = Node::new("devices/rename") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.rename("eth0", "gx");
    let status = node.wait("aware of the name", |status| status["interfaces"][1]["name"] == "gx");
    assert_eq!(status["interfaces"][0]["name"], "eth0");
    assert_eq!(status["interfaces"][0]["state"], "missing");
    assert_eq!(status["interfaces"][1]["state"], "guarded");
    assert_eq!(status["unguarded"], json!([]));
    node.assert_guarded();
    // The next daemon finds the link by its device, not by the name.
    node.signal("KILL");
    node.rename("gx", "eth0");
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"].as_array().map(Vec::len), Some(1), "{status}");
    assert!(node.log().contains("taken over"), "{}", node.log());
    node.assert_guarded();
}

#[test]
fn packets_of_unlisted_sources_to_a_tunnel_device_are_dropped() {
    let Some(mut node) = Node::new("devices/tunnel") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let send_to_tunnel = |node: &Node| {
        node.at_peer(|| {
            for from in [UNLISTED[0], MEMBER[0]] {
                let socket = UdpSocket::bind((from, 0)).expect("an address of the peer");
                socket.send_to(&[8; 60], (NODE[0], 4789)).expect("sending");
            }
        });
        thread::sleep(Duration::from_millis(200));
    };
    let before = node.stats();
    send_to_tunnel(&node);
    assert_eq!(
        moved(&before, &node.stats()),
        [],
        "without a tunnel device these are ordinary UDP packets"
    );
    let add = ["link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789"];
    node.ip(&[&add[..], &["local", "10.77.0.10"]].concat());
    node.wait("aware of the device", |status| status["tunnels"][0] == "vx0 (vxlan, udp/4789)");
    node.wait("the next generation", |status| status["generation"] == 2);
    let before = node.stats();
    send_to_tunnel(&node);
    assert_eq!(moved(&before, &node.stats()), [("tunnel".to_owned(), 1)]);
}

#[test]
fn the_guard_moves_to_another_interface_and_a_typo_does_not_detach_it() {
    let Some(mut node) = Node::new("devices/move") else { return };
    node.add_link("eth1");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eht0]"));
    let status = node.wait("refused", |status| status["up_to_date"] == false);
    assert!(
        status["problems"].to_string().contains("no interface on this node matches `eht0`"),
        "{status}"
    );
    assert_eq!(status["enforcing"], true);
    node.assert_guarded();

    // The same at a start: the attached program stays.
    node.signal("TERM");
    let no_state = node.path("no-state");
    let output = node.start_expecting_exit(&["--state-dir", no_state.to_str().expect("UTF-8")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("eht0: there is no such interface"), "{stderr}");
    node.assert_guarded();

    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth1]"));
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"].as_array().map(Vec::len), Some(1), "{status}");
    assert_eq!(status["interfaces"][0]["name"], "eth1");
    assert_eq!(status["unguarded"], json!(["eth0"]));
    assert!(node.answers(UNLISTED[0], PORT), "eth0 is no longer configured");
    node.write("cluster.yaml", MANIFEST);
    node.wait("back", |status| status["interfaces"][0]["name"] == "eth0");
    node.assert_guarded();
}

/// At an MTU of 1500 the program takes the first buffer for the whole frame; at a larger MTU it asks the
/// kernel for the length. Every byte is counted, whatever the MTU is changed to.
#[test]
fn every_byte_is_counted_as_the_mtu_changes() {
    let Some(mut node) = Node::new("devices/mtu") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let rows = pinned_array::<InterfaceRow>(&node.own_pins().join("TG_INTERFACES"));
    for (mtu, one_buffer, payload) in [(1500, true, 1400), (9000, false, 8900), (1500, true, 40)] {
        node.ip(&["link", "set", "eth0", "mtu", &mtu.to_string()]);
        let updated = |row: InterfaceRow| row.ifindex() != 0 && row.has_one_buffer() == one_buffer;
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !(0..rows.len()).any(|at| rows.get(&at, 0).is_ok_and(updated)) {
            assert!(Instant::now() < deadline, "MTU {mtu} has not reached the map: {}", node.log());
            thread::sleep(Duration::from_millis(20));
        }
        let bytes = |node: &Node| node.stats()["reasons"]["not_allowed"]["bytes"].as_u64();
        let before = bytes(&node).unwrap_or(0);
        node.at_peer(|| {
            for (from, to) in UNLISTED.into_iter().zip(NODE) {
                let socket = UdpSocket::bind((from, 0)).expect("an address of the peer");
                socket.send_to(&vec![0; payload], (to, PORT)).expect("sending");
            }
        });
        thread::sleep(Duration::from_millis(200));
        // Twice Ethernet 14 and UDP 8; IPv4 20 and IPv6 40.
        let expected = 2 * (payload as u64 + 22) + 60;
        assert_eq!(bytes(&node).map(|after| after - before), Some(expected), "MTU {mtu}");
    }
}
