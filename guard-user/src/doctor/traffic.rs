//! Facts that decide which packets are for this node, and which replies meet guarded ports:
//! forwarding, address translation, and listeners on devices on top of guarded ones.

use std::collections::BTreeSet;

use guard_common::port_table::Transport;
use serde::Serialize;

use super::{facts::MaybeHidden, sysfs::Tree};
use crate::{
    daemon::interfaces::select::Selection,
    netlink::{devices::Device, sock_diag::Listening},
};

/// Maximum number of listeners that are named.
const MAX_LISTENERS: usize = 64;

/// What the node does with packets that are not for it, and what changes the addresses of others.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Traffic {
    /// Whether the node forwards IPv4 packets.
    pub forwards_ipv4: bool,
    /// Whether the node forwards IPv6 packets.
    pub forwards_ipv6: bool,
    /// Why no packet counts as forwarded, although the node forwards: rules that deliver to this node
    /// what its routes would send on.
    pub obstacles: Vec<String>,
    /// Interfaces whose own IPv6 `forwarding` differs from that of `all`.
    pub mixed_ipv6: Vec<String>,
    /// Whether rules replace source addresses by one of this node (masquerade, SNAT).
    pub masquerade: bool,
    /// Whether rules replace destinations: published ports (DNAT, redirect).
    pub dnat: bool,
    /// TCP ports of listeners that are bound to a device on top of an interface to guard, as
    /// `tcp/9091 on br0`.
    pub bound_listeners: Vec<String>,
    /// What could not be read.
    pub incomplete: Vec<String>,
}

/// Reads the settings, without rules and listeners.
pub(super) fn look(tree: &Tree, selection: &Selection, devices: &[Device]) -> Traffic {
    let is_on = |value: MaybeHidden<i64>| value.known().is_some_and(|value| *value != 0);
    let mut names = devices.iter().map(|device| device.name.as_str()).filter(|name| *name != "lo");
    let ipv6 = |name: &str| tree.ipv6_of(name, "forwarding").map(is_on);
    let forwards_ipv6 = ipv6("all") == Some(true);
    let selected = selection.devices.iter().map(|device| &device.name);
    Traffic {
        forwards_ipv4: names.any(|name| is_on(tree.ipv4_of(name, "forwarding"))),
        forwards_ipv6,
        mixed_ipv6: selected
            .filter(|name| ipv6(name).is_some_and(|own| own != forwards_ipv6))
            .cloned()
            .collect(),
        incomplete: vec!["the rules of routing and netfilter".to_owned()],
        ..Traffic::default()
    }
}

/// Returns the TCP listeners that are bound to a device on top of a selected one.
pub(super) fn bound_listeners(
    sockets: &[Listening],
    selection: &Selection,
    devices: &[Device],
) -> Vec<String> {
    let upper = |index: u32| {
        let device = devices.iter().find(|device| device.index == index)?;
        let is_selected = |index| selection.devices.iter().any(|device| device.index == index);
        let below = device.lies_on().is_some_and(is_selected)
            || selection.devices.iter().any(|port| port.stacked.controller == Some(index));
        (below && !is_selected(index)).then_some(&device.name)
    };
    let found: BTreeSet<(u16, &String)> = sockets
        .iter()
        .filter(|socket| socket.transport == Transport::Tcp && socket.ifindex != 0)
        .filter_map(|socket| Some((socket.port, upper(socket.ifindex)?)))
        .collect();
    let named = found.into_iter().take(MAX_LISTENERS);
    named.map(|(port, name)| format!("tcp/{port} on {name}")).collect()
}
