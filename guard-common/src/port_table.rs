//! The table of ports: what each (transport, port) of a node is.

use crate::verdict::MAX_SERVICES;

/// A transport whose ports a policy can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Transport {
    /// TCP.
    Tcp = 0,
    /// UDP, and UDP-Lite.
    Udp = 1,
    /// SCTP.
    Sctp = 2,
}

impl Transport {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The name used in policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
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

/// What each (transport, port) is: the transports of [`Transport::ALL`], one after the other. An
/// entry is a service slot, [`PORT_TUNNEL`] or [`PORT_UNGUARDED`].
pub type PortTable = [u8; PORT_TABLE_LEN];

/// Entries of a [`PortTable`]: those of three transports, and as many that are never asked for, so
/// that every index of 18 bits is within.
pub const PORT_TABLE_LEN: usize = 4 << 16;

/// [`PortTable`] entry: no service.
pub const PORT_UNGUARDED: u8 = 0xff;

/// [`PortTable`] entry: no service, but a tunnel device unpacks what comes to this port.
pub const PORT_TUNNEL: u8 = 0xfe;

/// Index of a port in a [`PortTable`].
#[inline(always)]
pub fn port_index(transport: Transport, port: u16) -> usize {
    ((transport as usize) << 16) | port as usize
}

/// Meaning of a [`PortTable`] entry.
#[inline(always)]
pub fn port_entry(entry: u8) -> Port {
    match entry {
        slot if slot < MAX_SERVICES => Port::Guarded(slot),
        PORT_TUNNEL => Port::Tunnel,
        _ => Port::Unguarded,
    }
}
