//! The status reports changes made to the node from outside, open ports, and the guard's state without a
//! daemon.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd as _,
    process::Command,
    time::Duration,
};

use guard_tests::node::{MANIFEST, NODE, Node, POLICY, PORT, UNLISTED, enforcing};
use guard_user::sys;
use serde_json::{Value, json};

/// A port in the ephemeral range, where a server of ps-lite listens.
const RANDOM_PORT: u16 = 45_678;

fn open_ports(status: &Value) -> Vec<&str> {
    let ports = status["open_ports"]["ports"].as_array().expect("open ports");
    ports.iter().map(|port| port["port"].as_str().expect("a port")).collect()
}

/// Waits until the only interface's status satisfies a condition, and returns it.
fn wait(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    node.wait(what, |status| wanted(&status["interfaces"][0]))["interfaces"][0].clone()
}

#[test]
fn the_status_of_a_healthy_node_is_complete() {
    let Some(mut node) = Node::new("status/well") else { return };
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let interface = &status["interfaces"][0];
    for (fact, value) in [("state", json!("guarded")), ("mode", json!("native"))] {
        assert_eq!(interface[fact], value);
    }
    assert_eq!(interface["program_id"], status["program"]["id"]);
    assert_eq!(status["program"]["name"], "guard");
    // Compare with the device itself, as `ip` shows it.
    let shown = node.at_node(|| Command::new("ip").args(["-j", "link", "show", "eth0"]).output());
    let shown: Value = serde_json::from_slice(&shown.expect("ip").stdout).expect("JSON of ip");
    assert_eq!(interface["program_id"], shown[0]["xdp"]["prog"]["id"], "{shown}");
    assert_eq!(status["mode"], "enforce");
    assert_eq!(status["source"]["kind"], "files");
    assert_eq!(status["source"]["last_load"]["result"], "success");
    assert_eq!(status["source"]["refused_files"], Value::Null);
    assert_eq!(status["problems"], json!([]));
    assert_eq!(status["unguarded"], json!([]));
    assert_eq!(status["events"]["lost"], 0);
    let screen = node.trainguard(&["status"]).output().expect("status");
    let text = String::from_utf8_lossy(&screen.stdout);
    assert_eq!(screen.status.code(), Some(0), "{text}");
    assert!(text.starts_with("enforcing: node `node` of cluster `test`"), "{text}");
    let too_wide = text.lines().find(|line| line.chars().count() > 80 && !line.contains('/'));
    assert_eq!(too_wide, None);
}

fn signal(node: &Node, name: &str) {
    let id = node.daemon_id().to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
    assert!(sent.success());
}

#[test]
fn a_program_replaced_by_other_software_is_named_with_a_remedy() {
    let Some(mut node) = Node::new("status/foreign") else { return };
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    let ours = before["program"]["id"].as_u64().expect("an id");
    // A program of another guard counts as foreign.
    let mut other = Node::new("status/other").expect("as above");
    other.start(&[]);
    let foreign = other.wait("enforcing", enforcing)["program"]["id"].as_u64().expect("an id");
    assert_ne!(ours, foreign);
    // While the daemon is stopped and cannot react.
    signal(&node, "STOP");
    let link = sys::open_pinned(&node.own_pins().join("link-eth0")).expect("the link");
    sys::link_detach(link.as_fd()).expect("detaching");
    node.attach_foreign("eth0", foreign);
    let (status, code) = node.status_and_code_within(Duration::from_secs(1)).expect("a status");
    assert_eq!((&status["interfaces"][0]["state"], code), (&json!("missing"), Some(3)), "{status}");
    signal(&node, "CONT");
    let status = node.wait("failed", |status| status["interfaces"][0]["state"] == "failed");
    let interface = &status["interfaces"][0];
    assert_eq!(interface["program_id"], foreign);
    let text = format!("{}{}", interface["problem"], interface["remedy"]);
    assert!(text.contains(&format!("id {foreign}")) && text.contains("bpftool"), "{text}");
    assert_eq!((&status["enforcing"], &status["program"]["id"]), (&json!(false), &json!(ours)));
    assert_eq!(node.status_and_code().expect("a status").1, Some(1));
    assert!(node.trainguard(&["status"]).output().is_ok_and(|screen| {
        String::from_utf8_lossy(&screen.stdout).starts_with("NOT enforcing")
    }));
    node.ip(&["link", "set", "dev", "eth0", "xdp", "off"]);
    let status = node.wait("guarded again", enforcing);
    assert_eq!(status["interfaces"][0]["program_id"], ours);
    node.assert_guarded();
}

#[test]
fn interfaces_that_go_down_move_or_vanish_are_reported() {
    let Some(mut node) = Node::new("status/moves") else { return };
    node.add_link("eth1");
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, eth1]"));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.ip(&["link", "set", "eth0", "down"]);
    let interface = wait(&node, "down", |interface| interface["up"] == false);
    assert_eq!(interface["state"], "guarded");
    assert_eq!(interface["problem"], "the interface is down");
    assert!(interface["remedy"].to_string().contains("ip link set dev eth0 up"), "{interface}");
    assert_eq!(node.status_and_code().expect("a status").1, Some(0), "nothing is open");
    node.ip(&["link", "set", "eth0", "up"]);
    wait(&node, "up again", |interface| interface["problem"].is_null());

    // Moved to the peer's namespace under another name. The status changes at once.
    let peer = node.peer().to_owned();
    node.ip(&["link", "set", "eth1", "netns", &peer, "name", "away"]);
    let (status, _) = node.status_and_code().expect("a status");
    let eth1 = &status["interfaces"][1];
    assert_ne!(eth1["state"], "guarded", "{eth1}");
    assert_eq!(eth1["program_id"], Value::Null);
    node.wait("missing", |status| status["interfaces"][1]["state"] == "missing");
    node.ip(&["link", "del", "eth0"]);
    let (status, code) = node.status_and_code().expect("a status");
    assert_eq!(status["interfaces"][0]["state"], "missing", "{status}");
    assert_eq!(code, Some(1), "nothing is guarded");
}

#[test]
fn open_ports_are_reported_as_they_open_and_close() {
    let Some(mut node) = Node::new("status/drift") else { return };
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(open_ports(&status), [""; 0]);
    let any = Ipv4Addr::UNSPECIFIED;
    let sockets = node.at_node(|| {
        let tcp = |address: &str| TcpListener::bind(address).expect("a port");
        let udp = |address: &str| UdpSocket::bind(address).expect("a port");
        let connected = udp("0.0.0.0:0");
        connected.connect(SocketAddr::new(NODE[0], 9)).expect("connecting");
        (
            [
                tcp(&format!("{any}:{RANDOM_PORT}")),
                tcp("[::]:22"),
                tcp(&format!("{}:8080", NODE[0])),
                // Not open: guarded, or on the loopback device.
                tcp(&format!("{any}:{PORT}")),
                tcp("127.0.0.1:6000"),
                tcp("[::1]:6001"),
            ],
            [
                udp("0.0.0.0:9000"),
                udp("[::]:9001"),
                udp(&format!("{any}:{PORT}")),
                udp("127.0.0.1:6000"),
                connected,
            ],
        )
    });
    let wanted = ["tcp/22", "tcp/8080", "tcp/45678", "udp/9000", "udp/9001"];
    let status = node.wait("open", |status| open_ports(status) == wanted);
    assert_eq!(status["enforcing"], true, "open ports do not affect enforcing");
    let ssh = &status["open_ports"]["ports"][0];
    assert_eq!((&ssh["addresses"], &ssh["uid"]), (&json!(["::"]), &json!(0)));
    let command = fs::read_to_string("/proc/self/comm").expect("our name");
    assert_eq!(ssh["command"], command.trim_end());
    let screen = node.trainguard(&["status"]).output().expect("status");
    let text = String::from_utf8_lossy(&screen.stdout);
    assert!(text.contains("open port  tcp/45678  on 0.0.0.0, user 0"), "{text}");
    drop(sockets);
    node.wait("closed again", |status| open_ports(status).is_empty());
    // A policy that covers the port; tunnel devices and interfaces that are not guarded.
    let policy = POLICY.replace("udp/9091", &format!("tcp/{RANDOM_PORT}"));
    node.write("policy.yaml", &policy.replace("match: all", "match: new-connections"));
    node.wait("the next generation", |status| status["generation"] == 2);
    node.add_link("eth5");
    node.ip(&["link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789", "dev", "eth0"]);
    node.ip(&["link", "set", "vx0", "up"]);
    let _sockets = node
        .at_node(|| [RANDOM_PORT, 7].map(|port| TcpListener::bind((any, port)).expect("a port")));
    // Neither the covered port is listed, nor the tunnel's, which is listed as a tunnel.
    let status = node.wait("open", |status| open_ports(status) == ["tcp/7"]);
    assert_eq!(status["tunnels"], json!(["vx0 (vxlan, udp/4789)"]));
    assert_eq!(status["unguarded"], json!(["eth5", "vx0"]));
}

#[test]
fn many_sockets_hide_no_listening_port() {
    let Some(mut node) = Node::new("status/many") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let _sockets = node.at_node(|| {
        let clients = (0..500).map(|_| UdpSocket::bind("0.0.0.0:0").expect("a port"));
        let server = TcpListener::bind(("0.0.0.0", RANDOM_PORT)).expect("a port");
        (clients.collect::<Vec<_>>(), server)
    });
    let status = node.wait("open", |status| !open_ports(status).is_empty());
    let ports = open_ports(&status);
    assert_eq!((ports.len(), ports[0]), (32, "tcp/45678"));
    assert_eq!(status["open_ports"]["more"], 501 - 32);
}

#[test]
fn refused_files_are_reported_with_their_hash_and_time() {
    let Some(mut node) = Node::new("status/files") else { return };
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    node.write("policy.yaml", "not: ours\n");
    let status = node.wait("outdated", |status| status["up_to_date"] == false);
    let source = &status["source"];
    assert_eq!(
        (&source["kind"], &source["last_load"]["result"]),
        (&json!("files"), &json!("failure"))
    );
    let hash = source["refused_files"].as_str().expect("a hash").to_owned();
    assert_eq!(hash.len(), 64);
    assert_eq!(status["in_force_since"], before["in_force_since"]);
    assert!(!node.answers(UNLISTED[0], PORT));
    // Started with invalid files, the last known good policy is in force, with the reason.
    node.signal("TERM");
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let source = &status["source"];
    assert_eq!(source["kind"], "last_good");
    assert!(source["path"].to_string().contains("last-good.json"), "{source}");
    assert!(source["why"].to_string().contains("policy.yaml"), "{source}");
    assert_eq!(source["refused_files"], hash.as_str(), "the same files");
    node.write("policy.yaml", POLICY);
    let status = node.wait("up to date", |status| status["up_to_date"] == true);
    assert_eq!(status["source"]["kind"], "files");
    assert_eq!(status["source"]["refused_files"], Value::Null);
}

#[test]
fn a_node_that_only_observes_is_not_enforcing() {
    let Some(mut node) = Node::new("status/observe") else { return };
    node.write("policy.yaml", &POLICY.replace("mode: enforce", "mode: observe"));
    node.start(&[]);
    let (status, code) = node.status_and_code().expect("a status");
    assert_eq!((&status["enforcing"], &status["mode"]), (&json!(false), &json!("observe")));
    assert_eq!(code, Some(1));
    assert_eq!(status["interfaces"][0]["state"], "guarded");
    let screen = node.trainguard(&["status"]).output().expect("status");
    let text = String::from_utf8_lossy(&screen.stdout);
    assert!(text.starts_with("NOT enforcing (all services only observe)"), "{text}");
}

#[test]
fn without_a_daemon_the_status_comes_from_the_pins() {
    let Some(mut node) = Node::new("status/killed") else { return };
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    node.signal("KILL");
    node.assert_guarded();
    let (status, code) = node.status_and_code().expect("a status");
    assert_eq!(code, Some(3));
    assert_eq!((&status["daemon"], &status["enforcing"]), (&json!(false), &json!(false)));
    for fact in ["schema", "generation", "policy_hash", "program"] {
        assert_eq!(status[fact], before[fact], "{fact}");
    }
    for fact in ["name", "state", "mode", "program_id", "index", "up"] {
        assert_eq!(status["interfaces"][0][fact], before["interfaces"][0][fact], "{fact}");
    }
    let problems = status["problems"].to_string();
    assert!(problems.contains("changes of files and interfaces are not applied"), "{problems}");
    // The device was removed without a daemon: the pin remains, and guards nothing.
    node.ip(&["link", "del", "eth0"]);
    let (status, code) = node.status_and_code().expect("a status");
    assert_eq!((&status["interfaces"][0]["state"], code), (&json!("missing"), Some(3)));
    // Without pins there is nothing to report, and the status says so.
    for entry in fs::read_dir(node.own_pins()).expect("the pins") {
        fs::remove_file(entry.expect("a pin").path()).expect("removing");
    }
    let (status, code) = node.status_and_code().expect("a status");
    assert_eq!((&status["interfaces"], code), (&json!([]), Some(3)));
}

#[test]
fn a_daemon_that_hangs_is_distinguished_from_a_missing_one() {
    let Some(mut node) = Node::new("status/hangs") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    signal(&node, "STOP");
    let answer = node.status_and_code_within(Duration::from_secs(1));
    signal(&node, "CONT");
    let (status, code) = answer.expect("a status");
    assert_eq!(code, Some(3));
    assert!(status["problems"].to_string().contains("does not answer"), "{status}");
    assert_eq!(status["interfaces"][0]["state"], "guarded");
    node.wait("enforcing", enforcing);
}
