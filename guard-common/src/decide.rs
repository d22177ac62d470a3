//! The order of checks, and nothing else.

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

/// Judges a frame: [`parse()`], then [`decide`]. Total: every frame gets a verdict, and the verdict
/// says why.
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

/// Decides about a frame of `len` bytes with these headers.
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
    // Sources are looked up in one place: in the kernel every place is a copy of the walk.
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

/// What is asked about a source.
enum SourceQuery {
    /// May it reach the service in this slot?
    Service(u8),
    /// Does some service know it? The reason to refuse if not, and to pass if so.
    Known(Reason, Reason),
}

/// What is not guarded passes, unless it is encapsulation whose source has to be known.
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

/// What happens to a frame that cannot be judged by port: dropped while some service of this node
/// enforces, counted while some observes, passed on a node that guards nothing.
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

/// What is known of a source, and the number of its first bucket.
#[inline(always)]
fn look_up(tables: &impl Tables, addr: &Addr, observer: &mut impl Observer) -> (Source, u32) {
    let Found { class, buckets } = tables.find(addr);
    // What is known of the unknown needs no look-up.
    let found = if class == 0 { Source::default() } else { tables.class(class) };
    observer.note(Step::Source { addr: *addr, found });
    (found, buckets)
}

/// What a service does with a frame that it refuses.
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
    // Who is not allowed leaves no state: replies from strangers are not limited.
    let has_limits = is(Setting::LimitsVolume) || (opening && is(Setting::LimitsConnections));
    if allowed && has_limits {
        let kinds = tables.setting(Setting::Kinds);
        // The compiler never points a port at an empty slot; if it did, nobody would be let in.
        let Some(service) = tables.service(slot) else {
            return refuse(Reason::NotAllowed);
        };
        let number = if source.is_member() {
            // A member has a bucket at each service that it may reach and that limits sources.
            let before = tables.setting(Setting::PerSource) & bit.wrapping_sub(1);
            // Mostly this is the first one, and there is nothing to count.
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
