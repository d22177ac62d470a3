//! The names that appear in records of packets.

use std::collections::BTreeMap;

use guard_common::Addr;

use crate::{api::status::ServiceStatus, netlink::devices::Device};

/// The names of services, nodes and devices, borrowed from the owners of the policy and the devices.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) services: &'a BTreeMap<u8, ServiceStatus>,
    /// Names of nodes by address, sorted by address.
    pub(crate) nodes: &'a [(Addr, String)],
    pub(crate) devices: &'a [Device],
}
