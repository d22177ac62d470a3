//! Segments that open nothing: the socket that would receive one decides.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use guard_tests::{
    node::{MEMBER, MEMBER_TOO, NODE, UNLISTED, WAIT_TIMEOUT, connect, modes},
    oracle::bytes::flag::{ACK, FIN, PSH, RST, SYN, URG},
};

use super::{
    packets::{syn, tcp, udp},
    site::{Fate, MEMBERS, SOME, STRANGER, Site, TIME_WAIT, policy, service, wait_for_tcp},
};

/// The guarded port of the listener.
const PORT: u16 = 9200;
/// A guarded port at which nothing listens.
const SILENT: u16 = 9201;
/// Guarded UDP ports: of a socket with a peer, and of one without.
const CONNECTED: u16 = 9300;
const BOUND: u16 = 9301;
/// A port of an unlisted server.
const SERVER: u16 = 7000;
const RESOLVER: u16 = 5300;

/// Sends a byte and asserts that it arrives.
fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"x").expect("sending");
    to.set_read_timeout(Some(WAIT_TIMEOUT)).expect("an option");
    assert_eq!(to.read(&mut [0; 8]).expect("data"), 1);
}

fn accept(listener: &TcpListener) -> TcpStream {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("a flag");
                return stream;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "no connection");
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("accepting: {error}"),
        }
    }
}

fn assert_nothing_accepted(what: &str, listener: &TcpListener) {
    let accepted = listener.accept();
    assert!(
        accepted.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
        "{what}: {accepted:?}"
    );
}

/// A policy with one service for new connections.
fn new_connections(allow: &str) -> String {
    policy(&[service("new", "tcp/9200-9299", "new-connections", allow, "")])
}

#[test]
fn segments_of_unlisted_hosts_reach_no_listener() {
    for mode in modes() {
        let Some(mut site) = Site::new("traffic/segments") else { return };
        let listeners = [0, 1].map(|family| site.listen(family, PORT));
        // Cookies of requests before the guard are right for two minutes.
        site.set("ipv4/tcp_syncookies", "2");
        let answers = [0, 1].map(|family| {
            let (from, to) = (STRANGER[family], NODE[family]);
            let answer = || {
                let request = syn(from, to, PORT).bare();
                let cookie = site.cookie(&request);
                let answer = tcp(from, to, PORT, ACK | PSH).with_source_port(request.ports[0]);
                answer.numbers([1001, cookie.wrapping_add(1)])
            };
            // Without a guard, such an answer opens a connection.
            let frame = answer().frame();
            site.node.at_peer(|| guard_tests::raw::send("eth0", &[frame])).expect("sending");
            drop(accept(&listeners[family]));
            answer()
        });
        site.guard(mode, &new_connections(MEMBERS));
        for (family, cookies) in [0, 1].into_iter().flat_map(|f| ["2", "1", "0"].map(|c| (f, c))) {
            site.set("ipv4/tcp_syncookies", cookies);
            let (from, to) = (STRANGER[family], NODE[family]);
            let what = format!("{mode}, {to}, tcp_syncookies {cookies}");
            let flags = [
                ACK,
                ACK | PSH,
                ACK | FIN,
                ACK | RST,
                ACK | URG,
                RST,
                FIN,
                0,
                SYN | ACK,
                SYN,
                SYN | PSH,
            ];
            let mut sent = vec![(answers[family].clone(), Fate::Nowhere)];
            sent.extend(flags.map(|flags| (tcp(from, to, PORT, flags), Fate::Nowhere)));
            sent.extend(flags.map(|flags| (tcp(from, to, PORT, flags).bare(), Fate::Nowhere)));
            site.check(&what, &sent, &[("new", "not_allowed", 23)]);
            assert_nothing_accepted(&what, &listeners[family]);

            // Nothing listens here, so nothing can be opened.
            site.check(
                &format!("{what}, no listener"),
                &[
                    (tcp(from, to, SILENT, ACK).bare(), Fate::Reset),
                    (tcp(from, to, SILENT, ACK | PSH), Fate::Reset),
                    (tcp(from, to, SILENT, FIN), Fate::Reset),
                    (tcp(from, to, SILENT, SYN | ACK), Fate::Reset),
                    (tcp(from, to, SILENT, ACK | RST), Fate::Unseen),
                    (syn(from, to, SILENT), Fate::Nowhere),
                ],
                &[("new", "established", 5), ("new", "not_allowed", 1)],
            );
            // A member's segments reach the listener.
            site.check(
                &format!("{what}, a member"),
                &[
                    (tcp(MEMBER_TOO[family], to, PORT, ACK), Fate::Reset),
                    (syn(MEMBER_TOO[family], to, PORT), Fate::Accepted),
                ],
                &[("new", "established", 1), ("new", "allowed", 1)],
            );
        }
    }
}

#[test]
fn a_connection_of_a_removed_member_continues_to_its_end() {
    for family in 0..2 {
        let Some(mut site) = Site::new("traffic/removed") else { return };
        let (from, to) = (MEMBER[family], NODE[family]);
        site.guard("native", &new_connections(MEMBERS));
        let listener = site.listen(family, PORT);
        let opened = [("new", "allowed", 1), ("new", "established", SOME)];
        let (mut peer, mut ours) = site.counted("opening", &opened, || {
            let to = SocketAddr::new(to, PORT);
            let peer = site.node.at_peer(|| connect(SocketAddr::new(from, 0), to));
            (peer, accept(&listener))
        });
        site.change(&new_connections("roles: [scheduler]"));
        let established = [("new", "established", SOME)];
        site.counted("after the change", &established, || {
            pass(&mut peer, &mut ours);
            pass(&mut ours, &mut peer);
        });
        let again = [(syn(from, to, PORT), Fate::Nowhere)];
        site.check("a new connection", &again, &[("new", "not_allowed", 1)]);

        // The node closes first, so its socket remains for a minute.
        let port = peer.local_addr().expect("an address").port();
        site.counted("closing", &established, || {
            drop(ours);
            assert_eq!(peer.read(&mut [0; 8]).expect("the end"), 0);
            drop(peer);
            site.node.at_node(|| wait_for_tcp(PORT, &[TIME_WAIT]));
        });
        // The peer's kernel has no such connection any more, and answers with a reset.
        let late = tcp(from, to, PORT, ACK | FIN).with_source_port(port).bare();
        let both = [("new", "established", 2)];
        site.check("a late segment", &[(late, Fate::Acknowledged)], &both);
        let other = tcp(from, to, PORT, ACK | FIN).with_source_port(port - 1).bare();
        let sent = [(other, Fate::Nowhere)];
        site.check("of no connection", &sent, &[("new", "not_allowed", 1)]);
    }
}

/// A policy with a service for all packets.
fn all_packets(allow: &str) -> String {
    policy(&[service("range", "tcp/9200-9299, udp/9300-9399", "all", allow, "")])
}

#[test]
fn replies_to_sockets_of_the_node_pass_where_all_packets_match() {
    for mode in modes() {
        let Some(mut site) = Site::new("traffic/own") else { return };
        site.guard(mode, &all_packets(MEMBERS));
        for family in 0..2 {
            let (server, node) = (UNLISTED[family], NODE[family]);
            let what = |what: &str| format!("{mode}, {node}: {what}");
            let established = [("range", "established", SOME)];
            site.counted(&what("a connection of the node"), &established, || {
                let listener = site.node.at_peer(|| TcpListener::bind((server, SERVER)));
                let listener = listener.expect("a listener");
                let to = SocketAddr::new(server, SERVER);
                let mut ours = site.node.at_node(|| connect(SocketAddr::new(node, PORT), to));
                let mut theirs = accept(&listener);
                pass(&mut ours, &mut theirs);
                pass(&mut theirs, &mut ours);
                // The peer closes first, so nothing remains at the node.
                drop(theirs);
                assert_eq!(ours.read(&mut [0; 8]).expect("the end"), 0);
                drop(ours);
                site.node.at_node(|| wait_for_tcp(PORT, &[]));
            });
            let no_socket = [ACK, SYN | ACK, FIN | ACK, RST, SYN];
            let sent = no_socket.map(|flags| {
                (tcp(server, node, SILENT, flags).with_source_port(SERVER), Fate::Nowhere)
            });
            site.check(&what("of no connection"), &sent, &[("range", "not_allowed", 5)]);

            site.receive_from(CONNECTED, SocketAddr::new(server, RESOLVER));
            site.check(
                &what("datagrams"),
                &[
                    (udp(server, node, CONNECTED).with_source_port(RESOLVER), Fate::Received),
                    (udp(server, node, CONNECTED).with_source_port(RESOLVER + 1), Fate::Nowhere),
                    (
                        udp(STRANGER[family], node, CONNECTED).with_source_port(RESOLVER),
                        Fate::Nowhere,
                    ),
                    (udp(server, node, BOUND).with_source_port(RESOLVER), Fate::Nowhere),
                ],
                &[("range", "established", 1), ("range", "not_allowed", 3)],
            );
        }
        // A socket without a peer shows no one's answers.
        site.receive_at(&[BOUND]);
        for family in 0..2 {
            site.check(
                &format!("{mode}, {}: a socket without a peer", NODE[family]),
                &[
                    (
                        udp(UNLISTED[family], NODE[family], BOUND).with_source_port(53),
                        Fate::Nowhere,
                    ),
                    (udp(MEMBER_TOO[family], NODE[family], BOUND), Fate::Received),
                ],
                &[("range", "not_allowed", 1), ("range", "allowed", 1)],
            );
        }
    }
}

#[test]
fn a_connection_that_an_unlisted_host_opened_is_cut_by_the_next_policy() {
    let Some(mut site) = Site::new("traffic/cut") else { return };
    site.guard("native", &all_packets("cidrs: [10.77.0.0/24, \"fd77::/64\"]"));
    let listeners = [0, 1].map(|family| site.listen(family, PORT));
    let allowed = [("range", "allowed", SOME)];
    let pairs = site.counted("while the policy allows it", &allowed, || {
        [0, 1].map(|family| {
            let (from, to) = (UNLISTED[family], SocketAddr::new(NODE[family], PORT));
            let mut peer = site.node.at_peer(|| connect(SocketAddr::new(from, 0), to));
            let mut ours = accept(&listeners[family]);
            pass(&mut peer, &mut ours);
            pass(&mut ours, &mut peer);
            (peer, ours)
        })
    });
    site.change(&all_packets(MEMBERS));
    for (mut peer, mut ours) in pairs {
        site.counted("afterwards", &[("range", "not_allowed", SOME)], || {
            peer.write_all(b"x").expect("sending");
        });
        ours.set_nonblocking(true).expect("a flag");
        let read = ours.read(&mut [0; 8]);
        assert!(
            read.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "{read:?}"
        );
    }
}
