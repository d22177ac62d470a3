//! Which network devices lie on which: ports under a bond or a bridge, VLAN devices on a card.

use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::devices::Device;

/// The neighbours of a device, by their indices in this network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stacked {
    /// The bond, team, bridge or VRF that it is a port of.
    pub controller: Option<u32>,
    /// The device that it sends through, such as the card of a VLAN device. That of a veth is its
    /// peer, which may be in another namespace and have the index of a stranger here.
    pub lower: Option<u32>,
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
fn is_covered(device: &Device, devices: &[Device], guarded: impl Fn(u32) -> bool) -> bool {
    if device.stacked.controller.is_some_and(&guarded) {
        return true;
    }
    if device.lies_on().is_some_and(&guarded) {
        return true;
    }
    let ports = ports_of(device.index, devices);
    !ports.is_empty() && ports.into_iter().all(guarded)
}

/// Devices that are up, that nobody wants guarded, and whose frames no guard on another one sees.
/// The loopback device is left out: it is guarded only by name.
pub fn unguarded(
    devices: &[Device],
    wanted: impl Fn(&Device) -> bool,
    guarded: impl Fn(u32) -> bool,
) -> impl Iterator<Item = &Device> {
    devices.iter().filter(move |device| {
        device.up
            && device.name != "lo"
            && !wanted(device)
            && !is_covered(device, devices, &guarded)
    })
}

/// The ports of a bond or a bridge, by their indices.
pub fn ports_of(index: u32, devices: &[Device]) -> Vec<u32> {
    let ports = devices.iter().filter(|device| device.stacked.controller == Some(index));
    ports.map(|device| device.index).collect()
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
