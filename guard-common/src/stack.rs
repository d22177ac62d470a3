//! What the network stack of the node would do with a packet.
//!
//! The decision asks it only where it would otherwise refuse or charge a packet.
//!
//! Decision: `docs/decisions/0056-services-are-about-packets-for-this-node.md`.
//! Decision: `docs/decisions/0057-established-is-what-the-kernel-knows.md`.

use crate::{
    flow::{Addr, Headers},
    tables::Source,
};

/// The socket that would receive a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Socket {
    /// None, or the network stack cannot be queried.
    None = 0,
    /// A socket that listens for connections, or a UDP socket without a peer.
    Listening = 1,
    /// A TCP connection: established, half open, or closed a moment ago.
    Connected = 2,
    /// As `Connected`, and nothing listens on the local port, so that the node opened the connection;
    /// or a UDP socket whose peer is the sender.
    Opened = 3,
}

/// The network stack of the node, as the decision queries it.
///
/// The kernel programs implement it by lookups in the routes, sockets and addresses of the kernel. On
/// the host, [`Offline`] answers for a node that has no sockets.
pub trait Stack {
    /// Returns whether the node would send the packet on to another host. False if it would receive
    /// the packet, drop it, or if that is not known.
    fn forwards(&self, headers: &Headers) -> bool;

    /// Returns the TCP or UDP socket that would receive the packet. Only if `is_opener_asked` are
    /// [`Socket::Connected`] and [`Socket::Opened`] told apart for TCP: that takes a second lookup.
    fn socket(&self, headers: &Headers, is_opener_asked: bool) -> Socket;

    /// Returns whether the node holds an address. `source` is what the tables know about it.
    fn holds(&self, addr: &Addr, source: &Source) -> bool;

    /// Returns the same value. In the kernel, the verifier then knows nothing about it.
    #[inline(always)]
    fn hidden(&self, value: u32) -> u32 {
        value
    }
}

/// A network stack without sockets, which holds the addresses that the manifest assigns to the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offline {
    /// Whether the node forwards every packet.
    pub forwards: bool,
}

impl Stack for Offline {
    #[inline(always)]
    fn forwards(&self, _: &Headers) -> bool {
        self.forwards
    }

    #[inline(always)]
    fn socket(&self, _: &Headers, _: bool) -> Socket {
        Socket::None
    }

    #[inline(always)]
    fn holds(&self, _: &Addr, source: &Source) -> bool {
        source.is_own()
    }
}

/// Bit of the lookups of a kernel program: it looks up routes. Without it, nothing counts as
/// forwarded.
pub const LOOKUP_ROUTES: u64 = 1;
/// Bit of the lookups of a kernel program: it looks up sockets. Without it, a listening socket is
/// assumed for every packet.
pub const LOOKUP_SOCKETS: u64 = 2;
