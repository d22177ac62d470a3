//! `learn` on a node in observe mode: sources that came through although the policy does not admit them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use guard_test_support::pcap::{Frame, Pcap};
use guard_tests::node::{MANIFEST, MEMBER_TOO, NODE, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// Frames of every protocol, sent and received (`include/uapi/linux/if_ether.h`).
const ETH_P_ALL: u16 = 3;

/// Opens a connection to the node from an address of the peer.
fn connect(node: &Node, from: IpAddr, port: u16) -> TcpStream {
    node.at_peer(|| {
        let to = SocketAddr::new(NODE[0], port);
        let socket =
            Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of the peer");
        socket
            .connect_timeout(&to.into(), WAIT_TIMEOUT)
            .expect("connecting to a node in observe mode");
        socket.into()
    })
}

/// Opens a connection and exchanges data in both directions for `seconds`.
fn exchange(node: &Node, listener: &TcpListener, from: IpAddr, seconds: usize) {
    let mut client = connect(node, from, listener.local_addr().expect("an address").port());
    let (mut server, _) = listener.accept().expect("a connection");
    let mut bytes = [0; 4];
    for _ in 0..=seconds * 4 {
        client.write_all(b"ping").expect("sending");
        server.read_exact(&mut bytes).expect("receiving");
        server.write_all(b"pong").expect("answering");
        client.read_exact(&mut bytes).expect("receiving");
        if seconds > 0 {
            thread::sleep(Duration::from_millis(250));
        }
    }
}

fn learn(node: &Node, more: &[&str]) -> Value {
    let mut command = node.trainguard(&["learn", "--node", "node", "--format", "json"]);
    let output = command.arg("--manifest").arg(node.path("cluster.yaml")).args(more).output();
    let output = output.expect("learn");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

#[test]
fn a_missing_member_is_learned_from_packets_that_would_be_dropped() {
    let Some(mut node) = Node::new("learn/observe") else { return };
    let incomplete = MANIFEST
        .replace("member-[0-1]", "member-0")
        .replace("10.77.0.[20-21]", "10.77.0.20")
        .replace("fd77::[20-21]", "fd77::20");
    node.write("cluster.yaml", &incomplete);
    node.write("policy.yaml", &POLICY.replace("enforce", "observe"));
    node.start(&[]);
    let listener = node.at_node(|| TcpListener::bind((NODE[0], PORT))).expect("a listener");
    exchange(&node, &listener, MEMBER_TOO[0], 4);
    // The unlisted host connects and sends no data.
    drop(connect(&node, UNLISTED[0], PORT));
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let answer = loop {
        let answer = learn(&node, &[]);
        let of_unlisted = |left: &Value| left["source"] == UNLISTED[0].to_string();
        let listed = answer["left_out"].as_array().expect("a list").iter().any(of_unlisted);
        if listed && !answer["entries"].as_array().expect("a list").is_empty() {
            break answer;
        }
        assert!(Instant::now() < deadline, "{answer:#}\n{}", node.log());
        thread::sleep(Duration::from_millis(100));
    };
    let entries = answer["entries"].as_array().expect("a list");
    assert_eq!(entries.len(), 1, "{answer:#}");
    assert_eq!(entries[0]["source"], MEMBER_TOO[0].to_string());
    assert!(answer["notes"].to_string().contains("such packets can be forged"), "{answer:#}");
    assert!(!answer["documents"].to_string().contains("10.77.0.99"), "{answer:#}");

    // The output of `events`, which can be saved and copied, gives the same result.
    let events = node.trainguard(&["events", "--format", "ndjson"]).output().expect("events");
    fs::write(node.path("events.json"), &events.stdout).expect("a file");
    let path = node.path("events.json");
    let again = learn(&node, &["--capture", path.to_str().expect("UTF-8")]);
    assert_eq!(again["entries"], answer["entries"], "{again:#}");
    assert_eq!(learn(&node, &["--since", "1s"])["schema"], "trainguard/learn/v1");

    // With the proposed manifest in force, the member gets in and the unlisted host does not.
    node.write("cluster.yaml", answer["documents"]["manifest"].as_str().expect("a manifest"));
    node.write("policy.yaml", POLICY);
    node.wait("enforcing", |status| status["enforcing"] == true && status["up_to_date"] == true);
    assert!(node.answers(MEMBER_TOO[0], PORT), "{}", node.log());
    assert!(!node.answers(UNLISTED[0], PORT));
}

/// Captures the frames that all devices of the node send and receive while a closure runs.
fn capture(node: &Node, work: impl FnOnce()) -> Vec<u8> {
    let all = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket = node.at_node(|| Socket::new(Domain::PACKET, Type::RAW, Some(all)));
    let mut socket = socket.expect("a packet socket");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    work();
    let mut frames = Vec::new();
    let mut frame = vec![0; 65_535];
    let mut seconds = 1_790_000_000..;
    while let (Ok(length), Some(second)) = (socket.read(&mut frame), seconds.next()) {
        frames.push(Frame::at(second * 1_000_000_000, frame[..length].to_vec()));
    }
    Pcap::default().file(&frames)
}

#[test]
fn a_capture_of_the_node_becomes_a_policy_that_the_daemon_accepts() {
    let Some(mut node) = Node::new("learn/capture") else { return };
    let listener = node.at_node(|| TcpListener::bind((NODE[0], 8000))).expect("a listener");
    let seen = capture(&node, || {
        exchange(&node, &listener, MEMBER_TOO[0], 0);
        drop(connect(&node, UNLISTED[0], 8000));
    });
    let file = node.path("seen.pcap");
    fs::write(&file, seen).expect("a capture");
    let new = node.path("new");
    let path = file.to_str().expect("UTF-8");
    let more = ["--capture", path, "--output", new.to_str().expect("UTF-8")];
    let answer = learn(&node, &more);
    let policy = fs::read_to_string(new.join("learned.yaml")).expect("a policy");
    assert!(policy.contains("ports: [tcp/8000]") && policy.contains("roles: [worker]"), "{policy}");
    assert!(!answer["documents"].to_string().contains("10.77.0.99"), "{answer:#}");
    for (name, text) in [
        ("learned.yaml", policy.replace("mode: observe", "mode: enforce")),
        ("cluster.yaml", fs::read_to_string(new.join("cluster.yaml")).expect("a manifest")),
    ] {
        node.write(name, &text);
    }
    node.start(&[]);
    node.wait("enforcing", |status| status["enforcing"] == true);
    assert!(node.answers(MEMBER_TOO[0], 8000), "{}", node.log());
    assert!(!node.answers(UNLISTED[0], 8000), "{}", node.log());
}
