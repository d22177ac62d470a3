//! The guard as the daemon would run it: a compiled policy, loaded with event sampling on.

use anyhow::{Context as _, Result, ensure};
use guard_common::Verdict;
use guard_tests::{backend::KEY, bench::run::Program, world};
use guard_user::kernel::{
    generation::{Generation, Maps, Options},
    shared::Shared,
};

use crate::listing::{Listing, NODE};

/// Index of the loopback interface: where a test run says that it comes from
/// (`bpf_prog_test_run_xdp`, `net/bpf/test_run.c`).
const LOOPBACK: u32 = 1;

/// Limits of the guarded service.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limits {
    /// None.
    None,
    /// One on the packets of each source, which no test run reaches: charged, and never refused.
    PerSource,
}

impl Limits {
    fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::PerSource => {
                "    limits:\n      perSource:\n        packets: { rate: 1G/s, burst: 1G }\n"
            }
        }
    }
}

/// A loaded policy.
pub(crate) struct Guard {
    generation: Generation,
    shared: Shared,
    program: Program,
}

impl Guard {
    /// Loads one that lets this list in.
    pub(crate) fn load(listing: &Listing, limits: Limits) -> Result<Self> {
        let policy = world::compile(&world::load(&listing.bundle(limits.text())), NODE);
        let options = Options { maps: Maps::Private, key: KEY, sampling: true };
        let mut generation = Generation::load(&policy, &options)?;
        let mut shared = generation.shared()?;
        shared.set_interface(LOOPBACK, "lo", true)?;
        for service in &policy.services {
            shared.set_service(service.slot, &service.label)?;
        }
        let program = Program::by_id(generation.program_id())?;
        Ok(Self { generation, shared, program })
    }

    /// The program.
    pub(crate) fn program(&self) -> &Program {
        debug_assert!(self.generation.program().is_ok(), "it is loaded as long as this lives");
        &self.program
    }

    /// Frames that got a verdict so far.
    pub(crate) fn counted(&self, verdict: Verdict) -> Result<u64> {
        let counters = self.shared.counters().context("the counters")?;
        let same = counters.into_iter().filter(|(_, counted, _)| *counted == verdict);
        Ok(same.map(|(_, _, counter)| counter.packets).sum())
    }

    /// Empties the ring of events, as the daemon does on a timer. None may have been lost: writing
    /// to a full ring costs less.
    pub(crate) fn drain(&mut self) -> Result<()> {
        self.shared.listen()?;
        self.shared.events(usize::MAX);
        let lost = self.shared.event_counts()?.lost;
        ensure!(lost == 0, "{lost} events were lost");
        Ok(())
    }
}
