//! Selection of devices by the patterns of a node, and the tunnels that its devices unpack.

use std::iter;

use super::bridge_ports::{self, BridgePort};
use crate::{netlink::devices::Device, policy::compiled::Tunnels};

/// Name of the loopback device. Only the exact name selects it; a pattern never does.
const LOOPBACK: &str = "lo";

/// The devices that patterns select.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Devices to guard.
    pub(crate) devices: Vec<Device>,
    /// Ports of bridges that are selected as well. The guard on the bridge covers them.
    pub(crate) covered: Vec<BridgePort>,
    /// Ports of bridges that are not selected. They are not attached to, but a port on which a guard
    /// is attached keeps it.
    pub(crate) bridged: Vec<BridgePort>,
    /// Patterns that match no device.
    pub(crate) missing: Vec<String>,
    /// Names of devices that cannot be guarded, because their frames have no Ethernet header.
    pub(crate) not_ethernet: Vec<String>,
    /// The patterns that were applied.
    pub(crate) patterns: Vec<String>,
}

impl Selection {
    /// Returns whether a pattern selects the device with this index.
    pub(crate) fn selects(&self, index: u32) -> bool {
        self.devices.iter().any(|device| device.index == index)
            || self.bridge_ports().any(|port| port.device.index == index)
    }

    /// Returns the selected ports of bridges.
    pub(crate) fn bridge_ports(&self) -> impl Iterator<Item = &BridgePort> {
        self.covered.iter().chain(&self.bridged)
    }

    /// Returns whether a device with this name would be guarded.
    pub(crate) fn selects_name(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| matches(pattern, name))
    }
}

/// Returns whether a pattern matches a name.
fn matches(pattern: &str, name: &str) -> bool {
    let by_pattern = || glob::Pattern::new(pattern).is_ok_and(|parsed| parsed.matches(name));
    name == pattern || name != LOOPBACK && by_pattern()
}

/// Selects devices by names and glob patterns.
pub(crate) fn select(patterns: &[String], devices: &[Device]) -> Selection {
    let mut selection = Selection { patterns: patterns.to_vec(), ..Selection::default() };
    for pattern in patterns {
        let mut found = false;
        for device in devices.iter().filter(|device| matches(pattern, &device.name)) {
            if !device.ethernet && device.name != LOOPBACK {
                // A glob pattern skips devices that cannot be guarded; for an exact name, that is an
                // error.
                if device.name == *pattern {
                    found = true;
                    selection.not_ethernet.push(device.name.clone());
                }
                continue;
            }
            found = true;
            if !selection.selects(device.index) {
                selection.devices.push(device.clone());
            }
        }
        if !found {
            selection.missing.push(pattern.clone());
        }
    }
    set_ports_apart(selection, devices)
}

/// Moves the ports of bridges out of the devices to guard.
fn set_ports_apart(mut selection: Selection, devices: &[Device]) -> Selection {
    let selected = std::mem::take(&mut selection.devices);
    for device in &selected {
        let Some(bridge) = bridge_ports::bridge_of(device, devices) else {
            selection.devices.push(device.clone());
            continue;
        };
        let is_covered = selected.iter().any(|other| other.index == bridge.index);
        let ports = if is_covered { &mut selection.covered } else { &mut selection.bridged };
        ports.push(BridgePort { device: device.clone(), bridge: bridge.clone() });
    }
    selection
}

/// Selects all devices that are up and could be guarded.
pub(crate) fn all_up(devices: &[Device]) -> Selection {
    let could_be = |device: &&Device| device.up && device.ethernet && device.name != LOOPBACK;
    let selected = devices.iter().filter(could_be).cloned().collect();
    set_ports_apart(Selection { devices: selected, ..Selection::default() }, devices)
}

/// Returns the tunnels that the devices unpack, in addition to those that the operator named.
pub(crate) fn tunnels(named: &Tunnels, devices: &[Device]) -> Tunnels {
    let mut tunnels = named.clone();
    for device in devices.iter().filter(|device| device.may_unpack()) {
        let Some(kind) = &device.kind else { continue };
        // `add` refuses kinds that unpack nothing; that is no error here.
        if device.ports.is_empty() {
            let _ = tunnels.add(kind, None);
        }
        for port in &device.ports {
            let _ = tunnels.add(kind, Some(*port));
        }
    }
    tunnels
}

/// Describes the tunnel devices, as in `vx0 (vxlan, udp/4789)`.
pub(crate) fn describe_tunnels(devices: &[Device]) -> Vec<String> {
    let is_tunnel = |device: &&Device| {
        device.may_unpack()
            && tunnels(&Tunnels::default(), std::slice::from_ref(device)) != Tunnels::default()
    };
    devices
        .iter()
        .filter(is_tunnel)
        .map(|device| {
            let kind = device.kind.as_deref().unwrap_or_default();
            let ports = device.ports.iter().map(|port| format!("udp/{port}"));
            let facts: Vec<String> = iter::once(kind.to_owned()).chain(ports).collect();
            format!("{} ({})", device.name, facts.join(", "))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str) -> Device {
        Device {
            index,
            name: name.to_owned(),
            up: true,
            mtu: 1500,
            ethernet: name != LOOPBACK,
            kind: None,
            ports: Vec::new(),
            xdp: None,
            tc: Vec::new(),
            stacked: crate::netlink::topology::Stacked::default(),
        }
    }

    fn names(selection: &Selection) -> Vec<&str> {
        selection.devices.iter().map(|device| device.name.as_str()).collect()
    }

    #[test]
    fn loopback_is_guarded_only_by_name() {
        let devices = [device(1, "lo"), device(2, "eth0"), device(3, "eth1")];
        let all = select(&["*".to_owned()], &devices);
        assert_eq!(names(&all), ["eth0", "eth1"]);
        assert_eq!(names(&select(&["lo".to_owned()], &devices)), ["lo"]);
    }

    #[test]
    fn missing_devices_and_devices_without_ethernet_are_listed() {
        let mut tun = device(4, "tun0");
        tun.ethernet = false;
        let devices = [device(2, "eth0"), tun];
        let patterns = ["eth*", "tun0", "ib*", "tu*"].map(str::to_owned);
        let selection = select(&patterns, &devices);
        assert_eq!(names(&selection), ["eth0"]);
        assert_eq!(selection.not_ethernet, ["tun0"]);
        assert_eq!(selection.missing, ["ib*", "tu*"]);
    }

    #[test]
    fn ports_are_left_out_if_their_bridge_is_selected_and_refused_if_not() {
        let port = |index, name, controller| {
            let mut device = device(index, name);
            device.stacked.controller = Some(controller);
            device
        };
        let of_kind = |kind: &str, device: Device| Device { kind: Some(kind.to_owned()), ..device };
        let devices = [
            port(2, "eth0", 3),
            of_kind("bridge", device(3, "br0")),
            device(5, "eth1"),
            port(6, "m0", 7),
            of_kind("bond", port(7, "bond0", 8)),
            of_kind("bridge", device(8, "br1")),
        ];
        for (patterns, guarded, covered, bridged) in [
            (&["eth0"][..], &[][..], &[][..], &["eth0"][..]),
            (&["br0"], &["br0"], &[], &[]),
            (&["eth0", "br0"], &["br0"], &["eth0"], &[]),
            (&["eth*"], &["eth1"], &[], &["eth0"]),
            (&["eth*", "br0"], &["eth1", "br0"], &["eth0"], &[]),
            (&["m0"], &[], &[], &["m0"]),
            (&["bond0"], &[], &[], &["bond0"]),
            (&["m0", "bond0", "br1"], &["br1"], &["m0", "bond0"], &[]),
        ] {
            let patterns: Vec<String> = patterns.iter().map(|it| (*it).to_owned()).collect();
            let selection = select(&patterns, &devices);
            let of = |ports: &[BridgePort]| -> Vec<String> {
                ports.iter().map(|port| port.device.name.clone()).collect()
            };
            assert_eq!(names(&selection), guarded, "{patterns:?}");
            assert_eq!(of(&selection.covered), covered, "{patterns:?}");
            assert_eq!(of(&selection.bridged), bridged, "{patterns:?}");
        }
        // Without patterns, all interfaces are examined, and a bridge stands for its ports.
        assert_eq!(names(&all_up(&devices)), ["br0", "eth1", "br1"]);
    }

    #[test]
    fn tunnel_devices_count_unless_they_are_fallback_devices_that_are_down() {
        let mut vxlan = device(5, "vx0");
        vxlan.kind = Some("vxlan".to_owned());
        vxlan.ports = vec![4789];
        let mut sit0 = device(6, "sit0");
        sit0.kind = Some("sit".to_owned());
        sit0.up = false;
        let devices = [vxlan, sit0.clone()];
        let found = tunnels(&Tunnels::default(), &devices);
        assert_eq!((found.udp_ports, found.protocols), (vec![4789], vec![]));
        assert_eq!(describe_tunnels(&devices), ["vx0 (vxlan, udp/4789)"]);
        sit0.up = true;
        assert!(tunnels(&Tunnels::default(), &[sit0]).protocols.contains(&41));
    }
}
