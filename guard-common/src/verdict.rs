//! The verdict on a frame: an action, the reason for it, and the service that decided.

/// Maximum number of services of a node. Each has one bit in the service mask of a source.
pub const MAX_SERVICES: u8 = 64;
/// Number of reasons that a verdict without a service can have. They have the lowest numbers.
pub const NODE_REASONS: u8 = 9;
/// Number of the first reason that a verdict of a service can have. [`Reason::Forwarded`] is a
/// reason of both kinds.
pub const FIRST_SERVICE_REASON: u8 = Reason::Forwarded as u8;
/// The slot in a packed verdict that means "no service".
const NO_SERVICE: u8 = 0xff;

/// The action on a frame.
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
    /// All actions, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Drop, Self::WouldDrop];

    /// Returns the name used in tests and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::WouldDrop => "would-drop",
        }
    }
}

/// Declares the reasons, each with its number, its name, and whether an enforcing service drops for
/// it.
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $number:literal, $name:literal, $effect:ident;)*) => {
        /// The reason for an action. The numbers are dense because they index counters: first the
        /// reasons of the node, where no service was involved, then those of a service.
        /// [`Reason::Forwarded`] is in both groups.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $reason = $number,)*
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$reason),*];

            /// Number of reasons.
            #[expect(clippy::cast_possible_truncation, reason = "a number is a byte")]
            pub const COUNT: u8 = Self::ALL.len() as u8;

            /// Returns whether frames are refused for this reason: dropped if the policy is
            /// enforced.
            pub fn is_refusal(self) -> bool {
                match self {
                    $(Self::$reason => reasons!(@$effect),)*
                }
            }

            /// Returns the name used in output, metrics and documentation.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }
        }
    };
    (@refuses) => { true };
    (@passes) => { false };
}

reasons! {
    /// The frame is neither IPv4 nor IPv6.
    NotIp = 0, "not_ip", passes;
    /// No service of this node guards the port or protocol.
    Unguarded = 1, "unguarded", passes;
    /// The frame has more VLAN tags than are followed, or a truncated tag.
    Undecodable = 2, "undecodable", refuses;
    /// An IP header is truncated or contains a wrong length.
    MalformedIp = 3, "malformed_ip", refuses;
    /// The packet has more extension headers than are followed.
    TooManyHeaders = 4, "too_many_headers", refuses;
    /// A fragment other than the first: it has no ports to decide by.
    Fragment = 5, "fragment", refuses;
    /// The packet is too short for the ports.
    MalformedL4 = 6, "malformed_l4", refuses;
    /// Encapsulation that a device of this node would decapsulate, from a source that no service
    /// allows.
    Tunnel = 7, "tunnel", refuses;
    /// The node would send the packet on to another host, and would otherwise have refused it or
    /// charged it to a limit.
    Forwarded = 8, "forwarded", passes;
    /// A packet that opens nothing: a segment of an existing connection, or one that no listening
    /// socket would receive.
    Established = 9, "established", passes;
    /// The source may reach the service and is within its limits.
    Allowed = 10, "allowed", passes;
    /// The source address cannot legitimately arrive over a wire, or is an address of this node.
    Martian = 11, "martian", refuses;
    /// The source is not in the service's allowlist.
    NotAllowed = 12, "not_allowed", refuses;
    /// The source opens connections faster than its limit.
    LimitNewConnections = 13, "limit_new_connections", refuses;
    /// The source sends packets faster than its limit.
    LimitPackets = 14, "limit_packets", refuses;
    /// The source sends bytes faster than its limit.
    LimitBytes = 15, "limit_bytes", refuses;
    /// All sources together open connections faster than the service's limit.
    LimitTotalNewConnections = 16, "limit_total_new_connections", refuses;
    /// All sources together send packets faster than the service's limit.
    LimitTotalPackets = 17, "limit_total_packets", refuses;
    /// All sources together send bytes faster than the service's limit.
    LimitTotalBytes = 18, "limit_total_bytes", refuses;
}

impl Reason {
    /// Returns whether a verdict without a service can have this reason.
    pub fn is_of_node(self) -> bool {
        (self as u8) < NODE_REASONS
    }

    /// Returns whether a verdict of a service can have this reason.
    pub fn is_of_service(self) -> bool {
        self as u8 >= FIRST_SERVICE_REASON
    }

    /// Returns whether the reason is an exceeded rate, which cannot be derived from the frame
    /// alone.
    pub fn is_limit(self) -> bool {
        self >= Self::LimitNewConnections
    }

    /// Returns the reason with this number, or `None` if there is none.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Returns the reason with this name, or `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

/// The result of evaluating a frame: the action, its reason, and the service that decided.
///
/// A verdict packs into 32 bits ([`Verdict::pack`]), so that it fits a register and the return
/// value of a test run, and it identifies one counter of an interface
/// ([`counter`](crate::layout::counters::counter)).
///
/// # Examples
///
/// ```
/// use guard_common::{Action, Reason, Verdict};
///
/// let verdict = Verdict::of_service(Action::Drop, Reason::NotAllowed, 3);
/// assert!(!verdict.passes());
/// assert_eq!(verdict.reason.name(), "not_allowed");
/// assert_eq!(verdict.pack(), 0x7e03_0c01);
/// assert_eq!(Verdict::unpack(verdict.pack()), Some(verdict));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// Whether the frame passes, is dropped, or would be dropped if the service enforced.
    pub action: Action,
    /// Why the action was taken.
    pub reason: Reason,
    /// Slot of the service that decided, below [`MAX_SERVICES`]; `None` if no service was involved.
    pub service: Option<u8>,
}

impl Verdict {
    /// Returns a verdict without a service.
    #[inline(always)]
    pub fn of_node(action: Action, reason: Reason) -> Self {
        Self { action, reason, service: None }
    }

    /// Returns a verdict of the service in this slot.
    #[inline(always)]
    pub fn of_service(action: Action, reason: Reason, slot: u8) -> Self {
        Self { action, reason, service: Some(slot) }
    }

    /// Returns whether the frame goes on to the network stack.
    pub fn passes(self) -> bool {
        !matches!(self.action, Action::Drop)
    }

    /// Packs the verdict into one word. From the highest byte down: a marker (0x7e), the service
    /// slot (0xff for none), the reason, the action.
    #[inline(always)]
    pub fn pack(self) -> u32 {
        let service = self.service.unwrap_or(NO_SERVICE);
        u32::from(MARKER) << 24
            | u32::from(service) << 16
            | (self.reason as u32) << 8
            | self.action as u32
    }

    /// Unpacks a word made by [`Verdict::pack`]. Returns `None` for any other word.
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

/// Marks a packed verdict, so that no XDP return code can be mistaken for one.
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
