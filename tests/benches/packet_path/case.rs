//! The cases for one list and one address family, measured alternately.

use anyhow::{Error, Result, ensure};
use guard_common::{Action, Reason, Verdict};
use guard_tests::{
    bench::{
        guard::Guard,
        hold::Devices,
        object::{ReferencePrograms, Sources, Variator},
        run::{Program, XDP_DROP, XDP_PASS},
        xdp_filter::XdpFilter,
    },
    text,
};

use crate::listing::{self, FREE_PORT, Family, Listing, PORT};

/// Number of packets whose verdicts are checked one by one before a varied case is timed.
const CHECKED: u32 = 256;

/// Source and port of the packets in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Any source, to a port that is not guarded.
    Unguarded,
    /// An unlisted source, to the guarded port.
    Unlisted,
    /// A listed source, to the guarded port.
    Listed,
    /// A listed source, to the guarded port, with a limit on the packets of each source.
    Limited,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    /// Source and port of the packets.
    pub(crate) what: What,
    /// Whether every packet has a new source.
    pub(crate) varied: bool,
}

impl Case {
    const ALL: [Self; 7] = [
        Self::new(What::Unguarded, false),
        Self::new(What::Unlisted, false),
        Self::new(What::Listed, false),
        Self::new(What::Limited, false),
        Self::new(What::Unlisted, true),
        Self::new(What::Listed, true),
        Self::new(What::Limited, true),
    ];

    const fn new(what: What, varied: bool) -> Self {
        Self { what, varied }
    }

    /// Returns the verdict that the guard must give.
    fn verdict(self) -> Verdict {
        match self.what {
            What::Unguarded => Verdict::of_node(Action::Pass, Reason::Unguarded),
            What::Unlisted => Verdict::of_service(Action::Drop, Reason::NotAllowed, 0),
            What::Listed | What::Limited => Verdict::of_service(Action::Pass, Reason::Allowed, 0),
        }
    }

    fn is_listed(self) -> bool {
        matches!(self.what, What::Listed | What::Limited)
    }

    /// Returns the XDP action that every filter must return.
    fn action(self) -> u32 {
        if self.what == What::Unlisted { XDP_DROP } else { XDP_PASS }
    }

    fn frame(self, family: Family, sources: &Varied) -> Result<Vec<u8>> {
        let from = if self.is_listed() { &sources.listed.1 } else { &sources.unlisted.1 };
        let port = if self.what == What::Unguarded { FREE_PORT } else { PORT };
        let ip = if family == Family::V4 { "ipv4" } else { "ipv6" };
        // Padded to the minimum length of an Ethernet frame.
        let pad = if family == Family::V4 { 6 } else { 0 };
        text::frame(&format!("{ip} from={from} / tcp to={port} flags=S / pad {pad}"))
    }
}

/// The programs that a table compares.
pub(crate) struct Programs<'a> {
    /// The reference programs.
    pub(crate) reference: &'a ReferencePrograms,
    /// The guard without limits.
    pub(crate) guard: &'a mut Guard,
    /// The guard with a limit on the packets of each source.
    pub(crate) limited: Option<&'a mut Guard>,
    /// xdp-filter, if it is installed and can implement the list.
    pub(crate) peer: Option<&'a mut XdpFilter>,
}

/// Tables of sources for varied cases, and one source of each for hot cases.
pub(crate) struct Varied {
    listed: (Variator, String),
    unlisted: (Variator, String),
}

impl Varied {
    /// Loads the variators for a list.
    pub(crate) fn load(object: &[u8], listing: &Listing, family: Family) -> Result<Self> {
        let load = |sources: Sources| {
            Ok::<_, Error>((Variator::load(object, &sources)?, listing::first(&sources)))
        };
        Ok(Self {
            listed: load(listing.listed(family))?,
            unlisted: load(listing.unlisted(family))?,
        })
    }
}

/// The benchmark for one list and one address family.
pub(crate) struct Bench<'a> {
    /// The address family.
    pub(crate) family: Family,
    /// The programs to compare.
    pub(crate) programs: Programs<'a>,
    /// The tables of sources.
    pub(crate) varied: Varied,
    /// Devices that keep the programs attached.
    pub(crate) devices: &'a Devices,
}

/// A program of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The empty program.
    Drop = 0,
    /// The parser alone.
    Parse = 1,
    /// The guard.
    Guard = 2,
    /// xdp-filter.
    Peer = 3,
}

impl Which {
    const ALL: [Self; 4] = [Self::Drop, Self::Parse, Self::Guard, Self::Peer];
}

/// Nanoseconds per packet for one case, one value per round.
#[derive(Debug)]
pub(crate) struct Measured {
    /// The case.
    pub(crate) case: Case,
    ns: [Vec<f64>; 4],
}

impl Measured {
    /// Returns the values of one program; empty if it cannot implement the case.
    pub(crate) fn of(&self, which: Which) -> &[f64] {
        &self.ns[which as usize]
    }
}

impl Bench<'_> {
    /// Measures every case in `rounds` rounds of `repeat` packets each.
    pub(crate) fn run(&mut self, rounds: usize, repeat: u32) -> Result<Vec<Measured>> {
        let mut all = Vec::new();
        for varied in [false, true] {
            let _held = self.devices.hold(self.entries(varied))?;
            let mut measured = Vec::new();
            for case in self.cases(varied) {
                let frame = case.frame(self.family, &self.varied)?;
                self.check(case, &frame)?;
                measured.push((frame, Measured { case, ns: Default::default() }));
            }
            for round in 0..rounds {
                for (frame, Measured { case, ns }) in &mut measured {
                    for which in order(round) {
                        ns[which as usize].extend(self.time(*case, which, frame, repeat)?);
                    }
                }
            }
            all.extend(measured.into_iter().map(|(_, measured)| measured));
        }
        Ok(all)
    }

    fn cases(&self, varied: bool) -> Vec<Case> {
        let limited = self.programs.limited.is_some();
        let possible = |case: &Case| case.what != What::Limited || limited;
        Case::ALL.into_iter().filter(|case| case.varied == varied).filter(possible).collect()
    }

    /// Returns the programs with which test runs start.
    fn entries(&self, varied: bool) -> Vec<&Program> {
        if varied {
            let Varied { listed, unlisted } = &self.varied;
            return [&listed.0, &unlisted.0].iter().flat_map(|one| one.programs()).collect();
        }
        let Programs { reference, guard, limited, peer } = &self.programs;
        [&reference.drop_all, &reference.parse_only, guard.program()]
            .into_iter()
            .chain(limited.as_ref().map(|limited| limited.program()))
            .chain(peer.as_ref().map(|peer| peer.program()))
            .collect()
    }

    /// Checks that every program returns the expected action for the case.
    fn check(&mut self, case: Case, frame: &[u8]) -> Result<()> {
        let checked = if case.varied { CHECKED } else { 1 };
        for which in Which::ALL {
            for _ in 0..checked {
                let Some((program, expected)) = self.entry(case, which)? else { break };
                let result = program.run(frame, 1)?;
                ensure!(
                    result == expected,
                    "{case:?}: {which:?} returned {result}, expected {expected}"
                );
            }
        }
        Ok(())
    }

    /// Times one program. Returns `None` if it cannot implement the case.
    fn time(&mut self, case: Case, which: Which, frame: &[u8], repeat: u32) -> Result<Option<f64>> {
        let before = self.counted(case, which)?;
        let Some((program, expected)) = self.entry(case, which)? else { return Ok(None) };
        let (ns, result) = program.time(frame, repeat)?;
        ensure!(result == expected, "{case:?}: {which:?} returned {result}, expected {expected}");
        let moved = self.counted(case, which)?.zip(before).map(|(after, before)| after - before);
        ensure!(
            moved.is_none_or(|moved| moved == u64::from(repeat)),
            "{case:?}: {which:?} counted {moved:?} packets, expected {repeat}"
        );
        if which == Which::Guard {
            self.guard(case).drain()?;
        }
        Ok(Some(ns))
    }

    /// Returns the program to run for a case and the action that it must return.
    fn entry(&mut self, case: Case, which: Which) -> Result<Option<(&Program, u32)>> {
        let Programs { reference, guard, limited, peer } = &self.programs;
        let guard = match (case.what, limited) {
            (What::Limited, Some(limited)) => limited,
            _ => guard,
        };
        let (program, expected) = match which {
            Which::Drop => (&reference.drop_all, XDP_DROP),
            Which::Parse => (&reference.parse_only, XDP_DROP),
            Which::Guard => (guard.program(), case.action()),
            Which::Peer => match peer {
                Some(peer) => (peer.program(), case.action()),
                None => return Ok(None),
            },
        };
        if !case.varied {
            return Ok(Some((program, expected)));
        }
        let Varied { listed, unlisted } = &mut self.varied;
        let varied = if case.is_listed() { listed } else { unlisted };
        Ok(Some((varied.0.before(program)?, expected)))
    }

    /// Returns how often a program has counted the verdict of the case; `None` if it has no counters.
    fn counted(&self, case: Case, which: Which) -> Result<Option<u64>> {
        Ok(match (which, &self.programs.peer) {
            (Which::Guard, _) => Some(self.guarding(case).counted(case.verdict())?),
            (Which::Peer, Some(peer)) => Some(peer.counted(case.action())?),
            _ => None,
        })
    }

    fn guarding(&self, case: Case) -> &Guard {
        match (case.what, &self.programs.limited) {
            (What::Limited, Some(limited)) => limited,
            _ => self.programs.guard,
        }
    }

    fn guard(&mut self, case: Case) -> &mut Guard {
        match (case.what, &mut self.programs.limited) {
            (What::Limited, Some(limited)) => limited,
            _ => self.programs.guard,
        }
    }
}

/// Returns the order of the programs, which differs from round to round, so that no program always
/// profits from the one that ran before it.
fn order(round: usize) -> [Which; 4] {
    let mut order = Which::ALL;
    let turn = round % order.len();
    order.rotate_left(turn);
    if round / order.len() % 2 == 1 {
        order.reverse();
    }
    order
}
