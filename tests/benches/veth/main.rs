//! Cost of a dropped frame for its receiver, end to end: live frames over a veth pair, native XDP.
//!
//! A figure is the CPU time of the kernel thread that polls the receiving device, divided by the number
//! of frames that it received. This covers the whole path of a frame: the driver, the program, and the
//! return of the page to the sender's pool. Reading a frame means waiting for cache lines that another
//! core has just written; that is why `parse_only`, not `drop_all`, is the lower bound.
//!
//! The sender is paced to the speed of the receiver in each case. Without pacing, a receiver that is
//! overrun has more pages in flight than its caches hold at one offset of a page, and gets slower for
//! that reason: a case that is slightly slower than the sender would look twice as slow.

mod measure;
mod nft;
mod report;
mod subject;

use std::time::Duration;

use anyhow::Result;
use clap::Parser as _;
use guard_tests::bench::Arguments;
use guard_tests::wire::{
    cpu::Cpus,
    flood::{self, Family, Flood},
    lab::{self, Lab},
    offload,
    policy::Addresses,
    rounds, rows,
};

use crate::{
    measure::Bench,
    report::Results,
    subject::{Kind, Subject},
};

const LISTED: usize = 1_000;
const MANY_LISTED: usize = 100_000;
const MTU: u32 = 1500;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    lab::enter()?;
    let cpus = Cpus::of_this_machine()?;
    let lab = cable()?;
    let few = Addresses::listed_and_not(LISTED, flood::SOURCES);
    let many = Addresses::listed_and_not(MANY_LISTED, flood::SOURCES);
    let addresses = |kind| if kind == Kind::GuardMany { &many } else { &few };

    let wanted = |kind: &Kind| kind.is_base() || arguments.wants(kind.name());
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(wanted).collect();
    let mut subjects = Vec::new();
    for &kind in &kinds {
        let (listed, _) = addresses(kind);
        subjects.push(Subject::load(kind, listed, &arguments.reference_programs(), &lab.receiver)?);
    }
    let cases: Vec<(usize, Family)> = Family::ALL
        .into_iter()
        .flat_map(|family| (0..kinds.len()).map(move |at| (at, family)))
        .collect();

    let flood = Flood::load(&arguments.sender(), lab.sender.index()?, cpus.sender)?;
    let duration = Duration::from_millis(arguments.pick(250, 2_000));
    let mut bench = Bench { lab, flood, cpu: cpus.receiver, duration };
    let samples = rounds::interleaved(cases.len(), arguments.pick(3, 7), |case| {
        let (at, family) = cases[case];
        let (_, unlisted) = addresses(kinds[at]);
        bench.flood.aim(family, unlisted)?;
        bench.measure(&mut subjects[at], family)
    })?;

    let results = Results { subjects: &subjects, cases: &cases, samples: &samples };
    let rows = results.rows();
    report::print(&subjects, &rows)?;
    if let Some(path) = &arguments.json {
        rows::write("veth", &rows, path)?;
    }
    Ok(())
}

/// Creates a cable whose receiving device is polled by a thread of its own, whether or not a program is
/// attached, because nftables attaches none.
fn cable() -> Result<Lab> {
    let lab = Lab::new(MTU)?;
    offload::set(&lab.receiver, offload::GRO, true)?;
    lab.up()?;
    lab.receiver.thread_napi()?;
    Ok(lab)
}
