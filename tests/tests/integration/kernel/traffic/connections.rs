//! Segments and datagrams that belong to a connection, or seem to.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use guard_test_support::packet::{ACK, PSH, SYN, segment};
use guard_tests::{
    node::{
        FREE_PORT, MANIFEST, MEMBER, NODE, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT, enforcing,
        moved,
    },
    raw,
};
use socket2::{Domain, Socket, Type};

use super::{count, counted};

const FIN: u8 = 0x01;
/// Time without a packet after which it counts as dropped.
const SILENCE: Duration = Duration::from_millis(300);

fn matching_new_connections() -> String {
    POLICY
        .replace("ports: [tcp/9091, udp/9091]", "ports: [tcp/9000-9999]")
        .replace("match: all", "match: new-connections")
}

/// Sends segments of a stranger to a port of the node, one with each combination of flags. Returns
/// what they were counted as.
fn stray(node: &Node, family: usize, port: u16, flags: &[u8]) -> Vec<(String, u64)> {
    let segment = |flags| segment((UNLISTED[family], 40_000), (NODE[family], port), flags, 8);
    let frames: Vec<_> = flags.iter().map(|flags| segment(*flags)).collect();
    counted(node, || {
        let sent = node.at_peer(|| raw::send("eth0", &frames)).expect("sending");
        assert_eq!(sent, frames.len());
    })
}

/// A segment that does not open a connection can only be refused where a socket listens: with SYN
/// cookies, it could open one there.
#[test]
fn stray_segments_do_not_reach_listening_sockets() {
    for mode in ["native", "generic", "tcx"] {
        let Some(mut node) = Node::new(&format!("connections/stray-{mode}")) else { return };
        node.write("policy.yaml", &matching_new_connections());
        node.start(&["--mode", mode]);
        node.wait("enforcing", enforcing);
        let _listener =
            node.at_node(|| TcpListener::bind(("::", PORT)).expect("a socket of both families"));
        for cookies in ["0", "1", "2"] {
            node.at_node(|| {
                fs::write("/proc/sys/net/ipv4/tcp_syncookies", cookies).expect("a setting");
            });
            for family in 0..2 {
                let told = format!("{mode}, cookies {cookies}, {family}");
                let flags = [ACK, ACK | PSH, ACK | FIN, ACK | SYN];
                let moved = stray(&node, family, PORT, &flags);
                assert_eq!(moved, count("not_allowed", 4), "{told}");
                let moved = stray(&node, family, PORT + 1, &flags);
                assert_eq!(moved, count("established", 4), "{told}, nothing listens");
                assert_eq!(stray(&node, family, FREE_PORT, &flags), [], "not guarded");
            }
        }
    }
}

/// Opens a connection. Returns both ends, the one that connects first, and the listening socket.
fn connect(
    node: &Node,
    from: SocketAddr,
    to: SocketAddr,
    by_node: bool,
) -> (TcpStream, TcpStream, TcpListener) {
    let listen = || TcpListener::bind(to).expect("a listening socket");
    let open = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.bind(&from.into()).expect("an address");
        socket.connect_timeout(&to.into(), WAIT_TIMEOUT).expect("connected");
        TcpStream::from(socket)
    };
    let (listener, opened) = if by_node {
        (node.at_peer(listen), node.at_node(open))
    } else {
        (node.at_node(listen), node.at_peer(open))
    };
    let (accepted, _) = listener.accept().expect("accepted");
    (opened, accepted, listener)
}

/// Sends a byte and receives it. Returns whether it arrived in this time.
fn arrives(from: &mut TcpStream, to: &mut TcpStream, within: Duration) -> bool {
    to.set_read_timeout(Some(within)).expect("an option");
    from.write_all(b"x").expect("written");
    match to.read_exact(&mut [0]) {
        Ok(()) => true,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            false
        }
    }
}

/// Asserts that bytes pass in both directions.
fn assert_open(one: &mut TcpStream, other: &mut TcpStream) {
    assert!(arrives(one, other, WAIT_TIMEOUT), "from the one that connected");
    assert!(arrives(other, one, WAIT_TIMEOUT), "to the one that connected");
}

/// With `match: all`, the connections that the node opens are untouched, whatever their source port is.
#[test]
fn connections_of_the_node_pass_from_guarded_ports() {
    for mode in ["native", "generic", "tcx"] {
        let Some(mut node) = Node::new(&format!("connections/own-{mode}")) else { return };
        node.start(&["--mode", mode]);
        node.wait("enforcing", enforcing);
        for family in 0..2 {
            let from = SocketAddr::new(NODE[family], PORT);
            let to = SocketAddr::new(UNLISTED[family], 7000);
            let before = node.stats();
            let (mut here, mut there, _) = connect(&node, from, to, true);
            assert_open(&mut here, &mut there);
            let moved = moved(&before, &node.stats());
            assert!(matches!(&moved[..], [(reason, _)] if reason == "established"), "{moved:?}");
            // A stranger does not get in beside it.
            assert!(!node.answers(UNLISTED[family], PORT), "{mode}");
        }
    }
}

/// A connection that a member opened goes on at `new-connections` after the member was removed, and
/// ends at `all`.
#[test]
fn connections_of_removed_members() {
    for (name, policy, goes_on) in
        [("new-connections", matching_new_connections(), true), ("all", POLICY.to_owned(), false)]
    {
        let Some(mut node) = Node::new(&format!("connections/removed-{name}")) else { return };
        node.write("policy.yaml", &policy);
        node.start(&[]);
        node.wait("enforcing", enforcing);
        let from = SocketAddr::new(MEMBER[0], 50_000);
        let (mut there, mut here, _listener) =
            connect(&node, from, SocketAddr::new(NODE[0], PORT), false);
        assert_open(&mut there, &mut here);
        let generation = node.generation();
        let without = MANIFEST.replace("10.77.0.[20-21]", "10.77.0.[30-31]");
        node.write("cluster.yaml", &without);
        node.wait("the next generation", |status| status["generation"] == generation + 1);
        let within = if goes_on { WAIT_TIMEOUT } else { SILENCE };
        assert_eq!(arrives(&mut there, &mut here, within), goes_on, "{name}: {}", node.log());
        assert!(!node.answers(MEMBER[0], PORT), "{name}: a new connection");
    }
}

/// A connected UDP socket receives what its peer sends, and nothing from others.
#[test]
fn connected_sockets_receive_from_their_peer() {
    let Some(mut node) = Node::new("connections/udp") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    for family in 0..2 {
        let bind = |address, port| UdpSocket::bind((address, port)).expect("an address");
        let (server, other) =
            node.at_peer(|| (bind(UNLISTED[family], 5353), bind(UNLISTED[family], 5354)));
        let client = node.at_node(|| bind(NODE[family], PORT));
        let to = SocketAddr::new(NODE[family], PORT);
        client.set_read_timeout(Some(SILENCE)).expect("an option");
        let answer = |from: &UdpSocket| {
            from.send_to(b"answer", to).expect("sent");
        };
        let refused = || {
            answer(&server);
            assert!(client.recv(&mut [0; 16]).is_err(), "the socket has no peer yet");
        };
        assert_eq!(counted(&node, refused), count("not_allowed", 1));
        client.connect((UNLISTED[family], 5353)).expect("connected");
        let received = || {
            client.set_read_timeout(Some(WAIT_TIMEOUT)).expect("an option");
            answer(&server);
            assert_eq!(client.recv(&mut [0; 16]).expect("an answer"), 6);
        };
        assert_eq!(counted(&node, received), count("established", 1));
        let refused = || {
            client.set_read_timeout(Some(SILENCE)).expect("an option");
            answer(&other);
            assert!(client.recv(&mut [0; 16]).is_err(), "another port is not the peer");
        };
        assert_eq!(counted(&node, refused), count("not_allowed", 1));
    }
}
