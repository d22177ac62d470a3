//! Cost of the guard for admitted clients: a bulk transfer, and requests with responses, over TCP.
//!
//! The cable is a veth pair. A physical card does not change how it splits and merges segments (TSO,
//! GRO) when a program is attached; a veth does. So most of the loss measured here is the cost of XDP on
//! a veth, not of the guard. The rows between `no XDP` and the guard separate the two.

mod setup;
mod transfer;

use std::{io::Write as _, time::Duration};

use anyhow::Result;
use clap::Parser as _;
use guard_tests::bench::Arguments;
use guard_tests::wire::{
    cpu::Cpus,
    lab, rounds,
    rows::{self, Row, Spread, Target},
};

use crate::{
    setup::{Bench, Kind},
    transfer::Sample,
};

const SECTION: &str = "goodput";
/// The MTU of the Internet, and that of training clusters.
const MTUS: [u32; 2] = [1500, 9000];

const LEGEND: &str = "\
bulk: one TCP connection, from one CPU to the other; CPU is the time of the sending and the
receiving thread and of the kernel's softirq threads, per kilobyte. request: 64 bytes there and
back, one at a time; time is the median from request to answer; CPU as above, per request.
x: medians of ratios within a round, to `no XDP` (the first row) and to `pass_all`. The program is
on the receiver's device; it does not see answers and acknowledgements.
  no XDP             a veth with its defaults: segments of 64 KiB pass unsplit (TSO), without a copy
  no XDP, no TSO     the sender splits segments, as it must if its peer runs XDP
  no XDP, no TSO, GRO  the receiver merges them again before the stack, as with XDP
  pass_all           an empty program, native: the cost of XDP itself on a veth; the difference from the
                     row above is the copy of each frame into a buffer that a program can read
  guard, ...         the attached guard; the port is guarded, the peer is listed
";

/// The figures of a case: name, unit, and how to read it from a sample.
type Figure = (&'static str, &'static str, fn(&Sample) -> f64);
const FIGURES: [Figure; 5] = [
    ("bulk", "Gbit/s", |sample| sample.gbits),
    ("bulk_cpu", "ns/kB", |sample| sample.bulk_cpu_ns),
    ("request_rate", "1/s", |sample| sample.requests),
    ("request_time", "us", |sample| sample.request_us),
    ("request_cpu", "us", |sample| sample.request_cpu_us),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    lab::enter()?;
    let cpus = Cpus::of_this_machine()?;
    let mut benches = Vec::new();
    for mtu in MTUS {
        benches.push(Bench::new(mtu, &arguments.reference_programs())?);
    }
    let mut cases = Vec::new();
    for (at, bench) in benches.iter().enumerate() {
        let wanted = |kind: &Kind| kind.is_base() || arguments.wants(&bench.case(*kind));
        cases.extend(Kind::ALL.into_iter().filter(wanted).map(|kind| (at, kind)));
    }
    let bulk = Duration::from_millis(arguments.pick(120, 1_000));
    let requests = Duration::from_millis(arguments.pick(60, 500));
    let results = rounds::interleaved(cases.len(), arguments.pick(3, 7), |case| {
        let (at, kind) = cases[case];
        benches[at].measure(kind, cpus, bulk, requests)
    })?;

    let names: Vec<String> = cases.iter().map(|&(at, kind)| benches[at].case(kind)).collect();
    let rows = report(&cases, &names, &results);
    print(&names, &rows)?;
    if let Some(path) = &arguments.json {
        rows::write("goodput", &rows, path)?;
    }
    Ok(())
}

fn report(cases: &[(usize, Kind)], names: &[String], results: &[Vec<Sample>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for ((&(at, kind), name), samples) in cases.iter().zip(names).zip(results) {
        for (figure, unit, read) in FIGURES {
            let values: Vec<f64> = samples.iter().map(read).collect();
            rows.push(Row::new(SECTION, name, figure, unit, Spread::of(values.iter().copied())));
            for base in [Kind::NoXdp, Kind::PassAll].into_iter().filter(|base| *base != kind) {
                let Some(of_base) = cases.iter().position(|case| *case == (at, base)) else {
                    continue;
                };
                let bases: Vec<f64> = results[of_base].iter().map(read).collect();
                let ratios = Spread::of_ratios(&values, &bases);
                let target = kind.target(base, figure);
                let row = Row::new(SECTION, name, figure, "x", ratios);
                rows.push(row.to(&names[of_base]).target(target));
            }
        }
    }
    rows
}

impl Kind {
    /// Returns the target of a ratio: the guard should add little to the cost of XDP itself.
    fn target(self, base: Self, figure: &str) -> Option<Target> {
        let guard = matches!(self, Self::All | Self::AllLimited | Self::NewConnections);
        let target = match figure {
            "bulk" => Target::AtLeast(0.95),
            "bulk_cpu" | "request_time" => Target::AtMost(1.05),
            _ => return None,
        };
        (guard && base == Self::PassAll).then_some(target)
    }
}

fn print(names: &[String], rows: &[Row]) -> Result<()> {
    let cell = |name: &str, figure: &str, to: Option<&str>| {
        let row = rows.iter().find(|row| {
            let base = row.ratio_to.as_deref();
            row.case == name
                && row.figure == figure
                && to.map_or(base.is_none(), |to| base.is_some_and(|base| base.ends_with(to)))
        });
        let median = row.and_then(|row| row.spread).map(|spread| spread.median);
        median.map_or_else(String::new, |median| format!("{median:.2}"))
    };
    let lines = names.iter().map(|name| {
        let mut line = vec![name.clone()];
        for (figure, ..) in FIGURES.into_iter().filter(|(figure, ..)| *figure != "request_rate") {
            line.push(cell(name, figure, None));
            let (to_none, to_pass) = (Kind::NoXdp.name(), Kind::PassAll.name());
            let ratios = [cell(name, figure, Some(to_none)), cell(name, figure, Some(to_pass))];
            line.push(ratios.join(" / "));
        }
        line
    });
    let header = ["case", "bulk Gbit/s", "x", "CPU ns/kB", "x", "request us", "x", "CPU us", "x"];
    let table = rows::table(&header, lines.collect());
    let mut out = std::io::stdout().lock();
    writeln!(out, "{SECTION}: TCP of allowed sources; x to `no XDP` / to `pass_all`")?;
    writeln!(out, "{table}\n\n{LEGEND}")?;
    for row in rows.iter().filter(|row| row.met == Some(false)) {
        let [figures, target] = row.cells();
        writeln!(out, "{}, {}: {figures}, {target}", row.case, row.figure)?;
    }
    Ok(())
}
