//! The order of the checks, and nothing else.
//!
//! 1. A frame whose headers cannot be parsed is refused, with the reason of the parser.
//! 2. A frame that is neither IPv4 nor IPv6 passes.
//! 3. A packet with ports passes if no service guards its destination port. Otherwise the service
//!    decides: it refuses a source that is martian or an address of this node, passes segments of
//!    existing connections if it matches new connections only, and refuses sources that are not in
//!    its allowlist. Then the limits of the service apply, to allowed sources only.
//! 4. Packets to a tunnel port, packets of an IP protocol that a device of this node decapsulates,
//!    and fragments other than the first pass if some service lists the source or is open to any.
//!    Packets of other protocols without ports pass.
//!
//! A service that refuses a packet drops it if it enforces, and only counts it if it observes. A
//! frame that is refused without a service is dropped if any guarded service enforces, counted if
//! all observe, and passes if the node guards nothing.
//!
//! Decision: `docs/decisions/0008-packets-without-a-listed-source.md`.

use crate::{
    flow::{Addr, Headers, Parsed},
    layout::counters::Decision,
    limit::{self, Bucket, Limiter},
    observe::{Observer, Step},
    packet::Packet,
    parse::parse,
    port_table::Port,
    tables::{Setting, Source, Tables},
    trie::Found,
    verdict::{Action, Reason, Verdict},
};

/// Evaluates a frame against the policy of a node: [`parse()`], then [`decide`].
///
/// `packet` is the frame from its Ethernet header on, `tables` the compiled policy, and `limiter`
/// the token buckets with their clock, which the call may charge. `observer` receives each step,
/// the verdict last; pass [`NoTrace`](crate::observe::NoTrace) if no steps are needed. There are no
/// errors: every frame gets a verdict, which includes the reason.
///
/// # Examples
///
/// ```
/// use guard_common::{Action, NoTrace, Reason, evaluate, packet::Frame};
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
/// let verdict = evaluate(&Frame::new(&frame), &NoServices, &NoLimits, &mut NoTrace);
/// assert_eq!((verdict.action, verdict.reason), (Action::Pass, Reason::NotIp), "ARP");
/// ```
#[inline(always)]
pub fn evaluate(
    packet: &impl Packet,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Verdict {
    let headers = parse(packet, observer);
    let verdict = decide(&headers, packet.len(), tables, limiter, observer).verdict();
    observer.note(Step::Verdict(verdict));
    verdict
}

/// Decides about a frame from its headers.
///
/// `len` is the length of the frame on the wire in bytes, Ethernet header included, frame check
/// sequence not; limits on bytes are charged with it. `tables`, `limiter` and `observer` are as in
/// [`evaluate`], except that the observer does not receive the verdict. Returns the verdict
/// together with the number of its counter. There are no errors: headers that could not be parsed
/// lead to a refusal with the reason of the parser.
#[inline(always)]
pub fn decide(
    headers: &Headers,
    len: u32,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Decision {
    match headers.parsed() {
        Ok(parsed) => {
            observer.note(Step::Parsed(parsed));
            by_policy(headers, &parsed, len, tables, limiter, observer)
        }
        Err(reason) => {
            observer.note(Step::Unparsed(reason));
            Decision::of_node(strictest(tables), reason)
        }
    }
}

#[inline(always)]
fn by_policy(
    headers: &Headers,
    parsed: &Parsed,
    len: u32,
    tables: &impl Tables,
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
                if headers.source().is_martian() {
                    return refusal(tables, Reason::Martian, slot);
                }
                SourceQuery::Service(slot)
            }
            Port::Tunnel => match unguarded(tables, true, observer) {
                Some(decision) => return decision,
                None => SourceQuery::Known(Reason::Tunnel, Reason::Unguarded),
            },
        },
        Parsed::NotIp => return Decision::of_node(Action::Pass, Reason::NotIp),
        Parsed::LaterFragment(_) => {
            if tables.setting(Setting::Any) != 0 {
                return Decision::of_node(Action::Pass, Reason::Fragment);
            }
            SourceQuery::Known(Reason::Fragment, Reason::Fragment)
        }
        Parsed::Portless { protocol, .. } => {
            match unguarded(tables, tables.unpacks(protocol), observer) {
                Some(decision) => return decision,
                None => SourceQuery::Known(Reason::Tunnel, Reason::Unguarded),
            }
        }
    };
    let (known, buckets) = look_up(tables, &headers.source(), observer);
    match asked {
        SourceQuery::Service(slot) => {
            guarded(headers, len, slot, known, buckets, tables, limiter, observer)
        }
        SourceQuery::Known(_, reason) if known.services != 0 => {
            Decision::of_node(Action::Pass, reason)
        }
        SourceQuery::Known(reason, _) => Decision::of_node(strictest(tables), reason),
    }
}

/// What the decision has to know about the source.
enum SourceQuery {
    /// Whether the source may reach the service in this slot.
    Service(u8),
    /// Whether any service lists the source. The first reason is for a refusal if none does, the
    /// second for passing.
    Known(Reason, Reason),
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
        if tables.setting(Setting::Any) == 0 {
            return None;
        }
    }
    Some(Decision::of_node(Action::Pass, Reason::Unguarded))
}

/// Returns the action for a frame that belongs to no single service: `Drop` if some service of this
/// node enforces, `WouldDrop` if all observe, `Pass` if the node guards nothing.
#[inline(always)]
fn strictest(tables: &impl Tables) -> Action {
    if tables.setting(Setting::Enforcing) != 0 {
        Action::Drop
    } else if tables.setting(Setting::Guarded) != 0 {
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
    let enforced = tables.setting(Setting::Enforcing) & 1_u64.wrapping_shl(slot.into()) != 0;
    let action = if enforced { Action::Drop } else { Action::WouldDrop };
    Decision::of_service(action, reason, slot)
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the facts of a packet, each used once")]
fn guarded(
    headers: &Headers,
    len: u32,
    slot: u8,
    source: Source,
    buckets: u32,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Decision {
    let bit = 1_u64.wrapping_shl(slot.into());
    let is = |setting| tables.setting(setting) & bit != 0;
    let refuse = |reason| refusal(tables, reason, slot);

    if source.is_own() {
        return refuse(Reason::Martian);
    }
    let allowed = source.services & bit != 0 || is(Setting::Any);
    let opening = headers.is_opening();
    let passed = if !opening && is(Setting::NewConnections) {
        Reason::Established
    } else if allowed {
        Reason::Allowed
    } else {
        return refuse(Reason::NotAllowed);
    };
    // Sources that are not allowed have no bucket, so their established segments are not rate
    // limited.
    let has_limits = is(Setting::LimitsVolume) || (opening && is(Setting::LimitsConnections));
    if allowed && has_limits {
        let kinds = tables.setting(Setting::Kinds);
        // The policy compiler never assigns a port to an empty slot. If one is found nevertheless,
        // the packet is refused.
        let Some(service) = tables.service(slot) else {
            return refuse(Reason::NotAllowed);
        };
        let number = if source.is_member() {
            // A member has a bucket for each service that it may reach and that limits sources.
            // `rank` is the number of such services in lower slots.
            let before = tables.setting(Setting::PerSource) & bit.wrapping_sub(1);
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
        let charged = limit::charge(service, kinds, headers, slot, number, len, limiter, observer);
        if let Err(reason) = charged {
            return refuse(reason);
        }
    }
    Decision::of_service(Action::Pass, passed, slot)
}
