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
#[derive(Debug, Clone, Serialize)]
pub struct Traffic {
    /// Interfaces on which the node forwards the IPv4 packets that arrive.
    pub forwards4: MaybeHidden<Vec<String>>,
    /// Whether the node forwards IPv6 packets (`forwarding` of `all`); false without IPv6.
    pub forwards6: MaybeHidden<bool>,
    /// Interfaces to guard whose own IPv6 `forwarding` differs from that of `all`.
    pub mixed6: Vec<String>,
    /// Rules that deliver to this node what its routes would send on: routing rules by mark, TPROXY,
    /// redirects. While there are any, no packet counts as forwarded.
    pub diversions: MaybeHidden<Vec<String>>,
    /// Rules that replace source addresses by one of this node (masquerade, SNAT).
    pub masquerades: MaybeHidden<Vec<String>>,
    /// Rules that replace destinations (DNAT, redirect): published ports.
    pub publishes: MaybeHidden<Vec<String>>,
    /// TCP ports of listeners that are bound to a device on top of an interface to guard, as
    /// `tcp/9091 on br0`.
    pub bound_listeners: Vec<String>,
}

/// The settings, without rules and listeners.
pub(super) fn look(tree: &Tree, selection: &Selection, devices: &[Device]) -> Traffic {
    let names = || devices.iter().map(|device| device.name.as_str()).filter(|name| *name != "lo");
    let forwards4 = match tree.ipv4_of("all", "forwarding") {
        MaybeHidden::Known(_) => {
            let is_on =
                |name: &&str| tree.ipv4_of(name, "forwarding").known().is_some_and(|on| *on != 0);
            MaybeHidden::Known(names().filter(is_on).map(str::to_owned).collect())
        }
        MaybeHidden::Hidden(why) => MaybeHidden::Hidden(why),
    };
    let forwards6 = tree.ipv6_of("all", "forwarding");
    let forwards6 = forwards6.map_or(MaybeHidden::Known(false), |value| match value {
        MaybeHidden::Known(value) => MaybeHidden::Known(value != 0),
        MaybeHidden::Hidden(why) => MaybeHidden::Hidden(why),
    });
    let mixed = |device: &&Device| {
        let own = tree.ipv6_of(&device.name, "forwarding");
        let own = own.and_then(|own| own.known().map(|own| *own != 0));
        own.is_some_and(|own| forwards6.known().is_some_and(|all| *all != own))
    };
    let mixed6 = selection.devices.iter().filter(mixed).map(|device| device.name.clone());
    let unknown = || MaybeHidden::Hidden("the rules of the kernel were not read".to_owned());
    Traffic {
        mixed6: mixed6.collect(),
        forwards4,
        forwards6,
        diversions: unknown(),
        masquerades: unknown(),
        publishes: unknown(),
        bound_listeners: Vec::new(),
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
