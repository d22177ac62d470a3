//! Cost of the packet path, by `BPF_PROG_TEST_RUN`: the program that the daemon would attach, loaded
//! from compiled policies, compared with an empty program, our parser alone, and Debian's xdp-filter
//! configured for the same task.
//!
//! Each case is checked before it is timed, and the counters are checked afterwards, so that no figure
//! comes from the wrong path.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

mod case;
mod figures;
mod guard;
mod listing;

use std::{net::Ipv6Addr, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use guard_tests::bench::{
    Arguments,
    hold::Devices,
    object::{self, ReferencePrograms},
    report::Report,
    run,
    xdp_filter::{self, Object, XdpFilter},
};

use crate::{
    case::{Bench, Programs, Varied},
    guard::Limits,
    listing::{Family, Listing},
};

/// Maximum number of programs in a case.
const DEVICES: usize = 6;

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn bench(args: &Arguments) -> Result<()> {
    let object = object::read(&args.reference_programs())?;
    let reference = ReferencePrograms::load(&object)?;
    let devices = Devices::new(DEVICES)?;
    let cpu = run::stay_on_one_cpu()?;
    let peer = xdp_filter::find();
    let mut report = Report::new("packet-path");
    let repeat = if args.quick { 1 << 16 } else { 1 << 18 };
    let rounds = args.pick(5, 15);
    report.note(format!("{rounds} rounds of {repeat} packets each, on CPU {cpu}"));
    for note in figures::LEGEND {
        report.note(note);
    }
    report.note(peer.as_ref().map_or_else(|_| xdp_filter::MISSING.to_owned(), Object::describe));
    for note in report.notes() {
        println!("{note}");
    }
    for listing in listing::all(args.quick).into_iter().filter(|of| args.wants(of.name)) {
        let mut guard = guard::load(&listing, Limits::None)?;
        // With a list of prefixes there is no per-source state to charge.
        let mut limited =
            listing.hosts_only().then(|| guard::load(&listing, Limits::PerSource)).transpose()?;
        let mut peer = match &peer {
            Ok(object) if listing.hosts_only() => Some(peer_for(object, &listing)?),
            _ => None,
        };
        for family in Family::BOTH {
            let programs = Programs {
                reference: &reference,
                guard: &mut guard,
                limited: limited.as_mut(),
                peer: peer.as_mut(),
            };
            let varied = Varied::load(&object, &listing, family)?;
            let mut bench = Bench { family, programs, varied, devices: &devices };
            let measured = bench
                .run(rounds, repeat)
                .with_context(|| format!("{}, {}", listing.name, family.name()))?;
            println!(
                "\n{}, {}\n{}",
                listing.name,
                family.name(),
                figures::table(&listing, family, &measured)
            );
            for row in measured {
                report.row(figures::json(&listing, family, &row));
            }
        }
    }
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(())
}

/// Loads xdp-filter, configured to admit the hosts of a list.
fn peer_for(object: &Object, listing: &Listing) -> Result<XdpFilter> {
    let v4 = listing.addresses(Family::V4).map(listing::v4).collect::<Vec<_>>();
    let v6 = listing.addresses(Family::V6).map(Ipv6Addr::from_bits).collect::<Vec<_>>();
    XdpFilter::load(object, listing::PORT, &v4, &v6)
}
