//! What a packet pays for the lookups in the network stack, by `BPF_PROG_TEST_RUN`: the program with
//! lookups compared with the same program without them, for the same policy and the same packet, measured
//! alternately in one run. The routes, addresses and sockets are real ones of a namespace.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

mod setup;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use guard_common::{Action, Reason, Verdict};
use guard_tests::{
    bench::{
        Arguments,
        guard::Guard,
        hold::Devices,
        object::{self, Lookups, ReferencePrograms},
        report::{self, Report},
        run::{self, Program, XDP_DROP, XDP_PASS},
        stats::{difference, median, ratio},
    },
    text,
};
use serde_json::json;

use crate::setup::{BEHIND, LISTED, Lookup, NODE, PORT, Service, UNLISTED};

/// State of a listening socket (`include/net/tcp_states.h`).
const TCP_LISTEN: u32 = 10;
/// Results of a route lookup (`BPF_FIB_LKUP_RET_*`, `include/uapi/linux/bpf.h`): for another host, whose
/// neighbour is known, and for this node.
const SENT_ON: u32 = 0;
const NOT_FORWARDED: u32 = 4;
/// Source port of the segments.
const FROM_PORT: u16 = 40_000;

/// Notes on what the figures include.
const LEGEND: [&str; 4] = [
    "test runs of one packet repeated, a TCP segment of 60 (IPv4) or 74 bytes (IPv6); CPU time of the thread; medians",
    "without: the same program, loaded without lookups; lookups: median difference to it",
    "kernel: the lookup alone, for the same addresses, over an empty program; own: the rest of the difference",
    "target: upper limit of the difference in ns, from a machine whose empty program takes 4 ns in a test run",
];

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// A packet, and its verdict with and without lookups.
struct Case {
    name: &'static str,
    service: Service,
    /// Whether the node forwards packets.
    forwards: bool,
    /// Source and destination addresses, IPv4 and IPv6.
    from: [&'static str; 2],
    to: [&'static str; 2],
    port: u16,
    flags: &'static str,
    verdict: Verdict,
    without: Verdict,
    /// What the program asks the kernel, if anything.
    asks: Option<Lookup>,
    /// Upper limit of the cost of the lookups in nanoseconds.
    target: f64,
}

fn cases() -> [Case; 9] {
    let of_service = |action, reason| Verdict::of_service(action, reason, 0);
    let not_allowed = of_service(Action::Drop, Reason::NotAllowed);
    let is_allowed = of_service(Action::Pass, Reason::Allowed);
    let is_unguarded = Verdict::of_node(Action::Pass, Reason::Unguarded);
    let refused = Case {
        name: "refused",
        service: Service::All,
        forwards: false,
        from: UNLISTED,
        to: NODE,
        port: PORT,
        flags: "S",
        verdict: not_allowed,
        without: not_allowed,
        asks: None,
        target: 1.0,
    };
    let listening = Lookup::Socket(TCP_LISTEN);
    let segment = Case { flags: "A", asks: Some(listening), target: 25.0, ..refused };
    let local = Some(Lookup::Route(NOT_FORWARDED));
    let allowed = Case { from: LISTED, verdict: is_allowed, without: is_allowed, ..refused };
    let unguarded = Case { port: 8080, verdict: is_unguarded, without: is_unguarded, ..refused };
    [
        Case { name: "allowed", ..allowed },
        Case { name: "allowed, limited", service: Service::Limited, ..allowed },
        Case { name: "unguarded", ..unguarded },
        Case { ..refused },
        Case {
            name: "segment to a listener, new-connections",
            service: Service::NewConnections,
            ..segment
        },
        Case { name: "segment to a listener, all", ..segment },
        Case { name: "forwarding: refused", forwards: true, asks: local, target: 35.0, ..refused },
        Case {
            name: "forwarding: forwarded",
            forwards: true,
            to: BEHIND,
            verdict: of_service(Action::Pass, Reason::Forwarded),
            asks: Some(Lookup::Route(SENT_ON)),
            target: 35.0,
            ..refused
        },
        Case {
            name: "forwarding: allowed, limited",
            forwards: true,
            service: Service::Limited,
            asks: local,
            target: 35.0,
            ..allowed
        },
    ]
}

/// A program, and what it cost: nanoseconds per packet, one value per round.
struct Side {
    guard: Guard,
    verdict: Verdict,
    ns: Vec<f64>,
}

impl Side {
    fn measure(&mut self, frame: &[u8], repeat: u32) -> Result<()> {
        let before = self.guard.counted(self.verdict)?;
        let (ns, answer) = self.guard.program().time(frame, repeat)?;
        let expected = if self.verdict.action == Action::Drop { XDP_DROP } else { XDP_PASS };
        ensure!(answer == expected, "the guard returned {answer}, expected {expected}");
        let moved = self.guard.counted(self.verdict)? - before;
        ensure!(
            moved == u64::from(repeat),
            "{moved} packets counted as {:?}, expected {repeat}",
            self.verdict
        );
        self.guard.drain()?;
        self.ns.push(ns);
        Ok(())
    }
}

/// The lookup of a case alone, and an empty program.
struct Kernel<'a> {
    empty: &'a Program,
    /// The program of the lookup, and its expected return value.
    lookup: Option<(&'a Program, u32)>,
    /// Nanoseconds per packet, one value per round.
    empty_ns: Vec<f64>,
    lookup_ns: Vec<f64>,
}

impl<'a> Kernel<'a> {
    /// `family` is 0 for IPv4 and 1 for IPv6.
    fn new(
        case: &Case,
        family: usize,
        empty: &'a Program,
        lookups: &'a mut Lookups,
    ) -> Result<Self> {
        if let Some(lookup) = case.asks {
            let end = |address: &str, port| -> Result<SocketAddr> {
                Ok(SocketAddr::new(address.parse()?, port))
            };
            let from = end(case.from[family], FROM_PORT)?;
            setup::request(lookups, lookup, from, end(case.to[family], case.port)?)?;
        }
        let lookup = case.asks.map(|lookup| match lookup {
            Lookup::Socket(state) => (&lookups.sockets[family], state),
            Lookup::Route(result) => (&lookups.route, result),
        });
        Ok(Self { empty, lookup, empty_ns: Vec::new(), lookup_ns: Vec::new() })
    }

    fn programs(&self) -> impl Iterator<Item = &'a Program> {
        self.lookup.map(|(program, _)| program).into_iter().chain([self.empty])
    }

    fn measure(&mut self, frame: &[u8], repeat: u32) -> Result<()> {
        let Some((program, expected)) = self.lookup else { return Ok(()) };
        self.empty_ns.push(self.empty.time(frame, repeat)?.0);
        let (ns, result) = program.time(frame, repeat)?;
        ensure!(result == expected, "the lookup returned {result}, expected {expected}");
        self.lookup_ns.push(ns);
        Ok(())
    }

    /// Returns the cost of the lookup in nanoseconds; none if there is no lookup.
    fn cost(&self) -> Option<f64> {
        self.lookup.map(|_| difference(&self.lookup_ns, &self.empty_ns))
    }
}

fn bench(args: &Arguments) -> Result<()> {
    let object = object::read(&args.reference_programs())?;
    let ReferencePrograms { pass_all: empty, .. } = ReferencePrograms::load(&object)?;
    let mut lookups = Lookups::load(&object)?;
    let devices = Devices::new(6)?;
    setup::network()?;
    let _listener = setup::listen()?;
    let cpu = run::stay_on_one_cpu()?;
    let repeat = args.pick(1 << 15, 1 << 17);
    let rounds = args.pick(5, 15);
    let mut report = Report::new("lookups");
    report.note(format!("{rounds} rounds of {repeat} packets each, on CPU {cpu}"));
    for note in LEGEND {
        report.note(note);
    }
    for note in report.notes() {
        println!("{note}");
    }
    let mut rows = Vec::new();
    for case in cases().iter().filter(|case| args.wants(case.name)) {
        setup::set_forwarding(case.forwards)?;
        for (at, family) in ["ipv4", "ipv6"].into_iter().enumerate() {
            // Padded to the minimum length of an Ethernet frame.
            let pad = if family == "ipv4" { 6 } else { 0 };
            let frame = text::frame(&format!(
                "{family} from={} to={} / tcp from={FROM_PORT} to={} flags={} / pad {pad}",
                case.from[at], case.to[at], case.port, case.flags
            ))?;
            let side = |lookups: bool| -> Result<Side> {
                let guard = setup::load(case.service, lookups, case.forwards, mac(&frame))?;
                let verdict = if lookups { case.verdict } else { case.without };
                Ok(Side { guard, verdict, ns: Vec::new() })
            };
            let mut sides = [side(false)?, side(true)?];
            let mut kernel = Kernel::new(case, at, &empty, &mut lookups)?;
            let guards = sides.iter().map(|side| side.guard.program());
            let _held = devices.hold(guards.chain(kernel.programs()))?;
            for round in 0..rounds {
                kernel.measure(&frame, repeat).with_context(|| case.name)?;
                // The programs take turns at being measured first.
                for at in [round % 2, (round + 1) % 2] {
                    sides[at]
                        .measure(&frame, repeat)
                        .with_context(|| format!("{}, {family}", case.name))?;
                }
            }
            let [without, with] = &sides;
            let over = difference(&with.ns, &without.ns);
            let [without_ns, with_ns] = [without, with].map(|side| median(side.ns.clone()));
            let lookup = kernel.cost();
            let met = if over <= case.target { "met" } else { "MISSED" };
            let shown =
                |ns: Option<f64>| ns.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.1}"));
            rows.push(vec![
                case.name.to_owned(),
                family.to_owned(),
                format!("{without_ns:.1}"),
                format!("{with_ns:.1}"),
                format!("{over:.1}"),
                shown(lookup),
                shown(lookup.map(|lookup| over - lookup)),
                format!("{:.0}", case.target),
                met.to_owned(),
            ]);
            report.row(json!({
                "case": case.name,
                "family": family,
                "ns": { "without": without_ns, "with": with_ns },
                "lookups_ns": over,
                "kernel_ns": lookup,
                "over_without": ratio(&with.ns, &without.ns),
                "target_ns": case.target,
            }));
        }
    }
    let header = ["case", "family", "without", "with", "lookups", "kernel", "own", "target", ""];
    println!("\n{}", report::table(2, &header, rows));
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(())
}

/// Returns the destination MAC address of a frame as [`guard_common::layout::node::DeviceKey`] has it.
fn mac(frame: &[u8]) -> u64 {
    frame.iter().take(6).fold(0, |mac, octet| mac << 8 | u64::from(*octet))
}
