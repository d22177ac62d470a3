//! Reads the limits of a service from their tree.

use guard_common::bucket::{LONGEST_TICK_NS, Limit};

use super::LimitsDoc;
use crate::syntax::{
    diagnostic::{At, Severity},
    rules,
    scalars::{self, Counted},
    walk::{Fault, Walk},
    yaml::Node,
};

/// Maximum time to fill a bucket, in seconds: one year.
const MAX_FILL: u64 = 365 * 24 * 3600;
/// Size of a jumbo frame with header and tags, in bytes: the largest Ethernet frame in common use.
const JUMBO_FRAME: u64 = 9216;
/// Longest tick of the clock that limits use, in milliseconds.
const LONGEST_TICK_MS: u64 = LONGEST_TICK_NS / 1_000_000;
/// Minimum size of an Ethernet frame, in bytes.
const SMALLEST_FRAME: u64 = 64;

pub(crate) fn limits(walk: &mut Walk<'_>, node: &Node<'_>, what: &str) -> LimitsDoc {
    let Some(fields) = walk.fields(node, what, &["newConnections", "packets", "bytes"]) else {
        return LimitsDoc::default();
    };
    let mut one = |field: &str, counted| {
        let node = fields.get(field)?;
        limit(walk, node, &format!("`{field}`"), counted)
    };
    LimitsDoc {
        new_connections: one("newConnections", Counted::Units),
        packets: one("packets", Counted::Units),
        bytes: one("bytes", Counted::Bytes),
    }
}

fn limit(walk: &mut Walk<'_>, node: &Node<'_>, what: &str, counted: Counted) -> Option<At<Limit>> {
    let fields = walk.fields(node, what, &["rate", "burst"])?;
    let (rate_like, burst_like) = match counted {
        Counted::Units => ("`rate: 200/s`", "`burst: 1000`"),
        Counted::Bytes => ("`rate: 500MB/s`", "`burst: 64MB`"),
    };
    let rate = fields.need(walk, "rate", rate_like).and_then(|node| {
        let expected = format!("a rate such as {rate_like}");
        walk.parsed(node, "`rate`", &expected, |text, _| scalars::rate(text, counted))
    });
    let burst = fields.need(walk, "burst", burst_like).and_then(|node| {
        let expected = format!("an amount such as {burst_like}");
        walk.parsed(node, "`burst`", &expected, |text, plain| scalars::amount(text, plain, counted))
    });
    let (rate, burst) = (rate?.value, burst?);
    let limit = match counted {
        Counted::Units => Limit::per_unit(rate, burst.value),
        Counted::Bytes => Limit::per_byte(rate, burst.value),
    };
    let place = burst.place;
    let burst = burst.value;
    let fault = |message: String| Fault::new(rules::AMOUNT, message).at(place);
    if burst == 0 {
        walk.out.push(fault("a burst of 0 lets nothing through, expected at least 1".into()));
        return None;
    }
    let in_a_tick = rate.div_ceil(1000 / LONGEST_TICK_MS);
    if burst < in_a_tick {
        let message = format!(
            "a burst of {burst} at {rate} per second is shorter than a tick of the limiter's clock \
             ({LONGEST_TICK_MS} ms on some kernels), so the rate could not be reached, expected at \
             least {in_a_tick}"
        );
        walk.out.push(fault(message).help(format!(
            "write `burst: {in_a_tick}{}` or more",
            match counted {
                Counted::Units => "",
                Counted::Bytes => "B",
            }
        )));
        return None;
    }
    if burst / rate >= MAX_FILL {
        let message =
            format!("a burst of {burst} at {rate} per second takes more than a year to refill");
        walk.out.push(fault(message));
        return None;
    }
    if counted == Counted::Bytes && burst < SMALLEST_FRAME {
        let message = format!(
            "a burst of {burst} bytes lets no frame through, expected at least {SMALLEST_FRAME}"
        );
        walk.out.push(fault(message));
        return None;
    }
    if counted == Counted::Bytes && burst < JUMBO_FRAME {
        let message = format!(
            "a burst of {burst} bytes never lets a jumbo frame of {JUMBO_FRAME} bytes through"
        );
        let mut finding = Fault::new(rules::TIGHT_LIMIT, message)
            .help("write a burst of some frames at least, such as 64kB")
            .at(place);
        finding.severity = Severity::Warning;
        walk.out.push(finding);
    }
    Some(At::new(limit, walk.place(fields.head)))
}
