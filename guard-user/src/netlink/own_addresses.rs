//! The addresses that this node holds: those of its devices, and local routes to single addresses.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::message::{Attributes, Notifications, Query};

// From include/uapi/linux/rtnetlink.h and if_addr.h.
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RT_TABLE_LOCAL: u8 = 255;
const RTN_LOCAL: u8 = 2;
/// Size of `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
/// Size of `struct rtmsg`.
const RTMSG: usize = 12;

/// Lists the addresses of the network namespace of this thread. The kernel filters the routes, so the
/// size of other tables does not matter. An address that comes or goes meanwhile may be missing; the
/// kernel then sends a notification.
///
/// # Errors
/// The kernel does not answer.
pub fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let addresses = Query {
        protocol: NETLINK_ROUTE,
        kind: RTM_GETADDR,
        payload: &[0; IFADDRMSG],
        is_filtered: false,
    };
    let mut own: BTreeSet<IpAddr> =
        addresses.list(|kind, payload| Ok(added(kind, payload)))?.items.into_iter().collect();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut payload = [0; RTMSG];
        payload[0] = u8::try_from(family).unwrap_or_default();
        (payload[4], payload[7]) = (RT_TABLE_LOCAL, RTN_LOCAL);
        let routes = Query {
            protocol: NETLINK_ROUTE,
            kind: RTM_GETROUTE,
            payload: &payload,
            is_filtered: true,
        };
        let listed =
            routes.list(|kind, payload| Ok(local_route(payload).filter(|_| kind == RTM_NEWROUTE)));
        match listed.map_err(|error| (error.raw_os_error(), error)) {
            Ok(listed) => own.extend(listed.items),
            // A namespace without the table, or a kernel without IPv6.
            Err((Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT), _))
                if family == libc::AF_INET6 => {}
            Err((_, error)) => return Err(error),
        }
    }
    Ok(own)
}

/// Opens a socket that receives notifications about routes. The caller passes them to
/// [`is_of_local_route`].
pub fn route_notifications() -> io::Result<Notifications> {
    Notifications::join(NETLINK_ROUTE, &[RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE])
}

/// Reports whether a notification is about a local route to a single address.
pub fn is_of_local_route(kind: u16, payload: &[u8]) -> bool {
    matches!(kind, RTM_NEWROUTE | RTM_DELROUTE) && local_route(payload).is_some()
}

/// Reports whether a notification is about an address.
pub fn is_of_address(kind: u16) -> bool {
    matches!(kind, RTM_NEWADDR | RTM_DELADDR)
}

/// Returns the address that a message adds; none if it adds none.
pub fn added(kind: u16, payload: &[u8]) -> Option<IpAddr> {
    if kind != RTM_NEWADDR {
        return None;
    }
    let attributes = Attributes::after(IFADDRMSG, payload).ok()?;
    // `IFA_ADDRESS` is the peer's if both are there.
    let value = attributes.value(IFA_LOCAL).or_else(|| attributes.value(IFA_ADDRESS));
    address(*payload.first()?, value?)
}

/// Returns the destination of a local route to a single address.
fn local_route(payload: &[u8]) -> Option<IpAddr> {
    let &[family, length, _, _, table, _, _, kind, ..] = payload else { return None };
    let whole = if i32::from(family) == libc::AF_INET { 32 } else { 128 };
    if length != whole || table != RT_TABLE_LOCAL || kind != RTN_LOCAL {
        return None;
    }
    address(family, Attributes::after(RTMSG, payload).ok()?.value(RTA_DST)?)
}

fn address(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::message::attribute, *};

    /// `AF_INET`.
    const V4: u8 = 2;

    #[test]
    fn the_local_end_of_a_point_to_point_address_is_own() {
        let header = vec![V4, 32, 0, 0, 0, 0, 0, 0];
        let peer = attribute(IFA_ADDRESS, &[10, 0, 0, 2]);
        let local = attribute(IFA_LOCAL, &[10, 0, 0, 1]);
        let both = [header.clone(), peer.clone(), local].concat();
        assert_eq!(added(RTM_NEWADDR, &both), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(added(RTM_DELADDR, &both), None);
        let only = [header, peer].concat();
        assert_eq!(added(RTM_NEWADDR, &only), Some(IpAddr::from([10, 0, 0, 2])));
        assert_eq!(added(RTM_NEWADDR, &only[..7]), None);
    }

    #[test]
    fn only_local_routes_to_single_addresses_count() {
        let route = |length: u8, table: u8, kind: u8| {
            let header = vec![V4, length, 0, 0, table, 0, 0, kind, 0, 0, 0, 0];
            [header, attribute(RTA_DST, &[10, 9, 0, 0])].concat()
        };
        let is_own = |payload: &[u8]| is_of_local_route(RTM_NEWROUTE, payload);
        assert!(is_own(&route(32, RT_TABLE_LOCAL, RTN_LOCAL)));
        assert!(!is_own(&route(16, RT_TABLE_LOCAL, RTN_LOCAL)), "a local prefix");
        assert!(!is_own(&route(32, 254, RTN_LOCAL)), "another table");
        assert!(!is_own(&route(32, RT_TABLE_LOCAL, 3)), "a broadcast address");
        assert!(!is_own(&route(32, RT_TABLE_LOCAL, RTN_LOCAL)[..10]));
    }

    #[test]
    fn the_kernel_lists_the_addresses_of_this_namespace() {
        let own = own_addresses().expect("addresses");
        for address in nix::ifaddrs::getifaddrs().expect("addresses") {
            let Some(address) = address.address else { continue };
            if let Some(v4) = address.as_sockaddr_in() {
                assert!(own.contains(&IpAddr::V4(v4.ip())), "{own:?}");
            }
        }
    }
}
