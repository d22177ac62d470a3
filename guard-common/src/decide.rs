//! The order of the checks, and nothing else.
//!
//! 1. A frame whose headers cannot be parsed is refused, with the reason of the parser.
//! 2. A frame that is neither IPv4 nor IPv6 passes.
//! 3. A packet with ports passes if no service guards its destination port. Otherwise the service
//!    decides: it refuses a source that is martian or an address that the node holds, and sources
//!    that are not in its allowlist. A packet of a source that is not in the allowlist passes
//!    nevertheless if it opens nothing: at a service that matches new connections only, a TCP segment
//!    without a lone SYN that no listening socket would receive; at other services, a packet of a
//!    connection that the node opened. Then the limits of the service apply, to allowed sources only.
//! 4. Packets to a tunnel port, and packets of an IP protocol that a device of this node
//!    decapsulates, pass if some service lists the source. So do fragments other than the first of a
//!    transport of which some service guards a port; they are charged to the limits of one service.
//!    Other fragments and packets of other protocols without ports pass.
//! 5. A packet that would be refused, or charged to a limit, passes uncharged if the node only
//!    forwards it, unless the service judges forwarded packets, too.
//!
//! A service that refuses a packet drops it if it enforces, and only counts it if it observes. A
//! frame that is refused without a service is dropped if any service that it may be meant for
//! enforces, counted if all observe, and passes if there is none.
//!
//! Decision: `docs/decisions/0008-packets-without-a-listed-source.md`.
//! Decision: `docs/decisions/0058-fragments-have-a-protocol-and-are-charged.md`.

use crate::{
    flow::{Addr, Headers, Parsed},
    layout::counters::Decision,
    limit::{self, Bucket, Limiter},
    observe::{Observer, Step},
    packet::Packet,
    parse::parse,
    port_table::{self, Port, Transport},
    stack::{Peer, Socket, Stack},
    tables::{FragmentKind, Setting, Source, Tables},
    trie::Found,
    verdict::{Action, Reason, Verdict},
    wire,
};

/// Evaluates a frame against the policy of a node: [`parse()`], then [`decide`].
///
/// `packet` is the frame from its Ethernet header on, `tables` the compiled policy, `stack` the
/// network stack of the node, and `limiter` the token buckets with their clock, which the call may
/// charge. `observer` receives each step,
/// the verdict last; pass [`NoTrace`](crate::observe::NoTrace) if no steps are needed. There are no
/// errors: every frame gets a verdict, which includes the reason.
///
/// # Examples
///
/// ```
/// use guard_common::{Action, NoTrace, Reason, evaluate, packet::Frame, stack::Offline};
/// # use guard_common::{Addr, Limiter, Tables, bucket::Limit, limit::Bucket, trie::Found};
/// # use guard_common::port_table::Port;
/// # use guard_common::tables::{Service, Setting, Source, Unit};
/// # struct NoServices;
/// # impl Tables for NoServices {
/// #     fn setting(&self, _: Setting) -> u64 { 0 }
/// #     fn port_at(&self, _: usize) -> Port { Port::Unguarded }
/// #     fn unpacks(&self, _: u8) -> bool { false }
/// #     fn find(&self, _: &Addr) -> Found { Found::default() }
/// #     fn class(&self, _: u16) -> Source { Source::default() }
/// #     fn service(&self, _: u8) -> Option<&Service> { None }
/// # }
/// # struct NoLimits;
/// # impl Limiter for NoLimits {
/// #     type States = ();
/// #     fn now(&self) -> u64 { 0 }
/// #     fn states(&self, _: &Bucket) -> Option<()> { Some(()) }
/// #     fn charge(&self, _: &(), _: Unit, _: &Limit, _: u64, _: u64) -> bool { true }
/// #     fn charge_total(&self, _: u8, _: Unit, _: &Limit, _: u64, _: u64) -> bool { true }
/// # }
///
/// // The examples of `Tables` and `Limiter` show how to implement these traits.
/// let mut frame = [0; 60];
/// frame[12..14].copy_from_slice(&[0x08, 0x06]);
/// let stack = Offline::default();
/// let verdict = evaluate(&Frame::new(&frame), &NoServices, &stack, &NoLimits, &mut NoTrace);
/// assert_eq!((verdict.action, verdict.reason), (Action::Pass, Reason::NotIp), "ARP");
/// ```
#[inline(always)]
pub fn evaluate(
    packet: &impl Packet,
    tables: &impl Tables,
    stack: &impl Stack,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Verdict {
    let headers = parse(packet, observer);
    let verdict = decide(&headers, packet.len(), tables, stack, limiter, observer).verdict();
    observer.note(Step::Verdict(verdict));
    verdict
}

/// Decides about a frame from its headers.
///
/// `len` is the length of the frame on the wire in bytes, Ethernet header included, frame check
/// sequence not; limits on bytes are charged with it. The other arguments are as in [`evaluate`],
/// except that the observer does not receive the verdict. Returns the verdict together with the
/// number of its counter. There are no errors: headers that could not be parsed lead to a refusal
/// with the reason of the parser.
#[inline(always)]
pub fn decide(
    headers: &Headers,
    len: u32,
    tables: &impl Tables,
    stack: &impl Stack,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Decision {
    let decision = match headers.parsed() {
        Ok(parsed) => {
            observer.note(Step::Parsed(parsed));
            by_policy(headers, &parsed, len, tables, stack, limiter, observer)
        }
        Err(reason) => {
            observer.note(Step::Unparsed(reason));
            Decision::of_node(strictest(tables, u64::MAX), reason)
        }
    };
    if decision.is_pass() || !spares_forwarded(headers, decision, tables) {
        return decision;
    }
    if stack.forwards(headers) {
        observer.note(Step::Forwarded);
        return decision.forwarded();
    }
    decision
}

/// Returns whether a packet that is refused would pass if the node only forwarded it.
///
/// The kernel forwards no packet from a martian source. Whether a packet is forwarded was queried
/// before its limits were charged.
#[inline(always)]
fn spares_forwarded(headers: &Headers, decision: Decision, tables: &impl Tables) -> bool {
    let reason = decision.reason();
    if headers.ip_at().is_none()
        || reason == Reason::Martian as u8
        || reason >= Reason::LimitNewConnections as u8
    {
        return false;
    }
    let judging = tables.setting(Setting::GuardsForwarded);
    if judging == 0 || reason == Reason::Tunnel as u8 {
        return true;
    }
    let concerned = if reason == Reason::NotAllowed as u8 {
        1_u64.wrapping_shl(decision.slot().into())
    } else if reason == Reason::Fragment as u8 {
        FragmentKind::of(headers.protocol()).map_or(u64::MAX, |kind| tables.setting(kind.services()))
    } else {
        u64::MAX
    };
    judging & concerned == 0
}

#[inline(always)]
fn by_policy(
    headers: &Headers,
    parsed: &Parsed,
    len: u32,
    tables: &impl Tables,
    stack: &impl Stack,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Decision {
    // The source is looked up in one place: all code is inlined in the kernel, so each further
    // place would be another copy of the trie walk.
    let asked = match *parsed {
        Parsed::Flow(_) => match tables.port_at(headers.port_index()) {
            Port::Unguarded => {
                observer.note(Step::NotGuarded);
                return Decision::of_node(Action::Pass, Reason::Unguarded);
            }
            Port::Guarded(slot) => {
                observer.note(Step::Guarded(slot));
                if headers.source().is_martian() && !is_from_dhcp_client(headers) {
                    return refusal(tables, Reason::Martian, slot);
                }
                SourceQuery::Service(slot)
            }
            Port::Tunnel => match unguarded(tables, true, observer) {
                Some(decision) => return decision,
                None => SourceQuery::Tunnel,
            },
        },
        Parsed::NotIp => return Decision::of_node(Action::Pass, Reason::NotIp),
        Parsed::LaterFragment { protocol, .. } => match FragmentKind::of(protocol) {
            Some(kind) if tables.setting(kind.services()) != 0 => SourceQuery::Fragment(kind),
            _ => {
                observer.note(Step::NotGuarded);
                return Decision::of_node(Action::Pass, Reason::Unguarded);
            }
        },
        Parsed::Portless { protocol, .. } => {
            match unguarded(tables, tables.unpacks(protocol), observer) {
                Some(decision) => return decision,
                None => SourceQuery::Tunnel,
            }
        }
    };
    let (known, buckets) = look_up(tables, &headers.source(), observer);
    let Judged { decision, slot, charged } = match asked {
        SourceQuery::Service(slot) => at_service(headers, slot, &known, tables, stack, observer),
        SourceQuery::Fragment(kind) => later_fragment(kind, &known, tables),
        SourceQuery::Tunnel if known.services != 0 => {
            Judged::decided(Decision::of_node(Action::Pass, Reason::Unguarded))
        }
        SourceQuery::Tunnel => {
            Judged::decided(Decision::of_node(strictest(tables, u64::MAX), Reason::Tunnel))
        }
    };
    if !charged {
        return decision;
    }
    let judges_forwarded = tables.setting(Setting::GuardsForwarded) & bit(slot) != 0;
    if !judges_forwarded && stack.forwards(headers) {
        observer.note(Step::Forwarded);
        return Decision::of_service(Action::Pass, Reason::Forwarded, slot);
    }
    match charge(headers, len, slot, &known, buckets, tables, limiter, observer) {
        Ok(()) => decision,
        Err(reason) => refusal(tables, reason, slot),
    }
}

/// What the decision has to know about the source.
enum SourceQuery {
    /// Whether the source may reach the service in this slot.
    Service(u8),
    /// Whether any service lists the source of a fragment other than the first.
    Fragment(FragmentKind),
    /// Whether any service lists the source of an encapsulated packet.
    Tunnel,
}

/// A decision before limits are charged. All fields are always set: the compiler would otherwise
/// copy registers that were never written, which the verifier refuses.
struct Judged {
    /// The decision if no limit refuses the packet.
    decision: Decision,
    /// Slot of the service that is charged.
    slot: u8,
    /// Whether the limits of the service are charged.
    charged: bool,
}

impl Judged {
    /// Returns a decision that charges no limit.
    #[inline(always)]
    fn decided(decision: Decision) -> Self {
        Self { decision, slot: 0, charged: false }
    }
}

/// Returns the mask of one slot.
#[inline(always)]
fn bit(slot: u8) -> u64 {
    1_u64.wrapping_shl(slot.into())
}

/// Returns whether the packet is that of a DHCP client without an address: from 0.0.0.0 to the port
/// of the server (RFC 2131 section 4.1).
#[inline(always)]
fn is_from_dhcp_client(headers: &Headers) -> bool {
    headers.port_index() == port_table::port_index(Transport::Udp, wire::PORT_DHCP_SERVER)
        && headers.source().is_unspecified_v4()
}

/// Passes a packet that no service guards. Returns `None` for encapsulation whose source must be
/// looked up first.
#[inline(always)]
fn unguarded(
    tables: &impl Tables,
    encapsulation: bool,
    observer: &mut impl Observer,
) -> Option<Decision> {
    observer.note(Step::NotGuarded);
    if encapsulation && tables.setting(Setting::Guarded) != 0 {
        observer.note(Step::Encapsulation);
        return None;
    }
    Some(Decision::of_node(Action::Pass, Reason::Unguarded))
}

/// Returns the action for a frame that may be meant for several services: `Drop` if one of them
/// enforces, `WouldDrop` if all observe, `Pass` if none is guarded.
#[inline(always)]
fn strictest(tables: &impl Tables, services: u64) -> Action {
    if tables.setting(Setting::Enforcing) & services != 0 {
        Action::Drop
    } else if tables.setting(Setting::Guarded) & services != 0 {
        Action::WouldDrop
    } else {
        Action::Pass
    }
}

/// Looks up a source: what the tables know about it, and the number of its first bucket.
#[inline(always)]
fn look_up(tables: &impl Tables, addr: &Addr, observer: &mut impl Observer) -> (Source, u32) {
    let Found { class, buckets } = tables.find(addr);
    // Class 0 is "unknown source": skip the lookup.
    let found = if class == 0 { Source::default() } else { tables.class(class) };
    observer.note(Step::Source { addr: *addr, found });
    (found, buckets)
}

/// Refuses a frame in the name of a service: `Drop` if the service enforces, `WouldDrop` if it
/// observes.
#[inline(always)]
fn refusal(tables: &impl Tables, reason: Reason, slot: u8) -> Decision {
    let enforced = tables.setting(Setting::Enforcing) & bit(slot) != 0;
    let action = if enforced { Action::Drop } else { Action::WouldDrop };
    Decision::of_service(action, reason, slot)
}

/// Decides about a packet to a port that the service in `slot` guards.
#[inline(always)]
fn at_service(
    headers: &Headers,
    slot: u8,
    source: &Source,
    tables: &impl Tables,
    stack: &impl Stack,
    observer: &mut impl Observer,
) -> Judged {
    let is = |setting| tables.setting(setting) & bit(slot) != 0;
    let refuse = |reason| Judged::decided(refusal(tables, reason, slot));

    let allowed = source.services & bit(slot) != 0 || is(Setting::Any);
    // Addresses of other nodes are not this node's, so the usual packet skips the lookup. A source
    // that is not allowed is refused anyway.
    let may_be_own = source.is_own() || (allowed && !source.is_member());
    if may_be_own && stack.holds(&headers.source(), source) {
        return refuse(Reason::Martian);
    }
    let opening = headers.is_opening();
    let passed = if !opening && is(Setting::NewConnections) {
        if !allowed && opens_by_other_segment(headers, stack, observer) {
            return refuse(Reason::NotAllowed);
        }
        Reason::Established
    } else if allowed {
        Reason::Allowed
    } else if !opening && is_of_own_connection(headers, stack, observer) {
        Reason::Established
    } else {
        return refuse(Reason::NotAllowed);
    };
    // Sources that are not allowed have no bucket, so their established segments are not rate
    // limited.
    let has_limits = is(Setting::LimitsVolume) || (opening && is(Setting::LimitsConnections));
    let decision = Decision::of_service(Action::Pass, passed, slot);
    Judged { decision, slot, charged: allowed && has_limits }
}

/// Returns whether a TCP segment other than a lone SYN would reach a listening socket. It may open a
/// connection there: with SYN cookies, an ACK with the right number does (`cookie_v4_check`,
/// net/ipv4/syncookies.c).
#[inline(always)]
fn opens_by_other_segment(
    headers: &Headers,
    stack: &impl Stack,
    observer: &mut impl Observer,
) -> bool {
    headers.is_tcp() && {
        let socket = stack.socket(headers, Peer::Source);
        observer.note(Step::Socket(socket));
        socket == Socket::Listening
    }
}

/// Returns whether a packet that opens nothing belongs to a connection that the node opened: it has
/// a TCP connection, and nothing listens on the local port; or a UDP socket is connected to the
/// sender.
///
/// The kernel does not record who opened a TCP connection. Where something listens, the other side
/// may have, so the packet is refused, and a change of the policy ends such connections.
#[inline(always)]
fn is_of_own_connection(
    headers: &Headers,
    stack: &impl Stack,
    observer: &mut impl Observer,
) -> bool {
    let socket = stack.socket(headers, Peer::Source);
    observer.note(Step::Socket(socket));
    socket == Socket::Connected
        && (!headers.is_tcp() || stack.socket(headers, Peer::Anyone) != Socket::Listening)
}

/// Decides about a fragment other than the first. It passes if some service lists its source, and is
/// charged to one of the services that it may be meant for.
#[inline(always)]
fn later_fragment(kind: FragmentKind, source: &Source, tables: &impl Tables) -> Judged {
    if source.services == 0 {
        let action = strictest(tables, tables.setting(kind.services()));
        return Judged::decided(Decision::of_node(action, Reason::Fragment));
    }
    let slot = source.charges_fragments(kind).unwrap_or(0);
    let charged = source.charges_fragments(kind).is_some()
        && tables.setting(Setting::LimitsVolume) & bit(slot) != 0;
    Judged { decision: Decision::of_node(Action::Pass, Reason::Fragment), slot, charged }
}

/// Charges the limits of the service in `slot` for an allowed source.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the facts of a packet, each used once")]
fn charge(
    headers: &Headers,
    len: u32,
    slot: u8,
    source: &Source,
    buckets: u32,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Result<(), Reason> {
    let kinds = tables.setting(Setting::Kinds);
    // The policy compiler never assigns a port to an empty slot. If one is found nevertheless, the
    // packet is refused.
    let Some(service) = tables.service(slot) else {
        return Err(Reason::NotAllowed);
    };
    let number = if source.is_member() {
        // A member has a bucket for each service that it may reach and that limits sources. `rank`
        // is the number of such services in lower slots.
        let before = tables.setting(Setting::PerSource) & bit(slot).wrapping_sub(1);
        // Usually no lower slot limits sources, and nothing has to be counted.
        let rank = if before == 0 {
            0
        } else {
            (before & (source.services | tables.setting(Setting::Any))).count_ones()
        };
        buckets.wrapping_add(rank)
    } else {
        Bucket::SHARED
    };
    limit::charge(service, kinds, headers, slot, number, len, limiter, observer)
}
