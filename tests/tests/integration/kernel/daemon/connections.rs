//! Effects of a policy change on open connections: real ones, between the namespaces, with a real
//! daemon.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Output,
    time::Duration,
};

use guard_tests::node::{
    FREE_PORT, MANIFEST, MEMBER, MEMBER_TOO, NODE, Node, POLICY, PORT, UNLISTED, connect, enforcing,
};
use serde_json::Value;

/// Port of the ssh server.
const SSH: u16 = 22;
/// Source port of the node's own connection, which a policy may guard.
const NODE_PORT: u16 = 9200;

/// A connection: the node's end, and the peer's.
type Pair = (TcpStream, TcpStream);

/// Opens a listener on the node.
fn listen(node: &Node, address: IpAddr, port: u16) -> TcpListener {
    node.at_node(|| TcpListener::bind((address, port)).expect("a listener"))
}

/// Opens a connection from the peer.
fn open(node: &Node, listener: &TcpListener, from: IpAddr) -> Pair {
    let to = listener.local_addr().expect("an address");
    let peer = node.at_peer(|| connect(SocketAddr::new(from, 0), to));
    let (ours, _) = listener.accept().expect("accepting");
    ours.set_read_timeout(Some(Duration::from_millis(500))).expect("an option");
    (ours, peer)
}

/// Reports whether data from the peer still arrives.
fn still_open((ours, peer): &mut Pair) -> bool {
    peer.write_all(b"x").expect("sending");
    match ours.read(&mut [0; 64]) {
        Ok(count) => count > 0,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

fn apply(node: &Node, manifest: &str, more: &[&str], ssh: &str) -> (Option<i32>, Value, String) {
    let path = node.path(manifest);
    let args = ["apply", path.to_str().expect("a path"), "--format", "json"];
    let mut command = node.trainguard(&[&args[..], more].concat());
    let Output { status, stdout, stderr } =
        command.env("SSH_CONNECTION", ssh).output().expect("running trainguard");
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    (status.code(), serde_json::from_slice(&stdout).unwrap_or_default(), stderr)
}

/// Writes a policy beside the one in force.
fn write_next(node: &Node, policy: &str) {
    node.write("next.yaml", &MANIFEST.replace("policy.yaml", "next-policy.yaml"));
    node.write("next-policy.yaml", policy);
}

/// Returns a policy that admits only the scheduler, which is the node itself.
fn locking_out() -> String {
    POLICY.replace("roles: [worker]", "roles: [scheduler]")
}

fn groups(document: &Value, which: &str) -> Vec<(String, u64, String, u64, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let groups = document["connections"][which]["groups"].as_array().expect("groups");
    let group = |group: &Value| {
        let number = |name: &str| group[name].as_u64().expect("a number");
        let [direction, node, service] = ["direction", "node", "service"].map(|n| text(&group[n]));
        (direction, number("connections"), node, number("port"), service)
    };
    groups.iter().map(group).collect()
}

#[test]
fn connections_that_would_be_cut_are_listed_and_the_change_is_refused() {
    let Some(mut node) = Node::new("connections/refused") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let before = node.generation();
    let [guarded, guarded6] = NODE.map(|address| listen(&node, address, PORT));
    let free = listen(&node, NODE[0], FREE_PORT);
    let mut connections = [
        open(&node, &guarded, MEMBER[0]),
        open(&node, &guarded, MEMBER[0]),
        open(&node, &guarded6, MEMBER_TOO[1]),
    ];
    // Connections to a port that is not guarded: they continue, also that of an unlisted host.
    let mut others = [open(&node, &free, MEMBER[0]), open(&node, &free, UNLISTED[0])];
    write_next(&node, &locking_out());

    let cut = [
        ("in".to_owned(), 2, "member-0".to_owned(), PORT.into(), "scheduler".to_owned()),
        ("in".to_owned(), 1, "member-1".to_owned(), PORT.into(), "scheduler".to_owned()),
    ];
    for more in [&[][..], &["--confirm-within", "1m"], &["--dry-run"]] {
        let (code, document, stderr) = apply(&node, "next.yaml", more, "");
        assert_eq!(code, Some(1), "{more:?}: {document} {stderr}");
        assert_eq!(groups(&document, "cut"), cut, "{more:?}");
        assert_eq!(groups(&document, "not_reopened"), [], "{more:?}");
        let dry = more == ["--dry-run"];
        assert_eq!(document["result"], if dry { "dry_run" } else { "refused" }, "{more:?}");
        assert_eq!(document["difference"].is_object(), dry, "{more:?}: {document}");
        assert_eq!(node.generation(), before, "{more:?}");
        assert!(node.status().expect("a status")["trial"].is_null(), "{more:?}");
        assert!(connections.iter_mut().chain(&mut others).all(still_open), "{more:?}");
    }
    // Without JSON, the message lists the connections.
    let path = node.path("next.yaml");
    let mut command = node.trainguard(&["apply", path.to_str().expect("a path")]);
    let output = command.output().expect("running trainguard");
    let stderr = String::from_utf8_lossy(&output.stderr);
    for part in [
        "would cut 3 open connections",
        "2 connections of member-0 (10.77.0.20) to tcp/9091 (scheduler)",
        "1 connection of member-1 (fd77::21) to tcp/9091 (scheduler)",
        "--cut-connections",
    ] {
        assert!(stderr.contains(part), "`{part}` not in {stderr}");
    }
    assert!(!stderr.contains("--cut-own-session"), "{stderr}");

    // With the option, the change is made.
    let (code, document, stderr) = apply(&node, "next.yaml", &["--cut-connections"], "");
    assert_eq!(code, Some(0), "{document} {stderr}");
    assert_eq!(document["connections"]["cut"]["connections"], 3, "{document}");
    assert!(!connections.iter_mut().any(still_open));
    assert!(others.iter_mut().all(still_open));

    // Connections that are cut already are no reason to refuse: they are dropped in either case.
    write_next(&node, &locking_out().replace("udp/9091", "udp/9092"));
    let (code, document, stderr) = apply(&node, "next.yaml", &[], "");
    assert_eq!(code, Some(0), "{document} {stderr}");
}

#[test]
fn connections_that_could_not_be_reopened_are_a_note() {
    let Some(mut node) = Node::new("connections/weak") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let listener = listen(&node, NODE[0], PORT);
    let mut connection = open(&node, &listener, MEMBER[0]);
    let opening = locking_out().replace("match: all", "match: new-connections");
    write_next(&node, &opening.replace(", udp/9091", ""));
    let (code, document, stderr) = apply(&node, "next.yaml", &[], "");
    assert_eq!(code, Some(0), "{document} {stderr}");
    assert_eq!(groups(&document, "cut"), []);
    assert_eq!(groups(&document, "not_reopened").len(), 1, "{document}");
    assert!(still_open(&mut connection));
    assert!(!node.answers(MEMBER[0], PORT));
}

#[test]
fn connections_of_the_node_and_of_unguarded_interfaces_are_not_cut() {
    let Some(mut node) = Node::new("connections/own") else { return };
    node.add_link("eth1");
    node.ip(&["addr", "add", "10.78.0.10/24", "dev", "eth1"]);
    node.at_peer(|| {
        let status = std::process::Command::new("ip")
            .args(["addr", "add", "10.78.0.20/24", "dev", "eth1"])
            .status();
        assert!(status.expect("ip").success());
    });
    node.start(&[]);
    node.wait("enforcing", enforcing);
    // A connection that the node opened: the peer's packets go to the port that the node chose.
    let listener = node.at_peer(|| TcpListener::bind((MEMBER[0], 7000)).expect("a listener"));
    let ours = node
        .at_node(|| connect(SocketAddr::new(NODE[0], NODE_PORT), SocketAddr::new(MEMBER[0], 7000)));
    let mut outgoing = (ours, listener.accept().expect("accepting").0);
    // A connection on an interface that is not guarded, to the guarded port.
    let unguarded = listen(&node, IpAddr::from([10, 78, 0, 10]), PORT);
    let mut unguarded_connection = open(&node, &unguarded, IpAddr::from([10, 78, 0, 20]));
    assert!(still_open(&mut outgoing) && still_open(&mut unguarded_connection));
    let wide = locking_out().replace("tcp/9091,", "tcp/9091, tcp/9200,");
    write_next(&node, &wide);
    let (code, document, stderr) = apply(&node, "next.yaml", &[], "");
    assert_eq!(code, Some(0), "{document} {stderr}");
    assert_eq!(groups(&document, "cut"), [], "{document}");
    assert!(still_open(&mut outgoing) && still_open(&mut unguarded_connection));
    // If the policy guards that interface as well, its connection is cut, too.
    node.write("next.yaml", &MANIFEST.replace("[eth0]", "[eth0, eth1]"));
    let (code, document, stderr) = apply(&node, "next.yaml", &[], "");
    assert_eq!(code, Some(1), "{document} {stderr}");
    let expected = ("in".to_owned(), 1, "-".to_owned(), PORT.into(), "scheduler".to_owned());
    assert_eq!(groups(&document, "cut"), [expected], "{document}");
}

/// Case 124: a policy that closes the ssh port to the caller's own address.
#[test]
fn cutting_the_callers_own_session_needs_its_own_option() {
    let Some(mut node) = Node::new("connections/session") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let ssh = listen(&node, NODE[0], SSH);
    let mut session = open(&node, &ssh, UNLISTED[0]);
    let mut colleague = open(&node, &ssh, UNLISTED[0]);
    let port = session.1.local_addr().expect("an address").port();
    let own = format!("{} {port} {} {SSH}", UNLISTED[0], NODE[0]);
    write_next(&node, &POLICY.replace("tcp/9091,", "tcp/9091, tcp/22,"));

    let (code, document, stderr) = apply(&node, "next.yaml", &["--cut-connections"], &own);
    assert_eq!(code, Some(1), "{document} {stderr}");
    let cut = &document["connections"]["cut"];
    assert_eq!((&cut["connections"], &cut["sessions"]), (&2.into(), &1.into()), "{document}");
    assert_eq!(cut["groups"][0]["session"], true, "{document}");
    assert!(
        document["error"].as_str().expect("a reason").contains("an ssh session, probably your own"),
        "{document}"
    );
    let (code, document, _) = apply(&node, "next.yaml", &["--cut-own-session"], &own);
    assert_eq!(code, Some(1), "the other session needs --cut-connections: {document}");
    // Without a known session, any ssh connection might be the caller's. A session that does not exist
    // counts as unknown.
    for unknown in ["", "10.0.0.1 1 10.0.0.2 22", "nonsense"] {
        let (code, document, _) = apply(&node, "next.yaml", &["--cut-connections"], unknown);
        assert_eq!(code, Some(1), "{unknown}: {document}");
        assert_eq!(document["connections"]["cut"]["sessions"], 2, "{unknown}: {document}");
    }
    assert!(still_open(&mut session) && still_open(&mut colleague));
    let both = ["--cut-connections", "--cut-own-session"];
    let (code, document, stderr) = apply(&node, "next.yaml", &both, &own);
    assert_eq!(code, Some(0), "{document} {stderr}");
    assert!(!still_open(&mut session) && !still_open(&mut colleague));
}

#[test]
fn files_that_cut_connections_are_followed_and_reported() {
    let Some(mut node) = Node::new("connections/files") else { return };
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let listener = listen(&node, NODE[0], PORT);
    let mut connection = open(&node, &listener, MEMBER[0]);
    node.write("policy.yaml", &locking_out());
    node.wait("followed", |next| next["policy_hash"] != status["policy_hash"]);
    assert!(!still_open(&mut connection));
    let part = "1 connection of member-0 (10.77.0.20) to tcp/9091 (scheduler)";
    assert!(node.log().contains(part), "{}", node.log());
    let events = node.trainguard(&["events", "--kind", "policy"]).output().expect("events");
    let events = String::from_utf8_lossy(&events.stdout);
    assert!(events.contains("cuts_connections") && events.contains(part), "{events}");
}

/// All of many connections are checked.
#[test]
fn many_connections_are_checked() {
    const MANY: usize = 3000;
    let Some(mut node) = Node::new("connections/many") else { return };
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let (_, hard) = limit.expect("a limit");
    let wanted = (2 * MANY + 200) as u64;
    if hard < wanted {
        guard_tests::skip::skip("connections/many", "RLIMIT_NOFILE is too low");
        return;
    }
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, wanted, hard)
        .expect("setting a limit");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let listener = listen(&node, NODE[0], PORT);
    let connections: Vec<Pair> = (0..MANY).map(|_| open(&node, &listener, MEMBER[0])).collect();
    write_next(&node, &locking_out());
    let (code, document, stderr) = apply(&node, "next.yaml", &["--dry-run"], "");
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(document["connections"]["cut"]["connections"], MANY, "{document}");
    drop(connections);
}
