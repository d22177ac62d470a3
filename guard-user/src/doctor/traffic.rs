//! Facts that decide which packets are for this node, and which replies meet guarded ports:
//! forwarding, address translation, and listeners on devices on top of guarded ones.

use std::collections::BTreeSet;

use guard_common::port_table::Transport;
use serde::Serialize;

use super::facts::{CAP_NET_ADMIN, Rights};
use crate::{
    daemon::{
        interfaces::select::Selection,
        node_state::{NodeFacts, Obstacle},
    },
    netlink::{devices::Device, sock_diag::Listening},
};

/// Maximum number of listeners that are named.
const MAX_LISTENERS: usize = 64;

/// What the node does with packets that are not for it, and what changes the addresses of others.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
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

/// Reads the settings and rules of this network namespace, without listeners.
pub(super) fn look(rights: &Rights) -> Traffic {
    let facts = NodeFacts::read();
    let mut incomplete = facts.incomplete.clone();
    let mut obstacles = BTreeSet::new();
    for obstacle in facts.why_untold() {
        match obstacle {
            // The daemon has the right to read what this user may not.
            Obstacle::Unknown(why) if !rights.has(CAP_NET_ADMIN) => incomplete.push(why.clone()),
            obstacle => drop(obstacles.insert(obstacle.to_string())),
        }
    }
    Traffic {
        forwards_ipv4: facts.forwards_ipv4,
        forwards_ipv6: facts.forwards_ipv6,
        obstacles: obstacles.into_iter().collect(),
        mixed_ipv6: facts.mixed_ipv6,
        masquerade: facts.masquerade,
        dnat: facts.dnat,
        bound_listeners: Vec::new(),
        incomplete,
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
