//! Own addresses: those that the node holds now, whatever the manifest says.

use std::net::IpAddr;

use guard_common::Addr;
use guard_tests::node::{MANIFEST, MEMBER_TOO, NODE, modes, pair};

use super::{
    packets::{syn, udp},
    site::{CONTAINER, Fate, NODE_BEHIND, STRANGER, Site, policy, service},
};

/// The guarded port.
const PORT: u16 = 9092;
/// Addresses that the manifest gives to the node, and that come and go.
const VIRTUAL: [IpAddr; 2] = pair(11);

/// The manifest of a node with a container and a virtual address.
fn manifest() -> String {
    let own = "[10.77.0.10, \"fd77::10\"]";
    let all = "[10.77.0.10, \"fd77::10\", 10.77.0.11, \"fd77::11\", 172.20.0.2, \"fd20::2\"]";
    assert!(MANIFEST.contains(own));
    MANIFEST.replace(own, all)
}

/// Waits until the programs know whether an address is the node's.
fn wait_for_own(site: &Site, address: IpAddr, is_own: bool) {
    let address = Addr::from(address);
    site.wait_for_maps("the address", |maps| {
        let holds = maps.own().expect("the addresses").contains(&address.mapped());
        let may_own = maps.state().expect("the state").may_own(&address);
        holds == is_own && (may_own || !is_own)
    });
}

#[test]
fn the_addresses_that_the_node_holds_are_martian_sources() {
    for mode in modes() {
        let Some(mut site) = Site::new("traffic/addresses") else { return };
        site.receive_at(&[PORT]);
        site.node.write("cluster.yaml", &manifest());
        // All nodes, and the network behind this one.
        let allow = "roles: [worker, scheduler], cidrs: [172.20.0.0/24, \"fd20::/64\"]";
        site.guard(mode, &policy(&[service("data", "tcp/9092, udp/9092", "all", allow, "")]));
        for family in 0..2 {
            let node = NODE[family];
            let what = |what: &str| format!("{mode}, {node}: {what}");
            site.check(
                &what("sources"),
                &[
                    (udp(NODE[family], node, PORT), Fate::Nowhere),
                    (syn(NODE[family], node, PORT), Fate::Nowhere),
                    // An address that the manifest does not name.
                    (udp(NODE_BEHIND[family], node, PORT), Fate::Nowhere),
                    // An address of this node that its container holds.
                    (udp(CONTAINER[family], node, PORT), Fate::Received),
                    (udp(VIRTUAL[family], node, PORT), Fate::Received),
                    (udp(MEMBER_TOO[family], node, PORT), Fate::Received),
                    (udp(STRANGER[family], node, PORT), Fate::Nowhere),
                ],
                &[("data", "martian", 3), ("data", "allowed", 3), ("data", "not_allowed", 1)],
            );
            let address = VIRTUAL[family].to_string();
            for device in ["eth0", "behind", "lo"] {
                let what = |when: &str| what(&format!("{address} at {device}, {when}"));
                site.node.ip(&["addr", "add", &address, "dev", device]);
                wait_for_own(&site, VIRTUAL[family], true);
                let sent = [(udp(VIRTUAL[family], node, PORT), Fate::Nowhere)];
                site.check(&what("added"), &sent, &[("data", "martian", 1)]);
                let length = if family == 0 { 32 } else { 128 };
                let address = format!("{address}/{length}");
                site.node.ip(&["addr", "del", &address, "dev", device]);
                wait_for_own(&site, VIRTUAL[family], false);
                let sent = [(udp(VIRTUAL[family], node, PORT), Fate::Received)];
                site.check(&what("deleted"), &sent, &[("data", "allowed", 1)]);
            }
        }
        assert_eq!(site.node.generation(), 1, "without a reload");
    }
}
