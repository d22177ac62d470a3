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
//! 4. Packets to a tunnel port, and packets of an IP protocol that this node decapsulates, pass if
//!    some service lists the source. So do fragments other than the first of a
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
    parse::{fragment_kind, parse},
    port_table::{self, Port, Transport},
    stack::{Socket, Stack},
    tables::{Setting, Source, Tables},
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
    let plan = match headers.parsed() {
        Ok(parsed) => {
            observer.note(Step::Parsed(parsed));
            match by_policy(headers, &parsed, tables, stack, observer) {
                Ok(decision) => return decision,
                Err(plan) => plan,
            }
        }
        Err(reason) => {
            observer.note(Step::Unparsed(reason));
            let plan = Plan::refuse_by_node(tables, u64::MAX, reason);
            // The network stack does not know of IP packets behind more tags.
            let steps = if reason == Reason::Undecodable { 0 } else { plan.steps };
            Plan { steps, ..plan }
        }
    };
    settle(&plan.hidden(stack), headers, len, tables, stack, limiter, observer)
}

/// A decision with what remains to be done before it holds. All fields are always set: the compiler
/// would otherwise copy registers that were never written, which the verifier refuses.
#[derive(Clone, Copy)]
struct Plan {
    /// The decision if nothing that remains changes it.
    decision: Decision,
    /// Slot of the service that refuses or is charged; [`NO_SLOT`] if there is none.
    slot: u8,
    /// What remains, as a combination of the constants below.
    steps: u32,
    /// What is known about the source, and the number of its first bucket; only for a charge.
    source: Source,
    buckets: u32,
}

/// The slot of a plan without a service.
const NO_SLOT: u8 = u8::MAX;
/// Remaining step: the packet passes unless a listening socket would receive it.
const PASS_UNLESS_LISTENING: u32 = 1;
/// Remaining step: the packet passes if it belongs to a connection that the node opened.
const PASS_IF_OPENED: u32 = 2;
/// Remaining step: the packet passes if the node only forwards it.
const PASS_IF_FORWARDED: u32 = 4;
/// Remaining step: the limits of the service are charged.
const CHARGE: u32 = 8;

impl Plan {
    /// Refuses a packet without a service, unless the node only forwards it. `services` are those
    /// that it may be meant for.
    #[inline(always)]
    fn refuse_by_node(tables: &impl Tables, services: u64, reason: Reason) -> Self {
        let action = strictest(tables, services);
        let decision = Decision::of_node(action, reason);
        let judged = tables.setting(Setting::GuardsForwarded) & services != 0;
        let steps = if judged || action == Action::Pass { 0 } else { PASS_IF_FORWARDED };
        Self { decision, slot: NO_SLOT, steps, source: Source::default(), buckets: 0 }
    }

    /// Refuses a packet in the name of a service: `Drop` if the service enforces, `WouldDrop` if it
    /// observes.
    #[inline(always)]
    fn refuse(tables: &impl Tables, slot: u8, reason: Reason, steps: u32) -> Self {
        let decision = refusal(tables, reason, slot);
        Self { decision, slot, steps, source: Source::default(), buckets: 0 }
    }

    /// Returns the same plan, hidden from the verifier, which then verifies what remains once and
    /// not once for each way to get there.
    #[inline(always)]
    fn hidden(self, stack: &impl Stack) -> Self {
        let Self { decision: Decision { packed, counter }, slot, steps, source, buckets } = self;
        let decision = Decision { packed: stack.hidden(packed), counter: stack.hidden(counter) };
        let [slot, ..] = stack.hidden(slot.into()).to_le_bytes();
        Self { decision, slot, steps: stack.hidden(steps), source, buckets }
    }
}

/// Returns the step for a packet that only passes if it is forwarded, unless the service judges
/// forwarded packets like others.
#[inline(always)]
fn if_forwarded(tables: &impl Tables, slot: u8) -> u32 {
    let judged = tables.setting(Setting::GuardsForwarded) & bit(slot) != 0;
    if judged { 0 } else { PASS_IF_FORWARDED }
}

/// Does what remains of a plan.
#[inline(always)]
fn settle(
    plan: &Plan,
    headers: &Headers,
    len: u32,
    tables: &impl Tables,
    stack: &impl Stack,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Decision {
    let Plan { decision, slot, steps, .. } = *plan;
    if steps & (PASS_UNLESS_LISTENING | PASS_IF_OPENED) != 0 {
        let is_opener_asked = steps & PASS_IF_OPENED != 0;
        let socket = stack.socket(headers, is_opener_asked);
        observer.note(Step::Socket(socket));
        let passes =
            if is_opener_asked { socket == Socket::Opened } else { socket != Socket::Listening };
        if passes {
            return Decision::of_service(Action::Pass, Reason::Established, slot);
        }
    }
    if steps & PASS_IF_FORWARDED != 0 && stack.forwards(headers) {
        observer.note(Step::Forwarded);
        return Decision::forwarded(slot);
    }
    if steps & CHARGE != 0
        && let Err(reason) = charge(plan, headers, len, tables, limiter, observer)
    {
        return refusal(tables, reason, slot);
    }
    decision
}

/// Decides about a packet whose headers could be parsed. Returns the decision, or what remains to be
/// done for it.
#[inline(always)]
fn by_policy(
    headers: &Headers,
    parsed: &Parsed,
    tables: &impl Tables,
    stack: &impl Stack,
    observer: &mut impl Observer,
) -> Result<Decision, Plan> {
    // The source is looked up in one place: all code is inlined in the kernel, so each further
    // place would be another copy of the trie walk. All variables are always set, as in `Plan`.
    let (query, slot) = match *parsed {
        Parsed::Flow(_) => match tables.port_at(headers.port_index()) {
            Port::Unguarded => {
                observer.note(Step::NotGuarded);
                return Ok(Decision::of_node(Action::Pass, Reason::Unguarded));
            }
            Port::Guarded(slot) => {
                observer.note(Step::Guarded(slot));
                if headers.source().is_martian() && !is_from_dhcp_client(headers) {
                    return Err(Plan::refuse(tables, slot, Reason::Martian, 0));
                }
                (Query::Service, slot)
            }
            Port::Tunnel => {
                if !is_judged_tunnel(tables, true, observer) {
                    return Ok(Decision::of_node(Action::Pass, Reason::Unguarded));
                }
                (Query::Tunnel, NO_SLOT)
            }
        },
        Parsed::NotIp => return Ok(Decision::of_node(Action::Pass, Reason::NotIp)),
        Parsed::LaterFragment { protocol, .. } => {
            if services_of_fragment(tables, protocol) == 0 {
                observer.note(Step::NotGuarded);
                return Ok(Decision::of_node(Action::Pass, Reason::Unguarded));
            }
            (Query::Fragment, NO_SLOT)
        }
        Parsed::Portless { protocol, .. } => {
            let unpacks = tables.unpacks(protocol) || is_unpacked_by_stack(headers, protocol);
            if !is_judged_tunnel(tables, unpacks, observer) {
                return Ok(Decision::of_node(Action::Pass, Reason::Unguarded));
            }
            (Query::Tunnel, NO_SLOT)
        }
    };
    let (source, buckets) = look_up(tables, &headers.source(), observer);
    match query {
        Query::Service => at_service(headers, slot, &source, buckets, tables, stack),
        Query::Fragment => later_fragment(headers.protocol(), &source, buckets, tables),
        Query::Tunnel if source.services != 0 => {
            Ok(Decision::of_node(Action::Pass, Reason::Unguarded))
        }
        Query::Tunnel => {
            let decision = Decision::of_node(strictest(tables, u64::MAX), Reason::Tunnel);
            // The node does not decapsulate what it forwards, so `forwarded` does not matter.
            let steps = PASS_IF_FORWARDED;
            Err(Plan { decision, slot: NO_SLOT, steps, source: Source::default(), buckets: 0 })
        }
    }
}

/// What the decision has to know about the source.
#[derive(Clone, Copy)]
enum Query {
    /// Whether the source may reach the service.
    Service,
    /// Whether any service lists the source of a fragment other than the first.
    Fragment,
    /// Whether any service lists the source of an encapsulated packet.
    Tunnel,
}

/// Returns the mask of one slot.
#[inline(always)]
fn bit(slot: u8) -> u64 {
    1_u64.wrapping_shl(slot.into())
}

/// Returns the guarded services that a fragment other than the first may be meant for.
#[inline(always)]
fn services_of_fragment(tables: &impl Tables, protocol: u8) -> u64 {
    fragment_kind(protocol).map_or(0, |kind| tables.setting(kind.services()))
}

/// Returns whether the packet is that of a DHCP client without an address: from 0.0.0.0 to the port
/// of the server (RFC 2131 section 4.1).
#[inline(always)]
fn is_from_dhcp_client(headers: &Headers) -> bool {
    headers.port_index() == port_table::port_index(Transport::Udp, wire::PORT_DHCP_SERVER)
        && headers.source().is_unspecified_v4()
}

/// Returns whether the source of a packet that no service guards must be looked up, because a device
/// of this node would decapsulate it.
#[inline(always)]
fn is_judged_tunnel(
    tables: &impl Tables,
    encapsulation: bool,
    observer: &mut impl Observer,
) -> bool {
    observer.note(Step::NotGuarded);
    let is_judged = encapsulation && tables.setting(Setting::Guarded) != 0;
    if is_judged {
        observer.note(Step::Encapsulation);
    }
    is_judged
}

/// Returns whether the kernel may decapsulate a packet without any device: an IP packet behind a
/// segment routing header without segments left, if `seg6_enabled` is set (`ipv6_srh_rcv`,
/// net/ipv6/exthdrs.c).
#[inline(always)]
fn is_unpacked_by_stack(headers: &Headers, protocol: u8) -> bool {
    headers.has_extensions() && matches!(protocol, wire::PROTO_IPIP | wire::PROTO_IPV6)
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
///
/// What opens nothing passes, although the source is not allowed. At a service that matches new
/// connections only, that is a segment without a lone SYN that no listening socket would receive: with
/// SYN cookies, an ACK with the right number opens a connection (`cookie_v4_check`,
/// net/ipv4/syncookies.c). At other services, it is a packet of a connection that the node opened.
#[inline(always)]
fn at_service(
    headers: &Headers,
    slot: u8,
    source: &Source,
    buckets: u32,
    tables: &impl Tables,
    stack: &impl Stack,
) -> Result<Decision, Plan> {
    let is = |setting| tables.setting(setting) & bit(slot) != 0;

    let allowed = source.services & bit(slot) != 0 || is(Setting::Any);
    // Addresses of other nodes are not this node's, so the usual packet skips the lookup. A source
    // that is not allowed is refused anyway.
    let may_be_own = source.is_own() || (allowed && !source.is_member());
    if may_be_own && stack.holds(&headers.source(), source) {
        return Err(Plan::refuse(tables, slot, Reason::Martian, 0));
    }
    let opening = headers.is_opening();
    let is_established = !opening && is(Setting::NewConnections);
    if !allowed {
        // Segments of other transports open nothing that can be told apart.
        if is_established && !headers.is_tcp() {
            return Ok(Decision::of_service(Action::Pass, Reason::Established, slot));
        }
        // A socket is looked up by the headers where packets usually have them. Behind extension
        // headers, no segment counts as one that opens nothing.
        let by_socket = if opening || headers.has_extensions() || headers.is_sctp() {
            0
        } else if is_established {
            PASS_UNLESS_LISTENING
        } else {
            PASS_IF_OPENED
        };
        let steps = by_socket | if_forwarded(tables, slot);
        return Err(Plan::refuse(tables, slot, Reason::NotAllowed, steps));
    }
    let passed = if is_established { Reason::Established } else { Reason::Allowed };
    let decision = Decision::of_service(Action::Pass, passed, slot);
    let has_limits = is(Setting::LimitsVolume) || (opening && is(Setting::LimitsConnections));
    if !has_limits {
        return Ok(decision);
    }
    let steps = CHARGE | if_forwarded(tables, slot);
    Err(Plan { decision, slot, steps, source: *source, buckets })
}

/// Decides about a fragment other than the first of a transport that some service guards. It passes if
/// some service lists its source, and is charged to one of the services that it may be meant for.
#[inline(always)]
fn later_fragment(
    protocol: u8,
    source: &Source,
    buckets: u32,
    tables: &impl Tables,
) -> Result<Decision, Plan> {
    if source.services == 0 {
        let services = services_of_fragment(tables, protocol);
        return Err(Plan::refuse_by_node(tables, services, Reason::Fragment));
    }
    let decision = Decision::of_node(Action::Pass, Reason::Fragment);
    let kind = fragment_kind(protocol);
    match kind.and_then(|kind| source.charges_fragments(kind)) {
        Some(slot) if tables.setting(Setting::LimitsVolume) & bit(slot) != 0 => {
            let steps = CHARGE | if_forwarded(tables, slot);
            Err(Plan { decision, slot, steps, source: *source, buckets })
        }
        _ => Ok(decision),
    }
}

/// Charges the limits of a service for an allowed source.
#[inline(always)]
fn charge(
    plan: &Plan,
    headers: &Headers,
    len: u32,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Result<(), Reason> {
    let Plan { slot, source, buckets, .. } = *plan;
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
