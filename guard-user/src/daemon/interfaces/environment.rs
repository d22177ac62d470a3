//! The environment of the guarded interfaces: unguarded interfaces that are up, devices that unpack
//! tunnels, VLAN devices whose bridges pass frames on, programs of other software that run before the
//! guard, and offloads of the cards. Each is
//! reported once, when it appears.
//!
//! Decision: `docs/decisions/0009-tunnels-are-found-among-devices.md`.
//! Decision: `docs/decisions/0044-offloads-are-checked-regularly.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    attachments::{Attachments, Note},
    bridge_ports,
    select::{self, Selection},
};
use crate::{
    api::events::InterfaceChange,
    netlink::{
        devices::Device,
        ethtool::{self, MERGING, VLAN_PARSE},
        topology,
    },
};

/// The environment at the last check.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    unguarded: BTreeSet<String>,
    tunnels: BTreeSet<String>,
    /// Name of an interface, and description of the program that runs before the guard there.
    in_front: BTreeSet<(String, String)>,
    /// Name of a VLAN device on a guarded interface, and of the bridge that it is a port of.
    bridged_vlans: BTreeSet<(String, String)>,
    /// Offloads that are switched on, by index of the guarded interface.
    offloads: BTreeMap<u32, Vec<String>>,
}

/// Returns the relevant offloads that were switched on since the last check. Offloads of an interface
/// that was not known before were on before it was guarded; `trainguard doctor` reports those.
fn switched_on<'a>(
    before: &BTreeMap<u32, Vec<String>>,
    now: &'a BTreeMap<u32, Vec<String>>,
) -> Vec<(u32, &'a str)> {
    let known = now.iter().filter_map(|(index, now)| Some((index, now, before.get(index)?)));
    let new = known.flat_map(|(index, now, before)| {
        now.iter().filter(|name| !before.contains(name)).map(|name| (*index, name.as_str()))
    });
    let is_relevant =
        |name: &str| name == VLAN_PARSE.0 || MERGING.iter().any(|(merging, _)| *merging == name);
    new.filter(|(_, name)| is_relevant(name)).collect()
}

/// Describes the effect of an offload on the guard.
fn offload_effect(offload: &str, interface: &str) -> String {
    match MERGING.iter().find(|(name, _)| *name == offload) {
        Some((_, flag)) => format!(
            "{offload} was switched on: the card merges frames before the guard sees them; switch \
             it off with `ethtool -K {interface} {flag} off`"
        ),
        None => format!(
            "{offload} was switched on: the card removes VLAN tags before the guard sees a frame; \
             verdicts do not change, because policies match ports"
        ),
    }
}

impl Environment {
    /// Checks the environment, and logs and returns what is new.
    pub(crate) fn update(
        &mut self,
        devices: &[Device],
        selection: &Selection,
        attachments: &Attachments,
    ) -> Vec<Note> {
        let guarded = attachments.indices();
        let bare = topology::unguarded(
            devices,
            |device| guarded.contains(&device.index) || selection.selects(device.index),
            |index| guarded.contains(&index),
        );
        // If the kernel does not answer, the last known offloads stay.
        let offloads = ethtool::offloads_of(guarded.iter().copied());
        let now = Self {
            offloads: offloads.unwrap_or_else(|_error| self.offloads.clone()),
            unguarded: bare.map(|device| device.name.clone()).collect(),
            tunnels: select::describe_tunnels(devices).into_iter().collect(),
            bridged_vlans: devices
                .iter()
                .filter(|device| guarded.contains(&device.index))
                .flat_map(|device| {
                    bridge_ports::bridged_vlans(device, devices, |index| guarded.contains(&index))
                })
                .collect(),
            in_front: attachments.in_front(devices).into_iter().collect(),
        };
        let before = std::mem::replace(self, now);
        let mut notes = Vec::new();
        let mut note = |what, interface: &str, text: String| {
            tracing::warn!(interface, "{text}");
            notes.push(Note { what, interface: interface.to_owned(), text });
        };
        for name in self.unguarded.difference(&before.unguarded) {
            let text = "up and unguarded: no pattern in `interfaces` matches it";
            note(InterfaceChange::Unguarded, name, text.to_owned());
        }
        for tunnel in self.tunnels.difference(&before.tunnels) {
            let text = "the tunnel device decapsulates packets of any sender; the guard evaluates \
                        packets of this kind of tunnel by their source";
            note(InterfaceChange::Tunnel, tunnel, text.to_owned());
        }
        for (name, what) in self.in_front.difference(&before.in_front) {
            note(InterfaceChange::Warning, name, what.clone());
        }
        for (name, bridge) in self.bridged_vlans.difference(&before.bridged_vlans) {
            let text = format!(
                "a port of the bridge `{bridge}`: the guard on the card below also evaluates what the \
                 bridge passes on to virtual machines and containers"
            );
            note(InterfaceChange::Warning, name, text);
        }
        for (index, offload) in switched_on(&before.offloads, &self.offloads) {
            if let Some(device) = devices.iter().find(|device| device.index == index) {
                note(InterfaceChange::Warning, &device.name, offload_effect(offload, &device.name));
            }
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(devices: &[(u32, &[&str])]) -> BTreeMap<u32, Vec<String>> {
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        devices.iter().map(|(index, names)| (*index, named(names))).collect()
    }

    #[test]
    fn a_relevant_offload_is_reported_once_when_it_is_switched_on() {
        let before = on(&[(2, &["rx-checksum"]), (3, &["rx-lro"])]);
        let now = on(&[
            (2, &["rx-checksum", "rx-gro-hw", "rx-gro-list", "rx-lro", "rx-vlan-hw-parse"]),
            (3, &["rx-lro"]),
            (4, &["rx-lro"]),
        ]);
        let expected = [(2, "rx-gro-hw"), (2, "rx-lro"), (2, "rx-vlan-hw-parse")];
        assert_eq!(switched_on(&before, &now), expected);
        assert_eq!(switched_on(&now, &now), []);
        assert_eq!(switched_on(&now, &before), [], "switched off");
        assert!(offload_effect("rx-lro", "eth0").contains("`ethtool -K eth0 lro off`"));
        assert!(offload_effect("rx-vlan-hw-parse", "eth0").contains("verdicts do not change"));
    }
}
