//! The order of checks, and nothing else.

use crate::{
    flow::{Addr, Flow, Headers, Parsed},
    limit::{self, Limiter},
    observe::{Observer, Step},
    packet::Packet,
    parse::parse,
    tables::{Port, Setting, Source, Tables},
    trie::Found,
    verdict::{Action, Decision, Reason, Verdict},
};

/// Judges a frame: [`parse()`], then [`decide`]. Total: every frame gets a verdict, and the verdict
/// says why.
#[inline(always)]
pub fn judge(
    packet: &impl Packet,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Verdict {
    let headers = parse(packet, observer);
    decide(&headers, packet.len(), tables, limiter, observer).verdict()
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
    let decision = match headers.parsed() {
        Ok(parsed) => {
            observer.note(Step::Parsed(parsed));
            by_policy(&parsed, headers.port_index(), len, tables, limiter, observer)
        }
        Err(reason) => {
            observer.note(Step::Unparsed(reason));
            Decision::of_node(strictest(tables), reason)
        }
    };
    observer.note(Step::Verdict(decision.verdict()));
    decision
}

#[inline(always)]
fn by_policy(
    parsed: &Parsed,
    port_index: usize,
    len: u32,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Decision {
    match parsed {
        Parsed::Flow(flow) => match tables.port_at(port_index) {
            Port::Guarded(slot) => guarded(flow, len, slot, tables, limiter, observer),
            Port::Tunnel => not_guarded(tables, &flow.source, true, observer),
            Port::Unguarded => not_guarded(tables, &flow.source, false, observer),
        },
        Parsed::NotIp => Decision::of_node(Action::Pass, Reason::NotIp),
        Parsed::LaterFragment(addr) => {
            let action =
                if is_known(tables, addr, observer) { Action::Pass } else { strictest(tables) };
            Decision::of_node(action, Reason::Fragment)
        }
        Parsed::Portless { source, protocol } => {
            not_guarded(tables, source, tables.unpacks(*protocol), observer)
        }
    }
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

/// Whether some service of this node allows the source.
#[inline(always)]
fn is_known(tables: &impl Tables, addr: &Addr, observer: &mut impl Observer) -> bool {
    tables.setting(Setting::Any) != 0 || look_up(tables, addr, observer).0.services != 0
}

/// What is known of a source, and the number of its first bucket.
#[inline(always)]
fn look_up(tables: &impl Tables, addr: &Addr, observer: &mut impl Observer) -> (Source, u32) {
    let Found { class, buckets } = tables.find(addr);
    let found = tables.class(class);
    observer.note(Step::Source { addr: *addr, found });
    (found, buckets)
}

#[inline(always)]
fn not_guarded(
    tables: &impl Tables,
    source: &Addr,
    encapsulation: bool,
    observer: &mut impl Observer,
) -> Decision {
    observer.note(Step::NotGuarded);
    if encapsulation && tables.setting(Setting::Guarded) != 0 {
        observer.note(Step::Encapsulation);
        if !is_known(tables, source, observer) {
            return Decision::of_node(strictest(tables), Reason::Tunnel);
        }
    }
    Decision::of_node(Action::Pass, Reason::Unguarded)
}

#[inline(always)]
fn guarded(
    flow: &Flow,
    len: u32,
    slot: u8,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Decision {
    observer.note(Step::Guarded(slot));
    let bit = 1_u64.wrapping_shl(slot.into());
    let is = |setting| tables.setting(setting) & bit != 0;
    let refuse = |reason| {
        let action = if is(Setting::Enforcing) { Action::Drop } else { Action::WouldDrop };
        Decision::of_service(action, reason, slot)
    };

    if flow.source.is_martian() {
        return refuse(Reason::Martian);
    }
    let (source, buckets) = look_up(tables, &flow.source, observer);
    if source.is_own() {
        return refuse(Reason::Martian);
    }
    let allowed = source.services & bit != 0 || is(Setting::Any);
    let passed = if !flow.opening && is(Setting::NewConnections) {
        Reason::Established
    } else if allowed {
        Reason::Allowed
    } else {
        return refuse(Reason::NotAllowed);
    };
    // Who is not allowed leaves no state: replies from strangers are not limited.
    let limited = is(Setting::LimitsVolume) || (flow.opening && is(Setting::LimitsConnections));
    if allowed && limited {
        let kinds = tables.setting(Setting::Kinds);
        // The compiler never points a port at an empty slot; if it did, nobody would be let in.
        let Some(service) = tables.service(slot) else {
            return refuse(Reason::NotAllowed);
        };
        let member = source.is_member().then(|| {
            // A member has a bucket at each service that it may reach and that limits sources.
            let own = (source.services | tables.setting(Setting::Any))
                & tables.setting(Setting::PerSource);
            buckets.wrapping_add((own & bit.wrapping_sub(1)).count_ones())
        });
        let charged = limit::charge(service, kinds, slot, flow, member, len, limiter, observer);
        if let Err(reason) = charged {
            return refuse(reason);
        }
    }
    Decision::of_service(Action::Pass, passed, slot)
}
