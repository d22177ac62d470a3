//! Packets that the node only forwards, to a container or another host.

use guard_tests::node::{MEMBER, MEMBER_TOO, NODE, modes};

use super::{
    packets::{Packet, syn, udp},
    site::{CONTAINER, Fate, MEMBERS, NODE_BEHIND, SOME, STRANGER, Site, policy, service},
};

/// A port of a service with a limit.
const LIMITED: u16 = 9091;
/// A port of a service without one.
const FREE: u16 = 9092;

/// A policy of two services: `store` limits packets of each source, `open` has no limit. `forwarded` is
/// a field of `store`.
fn two_services(forwarded: &str) -> String {
    let more = format!(
        "forwarded: {forwarded}\n    limits:\n      perSource:\n        packets: {{ rate: 1/s, burst: 20 }}"
    );
    policy(&[
        service("store", "tcp/9091", "all", MEMBERS, &more),
        service("open", "tcp/9092, udp/9092", "all", MEMBERS, ""),
    ])
}

fn times(count: usize, packet: impl Fn() -> Packet, fate: Fate) -> Vec<(Packet, Fate)> {
    (0..count).map(|_| (packet(), fate)).collect()
}

#[test]
fn what_the_node_forwards_to_a_container_passes_uncharged_unless_a_service_guards_it() {
    for mode in modes() {
        let Some(mut site) = Site::new("traffic/forwarding") else { return };
        site.receive_at(&[FREE]);
        site.forward("1");
        site.guard(mode, &two_services("pass"));
        site.wait_for_forwarding("both families", [true; 2]);
        for family in 0..2 {
            let (stranger, container) = (STRANGER[family], CONTAINER[family]);
            let what = |what: &str| format!("{mode}, {container}: {what}");
            site.check(
                &what("an unlisted host"),
                &[
                    (syn(stranger, container, LIMITED), Fate::AtContainer),
                    (syn(stranger, NODE[family], LIMITED), Fate::Nowhere),
                    (syn(stranger, NODE_BEHIND[family], LIMITED), Fate::Nowhere),
                    (udp(stranger, container, FREE), Fate::AtContainer),
                    (udp(stranger, NODE[family], FREE), Fate::Nowhere),
                    (udp(stranger, NODE_BEHIND[family], FREE), Fate::Nowhere),
                ],
                &[
                    ("store", "forwarded", 1),
                    ("store", "not_allowed", 2),
                    ("open", "forwarded", 1),
                    ("open", "not_allowed", 2),
                ],
            );
            // The limit has room for twenty packets.
            let member = MEMBER_TOO[family];
            let through = times(15, || syn(member, container, LIMITED), Fate::AtContainer);
            site.check(&what("a member, through"), &through, &[("store", "forwarded", 15)]);
            let here = times(15, || syn(member, NODE[family], LIMITED), Fate::Reset);
            site.check(&what("a member, to the node"), &here, &[("store", "allowed", 15)]);
            let flood = times(60, || syn(member, NODE[family], LIMITED), Fate::Unseen);
            let both = [("store", "allowed", SOME), ("store", "limit_packets", SOME)];
            site.check(&what("a member, too fast"), &flood, &both);
            // What needs no look-up is not distinguished.
            site.check(
                &what("a member, no limit"),
                &[
                    (udp(member, container, FREE), Fate::AtContainer),
                    (udp(member, NODE[family], FREE), Fate::Received),
                ],
                &[("open", "allowed", 2)],
            );
        }
        let status = site.node.status().expect("a status");
        let forwarded = |name: &str| {
            let mut services = status["services"].as_array().expect("services").iter();
            let found = services.find(|service| service["name"] == name).expect("the service");
            found["forwarded_packets"].as_u64()
        };
        assert_eq!([forwarded("store"), forwarded("open")], [Some(32), Some(2)], "{status}");
        assert_eq!(status["forwarded"]["packets"], 34, "{status}");
        assert_eq!(status["forwarded"]["suspended"], serde_json::Value::Null, "{status}");

        site.change(&two_services("guard"));
        for family in 0..2 {
            let (stranger, container) = (STRANGER[family], CONTAINER[family]);
            site.check(
                &format!("{mode}, {container}: guarded"),
                &[
                    (syn(stranger, container, LIMITED), Fate::Nowhere),
                    (udp(stranger, container, FREE), Fate::AtContainer),
                    (syn(MEMBER[family], container, LIMITED), Fate::AtContainer),
                ],
                &[("store", "not_allowed", 1), ("open", "forwarded", 1), ("store", "allowed", 1)],
            );
        }
    }
}

/// The question comes before every refusal and every charge, also where there are no ports.
#[test]
fn fragments_that_the_node_forwards_pass_uncharged_unless_a_service_guards_them() {
    for mode in modes() {
        let Some(mut site) = Site::new("traffic/forwarded-fragments") else { return };
        site.receive_at(&[FREE]);
        site.forward("1");
        site.guard(mode, &two_services("pass"));
        site.wait_for_forwarding("both families", [true; 2]);
        let check = |what: &str, packet: Packet, fate, moved: &[(&str, &str, u64)]| {
            let packet = packet.len(4000);
            let what = format!("{mode}, {}: {what}", packet.ends.to);
            // Short enough for the MTU of 1500 behind the node, also with a fragment header.
            let frames = packet.fragments(1400);
            assert_eq!(frames.len(), 3);
            site.check_frames(&what, &frames, &[(packet, fate)], moved);
        };
        for family in 0..2 {
            let (stranger, member) = (STRANGER[family], MEMBER_TOO[family]);
            let (container, node) = (CONTAINER[family], NODE[family]);
            check(
                "UDP, through",
                udp(stranger, container, FREE),
                Fate::AtContainer,
                &[("open", "forwarded", 1), ("node", "forwarded", 2)],
            );
            check(
                "TCP, through",
                syn(stranger, container, LIMITED),
                Fate::AtContainer,
                &[("store", "forwarded", 1), ("node", "forwarded", 2)],
            );
            check(
                "to the node",
                udp(stranger, node, FREE),
                Fate::Nowhere,
                &[("open", "not_allowed", 1), ("node", "fragment", 2)],
            );
            // More packets than the limit has room for. Later fragments would be charged to it, too.
            for _ in 0..10 {
                let through = [("store", "forwarded", 3)];
                let packet = syn(member, container, LIMITED);
                check("a member, through", packet, Fate::AtContainer, &through);
            }
            let here = [("store", "allowed", 1), ("node", "fragment", 2)];
            check("a member", syn(member, node, LIMITED), Fate::Reset, &here);
        }
        site.change(&two_services("guard"));
        for family in 0..2 {
            let (stranger, container) = (STRANGER[family], CONTAINER[family]);
            check(
                "TCP, guarded",
                syn(stranger, container, LIMITED),
                Fate::Nowhere,
                &[("store", "not_allowed", 1), ("node", "fragment", 2)],
            );
            check(
                "UDP, another service",
                udp(stranger, container, FREE),
                Fate::AtContainer,
                &[("open", "forwarded", 1), ("node", "forwarded", 2)],
            );
        }
    }
}

#[test]
fn forwarding_that_is_switched_on_or_off_counts_at_once() {
    let Some(mut site) = Site::new("traffic/switched") else { return };
    site.guard("native", &two_services("pass"));
    let generation = site.node.generation();
    let check = |what: &str, forwards: [bool; 2]| {
        site.wait_for_forwarding(what, forwards);
        for family in 0..2 {
            let (fate, reason) = if forwards[family] {
                (Fate::AtContainer, "forwarded")
            } else {
                (Fate::Nowhere, "not_allowed")
            };
            let packet = syn(STRANGER[family], CONTAINER[family], LIMITED);
            let what = format!("{what}: {}", CONTAINER[family]);
            site.check(&what, &[(packet, fate)], &[("store", reason, 1)]);
        }
    };
    check("nothing is forwarded", [false; 2]);
    site.set("ipv4/ip_forward", "1");
    check("IPv4 is forwarded", [true, false]);
    site.set("ipv6/conf/all/forwarding", "1");
    check("both are forwarded", [true; 2]);
    site.set("ipv4/ip_forward", "0");
    check("IPv6 is forwarded", [false, true]);
    site.set("ipv6/conf/all/forwarding", "0");
    check("nothing is forwarded any more", [false; 2]);
    // The kernel forwards IPv6 only with `all`.
    site.set("ipv6/conf/eth0/forwarding", "1");
    check("IPv6 at one interface only", [false; 2]);
    assert_eq!(site.node.generation(), generation, "without a reload");
}

/// The route look-up reports the default route for some of these, and the kernel delivers them here.
#[test]
fn destinations_of_the_node_never_count_as_forwarded() {
    for mode in modes() {
        let Some(mut site) = Site::new("traffic/destinations") else { return };
        site.receive_at(&[FREE]);
        site.forward("1");
        let node = &site.node;
        node.ip(&["route", "add", "default", "via", "10.77.0.1"]);
        node.ip(&["-6", "route", "add", "default", "via", "fd77::1", "dev", "eth0"]);
        for (kind, number) in [("blackhole", 1), ("unreachable", 2), ("prohibit", 3), ("throw", 4)]
        {
            node.ip(&["route", "add", kind, &format!("198.18.{number}.0/24")]);
            node.ip(&["-6", "route", "add", kind, &format!("fd18:{number}::/32")]);
        }
        node.ip(&["route", "add", "local", "198.19.0.0/24", "dev", "lo"]);
        node.ip(&["-6", "route", "add", "local", "fd19::/64", "dev", "lo"]);
        site.guard(mode, &two_services("pass"));
        site.wait_for_forwarding("both families", [true; 2]);
        for (family, elsewhere, destinations) in [
            (
                0,
                "203.0.113.7",
                &[
                    "255.255.255.255",
                    "224.0.0.1",
                    "239.1.2.3",
                    "0.0.0.0",
                    "0.1.2.3",
                    "10.77.0.10",
                    "10.77.0.255",
                    "172.20.0.1",
                    "172.20.0.255",
                    "127.0.0.1",
                    "198.18.1.1",
                    "198.18.2.1",
                    "198.18.3.1",
                    "198.18.4.1",
                    "198.19.0.77",
                ][..],
            ),
            (
                1,
                "2001:db8::7",
                &[
                    "ff02::1",
                    "ff05::2",
                    "ff0e::1:2",
                    "::",
                    "fd77::10",
                    "fd20::1",
                    "::1",
                    "fd18:1::1",
                    "fd18:2::1",
                    "fd18:3::1",
                    "fd18:4::1",
                    "fd19::77",
                ],
            ),
        ] {
            let stranger = STRANGER[family];
            let elsewhere = elsewhere.parse().expect("an address");
            site.check(
                &format!("{mode}: the default route"),
                &[
                    (syn(stranger, elsewhere, LIMITED), Fate::SentBack),
                    (udp(stranger, elsewhere, FREE), Fate::SentBack),
                ],
                &[("store", "forwarded", 1), ("open", "forwarded", 1)],
            );
            for destination in destinations {
                let to = destination.parse().expect("an address");
                let broadcast = syn(stranger, to, LIMITED).with_mac([0xff; 6]);
                let unicast = udp(stranger, to, FREE).with_mac(guard_tests::oracle::NODE_MAC);
                site.check(
                    &format!("{mode}: {destination}"),
                    &[
                        (syn(stranger, to, LIMITED), Fate::Nowhere),
                        (broadcast, Fate::Nowhere),
                        (udp(stranger, to, FREE), Fate::Nowhere),
                        (unicast, Fate::Nowhere),
                    ],
                    &[("store", "not_allowed", 2), ("open", "not_allowed", 2)],
                );
            }
        }
        // The kernel does deliver these to a socket of the node.
        for destination in ["255.255.255.255", "224.0.0.1", "10.77.0.255", "172.20.0.255"] {
            let to = destination.parse().expect("an address");
            let sent = [(udp(MEMBER_TOO[0], to, FREE), Fate::Received)];
            let what = format!("{mode}: {destination}, allowed");
            site.check(&what, &sent, &[("open", "allowed", 1)]);
        }
    }
}
