//! Writes the node's state into the maps, change by change.
//!
//! The programs read the maps at any time, so a change that makes the guard stricter comes before one
//! that makes it less strict, and what stays is never removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use guard_common::{
    Addr,
    layout::node::{BOUND_WORDS, DeviceKey, MAX_DEVICES, MAX_OWN, NodeState},
};

use crate::{bpf::pinned_maps::node::NodeMaps, system_error::SystemError};

/// The flags that make the guard less strict.
const FORWARDS: u64 = NodeState::FORWARDS_IPV4 | NodeState::FORWARDS_IPV6;

/// The state that the maps should have.
pub(super) struct Wanted<'w> {
    /// The flags of [`NodeState`].
    pub(super) flags: u64,
    /// The own addresses; none if they are not known, so that those in the map stay.
    pub(super) own: Option<&'w Arc<BTreeSet<IpAddr>>>,
    /// The devices at which frames are received.
    pub(super) devices: &'w BTreeMap<DeviceKey, u32>,
    /// Indices of the guarded interfaces.
    pub(super) guarded: &'w BTreeSet<u32>,
    /// The ports with bound listeners.
    pub(super) bound: &'w BTreeSet<u16>,
}

/// The maps, and what they contain.
pub(super) struct Writer {
    maps: NodeMaps,
    state: NodeState,
    own: BTreeSet<[u64; 2]>,
    /// The addresses of [`Self::own`], to notice that nothing has changed.
    written: Option<Arc<BTreeSet<IpAddr>>>,
    devices: BTreeMap<DeviceKey, u32>,
    bound: Vec<u64>,
}

impl Writer {
    /// Reads what an earlier daemon left in the maps.
    pub(super) fn new(maps: NodeMaps) -> Result<Self, SystemError> {
        Ok(Self {
            state: maps.state()?,
            own: maps.own()?.into_iter().collect(),
            written: None,
            devices: maps.devices()?,
            bound: maps.bound()?,
            maps,
        })
    }

    /// Makes no packet count as forwarded.
    pub(super) fn clear_forwards(&mut self) -> Result<(), SystemError> {
        self.set_state(NodeState { flags: self.state.flags & !FORWARDS, ..self.state })
    }

    /// Changes the maps to the wanted state.
    ///
    /// # Errors
    /// A map cannot be written. The rest is written by the next call.
    pub(super) fn write(&mut self, wanted: &Wanted<'_>) -> Result<(), SystemError> {
        let own_changed = match (wanted.own, &self.written) {
            (Some(wanted), Some(written)) => !Arc::ptr_eq(wanted, written) && wanted != written,
            (wanted, _) => wanted.is_some(),
        };
        let new_own = wanted.own.filter(|_| own_changed);
        let mut next =
            NodeState { flags: wanted.flags, own: self.state.own, ..NodeState::default() };
        for (key, device) in wanted.devices {
            let is_plain = (key.outer, key.inner, key.ifindex) == (0, 0, *device);
            if is_plain && wanted.guarded.contains(device) {
                next.add_plain(key.mac, *device);
            }
        }
        if let Some(own) = new_own {
            next.own = NodeState::default().own;
            own.iter().for_each(|address| next.add_own(&Addr::from(*address)));
        }
        // Stricter: fewer packets count as forwarded, more addresses are own, more ports have bound
        // listeners.
        let flags = self.state.flags & (wanted.flags | !FORWARDS);
        let mut plain = self.state.plain;
        for (word, wanted) in plain.iter_mut().zip(next.plain) {
            if *word != wanted {
                *word = 0;
            }
        }
        self.set_state(NodeState { flags, plain, ..self.state })?;
        let own: Option<BTreeSet<[u64; 2]>> =
            new_own.map(|own| own.iter().map(|address| Addr::from(*address).mapped()).collect());
        if let Some(own) = &own {
            if self.own.union(own).count() > MAX_OWN as usize {
                // Only then is there no room for the new addresses before old ones are removed.
                self.remove_own(own)?;
            }
            let added: Vec<_> = own.difference(&self.own).copied().collect();
            for address in added {
                self.maps.add_own(address)?;
                self.own.insert(address);
            }
        }
        let gone = |(key, device): (&DeviceKey, &u32)| {
            (wanted.devices.get(key) != Some(device)).then_some(*key)
        };
        for key in self.devices.iter().filter_map(gone).collect::<Vec<_>>() {
            self.maps.remove_device(&key)?;
            self.devices.remove(&key);
        }
        let mut bound = vec![0_u64; BOUND_WORDS as usize];
        for port in wanted.bound {
            if let Some(word) = bound.get_mut(usize::from(port >> 6)) {
                *word |= 1 << (port & 63);
            }
        }
        self.set_bound(&bound, |before, after| before | after)?;
        let mut both = self.state;
        both.flags |= wanted.flags & !FORWARDS;
        for (word, more) in both.own.iter_mut().zip(next.own) {
            *word |= more;
        }
        self.set_state(both)?;
        // Less strict.
        if let Some(own) = &own {
            self.remove_own(own)?;
        }
        for (key, device) in wanted.devices.iter().take(MAX_DEVICES as usize) {
            if !self.devices.contains_key(key) {
                self.maps.set_device(*key, *device)?;
                self.devices.insert(*key, *device);
            }
        }
        self.set_state(next)?;
        self.set_bound(&bound, |_, after| after)?;
        if let Some(own) = new_own {
            self.written = Some(Arc::clone(own));
        }
        Ok(())
    }

    /// Removes the own addresses that are not wanted.
    fn remove_own(&mut self, wanted: &BTreeSet<[u64; 2]>) -> Result<(), SystemError> {
        for address in self.own.difference(wanted).copied().collect::<Vec<_>>() {
            self.maps.remove_own(&address)?;
            self.own.remove(&address);
        }
        Ok(())
    }

    fn set_bound(
        &mut self,
        wanted: &[u64],
        value: impl Fn(u64, u64) -> u64,
    ) -> Result<(), SystemError> {
        for (index, (now, wanted)) in (0..).zip(self.bound.iter_mut().zip(wanted)) {
            let word = value(*now, *wanted);
            if word != *now {
                self.maps.set_bound(index, word)?;
                *now = word;
            }
        }
        Ok(())
    }

    fn set_state(&mut self, state: NodeState) -> Result<(), SystemError> {
        if state != self.state {
            self.maps.set_state(state)?;
            self.state = state;
        }
        Ok(())
    }
}
