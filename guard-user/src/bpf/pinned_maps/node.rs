//! The maps with what the programs have to know about the node.

use std::{collections::BTreeMap, path::Path};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use guard_common::{
    layout::node::{BOUND_WORDS, DeviceKey, NodeState},
    names,
};

use super::{missing, open, read, typed, write};
use crate::system_error::SystemError;

/// Typed handles of the maps with the node's state. One process at a time writes: the daemon that
/// holds the lock of the pin directory. All methods fail if the kernel cannot read or write a map.
#[expect(missing_debug_implementations, reason = "aya's typed maps have none")]
pub struct NodeMaps {
    state: Array<MapData, NodeState>,
    own: HashMap<MapData, [u64; 2], u32>,
    devices: HashMap<MapData, DeviceKey, u32>,
    bound: Array<MapData, u64>,
}

impl NodeMaps {
    /// Takes the maps out of a loaded object.
    pub(in crate::bpf) fn take(ebpf: &mut Ebpf) -> Result<Self, SystemError> {
        Self::of(|name| ebpf.take_map(name).ok_or_else(|| missing(name)))
    }

    /// Opens the maps that are pinned in a directory. The caller must have checked the layout
    /// ([`Pins::check_layout`](crate::bpf::pins::Pins::check_layout)).
    ///
    /// # Errors
    /// A map is not pinned, cannot be opened, or has another type.
    pub fn open(directory: &Path) -> Result<Self, SystemError> {
        Self::of(|name| open(directory, name))
    }

    fn of(
        mut map: impl FnMut(&'static str) -> Result<Map, SystemError>,
    ) -> Result<Self, SystemError> {
        Ok(Self {
            state: typed(names::MAP_NODE, map(names::MAP_NODE)?)?,
            own: typed(names::MAP_OWN, map(names::MAP_OWN)?)?,
            devices: typed(names::MAP_DEVICES, map(names::MAP_DEVICES)?)?,
            bound: typed(names::MAP_BOUND, map(names::MAP_BOUND)?)?,
        })
    }

    /// Returns the flags and the filter of own addresses.
    pub fn state(&self) -> Result<NodeState, SystemError> {
        self.state.get(&0, 0).map_err(read(names::MAP_NODE))
    }

    /// Sets the flags and the filter of own addresses.
    pub fn set_state(&mut self, state: NodeState) -> Result<(), SystemError> {
        self.state.set(0, state, 0).map_err(write(names::MAP_NODE))
    }

    /// Returns the own addresses.
    pub fn own(&self) -> Result<Vec<[u64; 2]>, SystemError> {
        let keys = self.own.keys().collect::<Result<_, _>>();
        keys.map_err(read(names::MAP_OWN))
    }

    /// Adds an own address.
    pub fn add_own(&mut self, address: [u64; 2]) -> Result<(), SystemError> {
        self.own.insert(address, 0, 0).map_err(write(names::MAP_OWN))
    }

    /// Removes an own address, if it is there.
    pub fn remove_own(&mut self, address: &[u64; 2]) -> Result<(), SystemError> {
        removed(self.own.remove(address)).map_err(write(names::MAP_OWN))
    }

    /// Returns the devices at which frames are received.
    pub fn devices(&self) -> Result<BTreeMap<DeviceKey, u32>, SystemError> {
        self.devices.iter().collect::<Result<_, _>>().map_err(read(names::MAP_DEVICES))
    }

    /// Sets the device at which frames are received.
    pub fn set_device(&mut self, key: DeviceKey, device: u32) -> Result<(), SystemError> {
        self.devices.insert(key, device, 0).map_err(write(names::MAP_DEVICES))
    }

    /// Removes a key, if it is there.
    pub fn remove_device(&mut self, key: &DeviceKey) -> Result<(), SystemError> {
        removed(self.devices.remove(key)).map_err(write(names::MAP_DEVICES))
    }

    /// Returns the bit map of ports with bound listeners.
    pub fn bound(&self) -> Result<Vec<u64>, SystemError> {
        let words = (0..BOUND_WORDS).map(|index| self.bound.get(&index, 0));
        words.collect::<Result<_, _>>().map_err(read(names::MAP_BOUND))
    }

    /// Sets a word of the bit map of ports with bound listeners.
    pub fn set_bound(&mut self, index: u32, word: u64) -> Result<(), SystemError> {
        self.bound.set(index, word, 0).map_err(write(names::MAP_BOUND))
    }
}

/// Treats a key that is not in a map as removed.
fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        result => result,
    }
}
