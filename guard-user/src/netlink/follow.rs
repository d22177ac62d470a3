//! Sockets with the notifications about devices, addresses, forwarding settings and routing rules.

use std::io;

use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::message::Notifications;

// From include/uapi/linux/rtnetlink.h.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_RULE: u32 = 19;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const RTNLGRP_IPV6_NETCONF: u32 = 25;

/// Opens a socket that receives notifications about forwarding settings and routing rules, which
/// [`super::forwarding`] parses.
pub fn settings() -> io::Result<Notifications> {
    let groups = [RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE];
    Notifications::join(NETLINK_ROUTE, &groups)
}

/// Opens a socket that receives notifications about devices and addresses. [`super::own_addresses`]
/// parses those about addresses.
pub fn devices() -> io::Result<Notifications> {
    let groups = [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR];
    Notifications::join(NETLINK_ROUTE, &groups)
}
