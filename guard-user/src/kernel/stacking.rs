//! Which network devices lie on which: ports under a bond or a bridge, VLAN devices on a card.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::{error::KernelError, netlink::Device};

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
        Ok(links.iter().map(|link| (link.header.index, Stacked::of(link))).collect())
    })
}

impl Stacked {
    /// What a device tells of it.
    pub(super) fn of(link: &LinkMessage) -> Self {
        let mut stacked = Self::default();
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Controller(index) => stacked.controller = Some(*index),
                LinkAttribute::Link(index) => stacked.lower = Some(*index),
                _ => {}
            }
        }
        stacked
    }
}

/// Whether all that comes in by a device passes a guard on others: on the bond or bridge that it is
/// a port of, on the card that it lies on, or on each of its own ports.
pub fn is_covered(device: &Device, devices: &[Device], guarded: impl Fn(u32) -> bool) -> bool {
    if device.stacked.controller.is_some_and(&guarded) {
        return true;
    }
    if device.lies_on().is_some_and(&guarded) {
        return true;
    }
    let mut ports = ports_of(device.index, devices).peekable();
    ports.peek().is_some() && ports.all(|port| guarded(port.index))
}

/// The ports of a bond or a bridge.
pub fn ports_of(index: u32, devices: &[Device]) -> impl Iterator<Item = &Device> {
    devices.iter().filter(move |device| device.stacked.controller == Some(index))
}

impl Device {
    /// The device of this namespace that it lies on. For others than these kinds, what the kernel
    /// calls a link is something else, the peer of a pair or the far end of a tunnel.
    pub fn lies_on(&self) -> Option<u32> {
        let kind = self.kind.as_deref()?;
        let lies = matches!(kind, "vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap");
        self.stacked.lower.filter(|_| lies)
    }
}
