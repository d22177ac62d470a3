//! Tests of what the kernel has said.

use super::*;
use crate::netlink::nftables::{Change, Rule};

fn rule(handle: u64, effects: Effects) -> Rule {
    let id = RuleId { family: 2, table: "t".to_owned(), handle };
    Rule { id, chain: "c".to_owned(), effects }
}

/// Everything is known, and nothing is there.
fn quiet() -> Known {
    Known {
        links: Ok(Vec::new()),
        own: Ok(Arc::default()),
        forwarding: Ok(Forwarding::default()),
        marks: Ok(BTreeSet::new()),
        nft: Ok(NftRules::default()),
        legacy: [Ok(LegacyTables::default()), Ok(LegacyTables::default())],
        ..Known::default()
    }
}

#[test]
fn what_is_not_known_is_an_obstacle() {
    assert_eq!(quiet().facts().obstacles_ipv4, []);
    let unknown = Known::default().facts();
    // Each part gives the same reason.
    assert_eq!(unknown.obstacles_ipv4, [Obstacle::Unknown("not read yet".to_owned())]);
    let mut known = quiet();
    known.forget(Parts { nft: true, ..Parts::NONE }, "lost");
    assert_eq!(known.facts().obstacles_ipv6, [Obstacle::Unknown("lost".to_owned())]);
    assert!(known.unknown().nft && !known.unknown().marks);
}

#[test]
fn rules_by_mark_and_legacy_tables_count_for_their_version() {
    let mut known = quiet();
    known.marks = Ok(BTreeSet::from([Family::V6]));
    known.legacy[0] = Ok(LegacyTables { tproxy: true, redirect: true });
    let facts = known.facts();
    let expected = [Obstacle::Legacy("TPROXY"), Obstacle::Legacy("REDIRECT")];
    assert_eq!(facts.obstacles_ipv4, expected);
    assert_eq!(facts.obstacles_ipv6, [Obstacle::RuleByMark]);
}

#[test]
fn a_rule_counts_until_it_is_removed() {
    let mut known = quiet();
    let redirect = Effects { redirect: true, ..Effects::default() };
    let masquerade = Effects { masquerade: true, ..Effects::default() };
    let rules = known.nft.as_mut().expect("rules");
    rules.apply(Change::Added(rule(1, redirect)));
    rules.apply(Change::Added(rule(2, masquerade)));
    let facts = known.facts();
    assert!(matches!(facts.obstacles_ipv4[..], [Obstacle::Redirect(_)]), "{facts:?}");
    assert_eq!(facts.obstacles_ipv6, [], "the table is of IPv4");
    assert!(facts.masquerade && !facts.dnat);
    let text = facts.obstacles_ipv4[0].to_string();
    assert_eq!(text, "a redirect rule of nf_tables (table `t`, chain `c`, handle 1)");
    let rules = known.nft.as_mut().expect("rules");
    rules.apply(Change::Removed(rule(2, masquerade).id));
    assert!(rules.delivers_here());
    rules.apply(Change::Removed(rule(1, redirect).id));
    assert!(!rules.delivers_here());
    assert_eq!(known.facts().obstacles_ipv4, []);
}

#[test]
fn too_many_rules_count_until_they_are_read_again() {
    let mut rules = NftRules::default();
    let tproxy = Effects { tproxy: true, ..Effects::default() };
    for handle in 0..=MAX_RULES as u64 {
        rules.apply(Change::Added(rule(handle, tproxy)));
    }
    for handle in 0..=MAX_RULES as u64 {
        rules.apply(Change::Removed(rule(handle, tproxy).id));
    }
    assert!(rules.delivers_here(), "one was not remembered");
}

#[test]
fn listeners_on_guarded_and_loopback_devices_do_not_count() {
    let mut known = quiet();
    let lo = Link {
        index: 1,
        name: "lo".to_owned(),
        mac: None,
        kind: LinkKind::Loopback,
        lower: None,
        master: None,
    };
    known.links = Ok(vec![lo]);
    known.bound.ports = BTreeSet::from([(53, 1), (80, 2), (443, 3)]);
    known.set_guarded(BTreeSet::from([2]));
    assert_eq!(known.facts().bound_ports, BTreeSet::from([443]));
}

#[test]
fn more_addresses_than_fit_are_said() {
    let mut known = quiet();
    for number in 0..=MAX_OWN {
        known.add_own(IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number)));
    }
    let facts = known.facts();
    assert_eq!(facts.own.len(), MAX_OWN as usize);
    assert!(facts.incomplete[0].contains("16384 addresses"), "{:?}", facts.incomplete);
}
