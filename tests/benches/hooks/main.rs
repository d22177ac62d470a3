//! Cost of the program at the tc hook compared with that at the XDP hook, by `BPF_PROG_TEST_RUN`: the
//! same policy and the same packets, measured alternately in one run. For each hook there is an empty
//! program as a baseline, because the kernel's test loops for the two hooks differ.
//!
//! A test run gets a finished packet: the figures include neither the work of the stack before a tc
//! program (the socket buffer, GRO) nor the work of a driver for XDP.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use guard_common::{Action, Reason, Verdict};
use guard_test_support::bundle;
use guard_tests::{
    bench::{
        Arguments,
        guard::Guard,
        hold::Devices,
        object::{self, ReferencePrograms},
        report::{self, Report},
        run::{self, Program, TC_DROP, TC_NEXT, XDP_DROP, XDP_PASS},
        stats::{difference, median, ratio},
    },
    text, world,
};
use guard_user::{attach_mode::Hook, policy::Bundle};
use serde_json::json;

/// Notes on what the figures include.
const LEGEND: [&str; 3] = [
    "test runs of one packet repeated, a TCP SYN of 60 (IPv4) or 74 bytes (IPv6); 1,000 hosts listed; CPU time of the thread; medians",
    "empty: a program of the same hook that does nothing; over empty: median difference to it; x xdp: ratio of the totals, and of the differences",
    "not included: the work of the stack before the tc hook, and of the driver before XDP",
];
/// Limits that no test run reaches.
const LIMITS: &str = "    limits:\n      perSource:\n        packets: { rate: 1G/s, burst: 1G }\n";

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns a manifest and a policy for a cluster of a thousand hosts in two networks.
fn bundle(limits: &str) -> Bundle {
    let mut manifest = bundle::cluster("bench").policies("policy.yaml").node(
        "node",
        "192.0.2.1, 2001:db8::1",
        "target",
    );
    for number in 0..1000 {
        let (subnet, host) = (number / 250, number % 250 + 1);
        let addresses = format!("10.4.{subnet}.{host}, fd77:0:2:{subnet}::{host:x}");
        manifest = manifest.node(&format!("host-{number}"), &addresses, "member");
    }
    let service = bundle::service("guarded", "target", "tcp/9091", "roles: [member]");
    let policy = bundle::policy("bench", [service + limits]);
    Bundle::new("cluster.yaml", [("cluster.yaml", manifest.to_string()), ("policy.yaml", policy)])
}

fn load(hook: Hook, limits: &str) -> Result<Guard> {
    let policy = world::compile(&world::load(&bundle(limits)), "node");
    // Interface 1, which a test run uses as the ingress interface.
    Guard::load_for(hook, &policy, 1, "lo", 1500)
}

/// A packet, and its expected verdict.
struct Case {
    name: &'static str,
    limits: &'static str,
    /// Source addresses, IPv4 and IPv6.
    from: [&'static str; 2],
    port: u16,
    verdict: Verdict,
}

fn cases() -> [Case; 4] {
    let allowed = Verdict::of_service(Action::Pass, Reason::Allowed, 0);
    let listed = ["10.4.2.7", "fd77:0:2:2::7"];
    let case = |name, from, port, verdict| Case { name, limits: "", from, port, verdict };
    [
        case("unguarded port", listed, 8080, Verdict::of_node(Action::Pass, Reason::Unguarded)),
        case(
            "unlisted",
            ["198.51.100.7", "2001:db8:7::7"],
            9091,
            Verdict::of_service(Action::Drop, Reason::NotAllowed, 0),
        ),
        case("listed", listed, 9091, allowed),
        Case { limits: LIMITS, ..case("listed, limited", listed, 9091, allowed) },
    ]
}

/// The guard at one hook, and an empty program for that hook.
struct Side<'a> {
    guard: Guard,
    empty: &'a Program,
    empty_verdict: u32,
    /// The guard's return values for dropped and for passed packets.
    answers: [u32; 2],
}

/// Nanoseconds per packet, one value per round.
#[derive(Default)]
struct Figures {
    empty: Vec<f64>,
    guard: Vec<f64>,
}

impl Side<'_> {
    fn measure(
        &mut self,
        case: &Case,
        frame: &[u8],
        repeat: u32,
        into: &mut Figures,
    ) -> Result<()> {
        let (ns, answer) = self.empty.time(frame, repeat)?;
        ensure!(answer == self.empty_verdict, "{}: the empty program returned {answer}", case.name);
        into.empty.push(ns);
        let before = self.guard.counted(case.verdict)?;
        let (ns, answer) = self.guard.program().time(frame, repeat)?;
        let expected = self.answers[usize::from(case.verdict.action != Action::Drop)];
        ensure!(
            answer == expected,
            "{}: the guard returned {answer}, expected {expected}",
            case.name
        );
        let moved = self.guard.counted(case.verdict)? - before;
        ensure!(
            moved == u64::from(repeat),
            "{}: {moved} packets counted, expected {repeat}",
            case.name
        );
        self.guard.drain()?;
        into.guard.push(ns);
        Ok(())
    }
}

fn bench(args: &Arguments) -> Result<()> {
    let reference_programs = ReferencePrograms::load(&object::read(&args.reference_programs())?)?;
    let devices = Devices::new(2)?;
    let cpu = run::stay_on_one_cpu()?;
    let repeat = args.pick(1 << 16, 1 << 18);
    let rounds = args.pick(5, 15);
    let mut report = Report::new("hooks");
    report.note(format!("{rounds} rounds of {repeat} packets each, on CPU {cpu}"));
    for note in LEGEND {
        report.note(note);
    }
    for note in report.notes() {
        println!("{note}");
    }
    let mut rows = Vec::new();
    for case in cases().iter().filter(|case| args.wants(case.name)) {
        let mut sides = [
            Side {
                guard: load(Hook::Xdp, case.limits)?,
                empty: &reference_programs.pass_all,
                empty_verdict: XDP_PASS,
                answers: [XDP_DROP, XDP_PASS],
            },
            Side {
                guard: load(Hook::Tc, case.limits)?,
                empty: &reference_programs.tc_next,
                empty_verdict: TC_NEXT,
                answers: [TC_DROP, TC_NEXT],
            },
        ];
        let _held = devices.hold([&reference_programs.pass_all, sides[0].guard.program()])?;
        for (family, from) in ["ipv4", "ipv6"].into_iter().zip(case.from) {
            // Padded to the minimum length of an Ethernet frame.
            let pad = if family == "ipv4" { 6 } else { 0 };
            let line = format!("{family} from={from} / tcp to={} flags=S / pad {pad}", case.port);
            let frame = text::frame(&line)?;
            let mut figures = [Figures::default(), Figures::default()];
            for round in 0..rounds {
                // The hooks take turns at being measured first.
                for at in [round % 2, (round + 1) % 2] {
                    sides[at]
                        .measure(case, &frame, repeat, &mut figures[at])
                        .with_context(|| format!("{}, {family}", case.name))?;
                }
            }
            let [xdp, tc] = &figures;
            let ns = |of: &[f64]| median(of.to_vec());
            let over = [xdp, tc].map(|side| difference(&side.guard, &side.empty));
            let whole = ratio(&tc.guard, &xdp.guard);
            rows.push(
                [case.name.to_owned(), family.to_owned()]
                    .into_iter()
                    .chain(
                        [
                            ns(&xdp.empty),
                            ns(&xdp.guard),
                            over[0],
                            ns(&tc.empty),
                            ns(&tc.guard),
                            over[1],
                        ]
                        .map(|ns| format!("{ns:.1}")),
                    )
                    .chain([whole, over[1] / over[0]].map(|ratio| format!("{ratio:.2}")))
                    .collect(),
            );
            report.row(json!({
                "case": case.name,
                "family": family,
                "ns": {
                    "xdp_empty": ns(&xdp.empty),
                    "xdp_guard": ns(&xdp.guard),
                    "tc_empty": ns(&tc.empty),
                    "tc_guard": ns(&tc.guard),
                },
                "over_empty_ns": { "xdp": over[0], "tc": over[1] },
                "tc_over_xdp": whole,
            }));
        }
    }
    let header = [
        "case",
        "family",
        "xdp empty",
        "xdp guard",
        "over",
        "tc empty",
        "tc guard",
        "over",
        "x xdp",
        "x over",
    ];
    println!("\n{}", report::table(2, &header, rows));
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(())
}
