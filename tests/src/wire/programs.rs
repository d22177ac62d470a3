//! The guard, and the programs that it is compared with.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{Ebpf, EbpfLoader, programs::Xdp};
use guard_common::{Action, Reason};
use guard_user::{
    kernel::{
        generation::{Generation, Maps, Options},
        netlink,
        shared::Shared,
    },
    policy::compiled::CompiledPolicy,
};

use super::lab::End;
use crate::backend::KEY;

/// Events that are taken out of the ring at a time.
const EVENTS: usize = 1 << 14;

/// A generation as the daemon loads it, on maps of its own.
#[expect(missing_debug_implementations, reason = "the shared maps have none")]
pub struct Guard {
    generation: Generation,
    shared: Shared,
}

/// Frames by what was decided of them, and why.
pub type Counts = BTreeMap<(Action, Reason), u64>;

impl Guard {
    /// Loads a policy for a device.
    pub fn load(policy: &CompiledPolicy, end: &End) -> Result<Self> {
        let options = Options { maps: Maps::Private, key: KEY, sampling: true };
        let mut generation = Generation::load(policy, &options)?;
        let mut shared = generation.shared()?;
        shared.set_interface(end.index()?, &end.device, netlink::has_one_buffer(end.mtu))?;
        for service in &policy.services {
            shared.set_service(service.slot, &service.label)?;
        }
        Ok(Self { generation, shared })
    }

    /// Its program.
    pub fn program(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.generation.program()?)
    }

    /// What it has counted. Reads the events, too, as the daemon would.
    pub fn counts(&mut self) -> Result<Counts> {
        self.shared.listen()?;
        self.shared.events(EVENTS);
        let mut counts = Counts::new();
        for (_, verdict, counter) in self.shared.counters()? {
            *counts.entry((verdict.action, verdict.reason)).or_default() += counter.packets;
        }
        Ok(counts)
    }
}

/// What has moved between two counts.
pub fn moved(before: &Counts, after: &Counts) -> Counts {
    let difference = |key| after.get(key).unwrap_or(&0) - before.get(key).unwrap_or(&0);
    after.keys().map(|key| (*key, difference(key))).filter(|(_, moved)| *moved > 0).collect()
}

/// An object with simple programs: the yardsticks, or the sender.
#[derive(Debug)]
pub struct Simple(pub Ebpf);

impl Simple {
    /// Loads these programs. A sender sends out of the interface of this index.
    pub fn load(object: &Path, index: u32, programs: &[&str]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global("FLOOD_TO", &index, false);
        let ebpf = loader.load_file(object);
        let mut simple = Self(ebpf.with_context(|| object.display().to_string())?);
        for name in programs {
            simple.xdp(name)?.load().with_context(|| format!("loading `{name}`"))?;
        }
        Ok(simple)
    }

    /// One of the programs.
    pub fn program(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program = self.0.program(name).with_context(|| format!("no program `{name}`"))?;
        Ok(program.fd()?.as_fd())
    }

    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.0.program_mut(name).with_context(|| format!("no program `{name}`"))?;
        Ok(program.try_into()?)
    }
}
