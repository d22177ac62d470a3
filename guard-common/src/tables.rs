//! The compiled policy of a node, as the decision queries it.

use crate::{
    bucket::Limit,
    flow::Addr,
    port_table::{Port, Transport, port_index},
    trie::Found,
};

/// What the policy knows about the source addresses of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Source {
    /// Bit `n` is set if the service in slot `n` lists the address, exactly or by a prefix.
    /// Services that are open to `any` are not included.
    pub services: u64,
    /// From the lowest bit: [`Source::OWN`] and [`Source::MEMBER`] (8), then for each
    /// [`FragmentKind`] the slot of the service that later fragments are charged to, plus 1 (8); 0
    /// if there is none.
    pub flags: u64,
}

impl Source {
    /// Flag: the manifest assigns the address to this node. The node may not hold it: it may live
    /// in a container.
    pub const OWN: u64 = 1;
    /// Flag: the manifest assigns the address to a node of the cluster, so the source has buckets
    /// of its own.
    pub const MEMBER: u64 = 2;

    /// Returns whether the manifest assigns the address to this node.
    pub fn is_own(&self) -> bool {
        self.flags & Self::OWN != 0
    }

    /// Returns whether the manifest assigns the address to a node of the cluster.
    pub fn is_member(&self) -> bool {
        self.flags & Self::MEMBER != 0
    }

    /// Returns the slot of the service that later fragments of a kind are charged to, or `None` if
    /// they are not charged.
    #[inline(always)]
    pub fn charges_fragments(&self, kind: FragmentKind) -> Option<u8> {
        let slot = self.flags >> kind.shift() & 0xff;
        (slot as u8).checked_sub(1)
    }

    /// Sets the slot of the service that later fragments of a kind are charged to.
    #[must_use]
    pub fn with_fragments_charged(self, kind: FragmentKind, slot: u8) -> Self {
        let cleared = self.flags & !(0xff << kind.shift());
        let slot = u64::from(slot).wrapping_add(1);
        Self { flags: cleared | slot << kind.shift(), ..self }
    }
}

/// What is known about the transport of a fragment other than the first.
///
/// Which packet a fragment belongs to is decided by its first fragment, which has the ports and is
/// evaluated by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FragmentKind {
    /// TCP.
    Tcp = 0,
    /// UDP and UDP-Lite.
    Udp = 1,
    /// SCTP.
    Sctp = 2,
    /// Any of them: an extension header follows, and the transport is behind it.
    Unknown = 3,
}

impl FragmentKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Unknown];

    /// Returns the setting that contains the services with ports of this transport.
    #[inline(always)]
    pub fn services(self) -> Setting {
        match self {
            Self::Tcp => Setting::Tcp,
            Self::Udp => Setting::Udp,
            Self::Sctp => Setting::Sctp,
            Self::Unknown => Setting::Guarded,
        }
    }

    #[inline(always)]
    fn shift(self) -> u32 {
        (self as u32).wrapping_mul(8).wrapping_add(8)
    }
}

/// What a limit counts. A number is the index into [`BucketStates`](crate::layout::BucketStates).
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
    /// All units, in the order in which they are charged.
    pub const ALL: [Self; 3] = [Self::NewConnections, Self::Packets, Self::Bytes];
}

/// The limits on each [`Unit`], of a service or of each of its sources.
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
    /// Returns the same limits for buckets that all CPUs share.
    #[must_use]
    pub fn in_batches(self) -> Self {
        Self {
            new_connections: self.new_connections.in_batches(),
            packets: self.packets.in_batches(),
            bytes: self.bytes.in_batches_of_bytes(),
        }
    }

    /// Returns whether any unit is limited.
    #[inline(always)]
    pub fn is_some(&self) -> bool {
        self.new_connections.is_some() || self.packets.is_some() || self.bytes.is_some()
    }

    /// Returns a mask in which bit `n` is set if unit `n` is limited.
    fn kinds(&self) -> u64 {
        let Self { new_connections, packets, bytes } = self;
        u64::from(new_connections.is_some())
            | u64::from(packets.is_some()) << 1
            | u64::from(bytes.is_some()) << 2
    }
}

/// Flags and limits of one guarded service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Service {
    /// A combination of [`Service::NEW_CONNECTIONS`], [`Service::OBSERVE`], [`Service::ANY`] and
    /// [`Service::GUARDS_FORWARDED`].
    pub flags: u64,
    /// The limits on each source.
    pub per_source: Limits,
    /// The limits on all sources together.
    pub total: Limits,
}

impl Service {
    /// Flag: only TCP segments that open a connection are matched.
    pub const NEW_CONNECTIONS: u64 = 1;
    /// Flag: refusals are counted, and nothing is dropped.
    pub const OBSERVE: u64 = 2;
    /// Flag: every source is allowed.
    pub const ANY: u64 = 4;
    /// Flag: packets that the node only forwards are judged like those for the node.
    pub const GUARDS_FORWARDED: u64 = 8;

    /// Returns whether a flag is set.
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

/// A setting of the whole node: a mask of service slots, in which bit `n` stands for the service in
/// slot `n`. [`Setting::Kinds`] has another format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Setting {
    /// The services that are guarded on this node. 0 if nothing is guarded.
    Guarded = 0,
    /// The guarded services that drop and do not only observe.
    Enforcing = 1,
    /// The guarded services that every source may reach.
    Any = 2,
    /// The guarded services that match only TCP segments that open a connection.
    NewConnections = 3,
    /// The guarded services that limit new connections, per source or in total.
    LimitsConnections = 4,
    /// The guarded services that limit packets or bytes, per source or in total.
    LimitsVolume = 5,
    /// The guarded services that have a limit per source. Members have a bucket at each of them.
    PerSource = 6,
    /// No mask of slots, but the kinds of limit that some guarded service sets: bit `n` for unit
    /// `n` per source, bit `3 + n` for unit `n` in total.
    Kinds = 7,
    /// The guarded services that judge packets that the node only forwards.
    GuardsForwarded = 8,
    /// The guarded services with TCP ports.
    Tcp = 9,
    /// The guarded services with UDP ports.
    Udp = 10,
    /// The guarded services with SCTP ports.
    Sctp = 11,
}

impl Setting {
    /// All settings, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Guarded,
        Self::Enforcing,
        Self::Any,
        Self::NewConnections,
        Self::LimitsConnections,
        Self::LimitsVolume,
        Self::PerSource,
        Self::Kinds,
        Self::GuardsForwarded,
        Self::Tcp,
        Self::Udp,
        Self::Sctp,
    ];
}

/// The values of all [`Setting`]s of a node. The default guards nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings([u64; Setting::ALL.len()]);

impl Settings {
    /// Returns the value of one setting.
    pub fn get(&self, setting: Setting) -> u64 {
        self.0.get(setting as usize).copied().unwrap_or_default()
    }

    fn set(&mut self, setting: Setting, bits: u64) {
        if let Some(mask) = self.0.get_mut(setting as usize) {
            *mask |= bits;
        }
    }

    /// Adds the service in `slot`, which is below [`MAX_SERVICES`](crate::verdict::MAX_SERVICES).
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
            (Setting::GuardsForwarded, service.has(Service::GUARDS_FORWARDED)),
        ] {
            self.set(setting, if holds { bit } else { 0 });
        }
        self.set(Setting::Kinds, kinds);
    }

    /// Adds that the service in `slot` has a port of a transport.
    pub fn add_port(&mut self, slot: u8, transport: Transport) {
        let setting = match transport {
            Transport::Tcp => Setting::Tcp,
            Transport::Udp => Setting::Udp,
            Transport::Sctp => Setting::Sctp,
        };
        self.set(setting, 1_u64.wrapping_shl(slot.into()));
    }
}

/// The lookups of the decision in the compiled policy of a node.
///
/// There are two implementations: collections in memory on the host, and maps and read-only globals
/// in the kernel. No lookup fails: a port, source or class that the policy does not contain is not
/// guarded or unknown.
///
/// # Examples
///
/// ```
/// use guard_common::port_table::{Port, Transport, port_index};
/// use guard_common::tables::{Service, Setting, Source};
/// use guard_common::{Addr, Tables, trie::Found};
///
/// /// The service in slot 3 guards one TCP port and admits no source.
/// struct OnePort(u16, Service);
///
/// impl Tables for OnePort {
///     fn setting(&self, setting: Setting) -> u64 {
///         u64::from(matches!(setting, Setting::Guarded | Setting::Enforcing)) << 3
///     }
///     fn port_at(&self, index: usize) -> Port {
///         let guarded = index == port_index(Transport::Tcp, self.0);
///         if guarded { Port::Guarded(3) } else { Port::Unguarded }
///     }
///     fn unpacks(&self, _protocol: u8) -> bool {
///         false
///     }
///     fn find(&self, _addr: &Addr) -> Found {
///         Found::default()
///     }
///     fn class(&self, _class: u16) -> Source {
///         Source::default()
///     }
///     fn service(&self, slot: u8) -> Option<&Service> {
///         (slot == 3).then_some(&self.1)
///     }
/// }
///
/// let tables = OnePort(9091, Service::default());
/// assert_eq!(tables.port(Transport::Tcp, 9091), Port::Guarded(3));
/// assert_eq!(tables.port(Transport::Udp, 9091), Port::Unguarded);
/// assert_eq!(tables.source(&Addr::V4(0x0a00_0001)).services, 0);
/// ```
pub trait Tables {
    /// Returns one setting of the node. Settings are read one by one, so that the kernel program
    /// loads only those that a frame needs.
    fn setting(&self, setting: Setting) -> u64;

    /// Returns what a destination port is to this node, by its [`port_index`].
    fn port_at(&self, index: usize) -> Port;

    /// Returns what a destination port is to this node.
    fn port(&self, transport: Transport, port: u16) -> Port {
        self.port_at(port_index(transport, port))
    }

    /// Returns whether a device of this node decapsulates this IP protocol.
    fn unpacks(&self, protocol: u8) -> bool;

    /// Returns the class of a source and the number of its first bucket; the default (class 0) for
    /// an unknown source.
    fn find(&self, addr: &Addr) -> Found;

    /// Returns what is known about the sources of a class; the default for class 0.
    fn class(&self, class: u16) -> Source;

    /// Returns what is known about a source.
    fn source(&self, addr: &Addr) -> Source {
        self.class(self.find(addr).class)
    }

    /// Returns the service in a slot, or `None` if the slot is empty.
    fn service(&self, slot: u8) -> Option<&Service>;
}

/// The same tables without any limits: a decision by them charges no bucket.
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
