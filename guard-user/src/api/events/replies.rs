//! Refused packets that look like replies to a connection of this node, or of a container or virtual
//! machine behind its NAT. A service that judges every packet refuses such replies if their destination
//! port lies in its range.

use super::Packet;

/// Source ports of servers whose replies nodes and containers wait for: ssh, DNS, DHCP, HTTP, Kerberos,
/// the port mapper, NTP, LDAP, HTTPS, SMB, `DHCPv6`, LDAPS, DNS over TLS, NFS, iSCSI, Kubernetes.
const SERVER_PORTS: [u16; 17] =
    [22, 53, 67, 80, 88, 111, 123, 389, 443, 445, 547, 636, 853, 2049, 3260, 6443, 8443];
/// First port that a client gets without asking for it.
const FIRST_CLIENT_PORT: u16 = 1024;

/// Reports whether a refused packet looks like a reply. A packet with a forged source port looks like
/// one, too.
pub fn looks_like_reply(packet: &Packet) -> bool {
    let by_service = packet.reason == "not_allowed" || packet.reason.starts_with("limit_");
    let flags = packet.flags.as_deref();
    let has = |letter| flags.is_some_and(|flags| flags.contains(letter));
    // A SYN opens a connection to this node, whatever port it comes from.
    if !by_service || has('S') && !has('A') {
        return false;
    }
    if has('S') && !has('R') {
        return true;
    }
    let to_client = packet.port.is_some_and(|port| port >= FIRST_CLIENT_PORT);
    let from_server = packet
        .source_port
        .is_some_and(|port| SERVER_PORTS.contains(&port) && packet.port != Some(port));
    to_client && from_server
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(reason: &str, flags: Option<&str>, from: u16, to: u16) -> Packet {
        Packet {
            reason: reason.to_owned(),
            flags: flags.map(str::to_owned),
            source_port: Some(from),
            port: Some(to),
            ..Packet::default()
        }
    }

    #[test]
    fn answers_and_packets_of_known_servers_look_like_replies() {
        for (reason, flags, from, to, expected) in [
            ("not_allowed", Some("SA"), 9999, 40000, true),
            ("limit_packets", Some("SA"), 9999, 1023, true),
            ("not_allowed", Some("S"), 443, 40000, false),
            ("not_allowed", Some("A"), 443, 40000, true),
            ("not_allowed", Some("RA"), 443, 40000, true),
            ("not_allowed", Some("A"), 9999, 40000, false),
            ("not_allowed", None, 53, 40000, true),
            ("not_allowed", None, 53, 1023, false),
            ("not_allowed", None, 123, 123, false),
            ("not_allowed", None, 2049, 2049, false),
            ("not_allowed", None, 40001, 40000, false),
            ("limit_total_bytes", None, 2049, 800, false),
            ("limit_total_bytes", None, 3260, 50000, true),
            ("martian", Some("SA"), 443, 40000, false),
            ("tunnel", None, 53, 40000, false),
        ] {
            let found = looks_like_reply(&packet(reason, flags, from, to));
            assert_eq!(found, expected, "{reason} {flags:?} {from} -> {to}");
        }
        let bare = Packet { reason: "not_allowed".to_owned(), ..Packet::default() };
        assert!(!looks_like_reply(&bare), "without ports");
    }
}
