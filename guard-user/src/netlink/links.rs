//! The stacking of network devices in the detail that is needed to follow a frame: addresses, VLAN
//! tags, and the modes of macvlan devices.

use std::io;

use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::message::{Attributes, Query, attribute};

// From include/uapi/linux/rtnetlink.h and if_link.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_PASSTHRU: u32 = 8;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// Size of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
// From include/uapi/linux/if_arp.h.
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;

/// What a device does with frames of the device below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A device without a kind, such as a network card.
    Hardware,
    /// The loopback device.
    Loopback,
    /// A VLAN device.
    Vlan {
        /// Protocol of the tag: 0x8100 or 0x88a8.
        protocol: u16,
        /// Number of the VLAN.
        id: u16,
    },
    /// A macvlan or macvtap device.
    Macvlan {
        /// Whether it receives all frames of the lower device.
        is_passthru: bool,
    },
    /// An ipvlan or ipvtap device.
    Ipvlan,
    /// A bond or team.
    Bond,
    /// A bridge.
    Bridge,
    /// A VRF device.
    Vrf,
    /// Any other kind.
    Other,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index of the device.
    pub index: u32,
    /// Name of the device.
    pub name: String,
    /// Ethernet address; none if the frames of the device have no Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// Kind of the device.
    pub kind: LinkKind,
    /// The device of this namespace below it; only for VLAN, macvlan and ipvlan devices.
    pub lower: Option<u32>,
    /// The bond, team, bridge, VRF or other device that it is a port of.
    pub master: Option<u32>,
}

/// Lists the devices of the network namespace of this thread. A device that appears or vanishes
/// meanwhile may be missing; the kernel then sends a notification.
///
/// # Errors
/// The kernel does not answer.
pub fn links() -> io::Result<Vec<Link>> {
    let mut payload = vec![0; IFINFOMSG];
    // Statistics are most of an answer.
    payload.extend(attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes()));
    let query =
        Query { protocol: NETLINK_ROUTE, kind: RTM_GETLINK, payload: &payload, is_filtered: false };
    Ok(query.list(parse)?.items)
}

/// Parses a message about a device.
fn parse(kind: u16, payload: &[u8]) -> io::Result<Option<Link>> {
    if kind != RTM_NEWLINK {
        return Ok(None);
    }
    let attributes = Attributes::after(IFINFOMSG, payload)?;
    let half = |at: usize| Some(u16::from_ne_bytes(payload.get(at..at + 2)?.try_into().ok()?));
    let index = payload.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let (Some(layer), Some(index)) = (half(2), index) else { return Ok(None) };
    let info = attributes.inside(IFLA_LINKINFO);
    let data = info.inside(IFLA_INFO_DATA);
    let kind = match info.text(IFLA_INFO_KIND).as_deref() {
        None if layer == ARPHRD_LOOPBACK => LinkKind::Loopback,
        None => LinkKind::Hardware,
        Some("vlan") => {
            let protocol = data.number(IFLA_VLAN_PROTOCOL).map(u16::from_be_bytes);
            match (protocol, data.number(IFLA_VLAN_ID).map(u16::from_ne_bytes)) {
                (Some(protocol), Some(id)) => LinkKind::Vlan { protocol, id },
                _ => LinkKind::Other,
            }
        }
        Some("macvlan" | "macvtap") => LinkKind::Macvlan {
            is_passthru: data.number(IFLA_MACVLAN_MODE).map(u32::from_ne_bytes)
                == Some(MACVLAN_MODE_PASSTHRU),
        },
        Some("ipvlan" | "ipvtap") => LinkKind::Ipvlan,
        Some("bond" | "team") => LinkKind::Bond,
        Some("bridge") => LinkKind::Bridge,
        Some("vrf") => LinkKind::Vrf,
        Some(_) => LinkKind::Other,
    };
    // For other kinds the attribute has another meaning, such as the peer of a veth.
    let is_upper =
        matches!(kind, LinkKind::Vlan { .. } | LinkKind::Macvlan { .. } | LinkKind::Ipvlan);
    let is_elsewhere = attributes.value(IFLA_LINK_NETNSID).is_some();
    let lower = attributes.number(IFLA_LINK).map(u32::from_ne_bytes);
    Ok(Some(Link {
        index,
        name: attributes.text(IFLA_IFNAME).unwrap_or_default(),
        mac: attributes.number(IFLA_ADDRESS).filter(|_| layer == ARPHRD_ETHER),
        kind,
        lower: lower.filter(|_| is_upper && !is_elsewhere),
        master: attributes.number(IFLA_MASTER).map(u32::from_ne_bytes),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(layer: u16, index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = vec![0; 2];
        payload.extend(layer.to_ne_bytes());
        payload.extend(index.to_ne_bytes());
        payload.extend([0; 8]);
        payload.extend(attributes.concat());
        payload
    }

    fn info(kind: &str, data: &[Vec<u8>]) -> Vec<u8> {
        let kind = attribute(IFLA_INFO_KIND, kind.as_bytes());
        attribute(IFLA_LINKINFO, &[kind, attribute(IFLA_INFO_DATA, &data.concat())].concat())
    }

    #[test]
    fn vlan_and_macvlan_devices_are_parsed() {
        let base = [
            attribute(IFLA_IFNAME, b"up\0"),
            attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
            attribute(IFLA_LINK, &3_u32.to_ne_bytes()),
        ];
        let vlan = info(
            "vlan",
            &[
                attribute(IFLA_VLAN_ID, &7_u16.to_ne_bytes()),
                attribute(IFLA_VLAN_PROTOCOL, &0x8100_u16.to_be_bytes()),
            ],
        );
        let parsed = |more: &[Vec<u8>]| {
            let payload = message(ARPHRD_ETHER, 9, &[&base[..], more].concat());
            parse(RTM_NEWLINK, &payload).expect("a message").expect("a device")
        };
        let link = parsed(std::slice::from_ref(&vlan));
        assert_eq!((link.index, link.name.as_str(), link.lower), (9, "up", Some(3)));
        assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(link.kind, LinkKind::Vlan { protocol: 0x8100, id: 7 });
        let elsewhere = attribute(IFLA_LINK_NETNSID, &0_u32.to_ne_bytes());
        assert_eq!(parsed(&[vlan, elsewhere]).lower, None, "a card in another namespace");
        let mode = attribute(IFLA_MACVLAN_MODE, &MACVLAN_MODE_PASSTHRU.to_ne_bytes());
        let macvlan = parsed(&[info("macvtap", &[mode])]);
        assert_eq!(macvlan.kind, LinkKind::Macvlan { is_passthru: true });
        let veth = parsed(&[info("veth", &[])]);
        assert_eq!((veth.kind, veth.lower), (LinkKind::Other, None), "the link is the peer");
        assert!(parse(RTM_NEWLINK, &[0; 5]).is_err());
    }

    #[test]
    fn the_loopback_device_is_listed() {
        let links = links().expect("the devices");
        let lo = links.iter().find(|link| link.index == 1).expect("the loopback device");
        assert_eq!((lo.name.as_str(), lo.mac, lo.kind), ("lo", None, LinkKind::Loopback));
    }
}
