//! Reports the steps of a decision: to a recorder in `trace`, to nothing in the kernel.

use crate::{
    flow::{Addr, Parsed},
    stack::Socket,
    tables::Source,
    verdict::{Reason, Verdict},
};

/// One step of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The Ethernet header was read.
    Ethernet {
        /// EtherType after the VLAN tags.
        ethertype: u16,
        /// Number of VLAN tags.
        tags: u32,
    },
    /// An IPv6 extension header (or an IPv4 authentication header) with this protocol number was
    /// skipped.
    Extension(u8),
    /// The frame was parsed.
    Parsed(Parsed),
    /// The frame could not be parsed, for this reason.
    Unparsed(Reason),
    /// The service in this slot guards the port.
    Guarded(u8),
    /// No service guards the port or protocol.
    NotGuarded,
    /// A device of this node would decapsulate this packet.
    Encapsulation,
    /// The source was looked up.
    Source {
        /// The address of the source.
        addr: Addr,
        /// What the tables know about it.
        found: Source,
    },
    /// The node only forwards the packet.
    Forwarded,
    /// The socket that would receive the packet was looked up.
    Socket(Socket),
    /// A limit was charged.
    Limit {
        /// The reason that the limit gives if it refuses.
        reason: Reason,
        /// Units charged: connections, packets or bytes.
        units: u64,
        /// Whether the charge was admitted.
        admitted: bool,
    },
    /// The verdict.
    Verdict(Verdict),
}

/// Receives each step of a decision, in order.
///
/// A recorder implements it to explain a verdict; [`NoTrace`] ignores all steps. An observer cannot
/// influence the verdict.
pub trait Observer {
    /// Receives one step.
    fn note(&mut self, step: Step);
}

/// An observer that ignores all steps and compiles to no code.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTrace;

impl Observer for NoTrace {
    #[inline(always)]
    fn note(&mut self, _: Step) {}
}
