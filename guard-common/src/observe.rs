//! Being told what the decision does, step by step: silent in the kernel, a recorder for `trace`.

use crate::{
    flow::{Addr, Parsed},
    tables::Source,
    verdict::{Reason, Verdict},
};

/// One step of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The Ethernet header was read, with this many VLAN tags in front of this EtherType.
    Ethernet {
        /// EtherType behind the tags.
        ethertype: u16,
        /// Number of tags.
        tags: u32,
    },
    /// An IPv6 extension header (or an IPv4 authentication header) was stepped over.
    Extension(u8),
    /// The frame was parsed.
    Parsed(Parsed),
    /// The frame could not be parsed.
    Unparsed(Reason),
    /// This service guards the port.
    Guarded(u8),
    /// No service guards the port or protocol.
    NotGuarded,
    /// A device of this node would unpack this packet.
    Encapsulation,
    /// The source was looked up.
    Source {
        /// The address.
        addr: Addr,
        /// What the tables know of it.
        found: Source,
    },
    /// A limit was charged.
    Limit {
        /// The reason it would drop for.
        reason: Reason,
        /// Units charged: connections, packets or bytes.
        units: u64,
        /// Whether the charge fitted.
        admitted: bool,
    },
    /// The verdict.
    Verdict(Verdict),
}

/// Told of each step.
pub trait Observer {
    /// Takes note of a step.
    fn note(&mut self, step: Step);
}

/// Takes note of nothing; compiles to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTrace;

impl Observer for NoTrace {
    #[inline(always)]
    fn note(&mut self, _: Step) {}
}
