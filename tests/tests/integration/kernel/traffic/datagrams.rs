//! Datagrams: the ports that ranges leave alone, and fragments.

use std::net::{IpAddr, Ipv4Addr};

use guard_tests::node::{MEMBER_TOO, NODE, modes};

use super::{
    packets::{Packet, syn, udp},
    site::{Fate, MEMBERS, SOME, STRANGER, Site, policy, service},
};

/// DHCP and NTP, which ranges leave alone.
const LEFT_ALONE: [u16; 5] = [67, 68, 123, 546, 547];
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const EVERYBODY: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);
const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// A port that a range guards.
const NEXT: u16 = 69;

/// The message of a client without an address (RFC 2131 section 4.1).
fn discover(port: u16) -> Packet {
    udp(NOBODY, EVERYBODY, port).with_source_port(CLIENT)
}

#[test]
fn dhcp_and_ntp_reach_the_node_under_a_policy_over_low_ports() {
    for mode in modes() {
        let Some(mut site) = Site::new("traffic/dhcp") else { return };
        site.receive_at(&LEFT_ALONE);
        site.receive_at(&[NEXT]);
        let low = || service("low", "udp/1-1023", "all", MEMBERS, "");
        site.guard(mode, &policy(&[low()]));
        site.check(
            &format!("{mode}: a client without an address"),
            &[(discover(SERVER), Fate::Received), (discover(NEXT), Fate::Nowhere)],
            &[("node", "unguarded", 1), ("low", "martian", 1)],
        );
        for family in 0..2 {
            let (stranger, node) = (STRANGER[family], NODE[family]);
            let mut sent: Vec<_> =
                LEFT_ALONE.map(|port| (udp(stranger, node, port), Fate::Received)).into();
            let guarded = [66, NEXT, 122, 124, 545, 548];
            sent.extend(guarded.map(|port| (udp(stranger, node, port), Fate::Nowhere)));
            sent.push((udp(MEMBER_TOO[family], node, NEXT), Fate::Received));
            site.check(
                &format!("{mode}: {stranger}"),
                &sent,
                &[("node", "unguarded", 5), ("low", "not_allowed", 6), ("low", "allowed", 1)],
            );
        }
        // A service may name such a port by itself.
        let dhcp = |allow| service("dhcp", "udp/67", "all", allow, "");
        site.change(&policy(&[low(), dhcp("any: true")]));
        site.check(
            &format!("{mode}: a server for all"),
            &[
                (discover(SERVER), Fate::Received),
                (udp(STRANGER[0], NODE[0], SERVER), Fate::Received),
                (udp(STRANGER[0], NODE[0], CLIENT), Fate::Received),
                (discover(NEXT), Fate::Nowhere),
            ],
            &[("dhcp", "allowed", 2), ("node", "unguarded", 1), ("low", "martian", 1)],
        );
        site.change(&policy(&[low(), dhcp(MEMBERS)]));
        site.check(
            &format!("{mode}: a server for members"),
            &[
                (discover(SERVER), Fate::Nowhere),
                (udp(STRANGER[0], NODE[0], SERVER), Fate::Nowhere),
                (udp(MEMBER_TOO[0], NODE[0], SERVER), Fate::Received),
            ],
            &[("dhcp", "not_allowed", 2), ("dhcp", "allowed", 1)],
        );
    }
}

/// A port that no policy names.
const FREE: u16 = 30_000;
/// A guarded port.
const GUARDED: u16 = 9092;
/// Number of bytes of a fragment's payload, which makes three fragments of [`large`].
const FRAGMENT: usize = 1480;

/// Makes a packet as large as three fragments.
fn large(packet: Packet) -> Packet {
    packet.len(4000)
}

/// Sends a packet in fragments.
fn check_fragments(
    site: &Site,
    what: &str,
    packet: Packet,
    fate: Fate,
    moved: &[(&str, &str, u64)],
) {
    let packet = large(packet);
    let frames = packet.fragments(FRAGMENT);
    assert_eq!(frames.len(), 3);
    site.check_frames(what, &frames, &[(packet, fate)], moved);
}

#[test]
fn fragments_pass_where_no_port_of_their_protocol_is_guarded() {
    for mode in modes() {
        let Some(mut site) = Site::new("traffic/fragments") else { return };
        site.receive_at(&[FREE, GUARDED]);
        site.guard(mode, &policy(&[service("store", "tcp/9091", "all", MEMBERS, "")]));
        for family in 0..2 {
            let (stranger, node) = (STRANGER[family], NODE[family]);
            let what = |what: &str| format!("{mode}, {stranger}: {what}");
            let passes = [("node", "unguarded", 3)];
            let packet = udp(stranger, node, FREE);
            check_fragments(&site, &what("UDP"), packet, Fate::Received, &passes);
            check_fragments(
                &site,
                &what("TCP, guarded"),
                syn(stranger, node, 9091),
                Fate::Nowhere,
                &[("store", "not_allowed", 1), ("node", "fragment", 2)],
            );
            check_fragments(
                &site,
                &what("TCP, another port"),
                syn(stranger, node, FREE),
                Fate::Nowhere,
                &[("node", "unguarded", 1), ("node", "fragment", 2)],
            );
        }
        site.change(&policy(&[service("data", "udp/9092", "all", MEMBERS, "")]));
        for family in 0..2 {
            let (stranger, member, node) = (STRANGER[family], MEMBER_TOO[family], NODE[family]);
            let what = |what: &str| format!("{mode}, {node}: {what}");
            check_fragments(
                &site,
                &what("TCP where UDP is guarded"),
                syn(stranger, node, 9091),
                Fate::Reset,
                &[("node", "unguarded", 3)],
            );
            check_fragments(
                &site,
                &what("a member"),
                udp(member, node, GUARDED),
                Fate::Received,
                &[("data", "allowed", 1), ("node", "fragment", 2)],
            );
            check_fragments(
                &site,
                &what("an unlisted host"),
                udp(stranger, node, GUARDED),
                Fate::Nowhere,
                &[("data", "not_allowed", 1), ("node", "fragment", 2)],
            );
            check_fragments(
                &site,
                &what("an unlisted host, another port"),
                udp(stranger, node, FREE),
                Fate::Nowhere,
                &[("node", "unguarded", 1), ("node", "fragment", 2)],
            );
        }
    }
}

#[test]
fn later_fragments_are_charged_to_limits() {
    // The first fragments alone would be within the limits: 30 packets, 45 kB.
    for (unit, limit) in [
        ("packets", "packets: { rate: 1/s, burst: 50 }"),
        ("bytes", "bytes: { rate: 1kB/s, burst: 70kB }"),
    ] {
        let Some(mut site) = Site::new("traffic/charged") else { return };
        site.receive_at(&[GUARDED]);
        let limits = format!("limits:\n      perSource:\n        {limit}");
        site.guard("native", &policy(&[service("data", "udp/9092", "all", MEMBERS, &limits)]));
        for family in 0..2 {
            let datagrams: Vec<_> =
                (0..30).map(|_| large(udp(MEMBER_TOO[family], NODE[family], GUARDED))).collect();
            let frames: Vec<_> =
                datagrams.iter().flat_map(|packet| packet.fragments(FRAGMENT)).collect();
            let mut sent: Vec<_> =
                datagrams.into_iter().map(|packet| (packet, Fate::Unseen)).collect();
            sent[0].1 = Fate::Received;
            let reason = format!("limit_{unit}");
            site.check_frames(
                &format!("{unit}, {}", NODE[family]),
                &frames,
                &sent,
                &[("data", "allowed", SOME), ("node", "fragment", SOME), ("data", &reason, SOME)],
            );
        }
    }
}
