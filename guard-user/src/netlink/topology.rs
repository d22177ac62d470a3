//! Stacking of network devices: ports of a bond or bridge, VLAN devices on a card.

use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::devices::Device;

/// The devices that a device is stacked on or enslaved to, by index in this network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stacked {
    /// The bond, team, bridge or VRF that the device is a port of.
    pub controller: Option<u32>,
    /// The device that it sends through, such as the card of a VLAN device. For a veth this is its
    /// peer, which may be in another namespace and whose index may belong to an unrelated device
    /// here.
    pub lower: Option<u32>,
}

impl Stacked {
    /// Extracts the neighbours from the netlink message of a device.
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

/// Reports whether all frames that a device receives are evaluated by a guard on other devices: on
/// the bond or bridge that it is a port of, on the device that it is stacked on, or on each of its
/// ports.
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

/// Returns the devices that are up, are not `wanted`, and whose frames no guard on another device
/// evaluates. The loopback device is left out, because it is guarded only if it is named.
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

/// Returns the ports of a bond or bridge, by index.
pub fn ports_of(index: u32, devices: &[Device]) -> Vec<u32> {
    let ports = devices.iter().filter(|device| device.stacked.controller == Some(index));
    ports.map(|device| device.index).collect()
}

impl Device {
    /// Returns the device of this namespace that it is stacked on. For other kinds of devices, the
    /// link attribute of the kernel has another meaning, such as the peer of a veth or the far end of
    /// a tunnel.
    pub fn lies_on(&self) -> Option<u32> {
        let kind = self.kind.as_deref()?;
        let lies = matches!(kind, "vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap");
        self.stacked.lower.filter(|_| lies)
    }
}
