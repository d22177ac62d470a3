//! The guard as the daemon runs it: a compiled policy, loaded with event sampling on.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use guard_common::{Action, Reason, Verdict};
use guard_user::{
    attach_mode::Hook,
    bpf::{
        loader::{Generation, Maps, Options},
        pinned_maps::{PinnedMaps, node::NodeMaps},
    },
    netlink::devices,
    policy::compiled::CompiledPolicy,
};

use super::run::Program;
use crate::backend::KEY;

/// Frames by action and reason.
pub type Counts = BTreeMap<(Action, Reason), u64>;

/// A loaded policy with maps of its own.
#[expect(missing_debug_implementations, reason = "the shared maps have none")]
pub struct Guard {
    generation: Generation,
    shared: PinnedMaps,
    program: Program,
}

impl Guard {
    /// Loads a policy at the XDP hook, for a device with this index, name and MTU.
    pub fn load(policy: &CompiledPolicy, index: u32, device: &str, mtu: u32) -> Result<Self> {
        Self::load_for(Hook::Xdp, policy, index, device, mtu)
    }

    /// Loads a policy at a hook.
    pub fn load_for(
        hook: Hook,
        policy: &CompiledPolicy,
        index: u32,
        device: &str,
        mtu: u32,
    ) -> Result<Self> {
        let Options { lookups, .. } = Options::new(Maps::Private, KEY, true);
        Self::load_with(hook, policy, lookups, index, device, mtu)
    }

    /// Loads a policy at a hook, with these lookups in the network stack ([`Options::lookups`]).
    pub fn load_with(
        hook: Hook,
        policy: &CompiledPolicy,
        lookups: u64,
        index: u32,
        device: &str,
        mtu: u32,
    ) -> Result<Self> {
        let options = Options { lookups, ..Options::new(Maps::Private, KEY, true) };
        let mut generation = Generation::load_for(hook, policy, &options)?;
        let mut shared = generation.shared()?;
        // As the daemon sets it. In the network stack a frame may lie in any number of buffers.
        let one_buffer = hook == Hook::Xdp && devices::has_one_buffer(mtu);
        shared.set_interface(index, device, one_buffer)?;
        for service in &policy.services {
            shared.set_service(service.slot, &service.label)?;
        }
        let id = generation.program_ids().get(&hook).context("no program at the hook")?;
        let program = Program::by_id(*id)?;
        Ok(Self { generation, shared, program })
    }

    /// Takes the maps with the node's state.
    pub fn node_maps(&mut self) -> Result<NodeMaps> {
        Ok(self.generation.node_maps()?)
    }

    /// Returns the program, for test runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Returns the counts so far, summed over all services.
    pub fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::new();
        for (_, verdict, counter) in self.shared.counters().context("reading the counters")? {
            *counts.entry((verdict.action, verdict.reason)).or_default() += counter.packets;
        }
        Ok(counts)
    }

    /// Returns how many frames got exactly this verdict, including its service, so far.
    pub fn counted(&self, verdict: Verdict) -> Result<u64> {
        let counters = self.shared.counters().context("reading the counters")?;
        let same = counters.into_iter().filter(|(_, counted, _)| *counted == verdict);
        Ok(same.map(|(_, _, counter)| counter.packets).sum())
    }

    /// Enables events and empties their ring, as the daemon does on a timer.
    ///
    /// Fails if events were lost, because writing to a full ring is cheaper and would distort the
    /// figures.
    pub fn drain(&mut self) -> Result<()> {
        self.shared.listen()?;
        self.shared.events(usize::MAX);
        let lost = self.shared.event_counts()?.lost;
        ensure!(lost == 0, "{lost} events were lost");
        Ok(())
    }
}

/// Returns the differences between two counts, without zeros.
pub fn moved(before: &Counts, after: &Counts) -> Counts {
    let difference = |key| after.get(key).unwrap_or(&0) - before.get(key).unwrap_or(&0);
    after.keys().map(|key| (*key, difference(key))).filter(|(_, moved)| *moved > 0).collect()
}
