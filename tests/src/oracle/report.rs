//! What a comparison found: counts by class, and the cases that must not be.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write as _},
    fs,
    path::PathBuf,
};

use guard_test_support::pcap::{Frame, Pcap};

use super::{classes::CLASSES, generate::Case, settings::Settings};
use crate::backend::hex;

/// Maximum number of faults that are reported.
const MOST_FAULTS: usize = 24;
/// Maximum number of reported faults with the same text.
const SAME_FAULTS: u64 = 4;

/// Maximum number of bytes of a frame that are shown. The capture file has all.
const SHOWN: usize = 160;

/// A case that reached a closed node, or that an open node lost.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What happened.
    pub what: String,
    /// The settings of the network stack.
    pub settings: Settings,
    /// The case.
    pub case: Case,
}

/// Counts and faults of a comparison.
#[derive(Debug)]
pub struct Report {
    /// Mode in which the guard was attached.
    pub mode: String,
    /// Seed of the cases.
    pub seed: u64,
    /// Number of cases.
    pub cases: u64,
    /// Cases that the bare node delivered.
    pub delivered: u64,
    /// Cases to which the bare node sent another answer.
    pub answered: u64,
    /// Connections that the bare node accepted for a SYN cookie.
    pub cookies: u64,
    /// Cases of the bare node that the open node lost, by class.
    pub lost: BTreeMap<&'static str, u64>,
    /// Frames that the closed node's guard passed because the node forwards them.
    pub forwarded: u64,
    /// Cases that the open node delivered when they were sent again.
    pub again: u64,
    /// Cases that the open node delivered and the bare node did not. The guard may drop a fragment by
    /// which the kernel would have given up the packet.
    pub more: u64,
    /// Faults by what happened.
    pub faults: BTreeMap<String, u64>,
    first: Vec<Fault>,
}

impl Report {
    /// Creates an empty report.
    pub fn new(mode: &str, seed: u64) -> Self {
        Self {
            mode: mode.to_owned(),
            seed,
            cases: 0,
            delivered: 0,
            answered: 0,
            cookies: 0,
            lost: BTreeMap::new(),
            forwarded: 0,
            again: 0,
            more: 0,
            faults: BTreeMap::new(),
            first: Vec::new(),
        }
    }

    /// Adds a fault.
    pub fn fault(&mut self, fault: Fault) {
        let same = self.faults.entry(fault.what.clone()).or_default();
        *same += 1;
        // A few of each kind.
        if *same <= SAME_FAULTS && self.first.len() < MOST_FAULTS {
            self.first.push(fault);
        }
    }

    /// Reports whether enough faults were found for the comparison to fail.
    pub fn is_known(&self) -> bool {
        self.first.len() as u64 >= SAME_FAULTS
    }

    /// Fails if there are faults. Keeps their frames in a capture file.
    pub fn assert_no_fault(&self) {
        if self.first.is_empty() {
            return;
        }
        let mut text = format!("{self}\n");
        for Fault { what, settings, case } in &self.first {
            let Settings { cookies, forwards } = settings;
            let Case { number, text: about, frames, .. } = case;
            let _ = writeln!(
                text,
                "{what}: case {number}, tcp_syncookies {cookies}, forwarding {forwards}: {about}"
            );
            for frame in frames {
                let shown = frame.len().min(SHOWN);
                let _ = writeln!(text, "    {} of {} bytes", hex(&frame[..shown]), frame.len());
            }
        }
        let frames = self.first.iter().flat_map(|fault| fault.case.frames.clone());
        let frames: Vec<Frame> = frames.zip(1..).map(|(frame, ns)| Frame::at(ns, frame)).collect();
        let kept = self.capture();
        let kept = match fs::write(&kept, Pcap::default().file(&frames)) {
            Ok(()) => kept.display().to_string(),
            Err(error) => format!("{}: {error}", kept.display()),
        };
        panic!("{text}frames: {kept}; repeat with TRAINGUARD_SEED={}", self.seed);
    }

    /// Returns the path of the capture file with the frames of faults.
    fn capture(&self) -> PathBuf {
        std::env::temp_dir().join(format!("trainguard-oracle-{}-{}.pcap", self.mode, self.seed))
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, seed, cases, delivered, answered, cookies, again, more, .. } = self;
        let Self { forwarded, faults, .. } = self;
        write!(
            f,
            "{mode}, seed {seed}: {cases} cases; bare: {delivered} delivered, {answered} answered \
             otherwise, {cookies} connections by SYN cookies; closed: {forwarded} frames forwarded; \
             open: {again} sent again, {more} more than bare; faults: {faults:?}; refused by class:"
        )?;
        for (name, count) in &self.lost {
            let class = CLASSES.iter().find(|class| class.name == *name);
            write!(f, "\n    {count} {name}: {}", class.map_or("", |class| class.why))?;
        }
        Ok(())
    }
}
