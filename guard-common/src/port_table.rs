//! The port table of a node: whether and by which service each (transport, port) is guarded.

use crate::verdict::MAX_SERVICES;

/// A transport protocol whose ports a policy can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Transport {
    /// TCP.
    Tcp = 0,
    /// UDP and UDP-Lite.
    Udp = 1,
    /// SCTP.
    Sctp = 2,
}

impl Transport {
    /// All transports, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Returns the name used in policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// What a destination (transport, port) is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// The port is not guarded.
    Unguarded,
    /// The service in this slot guards the port.
    Guarded(u8),
    /// The port is not guarded, and a tunnel device of this node decapsulates packets to it.
    Tunnel,
}

/// One entry for each (transport, port), in the order of [`Transport::ALL`]. An entry is a service
/// slot, [`PORT_TUNNEL`] or [`PORT_UNGUARDED`]. See [`port_index`].
pub type PortTable = [u8; PORT_TABLE_LEN];

/// Number of entries of a [`PortTable`]: those of three transports, and 65,536 that are never read,
/// so that every index of 18 bits is in the table.
pub const PORT_TABLE_LEN: usize = 4 << 16;

/// [`PortTable`] entry: the port is not guarded.
pub const PORT_UNGUARDED: u8 = 0xff;

/// [`PortTable`] entry: the port is not guarded, but a tunnel device decapsulates packets to it.
pub const PORT_TUNNEL: u8 = 0xfe;

/// Returns the index of a port in a [`PortTable`].
#[inline(always)]
pub fn port_index(transport: Transport, port: u16) -> usize {
    ((transport as usize) << 16) | port as usize
}

/// Returns the meaning of a [`PortTable`] entry.
#[inline(always)]
pub fn port_entry(entry: u8) -> Port {
    match entry {
        slot if slot < MAX_SERVICES => Port::Guarded(slot),
        PORT_TUNNEL => Port::Tunnel,
        _ => Port::Unguarded,
    }
}
