//! What a policy is, once compiled: the questions that the decision asks of it.

use crate::{
    bucket::Limit,
    flow::Addr,
    port_table::{Port, Transport, port_index},
    trie::Found,
};

/// What the tables know of the source addresses of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Source {
    /// Bit `n` is set if the service in slot `n` lists the address, exactly or by a prefix. A
    /// service open to `any` is not in here.
    pub services: u64,
    /// [`Source::OWN`], [`Source::MEMBER`].
    pub flags: u64,
}

impl Source {
    /// An address of this node.
    pub const OWN: u64 = 1;
    /// An address that the manifest gives to a node: it has limiter state of its own.
    pub const MEMBER: u64 = 2;

    /// Whether this is an address of the node itself.
    pub fn is_own(&self) -> bool {
        self.flags & Self::OWN != 0
    }

    /// Whether the manifest gives this address to a node.
    pub fn is_member(&self) -> bool {
        self.flags & Self::MEMBER != 0
    }
}

/// Which limit of a service: the index into [`Service::per_source`] and [`Service::total`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Unit {
    /// TCP segments that open a connection.
    NewConnections = 0,
    /// Packets.
    Packets = 1,
    /// Bytes of the frame on the wire, Ethernet header included, frame check sequence not.
    Bytes = 2,
}

impl Unit {
    /// All of them, in the order in which they are charged.
    pub const ALL: [Self; 3] = [Self::NewConnections, Self::Packets, Self::Bytes];
}

/// The limits of a service on each [`Unit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Limits {
    /// New connections per second.
    pub new_connections: Limit,
    /// Packets per second.
    pub packets: Limit,
    /// Bytes per second.
    pub bytes: Limit,
}

impl Limits {
    /// The same limits, for a bucket that all CPUs share.
    #[must_use]
    pub fn in_batches(self) -> Self {
        Self {
            new_connections: self.new_connections.in_batches(),
            packets: self.packets.in_batches(),
            bytes: self.bytes.in_batches_of_bytes(),
        }
    }

    /// Whether anything is limited.
    #[inline(always)]
    pub fn is_some(&self) -> bool {
        self.new_connections.is_some() || self.packets.is_some() || self.bytes.is_some()
    }

    /// Bit `n` is set if the unit `n` is limited.
    fn kinds(&self) -> u64 {
        let Self { new_connections, packets, bytes } = self;
        u64::from(new_connections.is_some())
            | u64::from(packets.is_some()) << 1
            | u64::from(bytes.is_some()) << 2
    }
}

/// What a service asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Service {
    /// [`Service::NEW_CONNECTIONS`] and the other flags.
    pub flags: u64,
    /// What each source may send.
    pub per_source: Limits,
    /// What all sources together may send.
    pub total: Limits,
}

impl Service {
    /// Only TCP segments that open a connection are matched.
    pub const NEW_CONNECTIONS: u64 = 1;
    /// Count, drop nothing.
    pub const OBSERVE: u64 = 2;
    /// Every source is allowed.
    pub const ANY: u64 = 4;

    /// Whether a flag is set.
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

/// A fact about the whole node: a mask of service slots, in which bit `n` stands for the service in
/// slot `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Setting {
    /// The services that are guarded here. 0: nothing is guarded.
    Guarded = 0,
    /// The guarded services that drop, as opposed to observe.
    Enforcing = 1,
    /// The guarded services that every source may reach.
    Any = 2,
    /// The guarded services that match TCP segments that open a connection, and no others.
    NewConnections = 3,
    /// The guarded services that limit new connections, per source or in total.
    LimitsConnections = 4,
    /// The guarded services that limit packets or bytes, per source or in total.
    LimitsVolume = 5,
    /// The guarded services that have a limit per source: members have a bucket at each of them.
    PerSource = 6,
    /// No mask, but the kinds of limit that some guarded service sets: bit `n` for the unit `n` per
    /// source, bit `3 + n` for the unit `n` in total.
    Kinds = 7,
}

impl Setting {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Guarded,
        Self::Enforcing,
        Self::Any,
        Self::NewConnections,
        Self::LimitsConnections,
        Self::LimitsVolume,
        Self::PerSource,
        Self::Kinds,
    ];
}

/// The facts about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings([u64; Setting::ALL.len()]);

impl Settings {
    /// One of them.
    pub fn get(&self, setting: Setting) -> u64 {
        self.0.get(setting as usize).copied().unwrap_or_default()
    }

    fn set(&mut self, setting: Setting, bits: u64) {
        if let Some(mask) = self.0.get_mut(setting as usize) {
            *mask |= bits;
        }
    }

    /// Adds a service in a slot.
    pub fn add(&mut self, slot: u8, service: &Service) {
        let bit = 1_u64.wrapping_shl(slot.into());
        let per_source = service.per_source.kinds();
        let kinds = per_source | service.total.kinds() << 3;
        let connections = 0b001_001;
        for (setting, holds) in [
            (Setting::Guarded, true),
            (Setting::Enforcing, !service.has(Service::OBSERVE)),
            (Setting::Any, service.has(Service::ANY)),
            (Setting::NewConnections, service.has(Service::NEW_CONNECTIONS)),
            (Setting::LimitsConnections, kinds & connections != 0),
            (Setting::LimitsVolume, kinds & !connections != 0),
            (Setting::PerSource, per_source != 0),
        ] {
            self.set(setting, if holds { bit } else { 0 });
        }
        self.set(Setting::Kinds, kinds);
    }
}

/// What the decision looks up. Two implementations: plain collections on the host, maps and
/// read-only globals in the kernel.
pub trait Tables {
    /// A fact about the whole node. Asked for one by one: what a frame does not need is not loaded.
    fn setting(&self, setting: Setting) -> u64;

    /// What a destination port is to this node, by its [`port_index`].
    fn port_at(&self, index: usize) -> Port;

    /// What a destination port is to this node.
    fn port(&self, transport: Transport, port: u16) -> Port {
        self.port_at(port_index(transport, port))
    }

    /// Whether a device of this node unpacks this IP protocol.
    fn unpacks(&self, protocol: u8) -> bool;

    /// The class of a source, and where its buckets are; the default for an unknown one.
    fn find(&self, addr: &Addr) -> Found;

    /// What is known of all sources of a class; the default for class 0.
    fn class(&self, class: u16) -> Source;

    /// What is known of a source.
    fn source(&self, addr: &Addr) -> Source {
        self.class(self.find(addr).class)
    }

    /// The service in a slot; none if the slot is empty.
    fn service(&self, slot: u8) -> Option<&Service>;
}

/// The same tables, but nothing is limited: whoever decides by them charges no bucket.
#[derive(Debug, Clone, Copy)]
pub struct Unlimited<T>(pub T);

impl<T: Tables> Tables for Unlimited<T> {
    #[inline(always)]
    fn setting(&self, setting: Setting) -> u64 {
        match setting {
            Setting::LimitsConnections | Setting::LimitsVolume => 0,
            _ => self.0.setting(setting),
        }
    }

    #[inline(always)]
    fn port_at(&self, index: usize) -> Port {
        self.0.port_at(index)
    }

    #[inline(always)]
    fn unpacks(&self, protocol: u8) -> bool {
        self.0.unpacks(protocol)
    }

    #[inline(always)]
    fn find(&self, addr: &Addr) -> Found {
        self.0.find(addr)
    }

    #[inline(always)]
    fn class(&self, class: u16) -> Source {
        self.0.class(class)
    }

    #[inline(always)]
    fn service(&self, slot: u8) -> Option<&Service> {
        self.0.service(slot)
    }
}
