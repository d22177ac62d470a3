//! The order of checks, and nothing else.

use crate::{
    flow::{Addr, Flow, Headers, Parsed},
    limit::{self, Limiter},
    observe::{Observer, Step},
    packet::Packet,
    parse::parse,
    tables::{Port, Service, Settings, Source, Tables},
    verdict::{Action, Reason, Verdict},
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
    decide(&headers, packet.len(), tables, limiter, observer)
}

/// Decides about a frame of `len` bytes with these headers.
#[inline(always)]
pub fn decide(
    headers: &Headers,
    len: u32,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Verdict {
    let verdict = match headers.parsed() {
        Ok(parsed) => {
            observer.note(Step::Parsed(parsed));
            by_policy(&parsed, len, tables, limiter, observer)
        }
        Err(reason) => {
            observer.note(Step::Unparsed(reason));
            Verdict::of_node(strictest(&tables.settings()), reason)
        }
    };
    observer.note(Step::Verdict(verdict));
    verdict
}

#[inline(always)]
fn by_policy(
    parsed: &Parsed,
    len: u32,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Verdict {
    let settings = tables.settings();
    match parsed {
        Parsed::NotIp => Verdict::of_node(Action::Pass, Reason::NotIp),
        Parsed::LaterFragment(addr) => {
            let action = if is_known(tables, &settings, addr, observer) {
                Action::Pass
            } else {
                strictest(&settings)
            };
            Verdict::of_node(action, Reason::Fragment)
        }
        Parsed::Portless { source, protocol } => {
            not_guarded(tables, &settings, source, tables.unpacks(*protocol), observer)
        }
        Parsed::Flow(flow) => match tables.port(flow.transport, flow.port) {
            Port::Guarded(slot) => guarded(flow, len, slot, tables, limiter, observer),
            Port::Tunnel => not_guarded(tables, &settings, &flow.source, true, observer),
            Port::Unguarded => not_guarded(tables, &settings, &flow.source, false, observer),
        },
    }
}

/// What happens to a frame that cannot be judged by port: dropped while some service of this node
/// enforces, counted while some observes, passed on a node that guards nothing.
#[inline(always)]
fn strictest(settings: &Settings) -> Action {
    if settings.enforcing != 0 {
        Action::Drop
    } else if settings.guarded != 0 {
        Action::WouldDrop
    } else {
        Action::Pass
    }
}

/// Whether some service of this node allows the source.
#[inline(always)]
fn is_known(
    tables: &impl Tables,
    settings: &Settings,
    addr: &Addr,
    observer: &mut impl Observer,
) -> bool {
    settings.any != 0 || look_up(tables, addr, observer).services != 0
}

#[inline(always)]
fn look_up(tables: &impl Tables, addr: &Addr, observer: &mut impl Observer) -> Source {
    let found = tables.source(addr);
    observer.note(Step::Source { addr: *addr, found });
    found
}

#[inline(always)]
fn not_guarded(
    tables: &impl Tables,
    settings: &Settings,
    source: &Addr,
    encapsulation: bool,
    observer: &mut impl Observer,
) -> Verdict {
    observer.note(Step::NotGuarded);
    if encapsulation && settings.guarded != 0 {
        observer.note(Step::Encapsulation);
        if !is_known(tables, settings, source, observer) {
            return Verdict::of_node(strictest(settings), Reason::Tunnel);
        }
    }
    Verdict::of_node(Action::Pass, Reason::Unguarded)
}

#[inline(always)]
fn guarded(
    flow: &Flow,
    len: u32,
    slot: u8,
    tables: &impl Tables,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Verdict {
    observer.note(Step::Guarded(slot));
    let bit = 1_u64.wrapping_shl(slot.into());
    let enforced = tables.settings().enforcing & bit != 0;
    let refusal = if enforced { Action::Drop } else { Action::WouldDrop };
    let refuse = |reason| Verdict::of_service(refusal, reason, slot);
    let pass = |reason| Verdict::of_service(Action::Pass, reason, slot);

    let Some(service) = tables.service(slot) else {
        // The compiler never points a port at an empty slot; if it did, nobody is allowed.
        return refuse(Reason::NotAllowed);
    };
    if flow.source.is_martian() {
        return refuse(Reason::Martian);
    }
    let source = look_up(tables, &flow.source, observer);
    if source.is_own() {
        return refuse(Reason::Martian);
    }
    let allowed = service.has(Service::ANY) || source.services & bit != 0;
    let passed = if service.has(Service::NEW_CONNECTIONS) && !flow.opening {
        Reason::Established
    } else if allowed {
        Reason::Allowed
    } else {
        return refuse(Reason::NotAllowed);
    };
    // Who is not allowed leaves no state: replies from strangers are not limited.
    let kinds = tables.settings().limits;
    if allowed && kinds != 0 && service.limits(flow.opening) {
        let charged = limit::charge(service, kinds, slot, flow, source, len, limiter, observer);
        if let Err(reason) = charged {
            return refuse(reason);
        }
    }
    pass(passed)
}
