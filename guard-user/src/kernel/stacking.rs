//! Which network devices lie on which: ports under a bond or a bridge, VLAN devices on a card.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::error::KernelError;

/// The neighbours of a device, by their indices in this network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stacked {
    /// The bond, team, bridge or VRF that it is a port of.
    pub controller: Option<u32>,
    /// The device that it sends through, such as the card of a VLAN device. That of a veth is its
    /// peer, which may be in another namespace and have the index of a stranger here.
    pub lower: Option<u32>,
}

/// Asks for all devices of this thread's network namespace; by index.
pub fn all() -> Result<BTreeMap<u32, Stacked>, KernelError> {
    let failed = |error| KernelError::of("listing the network interfaces", error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| KernelError::of("opening a netlink socket", error))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| KernelError::of("opening a netlink socket", error))?;
        tokio::spawn(connection);
        let links: Vec<LinkMessage> =
            handle.link().get().execute().try_collect().await.map_err(failed)?;
        Ok(links.iter().map(|link| (link.header.index, stacked(link))).collect())
    })
}

fn stacked(link: &LinkMessage) -> Stacked {
    let mut stacked = Stacked::default();
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Controller(index) => stacked.controller = Some(*index),
            LinkAttribute::Link(index) => stacked.lower = Some(*index),
            _ => {}
        }
    }
    stacked
}
