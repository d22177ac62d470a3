//! Which device receives a frame: the mapping from destination address, VLAN tags and interface to the
//! device at which the IP stack receives it.
//!
//! The mapping follows `__netif_receive_skb_core` (net/core/dev.c): VLAN devices take frames first, then
//! the handler of a bond, bridge, macvlan or ipvlan. A frame without an entry is evaluated by the
//! policy, so what is not certain is left out.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::layout::node::DeviceKey;

use crate::netlink::links::{Link, LinkKind};

/// Maximum number of devices that a frame goes through, more than the kernel allows to be stacked.
const MAX_DEPTH: usize = 8;

/// The mapping, and whether it is complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeviceMap {
    /// The mapping.
    pub(crate) entries: BTreeMap<DeviceKey, u32>,
    /// Number of interfaces whose frames are left out because there are too many entries.
    pub(crate) left_out: usize,
}

impl DeviceMap {
    /// Maps the frames of each Ethernet device, at most `limit` entries. Guarded interfaces come first.
    pub(crate) fn new(links: &[Link], guarded: &BTreeSet<u32>, limit: usize) -> Self {
        let stack = Stack::new(links);
        let mut map = Self::default();
        let (first, then): (Vec<_>, Vec<_>) =
            links.iter().partition(|link| guarded.contains(&link.index));
        for port in first.into_iter().chain(then) {
            let Some(mac) = port.mac else { continue };
            let mut walk = Walk { stack: &stack, port: port.index, found: BTreeMap::new(), limit };
            walk.arrive(port, [0; 2], &[mac], MAX_DEPTH);
            if map.entries.len() + walk.found.len() > limit {
                map.left_out += 1;
            } else {
                map.entries.extend(walk.found);
            }
        }
        map
    }
}

/// The devices by index, and the devices on top of each.
struct Stack<'l> {
    by_index: BTreeMap<u32, &'l Link>,
    uppers: BTreeMap<u32, Vec<&'l Link>>,
}

impl<'l> Stack<'l> {
    fn new(links: &'l [Link]) -> Self {
        let mut uppers: BTreeMap<u32, Vec<&Link>> = BTreeMap::new();
        for link in links {
            if let Some(lower) = link.lower {
                uppers.entry(lower).or_default().push(link);
            }
        }
        Self { by_index: links.iter().map(|link| (link.index, link)).collect(), uppers }
    }

    fn uppers(&self, link: &Link) -> &[&'l Link] {
        self.uppers.get(&link.index).map_or(&[], Vec::as_slice)
    }
}

/// The search for the receivers of one interface's frames.
struct Walk<'w, 'l> {
    stack: &'w Stack<'l>,
    port: u32,
    found: BTreeMap<DeviceKey, u32>,
    limit: usize,
}

impl Walk<'_, '_> {
    /// Follows frames that arrive at a device without the tags that were removed before, for the
    /// addresses that IP accepts there. The first device that takes a kind of frame keeps it.
    fn arrive(&mut self, link: &Link, tags: [u32; 2], macs: &[[u8; 6]], depth: usize) {
        let Some(depth) = depth.checked_sub(1).filter(|_| self.found.len() <= self.limit) else {
            return;
        };
        let master = link.master.map(|index| self.stack.by_index.get(&index).copied());
        let kind_of_master = match master {
            None => None,
            Some(Some(master)) => Some(master.kind),
            // Not in this list, so nothing is known about it.
            Some(None) => return,
        };
        if matches!(kind_of_master, Some(LinkKind::Bridge)) {
            return;
        }
        let uppers = self.stack.uppers(link).to_vec();
        for upper in &uppers {
            if let (LinkKind::Vlan { protocol, id }, Some(tags)) = (upper.kind, room(tags))
                && id != 0
            {
                let tag = u32::from(protocol) << 16 | u32::from(id);
                // A VLAN device also accepts its own address (`vlan_do_receive`,
                // net/8021q/vlan_core.c).
                let macs: Vec<_> = macs.iter().copied().chain(upper.mac).collect();
                self.arrive(upper, with(tags, tag), &macs, depth);
            }
        }
        match kind_of_master {
            // The handler of a bond takes all frames. Hardware is a card with a virtual function as
            // port, as of Hyper-V: it receives the frames of its port likewise.
            Some(LinkKind::Bond | LinkKind::Hardware) => {
                if let Some(Some(bond)) = master {
                    self.arrive(bond, tags, macs, depth);
                }
                return;
            }
            // A VRF takes packets after the IP stack has received them.
            None | Some(LinkKind::Vrf) => {}
            Some(_) => return,
        }
        if uppers.iter().any(|upper| upper.kind == LinkKind::Ipvlan) {
            return;
        }
        let mut is_taken = false;
        for upper in &uppers {
            if let LinkKind::Macvlan { is_passthru } = upper.kind {
                is_taken |= is_passthru;
                // In this mode it receives all frames, whatever their destination
                // (`macvlan_handle_frame`, drivers/net/macvlan.c).
                let lower = macs.iter().copied().filter(|_| is_passthru);
                let macs: Vec<_> = upper.mac.into_iter().chain(lower).collect();
                self.arrive(upper, tags, &macs, depth);
            }
        }
        if !is_taken {
            let [outer, inner] = tags;
            for mac in macs {
                let mac = mac.iter().fold(0, |number, octet| number << 8 | u64::from(*octet));
                let key = DeviceKey { mac, outer, inner, ifindex: self.port, zero: 0 };
                self.found.entry(key).or_insert(link.index);
            }
        }
    }
}

/// Returns the tags if a further one fits.
fn room(tags: [u32; 2]) -> Option<[u32; 2]> {
    (tags[1] == 0).then_some(tags)
}

/// Adds a tag.
fn with(tags: [u32; 2], tag: u32) -> [u32; 2] {
    if tags[0] == 0 { [tag, 0] } else { [tags[0], tag] }
}

#[cfg(test)]
mod tests;
