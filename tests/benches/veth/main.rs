//! What a dropped frame costs its receiver, end to end: live frames over a veth pair, native XDP.
//!
//! A figure is the CPU time of the kernel thread that polls the receiving device, divided by the
//! frames that it took from the cable: the whole way of a frame through the driver, and what the
//! program does with it, to the return of its page to the sender's pool. Reading a frame means
//! waiting for lines that another core has just written, which is why `parse_only` and not
//! `drop_all` is the floor.
//!
//! The sender is no faster than the receiver of each case can be. One that is overrun has more
//! pages on their way than its caches hold at one offset of a page, and pays for that: with a
//! sender as fast as it can, a case that is a little slower than it would look twice as slow.

mod flood;
mod nft;
mod subject;
mod xdp_filter;

use std::{io::Write as _, time::Duration};

use anyhow::Result;
use clap::Parser as _;
use guard_tests::wire::{
    Arguments,
    cpu::{self, Cpus},
    lab::{self, Lab},
    offload,
    policy::Addresses,
    rounds,
    rows::{self, Row, Spread, Target},
};

use crate::{
    flood::{Family, Flood},
    subject::{Kind, Subject},
};

const SECTION: &str = "veth";
const LISTED: usize = 1_000;
const MANY_LISTED: usize = 100_000;
const MTU: u32 = 1500;
/// Before a measurement: caches, pools and queues fill up.
const WARM_UP: Duration = Duration::from_millis(50);

const LEGEND: &str = "\
ns: CPU time of the receiver's NAPI thread per frame that it took from the cable, least / median /
greatest round: driver, program and page recycling. Not included: the sender, and the hardware that
a veth lacks. x: medians of ratios within a round. SYNs to a guarded port from 65,536 unlisted
sources in turn, 60 bytes (IPv6 74), in bursts of 256 with pauses, so that nobody is overrun; the
thread is woken for each burst, some 10 to 30 ns of every figure. Each case is checked to have dropped exactly the frames that
were counted (drop_all and parse_only drop whatever comes).
  drop_all    returns without a look           parse_only  reads the headers as the guard does
  guard       the attached program, its counters and sampled events; N sources may, these may not
  xdp-filter  of xdp-tools, deny policy, all other ports and N sources allowed; no dispatcher
  nftables    netdev ingress, guarded port, set of N sources; device polled with GRO, no XDP
";

/// What one run of a case gave.
struct Sample {
    /// CPU time of the receiver for a frame.
    ns: f64,
    /// Frames in a microsecond of wall-clock time.
    mpps: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    lab::enter()?;
    let cpus = Cpus::of_this_machine()?;
    let lab = Lab::new(MTU)?;
    offload::set(&lab.receiver, offload::GRO, true)?;
    lab.up()?;
    lab.receiver.thread_napi()?;

    let (few, unlisted) = Addresses::listed_and_not(LISTED, flood::SOURCES);
    let (many, unlisted_too) = Addresses::listed_and_not(MANY_LISTED, flood::SOURCES);
    let mut flood = Flood::load(&arguments.flood_object, &lab.sender, cpus.sender)?;
    let mut subjects = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| arguments.wants(kind.name()) || kind.is_base())
    {
        let listed = if kind == Kind::GuardMany { &many } else { &few };
        subjects.push(Subject::load(kind, listed, &arguments.flood_object, &lab.receiver)?);
    }

    let cases: Vec<(usize, Family)> = Family::ALL
        .iter()
        .flat_map(|&family| (0..subjects.len()).map(move |at| (at, family)))
        .collect();
    let duration = Duration::from_millis(arguments.pick(400, 2_000));
    let results = rounds::interleaved(cases.len(), arguments.pick(3, 7), |case| {
        let (at, family) = cases[case];
        let subject = &mut subjects[at];
        if subject.missing().is_some() {
            return Ok(None);
        }
        let sources = if subject.kind == Kind::GuardMany { &unlisted_too } else { &unlisted };
        flood.aim(family, sources)?;
        measure(subject, family, &mut flood, &lab, cpus, duration).map(Some)
    })?;

    let rows = report(&subjects, &cases, &results);
    print(&subjects, &rows)?;
    if let Some(path) = &arguments.json {
        rows::write(&rows, path)?;
    }
    Ok(())
}

fn measure(
    subject: &mut Subject,
    family: Family,
    flood: &mut Flood,
    lab: &Lab,
    cpus: Cpus,
    duration: Duration,
) -> Result<Sample> {
    let receiver = &lab.receiver;
    subject.attach(receiver)?;
    // Attaching may have replaced it.
    let napi = cpu::napi_thread(&receiver.device)?;
    cpu::pin(napi, cpus.receiver)?;
    cpu::raise(napi)?;
    // As fast as we can first: what the receiver needs at most.
    flood.pace(Duration::ZERO)?;
    let (received, time) = (receiver.received()?, cpu::time_of(napi)?);
    flood.run(lab, WARM_UP)?;
    let frames = u32::try_from(receiver.received()? - received)?.max(1);
    flood.pace((cpu::time_of(napi)? - time) / frames)?;
    flood.run(lab, WARM_UP)?;
    let dropped = subject.dropped(receiver, family)?;
    let (received, time) = (receiver.received()?, cpu::time_of(napi)?);
    let elapsed = flood.run(lab, duration)?;
    let (received, time) = (receiver.received()? - received, cpu::time_of(napi)? - time);
    if let (Some(before), Some(after)) = (dropped, subject.dropped(receiver, family)?) {
        anyhow::ensure!(
            after - before == received,
            "{} {family}: {received} frames came, {} were dropped as they should be",
            subject.kind.name(),
            after - before
        );
    }
    subject.detach(receiver)?;
    let frames = received as f64;
    Ok(Sample { ns: time.as_secs_f64() * 1e9 / frames, mpps: frames / elapsed.as_secs_f64() / 1e6 })
}

fn report(
    subjects: &[Subject],
    cases: &[(usize, Family)],
    results: &[Vec<Option<Sample>>],
) -> Vec<Row> {
    let ns = |kind: Kind, family: Family| -> Vec<f64> {
        let case = cases.iter().position(|&(at, of)| subjects[at].kind == kind && of == family);
        let samples = case.map_or(&[][..], |case| &results[case]);
        samples.iter().flatten().map(|sample| sample.ns).collect()
    };
    let mut rows = Vec::new();
    for (&(at, family), samples) in cases.iter().zip(results) {
        let subject = &subjects[at];
        let case = format!("{} {family}", subject.kind.name());
        let values = ns(subject.kind, family);
        let row = |figure, unit, spread| Row::new(SECTION, &case, figure, unit, spread);
        let time = row("cpu_per_frame", "ns", Spread::of(values.iter().copied()));
        if let Some(reason) = subject.missing() {
            rows.push(time.note(reason));
            continue;
        }
        rows.push(time);
        let rates = samples.iter().flatten().map(|sample| sample.mpps);
        rows.push(row("received", "Mpps", Spread::of(rates)));
        for (base, target) in subject.kind.ratios() {
            let ratios = Spread::of_ratios(&values, &ns(base, family));
            let base = format!("{} {family}", base.name());
            rows.push(row("ratio", "x", ratios).to(&base).target(target));
        }
    }
    rows
}

fn print(subjects: &[Subject], rows: &[Row]) -> Result<()> {
    let cases: Vec<&str> = {
        let times = rows.iter().filter(|row| row.figure == "cpu_per_frame");
        times.map(|row| row.case.as_str()).collect()
    };
    let lines = cases.into_iter().map(|case| {
        let of_case = |figure: &str, to: Option<&str>| {
            let row = rows.iter().find(|row| {
                let base = row.ratio_to.as_deref();
                row.case == case && row.figure == figure && to.is_none_or(|to| base == Some(to))
            });
            row.map(Row::cells).unwrap_or_default()
        };
        let family = if case.ends_with("IPv6") { Family::V6 } else { Family::V4 };
        let [time, _] = of_case("cpu_per_frame", None);
        let [rate, _] = of_case("received", None);
        let mut line = vec![case.to_owned(), time, rate];
        for base in [Kind::ParseOnly, Kind::XdpFilter, Kind::Guard] {
            line.push(
                of_case("ratio", Some(&format!("{} {family}", base.name())))
                    .join(" ")
                    .trim()
                    .to_owned(),
            );
        }
        line
    });
    let header = ["case", "ns", "Mpps", "x parse_only", "x xdp-filter", "x guard"];
    let table = rows::table(&header, lines.collect());
    let missing =
        subjects.iter().filter_map(|subject| Some((subject.kind.name(), subject.missing()?)));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{SECTION}: {} drops\n{table}\n\n{LEGEND}", "end to end,")?;
    for (name, reason) in missing {
        writeln!(out, "{name}: {reason}")?;
    }
    Ok(())
}

impl Kind {
    /// What it is compared with, and what should come out.
    fn ratios(self) -> Vec<(Self, Option<Target>)> {
        match self {
            Self::ParseOnly => vec![],
            Self::DropAll | Self::XdpFilter => vec![(Self::ParseOnly, None)],
            Self::Guard => vec![
                (Self::ParseOnly, Some(Target::AtMost(1.15))),
                (Self::XdpFilter, Some(Target::AtMost(0.55))),
            ],
            Self::GuardMany => vec![(Self::ParseOnly, Some(Target::AtMost(1.3)))],
            Self::Nft => {
                vec![(Self::ParseOnly, None), (Self::Guard, Some(Target::AtLeast(6.0)))]
            }
        }
    }
}
