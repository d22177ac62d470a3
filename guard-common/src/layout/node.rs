//! What the programs have to know about the node that they run on. User space writes it in the moment
//! in which the kernel reports a change, independently of the generations.
//!
//! Decision: `docs/decisions/0056-services-are-about-packets-for-this-node.md`.

use crate::flow::Addr;

/// Maximum number of own addresses.
pub const MAX_OWN: u32 = 1 << 14;
/// Maximum number of keys of receiving devices.
pub const MAX_DEVICES: u32 = 1 << 14;
/// Number of 64-bit words of the bit map of TCP ports: one bit for each port.
pub const BOUND_WORDS: u32 = 1 << 10;

/// State of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NodeState {
    /// A combination of [`NodeState::FORWARDS_IPV4`], [`NodeState::FORWARDS_IPV6`] and
    /// [`NodeState::BOUND_LISTENERS`].
    pub flags: u64,
    /// A filter of the own addresses: the bit [`own_bit`] of each is set. An address whose bit is
    /// not set is not an own one.
    pub own: [u64; OWN_WORDS],
    /// Interfaces whose frames without tags the IP stack receives at the interface itself, if they
    /// are sent to this MAC address: `MAC << 16 | index`, at the index modulo the number of words; 0
    /// for none. They are the usual case, and found without a lookup among the [`DeviceKey`]s.
    pub plain: [u64; PLAIN_WORDS],
}

/// Number of words of the filter of own addresses. A power of two.
const OWN_WORDS: usize = 4;
/// Number of interfaces in [`NodeState::plain`]. A power of two.
const PLAIN_WORDS: usize = 8;

impl NodeState {
    /// Flag: the node forwards IPv4 packets, and forwarded packets can be told apart.
    pub const FORWARDS_IPV4: u64 = 1;
    /// Flag: the node forwards IPv6 packets, and forwarded packets can be told apart.
    pub const FORWARDS_IPV6: u64 = 2;
    /// Flag: a socket that is bound to a device on top of a guarded interface listens on some port.
    pub const BOUND_LISTENERS: u64 = 4;

    /// Adds an address to the filter of own addresses.
    pub fn add_own(&mut self, addr: &Addr) {
        let (word, bit) = own_bit(addr);
        if let Some(word) = self.own.get_mut(word) {
            *word |= 1_u64.wrapping_shl(bit);
        }
    }

    /// Returns whether the address may be an own one.
    #[inline(always)]
    pub fn may_own(&self, addr: &Addr) -> bool {
        let (word, bit) = own_bit(addr);
        self.own.get(word).is_some_and(|word| word.wrapping_shr(bit) & 1 != 0)
    }

    /// Adds an interface to those that receive frames themselves, unless its place is taken or its
    /// index does not fit. `mac` is as in [`DeviceKey`].
    pub fn add_plain(&mut self, mac: u64, ifindex: u32) {
        if let Some(word) = self.plain.get_mut(plain_at(ifindex))
            && *word == 0
            && ifindex <= u16::MAX.into()
        {
            *word = mac << 16 | u64::from(ifindex);
        }
    }

    /// Returns whether a frame without tags that is sent to this MAC address is known to be received
    /// at the interface itself. `mac` is as in [`DeviceKey`].
    #[inline(always)]
    pub fn is_plain(&self, mac: u64, ifindex: u32) -> bool {
        let wanted = mac << 16 | u64::from(ifindex);
        ifindex <= u16::MAX.into() && self.plain.get(plain_at(ifindex)) == Some(&wanted)
    }
}

/// Returns the place of an interface in [`NodeState::plain`].
#[inline(always)]
fn plain_at(ifindex: u32) -> usize {
    ifindex as usize & (PLAIN_WORDS - 1)
}

/// Returns the position of an address in the filter of own addresses: word and bit.
#[inline(always)]
pub fn own_bit(addr: &Addr) -> (usize, u32) {
    let word = match *addr {
        Addr::V4(addr) => u64::from(addr),
        Addr::V6([high, low]) => high ^ low,
    };
    // Multiplicative hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    ((hash >> 6) as usize & (OWN_WORDS - 1), hash as u32 & 63)
}

/// Key of a device at which the IP stack receives frames: how a frame arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct DeviceKey {
    /// Destination MAC address: the first octet is in bits 40 to 47.
    pub mac: u64,
    /// The outer VLAN tag as `EtherType << 16 | VLAN`, without priority bits; 0 if there is none.
    /// Tags of VLAN 0 do not count: the kernel removes them.
    pub outer: u32,
    /// The inner VLAN tag, as `outer`.
    pub inner: u32,
    /// Index of the guarded interface that receives the frame.
    pub ifindex: u32,
    /// Always 0.
    pub zero: u32,
}

impl DeviceKey {
    /// The bits of a tag that identify the VLAN: `EtherType` and VLAN.
    pub const TAG_MASK: u32 = 0xffff_0fff;
    /// The bits of a tag that are the number of the VLAN.
    pub const VLAN_MASK: u32 = 0x0fff;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_knows_all_addresses_that_were_added() {
        let addrs = [Addr::V4(0x0a00_0001), Addr::V4(0x0a00_00ff), Addr::V6([0xfd00 << 48, 1])];
        let mut state = NodeState::default();
        assert!(!addrs.iter().any(|addr| state.may_own(addr)));
        for addr in &addrs {
            state.add_own(addr);
        }
        assert!(addrs.iter().all(|addr| state.may_own(addr)));
        let neighbours = (0..256).map(|host| Addr::V4(0x0a00_0000 | host));
        let taken = neighbours.filter(|addr| state.may_own(addr)).count();
        assert!((2..=8).contains(&taken), "{taken} of 256 neighbours");
    }

    #[test]
    fn plain_interfaces_are_known_by_address_and_index() {
        let mut state = NodeState::default();
        state.add_plain(0x0200_0000_0001, 3);
        state.add_plain(0x0200_0000_0002, 11);
        state.add_plain(0x0200_0000_0003, 0x1_0004);
        assert!(state.is_plain(0x0200_0000_0001, 3));
        assert!(!state.is_plain(0x0200_0000_0002, 3), "another address");
        assert!(!state.is_plain(0x0200_0000_0002, 11), "its place was taken");
        assert!(!state.is_plain(0x0200_0000_0003, 0x1_0004), "an index of more than 16 bits");
    }
}
