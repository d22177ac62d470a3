//! What the kernel has said about the node, part by part.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
};

use guard_common::layout::node::{MAX_DEVICES, MAX_OWN};

use super::{
    device_map::DeviceMap,
    facts::{NftPlace, NodeFacts, Obstacle},
    legacy_tables::LegacyTables,
};
use crate::netlink::{
    bound_listeners::{self, BoundListeners},
    forwarding::{self, Family, Forwarding},
    links::{self, Link, LinkKind},
    nftables::{self, Effects, RuleId},
    own_addresses,
};

/// Maximum number of rules of `nf_tables` that are remembered. With more, packets never count as
/// forwarded until the rules are read again.
const MAX_RULES: usize = 4096;

/// A part of the state, or why it is not known.
pub(super) type Part<T> = Result<T, String>;

/// The parts that must be read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set")]
pub(super) struct Parts {
    pub(super) links: bool,
    pub(super) own: bool,
    pub(super) forwarding: bool,
    /// Only which IPv6 interfaces forward on their own.
    pub(super) forced: bool,
    pub(super) marks: bool,
    pub(super) nft: bool,
}

impl Parts {
    pub(super) const NONE: Self = Self {
        links: false,
        own: false,
        forwarding: false,
        forced: false,
        marks: false,
        nft: false,
    };
    pub(super) const ALL: Self =
        Self { links: true, own: true, forwarding: true, forced: false, marks: true, nft: true };

    /// Returns these parts and others.
    pub(super) fn and(self, others: Self) -> Self {
        Self {
            links: self.links || others.links,
            own: self.own || others.own,
            forwarding: self.forwarding || others.forwarding,
            forced: self.forced || others.forced,
            marks: self.marks || others.marks,
            nft: self.nft || others.nft,
        }
    }
}

/// The rules of `nf_tables` that matter.
#[derive(Debug, Default)]
pub(super) struct NftRules {
    /// Rules that deliver packets for other addresses here, and their chains.
    delivering: BTreeMap<RuleId, (String, Effects)>,
    /// Whether there are more of them.
    has_more: bool,
    dnat: bool,
    masquerade: bool,
}

impl NftRules {
    pub(super) fn apply(&mut self, change: nftables::Change) {
        match change {
            nftables::Change::Removed(id) => drop(self.delivering.remove(&id)),
            nftables::Change::Added(rule) => {
                self.dnat |= rule.effects.dnat;
                self.masquerade |= rule.effects.masquerade;
                if !rule.effects.delivers_here() {
                    self.delivering.remove(&rule.id);
                } else if self.delivering.len() < MAX_RULES {
                    self.delivering.insert(rule.id, (rule.chain, rule.effects));
                } else {
                    self.has_more = true;
                }
            }
        }
    }

    /// Reports whether packets for other addresses may be delivered here.
    pub(super) fn delivers_here(&self) -> bool {
        self.has_more || !self.delivering.is_empty()
    }

    fn obstacles(&self, sees: impl Fn(&RuleId) -> bool) -> impl Iterator<Item = Obstacle> {
        // One example of each kind.
        let first = |wanted: fn(&Effects) -> bool| {
            let mut of_kind = self.delivering.iter().filter(|(_, (_, effects))| wanted(effects));
            let (id, (chain, _)) = of_kind.find(|(id, _)| sees(id))?;
            Some(NftPlace { id: id.clone(), chain: chain.clone() })
        };
        let more = self.has_more.then(|| {
            Obstacle::Unknown(format!("nf_tables has more than {MAX_RULES} rules that redirect"))
        });
        let tproxy = first(|effects| effects.tproxy).map(Obstacle::Tproxy);
        let redirect = first(|effects| effects.redirect).map(Obstacle::Redirect);
        tproxy.into_iter().chain(redirect).chain(more)
    }
}

/// All parts.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) links: Part<Vec<Link>>,
    /// At most [`MAX_OWN`] addresses, the ones in the map.
    own: Part<Arc<BTreeSet<IpAddr>>>,
    /// Whether the node has more addresses.
    has_more_own: bool,
    pub(super) forwarding: Part<Forwarding>,
    pub(super) marks: Part<BTreeSet<Family>>,
    pub(super) nft: Part<NftRules>,
    legacy: [Part<LegacyTables>; 2],
    /// As last read.
    bound: BoundListeners,
    /// Why the listening sockets cannot be read.
    unread_bound: Option<String>,
    pub(super) guarded: BTreeSet<u32>,
    device_map: DeviceMap,
}

impl Default for Known {
    fn default() -> Self {
        fn not_read<T>() -> Part<T> {
            Err("not read yet".to_owned())
        }
        Self {
            links: not_read(),
            own: not_read(),
            has_more_own: false,
            forwarding: not_read(),
            marks: not_read(),
            nft: not_read(),
            legacy: [not_read(), not_read()],
            bound: BoundListeners::default(),
            unread_bound: None,
            guarded: BTreeSet::new(),
            device_map: DeviceMap::default(),
        }
    }
}

impl Known {
    /// Reads everything.
    pub(super) fn read_all(&mut self) {
        self.read(Parts::ALL);
        self.poll();
    }

    /// Reads some parts.
    pub(super) fn read(&mut self, parts: Parts) {
        if parts.marks {
            self.marks = part("listing the routing rules", forwarding::rules_by_mark());
        }
        if parts.nft {
            let read = nftables::rules().map(|rules| {
                let mut found = NftRules::default();
                for rule in rules {
                    found.apply(nftables::Change::Added(rule));
                }
                found
            });
            self.nft = part("listing the rules of nf_tables", read);
        }
        if parts.forwarding {
            self.forwarding = part("reading the forwarding settings", Forwarding::read());
        } else if let (true, Ok(forwarding)) = (parts.forced, &mut self.forwarding) {
            forwarding.read_forced();
        }
        if parts.own {
            let own = part("listing the addresses", own_addresses::own_addresses());
            self.own = own.map(|mut own| {
                self.has_more_own = own.len() > MAX_OWN as usize;
                while own.len() > MAX_OWN as usize {
                    own.pop_last();
                }
                Arc::new(own)
            });
        }
        if parts.links {
            self.links = part("listing the devices", links::links());
            self.map_devices();
        }
    }

    /// Reads what the kernel sends no notifications about.
    pub(super) fn poll(&mut self) {
        match part("listing the listening sockets", bound_listeners::bound_listeners()) {
            Ok(bound) => (self.bound, self.unread_bound) = (bound, None),
            Err(why) => self.unread_bound = Some(why),
        }
        self.legacy = Family::BOTH.map(|family| {
            part("reading the tables of `iptables-legacy`", LegacyTables::read(family))
        });
    }

    /// Sets which interfaces are guarded.
    pub(super) fn set_guarded(&mut self, guarded: BTreeSet<u32>) {
        if guarded != self.guarded {
            self.guarded = guarded;
            self.map_devices();
        }
    }

    fn map_devices(&mut self) {
        if let Ok(links) = &self.links {
            self.device_map = DeviceMap::new(links, &self.guarded, MAX_DEVICES as usize);
        }
    }

    /// Adds an address of which the kernel has just told.
    pub(super) fn add_own(&mut self, address: IpAddr) {
        if let Ok(own) = &mut self.own {
            if own.contains(&address) {
                return;
            }
            if own.len() < MAX_OWN as usize {
                Arc::make_mut(own).insert(address);
            } else {
                self.has_more_own = true;
            }
        }
    }

    /// Returns the parts that are not known.
    pub(super) fn unknown(&self) -> Parts {
        Parts {
            links: self.links.is_err(),
            own: self.own.is_err(),
            forwarding: self.forwarding.is_err(),
            forced: false,
            marks: self.marks.is_err(),
            nft: self.nft.is_err(),
        }
    }

    /// Marks as unknown what the lost notifications may have been about.
    pub(super) fn forget(&mut self, parts: Parts, why: &str) {
        fn forget<T>(part: &mut Part<T>, is_lost: bool, why: &str) {
            if is_lost {
                *part = Err(why.to_owned());
            }
        }
        // The own addresses stay: those that are known are still the best answer.
        forget(&mut self.links, parts.links, why);
        forget(&mut self.forwarding, parts.forwarding, why);
        forget(&mut self.marks, parts.marks, why);
        forget(&mut self.nft, parts.nft, why);
    }

    /// Returns the own addresses; none if they are not known.
    pub(super) fn own(&self) -> Option<&Arc<BTreeSet<IpAddr>>> {
        self.own.as_ref().ok()
    }

    /// Returns the mapping of frames to devices. If the devices are not known, the last one.
    pub(super) fn device_map(&self) -> &DeviceMap {
        &self.device_map
    }

    /// Returns the ports of listeners bound to a device that is not guarded. Frames for the loopback
    /// device do not come from outside.
    fn bound_ports(&self) -> BTreeSet<u16> {
        let links = self.links.as_deref().unwrap_or_default();
        let is_loopback = |index: u32| {
            links.iter().any(|link| link.index == index && link.kind == LinkKind::Loopback)
        };
        let ports = self.bound.ports.iter();
        let relevant =
            ports.filter(|(_, device)| !self.guarded.contains(device) && !is_loopback(*device));
        relevant.map(|(port, _)| *port).collect()
    }

    /// Returns why packets of a version cannot count as forwarded.
    fn obstacles(&self, family: Family) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        match &self.marks {
            Ok(marks) if marks.contains(&family) => obstacles.push(Obstacle::RuleByMark),
            Ok(_) => {}
            Err(why) => obstacles.push(Obstacle::Unknown(why.clone())),
        }
        let sees = match family {
            Family::V4 => RuleId::sees_ipv4,
            Family::V6 => RuleId::sees_ipv6,
        };
        match &self.nft {
            Ok(rules) => obstacles.extend(rules.obstacles(sees)),
            Err(why) => obstacles.push(Obstacle::Unknown(why.clone())),
        }
        let [v4, v6] = &self.legacy;
        match if family == Family::V4 { v4 } else { v6 } {
            Ok(tables) => {
                obstacles.extend(tables.tproxy.then_some(Obstacle::Legacy("TPROXY")));
                obstacles.extend(tables.redirect.then_some(Obstacle::Legacy("REDIRECT")));
            }
            Err(why) => obstacles.push(Obstacle::Unknown(why.clone())),
        }
        for why in [self.links.as_ref().err(), self.forwarding.as_ref().err()] {
            obstacles.extend(why.cloned().map(Obstacle::Unknown));
        }
        // Parts whose notifications were lost together have the same reason.
        let mut different: Vec<Obstacle> = Vec::new();
        for obstacle in obstacles {
            if !different.contains(&obstacle) {
                different.push(obstacle);
            }
        }
        different
    }

    /// Returns the facts.
    pub(super) fn facts(&self) -> NodeFacts {
        let forwards = |family| self.forwarding.as_ref().is_ok_and(|known| known.is_on(family));
        let forwards_ipv6 = forwards(Family::V6);
        let mixed = self.forwarding.as_ref().map(Forwarding::mixed_ipv6).unwrap_or_default();
        let links = self.links.as_deref().unwrap_or_default();
        let names = links.iter().filter(|link| mixed.contains(&link.index));
        let mut incomplete: Vec<String> = Vec::new();
        incomplete.extend(self.own.as_ref().err().cloned());
        incomplete.extend(self.unread_bound.clone());
        if self.has_more_own {
            incomplete.push(format!("the node has more than {MAX_OWN} addresses"));
        }
        if self.bound.are_missing {
            incomplete.push("there are more listening sockets than are read".to_owned());
        }
        if self.device_map.left_out > 0 {
            incomplete.push(format!(
                "frames of {} interfaces never count as forwarded: there are more than {MAX_DEVICES} \
                 addresses and VLANs",
                self.device_map.left_out
            ));
        }
        NodeFacts {
            own: self.own().cloned().unwrap_or_default(),
            forwards_ipv4: forwards(Family::V4),
            forwards_ipv6,
            obstacles_ipv4: self.obstacles(Family::V4),
            obstacles_ipv6: self.obstacles(Family::V6),
            mixed_ipv6: names.map(|link| link.name.clone()).collect(),
            dnat: self.nft.as_ref().is_ok_and(|rules| rules.dnat),
            masquerade: self.nft.as_ref().is_ok_and(|rules| rules.masquerade),
            bound_ports: self.bound_ports(),
            devices: self.device_map.entries.len(),
            incomplete,
        }
    }
}

fn part<T>(what: &str, result: io::Result<T>) -> Part<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

impl NodeFacts {
    /// Reads the facts about the network namespace of this thread once. No interface counts as guarded,
    /// so [`Self::bound_ports`] contains the listeners bound to any device.
    pub fn read() -> Self {
        let mut known = Known::default();
        known.read_all();
        known.facts()
    }
}

#[cfg(test)]
mod tests;
