//! Replies to connections that the node translates: they are sent to a port of the node that no socket
//! owns.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use guard_tests::{
    nft::{self, Hook, Table},
    node::{NODE, UNLISTED, connect, modes},
    skip,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::site::{CONTAINER, MEMBERS, SOME, Site, policy, service, wait_for_tcp};

/// The port of an unlisted server.
const SERVER: u16 = 7000;
/// Source ports of the container, which NAT keeps: guarded for new connections, and for all packets.
const NEW: u16 = 9250;
const ALL: u16 = 9350;

#[test]
fn replies_to_masqueraded_connections_pass_where_only_new_connections_match() {
    for mode in modes() {
        let Some(mut site) = Site::new("traffic/masquerade") else { return };
        site.forward("1");
        for family in [nft::IPV4, nft::IPV6] {
            let table = Table { family, name: "test" };
            let messages = [
                table.create(),
                table.chain("nat", Hook::Postrouting),
                table.rule(&[nft::expression("masq", &[])]),
            ];
            if let Err(error) = site.node.at_node(|| nft::transact(&messages)) {
                skip::skip("traffic/nf_tables", &format!("masquerade: {error}"));
                return;
            }
        }
        site.guard(
            mode,
            &policy(&[
                service("new", "tcp/9200-9299", "new-connections", MEMBERS, ""),
                service("all", "tcp/9300-9399", "all", MEMBERS, ""),
            ]),
        );
        site.wait_for_forwarding("both families", [true; 2]);
        let listeners = [0, 1].map(|family| {
            let listener = site.node.at_peer(|| TcpListener::bind((UNLISTED[family], SERVER)));
            listener.expect("a listener")
        });
        for family in 0..2 {
            let to = SocketAddr::new(UNLISTED[family], SERVER);
            site.counted(&format!("{mode}, {to}"), &[("new", "established", SOME)], || {
                let from = SocketAddr::new(CONTAINER[family], NEW);
                let mut ours = site.at_container(|| connect(from, to));
                let (mut theirs, from) = listeners[family].accept().expect("a connection");
                assert_eq!(from, SocketAddr::new(NODE[family], NEW), "translated");
                theirs.write_all(b"data").expect("sending");
                assert_eq!(ours.read(&mut [0; 8]).expect("data"), 4);
                drop(theirs);
                assert_eq!(ours.read(&mut [0; 8]).expect("the end"), 0);
                drop(ours);
                site.at_container(|| wait_for_tcp(NEW, &[]));
            });
        }
        // Only connection tracking knows these replies. The server repeats them, so they come last.
        for family in 0..2 {
            let to = SocketAddr::new(UNLISTED[family], SERVER);
            site.counted(&format!("{mode}, {to}, all"), &[("all", "not_allowed", SOME)], || {
                let from = SocketAddr::new(CONTAINER[family], ALL);
                let error = site.at_container(|| {
                    let socket =
                        Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP));
                    let socket = socket.expect("a socket");
                    socket.bind(&from.into()).expect("an address");
                    socket.connect_timeout(&to.into(), Duration::from_millis(200))
                });
                assert!(error.is_err(), "the reply must not arrive");
            });
        }
        for source in [r#""source":"10.77.0.99""#, r#""source":"fd77::99""#] {
            site.wait_for_event(&[source, r#""looks_like_reply":true"#]);
        }
        let diagnosis = site.diagnosis("nat-replies");
        assert_eq!(diagnosis["state"], "warning", "{mode}: {diagnosis}");
    }
}
