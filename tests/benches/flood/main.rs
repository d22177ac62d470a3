//! CPU time, memory and log output of the daemon during a flood: a real daemon on a veth, against frames
//! from a million forged sources that one CPU sends as fast as it can.

use std::{
    fs,
    io::Write as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use guard_tests::{
    bench::Arguments,
    node::{NODE, Node, PORT, enforcing},
    wire::{
        cpu::{self, Cpus},
        flood::{self, Flood},
        policy::Addresses,
        rounds,
        rows::{self, Row, Spread, Target},
    },
};
use nix::unistd::Pid;
use serde_json::Value;

const SECTION: &str = "flood";

const LEGEND: &str = "\
dropped: millions of frames a second that the guard has dropped, by its counters. daemon: CPU time of
the daemon in per cent of one core. events: sampled drops that it read, each second. said: bytes that it
wrote to its log, each second. memory: its maximum resident memory.
  idle             no frames arrive
  flood            SYNs from a million sources in turn, unlisted, as fast as one CPU sends them
  flood, watched   the same, with `stats` each second and `events -f` running
";

/// The cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Idle,
    Flood,
    Watched,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Idle, Self::Flood, Self::Watched];

    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Flood => "flood",
            Self::Watched => "flood, watched",
        }
    }
}

/// The figures of a case: name, unit, how to read it from a sample, and its target under a flood.
type Figure = (&'static str, &'static str, fn(&Sample) -> f64, Option<Target>);
const FIGURES: [Figure; 5] = [
    ("dropped", "Mpps", |sample| sample.dropped, Some(Target::AtLeast(2.0))),
    ("daemon", "%", |sample| sample.daemon, Some(Target::AtMost(5.0))),
    ("events", "1/s", |sample| sample.events, None),
    ("said", "B/s", |sample| sample.said, None),
    ("memory", "MB", |sample| sample.memory, None),
];

/// The result of one run of a case.
#[derive(Debug, Clone, Copy)]
struct Sample {
    dropped: f64,
    daemon: f64,
    events: f64,
    said: f64,
    memory: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cpus = Cpus::of_this_machine()?;
    let mut node = Node::new("bench/flood")
        .context("this machine cannot run a node: the skip above says why")?;
    let index = node.at_peer(|| nix::net::if_::if_nametoindex("eth0"))?;
    let mut flood = Flood::load(&arguments.sender(), index, cpus.sender)?;
    let std::net::IpAddr::V4(to) = NODE[0] else { anyhow::bail!("the flood is IPv4") };
    let forged = Addresses::listed_and_not(0, flood::SOURCES).1.v4;
    flood.forge(to, PORT, &forged, &[])?;
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let duration = Duration::from_secs(arguments.pick(3, 10));
    let kinds = Kind::ALL;
    let samples = rounds::interleaved(kinds.len(), arguments.pick(2, 5), |case| {
        measure(&node, &flood, kinds[case], duration)
    })?;
    let rows: Vec<Row> = kinds
        .iter()
        .zip(&samples)
        .flat_map(|(kind, samples)| {
            FIGURES.map(|(figure, unit, read, target)| {
                let spread = Spread::of(samples.iter().map(read));
                let target = target.filter(|_| *kind == Kind::Flood);
                Row::new(SECTION, kind.name(), figure, unit, spread).target(target)
            })
        })
        .collect();
    print(&rows)?;
    if let Some(path) = &arguments.json {
        rows::write(SECTION, &rows, path)?;
    }
    Ok(())
}

fn measure(node: &Node, flood: &Flood, kind: Kind, duration: Duration) -> Result<Sample> {
    let daemon = Pid::from_raw(i32::try_from(node.daemon_id())?);
    let viewers = if kind == Kind::Watched { Viewers::start(node)? } else { Viewers::default() };
    let reading = || -> Result<_> {
        let said = fs::metadata(node.path("log"))?.len();
        Ok((node.stats(), cpu::time_of(daemon)?, said, Instant::now()))
    };
    let before = reading()?;
    if kind == Kind::Idle {
        thread::sleep(duration);
    } else {
        node.at_peer(|| flood.send(duration))?;
    }
    let after = reading()?;
    drop(viewers);
    let seconds = after.3.duration_since(before.3).as_secs_f64();
    let moved = |read: fn(&Value) -> &Value| -> Result<f64> {
        let count = |stats| read(stats).as_f64().context("a statistic is not a number");
        Ok(count(&after.0)? - count(&before.0)?)
    };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let said = (after.2 - before.2) as f64;
    Ok(Sample {
        dropped: moved(|stats| &stats["reasons"]["not_allowed"]["dropped"])? / seconds / 1e6,
        daemon: after.1.saturating_sub(before.1).as_secs_f64() / seconds * 100.0,
        events: moved(|stats| &stats["events"]["emitted"])? / seconds,
        said: said / seconds,
        memory: peak(daemon)?,
    })
}

/// Returns the peak resident memory of a process (`VmHWM`) in MiB.
fn peak(process: Pid) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Running clients (`stats` and `events`); killed on drop.
#[derive(Debug, Default)]
struct Viewers(Vec<Child>);

impl Viewers {
    fn start(node: &Node) -> Result<Self> {
        let mut viewers = Self::default();
        for arguments in [&["stats", "--format", "ndjson", "1"][..], &["events", "--follow"]] {
            let mut command: Command = node.trainguard(arguments);
            viewers.0.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        }
        Ok(viewers)
    }
}

impl Drop for Viewers {
    fn drop(&mut self) {
        for viewer in &mut self.0 {
            let _ = viewer.kill();
            let _ = viewer.wait();
        }
    }
}

fn print(rows: &[Row]) -> Result<()> {
    let header = ["case", "figure", "unit", "least / median / greatest", "target"];
    let lines = rows.iter().map(|row| {
        let [figures, target] = row.cells();
        vec![row.case.clone(), row.figure.to_owned(), row.unit.to_owned(), figures, target]
    });
    let table = rows::table(&header, lines.collect());
    let mut out = std::io::stdout().lock();
    writeln!(out, "{LEGEND}\n{table}")?;
    Ok(())
}
