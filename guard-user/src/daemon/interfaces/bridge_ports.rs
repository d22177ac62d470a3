//! Ports of bridges. What a bridge passes on between its ports, to virtual machines and containers, is
//! not for this node, and a guard on a port cannot tell it apart: such interfaces are refused, and the
//! bridge is guarded instead.
//!
//! Decision: `docs/decisions/0061-bridges-are-guarded-not-their-ports.md`.

use std::iter;

use crate::{netlink::devices::Device, policy::syntax::text::shown};

/// Kind of the devices of Open vSwitch: the switch itself, and the ports through which the node
/// receives.
const OPEN_VSWITCH: &str = "openvswitch";

/// A device whose frames a bridge passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BridgePort {
    /// The device: a port of the bridge, or of a bond that is a port of it.
    pub(crate) device: Device,
    /// The bridge.
    pub(crate) bridge: Device,
}

/// Returns the bridge that passes on what a device receives; none if there is none.
pub(crate) fn bridge_of<'d>(device: &Device, devices: &'d [Device]) -> Option<&'d Device> {
    let controller = |device: &Device| {
        let index = device.stacked.controller?;
        devices.iter().find(|other| other.index == index)
    };
    iter::successors(controller(device), |device| controller(device))
        .take(devices.len())
        .find(|device| matches!(device.kind.as_deref(), Some("bridge" | OPEN_VSWITCH)))
}

/// Returns the VLAN devices on a device that are ports of bridges which are not guarded: the name of
/// each, and of its bridge. A guard on the device evaluates their frames, too.
pub(crate) fn bridged_vlans(
    device: &Device,
    devices: &[Device],
    guarded: impl Fn(u32) -> bool,
) -> Vec<(String, String)> {
    let on_it = devices.iter().filter(|upper| upper.lies_on() == Some(device.index));
    let ports = on_it.filter_map(|upper| {
        let bridge = bridge_of(upper, devices)?;
        (!guarded(bridge.index)).then(|| (upper.name.clone(), bridge.name.clone()))
    });
    ports.collect()
}

impl BridgePort {
    /// Describes the problem of guarding the port, without its name.
    pub(crate) fn problem(&self) -> String {
        format!(
            "a port of the bridge `{}`: a guard on it evaluates what the bridge passes on to virtual \
             machines and containers by the services of this node",
            shown(&self.bridge.name)
        )
    }

    /// Returns what to write instead. `patterns`: those that select the port.
    pub(crate) fn remedy(&self, patterns: &[String]) -> String {
        if self.bridge.kind.as_deref() == Some(OPEN_VSWITCH) {
            return "write the internal port of Open vSwitch that has this node's addresses under \
                    `interfaces`, and start the daemon with `--mode auto`"
                .to_owned();
        }
        format!(
            "write `{}`, and start the daemon with `--mode auto`, because bridges have no native XDP",
            instead(patterns, &[self])
        )
    }
}

/// Returns why ports must not be guarded, and what to write instead; none if there are none.
pub(crate) fn refusal(ports: &[&BridgePort], patterns: &[String]) -> Option<String> {
    let first = ports.first()?;
    let lines: Vec<String> = ports
        .iter()
        .map(|port| format!("`{}` is {}", shown(&port.device.name), port.problem()))
        .collect();
    // One line of the manifest solves all of them.
    let remedy = match ports {
        [_] => first.remedy(patterns),
        _ => format!(
            "write `{}`, and start the daemon with `--mode auto`, because bridges have no native XDP",
            instead(patterns, ports)
        ),
    };
    Some(format!("{}; {remedy}", lines.join("; ")))
}

/// Returns the line of the manifest that guards the bridges in place of their ports. A pattern that
/// selects other interfaces as well stays: ports of a guarded bridge are left out of it.
fn instead(patterns: &[String], ports: &[&BridgePort]) -> String {
    let is_port = |pattern: &String| ports.iter().any(|port| port.device.name == *pattern);
    let mut names: Vec<&str> =
        patterns.iter().filter(|pattern| !is_port(pattern)).map(String::as_str).collect();
    for port in ports {
        if !names.contains(&port.bridge.name.as_str()) {
            names.push(&port.bridge.name);
        }
    }
    let quoted = |name: &&str| {
        // YAML would read such a pattern as something else.
        if name.contains(['*', '?', '[']) { format!("\"{}\"", shown(name)) } else { shown(name) }
    };
    format!("interfaces: [{}]", names.iter().map(quoted).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::topology::Stacked;

    fn device(index: u32, name: &str, kind: Option<&str>, controller: Option<u32>) -> Device {
        let stacked = Stacked { controller, lower: None };
        Device { stacked, ..Device::ethernet(index, name, kind) }
    }

    /// Returns the refusal if patterns select these devices of a node with a bridge on a card, one on
    /// a bond, and Open vSwitch.
    fn refused(patterns: &[&str], names: &[&str]) -> String {
        let devices = [
            device(2, "eth0", None, Some(3)),
            device(3, "br0", Some("bridge"), None),
            device(5, "eth1", None, None),
            device(6, "m0", None, Some(7)),
            device(7, "bond0", Some("bond"), Some(8)),
            device(8, "br1", Some("bridge"), None),
            device(9, "p0", None, Some(10)),
            device(10, "ovs-system", Some("openvswitch"), None),
        ];
        let selected = devices.iter().filter(|device| names.contains(&device.name.as_str()));
        let ports = selected.filter_map(|device| {
            let bridge = bridge_of(device, &devices)?.clone();
            Some(BridgePort { device: device.clone(), bridge })
        });
        let ports: Vec<BridgePort> = ports.collect();
        let patterns: Vec<String> = patterns.iter().map(|it| (*it).to_owned()).collect();
        refusal(&ports.iter().collect::<Vec<_>>(), &patterns).unwrap_or_default()
    }

    #[test]
    fn the_refusal_names_the_bridge_and_the_line_to_write() {
        let one = refused(&["eth0"], &["eth0"]);
        assert!(one.starts_with("`eth0` is a port of the bridge `br0`: "), "{one}");
        assert!(one.contains("write `interfaces: [br0]`, and start"), "{one}");
        let pattern = refused(&["eth*"], &["eth0", "eth1"]);
        assert!(pattern.contains("write `interfaces: [\"eth*\", br0]`"), "{pattern}");
        let both = refused(&["eth1", "eth0", "m0"], &["eth0", "eth1", "m0"]);
        assert!(both.contains("bridge `br0`") && both.contains("bridge `br1`"), "{both}");
        assert!(both.contains("write `interfaces: [eth1, br0, br1]`"), "{both}");
        let switch = refused(&["p0"], &["p0"]);
        assert!(switch.contains("internal port of Open vSwitch"), "{switch}");
        assert_eq!(refused(&["eth1", "br0"], &["eth1", "br0"]), "");
    }
}
