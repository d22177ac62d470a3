//! Ports of bridges: they are refused before anything is attached, and an interface that becomes a port
//! later keeps its guard, while the status says that the node is not guarded as it should be.

use guard_tests::node::{MANIFEST, MEMBER, NODE, Node, PORT, UNLISTED, enforcing};
use serde_json::{Value, json};

/// Puts `eth0` into a new bridge `br0`, which takes over the addresses of the node.
fn put_into_bridge(node: &Node) {
    node.ip(&["link", "add", "br0", "type", "bridge"]);
    node.ip(&["link", "set", "br0", "up"]);
    node.ip(&["addr", "flush", "dev", "eth0"]);
    node.ip(&["link", "set", "eth0", "master", "br0"]);
    node.ip(&["addr", "add", &format!("{}/24", NODE[0]), "dev", "br0"]);
}

fn guard_interfaces(node: &Node, patterns: &str) {
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", patterns));
}

/// Returns the names of the interfaces in a state.
fn in_state(status: &Value, state: &str) -> Vec<String> {
    let interfaces = status["interfaces"].as_array().into_iter().flatten();
    let of_state = interfaces.filter(|interface| interface["state"] == state);
    of_state.map(|interface| interface["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Asserts that the member gets in and an unlisted host does not.
fn assert_guarded_over_ipv4(node: &Node, when: &str) {
    assert!(node.answers(MEMBER[0], PORT), "{when}: {}", node.log());
    assert!(!node.answers(UNLISTED[0], PORT), "{when}: {}", node.log());
}

#[test]
fn a_port_of_a_bridge_is_refused_and_the_bridge_is_named() {
    let Some(mut node) = Node::new("bridges/refused") else { return };
    put_into_bridge(&node);
    for (patterns, line) in [("[eth0]", "interfaces: [br0]"), ("[\"eth*\"]", "[\"eth*\", br0]")] {
        guard_interfaces(&node, patterns);
        let output = node.start_expecting_exit(&[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{patterns}: {stderr}");
        assert!(stderr.contains("`eth0` is a port of the bridge `br0`"), "{patterns}: {stderr}");
        assert!(stderr.contains(line), "{patterns}: {stderr}");
        assert!(node.answers(UNLISTED[0], PORT), "{patterns}: nothing is attached");

        let manifest = node.path("cluster.yaml");
        let manifest = manifest.to_str().expect("a path");
        let args = ["doctor", "--manifest", manifest, "--node", "node", "--format", "json"];
        let output = node.trainguard(&args).output().expect("running trainguard");
        let diagnosis: Value = serde_json::from_slice(&output.stdout).expect("a diagnosis");
        let checks = diagnosis["checks"].as_array().expect("checks");
        let check = checks.iter().find(|it| it["id"] == "stacked").expect("a check of the port");
        assert_eq!((&check["state"], &check["subject"]), (&json!("failed"), &json!("eth0")));
        assert!(check["fix"].as_str().is_some_and(|fix| fix.contains(line)), "{check}");
    }
    // The bridge covers its port, which a pattern may select as well.
    for patterns in ["[br0]", "[\"eth*\", br0]", "[eth0, br0]"] {
        guard_interfaces(&node, patterns);
        node.start(&["--mode", "auto"]);
        let status = node.wait("enforcing", enforcing);
        assert_eq!(in_state(&status, "guarded"), ["br0"], "{patterns}: {status}");
        assert_eq!(status["unguarded"], json!([]), "{patterns}: {status}");
        assert_guarded_over_ipv4(&node, patterns);
        node.signal("TERM");
    }
}

#[test]
fn an_interface_that_becomes_a_port_keeps_its_guard() {
    let Some(mut node) = Node::new("bridges/later") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    put_into_bridge(&node);
    let is_reported = |status: &Value| {
        status["enforcing"] == false && status["problems"].to_string().contains("bridge `br0`")
    };
    let status = node.wait("reported", is_reported);
    assert_eq!(in_state(&status, "failed"), ["eth0"], "{status}");
    let remedy = status["interfaces"][0]["remedy"].as_str().unwrap_or_default();
    assert!(remedy.contains("`interfaces: [br0]`"), "{status}");
    let (_, code) = node.status_and_code().expect("a status");
    assert_eq!(code, Some(1), "status says no");
    assert_guarded_over_ipv4(&node, "in a bridge");

    // The next daemon keeps the guard, too.
    node.signal("TERM");
    node.start(&[]);
    node.wait("reported again", is_reported);
    assert_guarded_over_ipv4(&node, "after a restart");

    // A bridge has no native XDP: until it is guarded, the port keeps its guard.
    guard_interfaces(&node, "[br0]");
    let status = node.wait("refused", |status| in_state(status, "failed").contains(&"br0".into()));
    assert_eq!(status["enforcing"], false, "{status}");
    assert_guarded_over_ipv4(&node, "while the bridge is not guarded");
    node.signal("TERM");
    node.start(&["--mode", "auto"]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(in_state(&status, "guarded"), ["br0"], "{status}");
    assert!(!status["problems"].to_string().contains("a port of"), "{status}");
    assert_guarded_over_ipv4(&node, "on the bridge");
}

#[test]
fn an_interface_that_leaves_its_bridge_is_no_problem() {
    let Some(mut node) = Node::new("bridges/left") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.ip(&["link", "add", "br0", "type", "bridge"]);
    node.ip(&["link", "set", "eth0", "master", "br0"]);
    node.wait("reported", |status| status["enforcing"] == false);
    node.ip(&["link", "set", "eth0", "nomaster"]);
    let status = node.wait("enforcing again", enforcing);
    assert_eq!(status["problems"], json!([]), "{status}");
    node.assert_guarded();
}
