//! Tests of the mapping of frames to devices.

use super::*;

const fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

/// A device with an address of its own.
fn link(index: u32, kind: LinkKind) -> Link {
    let own = mac(u8::try_from(index).expect("a small index"));
    Link { index, name: format!("d{index}"), mac: Some(own), kind, lower: None, master: None }
}

fn card(index: u32) -> Link {
    link(index, LinkKind::Hardware)
}

fn port_of(index: u32, master: u32) -> Link {
    Link { master: Some(master), ..card(index) }
}

fn on(lower: u32, index: u32, kind: LinkKind) -> Link {
    Link { lower: Some(lower), ..link(index, kind) }
}

fn vlan(id: u16) -> LinkKind {
    LinkKind::Vlan { protocol: 0x8100, id }
}

const MACVLAN: LinkKind = LinkKind::Macvlan { is_passthru: false };

/// Returns the mapping of one interface: last octet of the address, tags, receiver.
fn of(port: u32, links: &[Link]) -> Vec<(u64, [u32; 2], u32)> {
    let map = DeviceMap::new(links, &BTreeSet::new(), 1000);
    assert_eq!(map.left_out, 0);
    let entries = map.entries.into_iter().filter(|(key, _)| key.ifindex == port);
    entries.map(|(key, device)| (key.mac & 0xff, [key.outer, key.inner], device)).collect()
}

const NONE: [u32; 2] = [0, 0];

#[test]
fn a_card_receives_its_own_frames() {
    let key = DeviceKey { mac: 0x0200_0000_0002, outer: 0, inner: 0, ifindex: 2, zero: 0 };
    let map = DeviceMap::new(&[card(2)], &BTreeSet::new(), 1000);
    assert_eq!(map.entries, BTreeMap::from([(key, 2)]));
    let no_ethernet = Link { mac: None, ..card(2) };
    assert_eq!(of(2, &[no_ethernet]), []);
}

#[test]
fn a_vlan_device_receives_frames_with_its_tag() {
    let links = [card(2), on(2, 3, vlan(5)), on(2, 4, vlan(0))];
    let tag = [0x8100_0005, 0];
    assert_eq!(of(2, &links), [(2, NONE, 2), (2, tag, 3), (3, tag, 3)]);
    assert_eq!(of(3, &links), [(3, NONE, 3)], "a guard on the VLAN device sees no tag");
}

#[test]
fn vlan_devices_are_nested_at_most_twice() {
    let outer = LinkKind::Vlan { protocol: 0x88a8, id: 7 };
    let links = [card(2), on(2, 3, outer), on(3, 4, vlan(5)), on(4, 5, vlan(6))];
    let (one, two) = ([0x88a8_0007, 0], [0x88a8_0007, 0x8100_0005]);
    let expected = [(2, NONE, 2), (2, one, 3), (2, two, 4), (3, one, 3), (3, two, 4), (4, two, 4)];
    assert_eq!(of(2, &links), expected);
}

#[test]
fn a_bond_receives_the_frames_of_its_ports() {
    let bond = link(9, LinkKind::Bond);
    let links = [port_of(2, 9), port_of(3, 9), bond, on(9, 10, vlan(5))];
    let tag = [0x8100_0005, 0];
    assert_eq!(of(2, &links), [(2, NONE, 9), (2, tag, 10), (10, tag, 10)]);
    assert_eq!(of(3, &links), [(3, NONE, 9), (3, tag, 10), (10, tag, 10)]);
    assert_eq!(of(9, &links), [(9, NONE, 9), (9, tag, 10), (10, tag, 10)]);
}

/// A VLAN device on a port takes the frame before the bond does.
#[test]
fn a_vlan_device_on_a_port_comes_before_the_bond() {
    let bond = link(9, LinkKind::Bond);
    let links = [port_of(2, 9), bond, on(9, 10, vlan(5)), on(2, 11, vlan(5))];
    let tag = [0x8100_0005, 0];
    assert!(of(2, &links).contains(&(2, tag, 11)));
}

#[test]
fn a_virtual_function_passes_its_frames_to_its_card() {
    assert_eq!(of(2, &[port_of(2, 9), card(9)]), [(2, NONE, 9)]);
}

#[test]
fn a_bridge_port_has_no_entries_and_the_bridge_has() {
    let bridge = link(9, LinkKind::Bridge);
    let links = [port_of(2, 9), on(2, 3, vlan(5)), bridge];
    assert_eq!(of(2, &links), []);
    assert_eq!(of(9, &links), [(9, NONE, 9)]);
    // A VLAN device that is a port, on a card that is none.
    let links = [card(2), Link { master: Some(9), ..on(2, 3, vlan(5)) }, link(9, LinkKind::Bridge)];
    assert_eq!(of(2, &links), [(2, NONE, 2)]);
    // A bond that is a port.
    let bond = Link { master: Some(9), ..link(8, LinkKind::Bond) };
    assert_eq!(of(2, &[port_of(2, 8), bond, link(9, LinkKind::Bridge)]), []);
}

#[test]
fn ports_of_other_or_missing_controllers_have_no_entries() {
    assert_eq!(of(2, &[port_of(2, 9), link(9, LinkKind::Other)]), []);
    assert_eq!(of(2, &[port_of(2, 9)]), []);
}

#[test]
fn a_port_of_a_vrf_receives_its_own_frames() {
    let links = [port_of(2, 9), link(9, LinkKind::Vrf)];
    assert_eq!(of(2, &links), [(2, NONE, 2)]);
}

#[test]
fn a_macvlan_device_receives_frames_to_its_address() {
    let links = [card(2), on(2, 3, MACVLAN), on(2, 4, vlan(5)), on(4, 5, MACVLAN)];
    let tag = [0x8100_0005, 0];
    let expected = [(2, NONE, 2), (2, tag, 4), (3, NONE, 3), (4, tag, 4), (5, tag, 5)];
    assert_eq!(of(2, &links), expected);
}

#[test]
fn a_passthru_device_receives_everything_of_its_card() {
    let passthru = LinkKind::Macvlan { is_passthru: true };
    let same = Link { mac: Some(mac(2)), ..on(2, 3, passthru) };
    assert_eq!(of(2, &[card(2), same]), [(2, NONE, 3)]);
    let other = on(2, 3, passthru);
    assert_eq!(of(2, &[card(2), other]), [(2, NONE, 3), (3, NONE, 3)]);
}

#[test]
fn a_card_with_an_ipvlan_device_has_no_entries() {
    assert_eq!(of(2, &[card(2), on(2, 3, LinkKind::Ipvlan)]), []);
    // The IP stack receives tagged frames at the VLAN device, whatever is on the card.
    let links = [card(2), on(2, 3, LinkKind::Ipvlan), on(2, 4, vlan(5))];
    let tag = [0x8100_0005, 0];
    assert_eq!(of(2, &links), [(2, tag, 4), (4, tag, 4)]);
    let links = [card(2), on(2, 4, vlan(5)), on(4, 3, LinkKind::Ipvlan)];
    assert_eq!(of(2, &links), [(2, NONE, 2)]);
}

#[test]
fn devices_that_do_not_fit_are_left_out_and_guarded_ones_come_first() {
    let links: Vec<Link> = (2..12).map(card).collect();
    let map = DeviceMap::new(&links, &BTreeSet::from([11]), 3);
    let ports: Vec<u32> = map.entries.keys().map(|key| key.ifindex).collect();
    assert_eq!((ports, map.left_out), (vec![2, 3, 11], 7));
}

#[test]
fn a_cycle_ends() {
    let links = [port_of(2, 3), Link { master: Some(2), ..link(3, LinkKind::Bond) }];
    assert_eq!(of(2, &links), []);
    let loops: Vec<Link> = [on(3, 2, vlan(1)), on(2, 3, vlan(2))].into();
    assert!(of(2, &loops).len() < 20);
}
