//! Figures of the cases, with their targets.

use guard_tests::bench::{
    report,
    stats::{difference, median, ratio, spread},
};
use serde_json::{Value, json};

use crate::{
    case::{Case, Measured, What, Which},
    listing::{Family, Listing},
};

/// Notes on what the figures include.
pub(crate) const LEGEND: [&str; 6] = [
    "test runs of BPF_PROG_TEST_RUN, a TCP SYN of 60 (IPv4) or 74 bytes (IPv6); CPU time of the thread; medians",
    "hot: one packet repeated; varied: a new source for every packet, out of 262,144, written by a program in front",
    "ns: total, including some 5 ns of the kernel's test loop, and the program in front if sources vary",
    "x drop, x xdp-filter: medians over the ratios of each round; over parse: median difference to the parser alone",
    "guard: the program of the daemon, counting every verdict and sampling events of drops; the ring is emptied between runs",
    "target: upper limit of the design for IPv4; for IPv6 it is 1.3 times as much; -: no target",
];

/// Factor on the targets for IPv6.
const IPV6: f64 = 1.3;

/// The maximum cost of a case, as ratios to the empty program and to xdp-filter.
#[derive(Debug, Clone, Copy)]
struct Target {
    over_drop: f64,
    over_peer: f64,
}

/// Returns the target of a case according to the design, which states it for IPv4.
fn target(listing: &Listing, family: Family, case: Case) -> Option<Target> {
    let (over_drop, over_peer) = match (case.what, case.varied, listing.count) {
        (What::Unguarded, false, _) => (1.6, 0.30),
        (What::Unlisted, false, _) => (2.5, 0.45),
        (What::Listed, false, _) => (3.2, 0.60),
        (What::Limited, false, _) => (4.5, 0.80),
        (What::Unlisted, true, 1_000) => (2.5, 0.55),
        (What::Listed, true, 1_000) => (3.5, 0.80),
        (What::Unlisted, true, 100_000) => (9.0, 0.35),
        (What::Listed, true, 100_000) => (12.0, 0.45),
        _ => return None,
    };
    let factor = if family == Family::V6 { IPV6 } else { 1.0 };
    Some(Target { over_drop: over_drop * factor, over_peer: over_peer * factor })
}

/// The figures of a case.
struct Figures {
    drop: f64,
    parse: f64,
    guard: f64,
    peer: Option<f64>,
    over_drop: f64,
    over_parse: f64,
    over_peer: Option<f64>,
}

impl Figures {
    fn of(measured: &Measured) -> Self {
        let of = |which| measured.of(which);
        let ns = |which| median(of(which).to_vec());
        let has_peer = !of(Which::Peer).is_empty();
        Self {
            drop: ns(Which::Drop),
            parse: ns(Which::Parse),
            guard: ns(Which::Guard),
            peer: has_peer.then(|| ns(Which::Peer)),
            over_drop: ratio(of(Which::Guard), of(Which::Drop)),
            over_parse: difference(of(Which::Guard), of(Which::Parse)),
            over_peer: has_peer.then(|| ratio(of(Which::Guard), of(Which::Peer))),
        }
    }

    /// Reports whether the targets are met; `None` without a target. Without xdp-filter, only the ratio
    /// to the empty program counts.
    fn met(&self, target: Option<Target>) -> Option<bool> {
        let target = target?;
        let peer = self.over_peer.is_none_or(|ratio| ratio <= target.over_peer);
        Some(self.over_drop <= target.over_drop && peer)
    }
}

fn words(case: Case) -> [&'static str; 2] {
    let what = match case.what {
        What::Unguarded => "unguarded port",
        What::Unlisted => "unlisted",
        What::Listed => "listed",
        What::Limited => "listed, limited",
    };
    [what, if case.varied { "varied" } else { "hot" }]
}

/// Formats the table for one list and family.
pub(crate) fn table(listing: &Listing, family: Family, measured: &[Measured]) -> String {
    let header = [
        "case",
        "sources",
        "drop ns",
        "parse ns",
        "guard ns",
        "over parse",
        "x drop",
        "target",
        "xdp-filter ns",
        "x xdp-filter",
        "target",
        "",
    ];
    let rows = measured.iter().map(|measured| {
        let [what, sources] = words(measured.case);
        let figures = Figures::of(measured);
        let target = target(listing, family, measured.case);
        let ns = |ns: f64| format!("{ns:.1}");
        let ratio = |ratio: f64| format!("{ratio:.2}");
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            what.to_owned(),
            sources.to_owned(),
            ns(figures.drop),
            ns(figures.parse),
            ns(figures.guard),
            ns(figures.over_parse),
            ratio(figures.over_drop),
            or_none(target.map(|target| ratio(target.over_drop))),
            or_none(figures.peer.map(ns)),
            or_none(figures.over_peer.map(ratio)),
            or_none(
                target.and(figures.over_peer).and(target).map(|target| ratio(target.over_peer)),
            ),
            match figures.met(target) {
                None => String::new(),
                Some(true) => "met".to_owned(),
                Some(false) => "MISSED".to_owned(),
            },
        ]
    });
    report::table(2, &header, rows).to_string()
}

/// Returns the figures of a case as JSON.
pub(crate) fn json(listing: &Listing, family: Family, measured: &Measured) -> Value {
    let [case, sources] = words(measured.case);
    let figures = Figures::of(measured);
    let target = target(listing, family, measured.case);
    json!({
        "list": listing.name,
        "listed": listing.count,
        "family": family.name(),
        "case": case,
        "sources": sources,
        "ns": {
            "drop": figures.drop,
            "parse": figures.parse,
            "guard": figures.guard,
            "xdp_filter": figures.peer,
        },
        "over_parse_ns": figures.over_parse,
        "over_drop": figures.over_drop,
        "over_drop_spread": spread(measured.of(Which::Guard), measured.of(Which::Drop)),
        "over_xdp_filter": figures.over_peer,
        "target": target.map(|target| json!({
            "over_drop": target.over_drop,
            "over_xdp_filter": target.over_peer,
        })),
        "met": figures.met(target),
    })
}
