//! The verdict on a frame: an action, the reason for it, and the service that decided.

use crate::layout;

/// Number of service slots of a node: the bits of a source's service mask.
pub const MAX_SERVICES: u8 = 64;
/// Number of reasons that are the node's: the first ones.
pub const NODE_REASONS: u8 = 8;
/// The packed form of "no service".
const NO_SERVICE: u8 = 0xff;

/// What happens to the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// The frame goes on to the network stack.
    Pass = 0,
    /// The frame is dropped.
    Drop = 1,
    /// The frame passes, and is counted as one that enforcing would have dropped.
    WouldDrop = 2,
}

impl Action {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Drop, Self::WouldDrop];

    /// Its name, as tests and events write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::WouldDrop => "would-drop",
        }
    }
}

/// Why. Dense, so that it indexes counters: first the reasons of the node, where no service was
/// asked, then those of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Neither IPv4 nor IPv6.
    NotIp = 0,
    /// No service of this node guards the port or protocol.
    Unguarded = 1,
    /// More VLAN tags than are followed, or a tag cut short.
    Undecodable = 2,
    /// An IP header that is cut short or lies about a length.
    MalformedIp = 3,
    /// More IPv6 extension headers than are followed.
    TooManyHeaders = 4,
    /// A later fragment: it has no ports to judge.
    Fragment = 5,
    /// Too short for the ports.
    MalformedL4 = 6,
    /// Encapsulation that a device of this node would unpack, from a source that no service allows.
    Tunnel = 7,
    /// A segment of a connection that exists, at a service that matches new connections.
    Established = 8,
    /// The source may reach the service, within its limits.
    Allowed = 9,
    /// A source that cannot be true on a wire.
    Martian = 10,
    /// The source is not in the service's allowlist.
    NotAllowed = 11,
    /// The source opens connections faster than its limit.
    LimitNewConnections = 12,
    /// The source sends packets faster than its limit.
    LimitPackets = 13,
    /// The source sends bytes faster than its limit.
    LimitBytes = 14,
    /// All sources together open connections faster than the service's limit.
    LimitTotalNewConnections = 15,
    /// All sources together send packets faster than the service's limit.
    LimitTotalPackets = 16,
    /// All sources together send bytes faster than the service's limit.
    LimitTotalBytes = 17,
}

impl Reason {
    /// How many there are.
    pub const COUNT: u8 = 18;

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::NotIp,
        Self::Unguarded,
        Self::Undecodable,
        Self::MalformedIp,
        Self::TooManyHeaders,
        Self::Fragment,
        Self::MalformedL4,
        Self::Tunnel,
        Self::Established,
        Self::Allowed,
        Self::Martian,
        Self::NotAllowed,
        Self::LimitNewConnections,
        Self::LimitPackets,
        Self::LimitBytes,
        Self::LimitTotalNewConnections,
        Self::LimitTotalPackets,
        Self::LimitTotalBytes,
    ];

    /// Whether an enforcing service drops for this reason.
    pub fn is_refusal(self) -> bool {
        !matches!(self, Self::NotIp | Self::Unguarded | Self::Established | Self::Allowed)
    }

    /// The name used in output, metrics and documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Unguarded => "unguarded",
            Self::Established => "established",
            Self::Allowed => "allowed",
            Self::Undecodable => "undecodable",
            Self::MalformedIp => "malformed_ip",
            Self::TooManyHeaders => "too_many_headers",
            Self::Fragment => "fragment",
            Self::MalformedL4 => "malformed_l4",
            Self::Martian => "martian",
            Self::Tunnel => "tunnel",
            Self::NotAllowed => "not_allowed",
            Self::LimitNewConnections => "limit_new_connections",
            Self::LimitPackets => "limit_packets",
            Self::LimitBytes => "limit_bytes",
            Self::LimitTotalNewConnections => "limit_total_new_connections",
            Self::LimitTotalPackets => "limit_total_packets",
            Self::LimitTotalBytes => "limit_total_bytes",
        }
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The reason with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

/// Action, reason and service slot. Fits a register, a counter index and a test-run result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// What happens.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Slot of the service that decided, below [`MAX_SERVICES`]; none when no service was asked.
    pub service: Option<u8>,
}

impl Verdict {
    /// A verdict without a service.
    #[inline(always)]
    pub fn of_node(action: Action, reason: Reason) -> Self {
        Self { action, reason, service: None }
    }

    /// A verdict of the service in this slot.
    #[inline(always)]
    pub fn of_service(action: Action, reason: Reason, slot: u8) -> Self {
        Self { action, reason, service: Some(slot) }
    }

    /// Whether the frame goes on to the network stack.
    pub fn passes(self) -> bool {
        !matches!(self.action, Action::Drop)
    }

    /// The verdict as one word: a marker byte, service, reason, action, from the highest byte down.
    #[inline(always)]
    pub fn pack(self) -> u32 {
        let service = self.service.unwrap_or(NO_SERVICE);
        u32::from(MARKER) << 24
            | u32::from(service) << 16
            | (self.reason as u32) << 8
            | self.action as u32
    }

    /// The verdict of a word that [`Verdict::pack`] made.
    pub fn unpack(word: u32) -> Option<Self> {
        let [marker, service, reason, action] = word.to_be_bytes();
        let service = match service {
            NO_SERVICE => None,
            slot if slot < MAX_SERVICES => Some(slot),
            _ => return None,
        };
        (marker == MARKER).then_some(Self {
            action: *Action::ALL.get(usize::from(action))?,
            reason: Reason::from_number(reason)?,
            service,
        })
    }
}

/// What the decision answers: a verdict and the number of its counter. Both are constants but for
/// the slot, so they are put together where the decision falls, and not taken apart and put
/// together again where the frame is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The packed verdict.
    pub packed: u32,
    /// Number of its counter among those of an interface.
    pub counter: u32,
}

impl Decision {
    /// A decision without a service.
    #[inline(always)]
    pub fn of_node(action: Action, reason: Reason) -> Self {
        Self::of(Verdict::of_node(action, reason))
    }

    /// A decision of the service in this slot.
    #[inline(always)]
    pub fn of_service(action: Action, reason: Reason, slot: u8) -> Self {
        Self::of(Verdict::of_service(action, reason, slot))
    }

    #[inline(always)]
    fn of(verdict: Verdict) -> Self {
        Self { packed: verdict.pack(), counter: layout::counter(verdict) }
    }

    /// The verdict.
    pub fn verdict(self) -> Verdict {
        // Made of a verdict, it holds one.
        Verdict::unpack(self.packed).unwrap_or(Verdict::of_node(Action::Drop, Reason::Undecodable))
    }
}

/// Marks a packed verdict, so that no plain XDP return code can be taken for one.
const MARKER: u8 = 0x7e;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_survives_packing() {
        for action in Action::ALL {
            for reason in Reason::ALL {
                for service in (0..MAX_SERVICES).map(Some).chain([None]) {
                    let verdict = Verdict { action, reason, service };
                    assert_eq!(Verdict::unpack(verdict.pack()), Some(verdict));
                    assert_eq!(Decision::of(verdict).verdict(), verdict);
                }
            }
        }
    }

    #[test]
    fn no_xdp_return_code_is_a_verdict() {
        for code in 0..16 {
            assert_eq!(Verdict::unpack(code), None);
        }
        assert_eq!(Verdict::unpack(0x7e40_0000), None, "service 64 does not exist");
    }

    #[test]
    fn reasons_are_numbered_as_listed_and_named_once() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
    }
}
