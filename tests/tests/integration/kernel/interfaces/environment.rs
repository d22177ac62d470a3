//! Changes to the node's environment while the guard runs: offloads of its interface are switched on,
//! and packets are redirected to it from another interface.

use std::{
    net::UdpSocket,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use guard_test_support::ethtool;
use guard_tests::node::{MEMBER, NODE, Node, PORT, UNLISTED, WAIT_TIMEOUT, enforcing, moved};
use serde_json::json;

fn warnings(node: &Node, what: &str) -> usize {
    let output = node.trainguard(&["events", "--format", "json"]).output().expect("events");
    let events = String::from_utf8_lossy(&output.stdout).into_owned();
    let warning = |line: &&str| line.contains("\"warning\"") && line.contains(what);
    events.lines().filter(warning).count()
}

/// Case 89: each time an offload is switched on, that is reported once, and the verdicts stay the same.
#[test]
fn offloads_that_are_switched_on_later_are_reported_once() {
    const OFFLOAD: &str = "rx-vlan-hw-parse";
    for mode in ["native", "tcx", "generic"] {
        let Some(mut node) = Node::new("environment/offloads") else { return };
        let switch = |node: &Node, on| {
            let done = node.at_node(|| ethtool::switch("eth0", &[OFFLOAD], on));
            done.unwrap_or_else(|error| panic!("{mode}: {error:#}"));
        };
        switch(&node, true);
        node.start(&["--mode", mode, "--timing", "look=50ms"]);
        node.wait("enforcing", enforcing);
        let several_checks = Duration::from_millis(750);
        thread::sleep(several_checks);
        assert_eq!(
            warnings(&node, OFFLOAD),
            0,
            "offloads that were on at the start are reported by doctor only"
        );
        for round in 1..=2 {
            switch(&node, false);
            thread::sleep(several_checks);
            node.assert_guarded();
            assert_eq!(warnings(&node, OFFLOAD), round - 1, "switched off");
            switch(&node, true);
            let began = Instant::now();
            while warnings(&node, OFFLOAD) < round {
                assert!(began.elapsed() < WAIT_TIMEOUT, "{mode}: not reported: {}", node.log());
                thread::sleep(Duration::from_millis(50));
            }
            thread::sleep(several_checks);
            assert_eq!(warnings(&node, OFFLOAD), round, "{mode}: reported once");
            node.assert_guarded();
        }
        let status = node.status().expect("a status");
        assert_eq!((&status["problems"], &status["generation"]), (&json!([]), &json!(1)));
        node.signal("TERM");
    }
}

/// Case 82: tc redirects packets from an interface that is not guarded to one that is. In generic mode
/// they bypass the program (`netif_receive_generic_xdp`, `net/core/dev.c`), which README and `doctor`
/// state; in native mode as well, because they do not come from the driver; in tcx mode the program
/// decides about them.
#[test]
fn packets_that_tc_redirects_are_decided_in_tcx_mode_only() {
    const PROBES: u64 = 20;
    for (mode, decided) in [("generic", false), ("native", false), ("tcx", true)] {
        let Some(mut node) = Node::new("environment/redirect") else { return };
        node.add_link("side0");
        node.start(&["--mode", mode]);
        node.wait("enforcing", enforcing);
        node.assert_guarded();
        let tc = |args: &str| {
            let mut tc = node.command_at_node(Path::new("tc"));
            let output = tc.args(args.split(' ')).output().expect("tc");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "tc {args}: {stderr}");
        };
        tc("qdisc add dev side0 clsact");
        tc("filter add dev side0 ingress protocol ip u32 match u32 0 0 action mirred ingress \
            redirect dev eth0");
        // The peer sends to the node's address over the other cable.
        let peer = |args: &[&str]| {
            let output =
                Command::new("ip").args(["-n", node.peer()]).args(args).output().expect("ip");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let address = "02:00:00:00:00:09";
        node.ip(&["link", "set", "side0", "address", address]);
        let to = NODE[0].to_string();
        peer(&["route", "add", &format!("{to}/32"), "dev", "side0"]);
        peer(&["neigh", "replace", &to, "lladdr", address, "dev", "side0"]);
        let listener = node.at_node(|| UdpSocket::bind((NODE[0], PORT)).expect("a port"));
        listener.set_read_timeout(Some(Duration::from_millis(500))).expect("a time");
        let probe = |from| {
            let before = node.stats();
            node.at_peer(|| {
                let socket = UdpSocket::bind((from, 0)).expect("an address of the peer");
                for _ in 0..PROBES {
                    socket.send_to(b"probe", (NODE[0], PORT)).expect("sending");
                }
            });
            let mut buffer = [0; 16];
            let arrived = (0..PROBES).take_while(|_| listener.recv(&mut buffer).is_ok()).count();
            (arrived as u64, moved(&before, &node.stats()))
        };
        let unlisted = probe(UNLISTED[0]);
        let member = probe(MEMBER[0]);
        if decided {
            assert_eq!(unlisted, (0, vec![("not_allowed".to_owned(), PROBES)]), "{mode}");
            assert_eq!(member, (PROBES, vec![("allowed".to_owned(), PROBES)]), "{mode}");
        } else {
            assert_eq!(
                unlisted,
                (PROBES, vec![]),
                "{mode}: as documented, packets bypass the program"
            );
            assert_eq!(member, (PROBES, vec![]), "{mode}");
        }
    }
}
