//! What a policy is, once compiled: the questions that the decision asks of it.

use crate::{
    bucket::Limit,
    flow::{Addr, Transport},
};

/// What the tables know of a source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// New connections are limited, per source or in total.
    pub const LIMITS_CONNECTIONS: u64 = 8;
    /// Packets or bytes are limited, per source or in total.
    pub const LIMITS_VOLUME: u64 = 16;

    /// A service with these limits; sets the flags that say which there are.
    pub fn new(flags: u64, per_source: Limits, total: Limits) -> Self {
        let mut service = Self { flags, per_source, total };
        for limits in [&per_source, &total] {
            if limits.new_connections.is_some() {
                service.flags |= Self::LIMITS_CONNECTIONS;
            }
            if limits.packets.is_some() || limits.bytes.is_some() {
                service.flags |= Self::LIMITS_VOLUME;
            }
        }
        service
    }

    /// Whether a limit applies to a packet that opens a connection, or does not.
    pub fn limits(&self, opening: bool) -> bool {
        self.has(Self::LIMITS_VOLUME) || (opening && self.has(Self::LIMITS_CONNECTIONS))
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

/// Facts about the whole node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Settings {
    /// Bit `n` is set if the service in slot `n` is guarded here. 0: nothing is guarded.
    pub guarded: u64,
    /// The guarded services that drop, as opposed to observe.
    pub enforcing: u64,
    /// The guarded services that every source may reach.
    pub any: u64,
    /// The kinds of limit that some guarded service sets: bit `n` for the unit `n` per source, bit
    /// `3 + n` for the unit `n` in total. What nobody uses costs nothing.
    pub limits: u64,
}

impl Settings {
    /// Adds a service in a slot.
    pub fn add(&mut self, slot: u8, service: &Service) {
        let bit = 1_u64.wrapping_shl(slot.into());
        self.guarded |= bit;
        if !service.has(Service::OBSERVE) {
            self.enforcing |= bit;
        }
        if service.has(Service::ANY) {
            self.any |= bit;
        }
        self.limits |= service.per_source.kinds() | service.total.kinds() << 3;
    }
}

/// What a (transport, port) is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// No service guards it.
    Unguarded,
    /// The service in this slot guards it.
    Guarded(u8),
    /// No service guards it, and a tunnel device of this node unpacks what comes to it.
    Tunnel,
}

/// What the decision looks up. Two implementations: plain collections on the host, maps and
/// read-only globals in the kernel.
pub trait Tables {
    /// Facts about the whole node.
    fn settings(&self) -> Settings;

    /// What a destination port is to this node.
    fn port(&self, transport: Transport, port: u16) -> Port;

    /// Whether a device of this node unpacks this IP protocol.
    fn unpacks(&self, protocol: u8) -> bool;

    /// What is known of a source; the default for an unknown one.
    fn source(&self, addr: &Addr) -> Source;

    /// The service in a slot; none if the slot is empty.
    fn service(&self, slot: u8) -> Option<&Service>;
}
