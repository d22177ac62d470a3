//! The cable, and the program that each case attaches.

use std::{net::Ipv4Addr, os::fd::AsFd as _, path::Path, time::Duration};

use anyhow::{Result, ensure};
use guard_common::Action;
use guard_tests::{
    bench::guard::{self, Guard},
    wire::{
        cpu::Cpus,
        lab::Lab,
        offload,
        policy::{self, Addresses, Service},
        programs::Simple,
    },
};

use crate::transfer::{self, Sample};

/// The peer's address, which the policy lists.
const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);

/// The cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No program.
    NoXdp,
    /// No program; the sender splits segments in software (no TSO).
    NoTso,
    /// No program and no TSO; the receiver merges segments (GRO).
    NoTsoGro,
    /// An empty program.
    PassAll,
    /// The guard with `match: all`.
    All,
    /// The guard with `match: all`, charging every packet to a bucket that never runs empty.
    AllLimited,
    /// The guard with `match: new-connections`.
    NewConnections,
}

impl Kind {
    /// All cases, in the order of the table.
    pub(crate) const ALL: [Self; 7] = [
        Self::NoXdp,
        Self::NoTso,
        Self::NoTsoGro,
        Self::PassAll,
        Self::All,
        Self::AllLimited,
        Self::NewConnections,
    ];

    /// Returns the name of the case in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoXdp => "no XDP",
            Self::NoTso => "no XDP, no TSO",
            Self::NoTsoGro => "no XDP, no TSO, GRO",
            Self::PassAll => "pass_all",
            Self::All => "guard, match: all",
            Self::AllLimited => "guard, match: all, limit",
            Self::NewConnections => "guard, match: new-connections",
        }
    }

    /// Reports whether other cases are compared with this one.
    pub(crate) fn is_base(self) -> bool {
        matches!(self, Self::NoXdp | Self::PassAll)
    }

    /// Returns the service of the policy if the case is about the guard.
    fn service(self) -> Option<Service> {
        let limited =
            "    limits: { perSource: { packets: { rate: 100000000/s, burst: 1000000 } } }\n";
        let (matching, more) = match self {
            Self::All => ("all", ""),
            Self::AllLimited => ("all", limited),
            Self::NewConnections => ("new-connections", ""),
            Self::NoXdp | Self::NoTso | Self::NoTsoGro | Self::PassAll => return None,
        };
        Some(Service { matching, more })
    }
}

/// A cable, and the programs to attach to it.
pub(crate) struct Bench {
    mtu: u32,
    lab: Lab,
    simple: Simple,
    guards: Vec<(Kind, Guard)>,
}

impl Bench {
    /// Creates a cable and loads all programs without attaching them.
    pub(crate) fn new(mtu: u32, object: &Path) -> Result<Self> {
        let lab = Lab::new(mtu)?;
        let (node, _) = policy::NODE;
        for (end, address) in [(&lab.receiver, node), (&lab.sender, PEER)] {
            end.ip(&["addr", "add", &format!("{address}/24"), "dev", &end.device])?;
        }
        lab.up()?;
        let listed = Addresses { v4: vec![PEER], v6: Vec::new() };
        let mut guards = Vec::new();
        for (kind, service) in
            Kind::ALL.into_iter().filter_map(|kind| Some((kind, kind.service()?)))
        {
            let policy = policy::compile(&lab.receiver.device, &listed, service);
            guards.push((kind, lab.receiver.guard(&policy)?));
        }
        let simple = Simple::load(object, 0, &["pass_all"])?;
        Ok(Self { mtu, lab, simple, guards })
    }

    /// Returns the name of a case on this cable, with the MTU.
    pub(crate) fn case(&self, kind: Kind) -> String {
        format!("MTU {}: {}", self.mtu, kind.name())
    }

    /// Attaches the program of a case, measures, and detaches it.
    ///
    /// Fails if the guard drops a packet, or counts fewer packets than the transfer needs.
    pub(crate) fn measure(
        &mut self,
        kind: Kind,
        cpus: Cpus,
        bulk: Duration,
        requests: Duration,
    ) -> Result<Sample> {
        let Lab { sender, receiver } = &self.lab;
        offload::set(sender, offload::TSO, !matches!(kind, Kind::NoTso | Kind::NoTsoGro))?;
        offload::set(receiver, offload::GRO, kind == Kind::NoTsoGro)?;
        let mut guard = self.guards.iter_mut().find(|(of, _)| *of == kind).map(|(_, guard)| guard);
        let link = match (&guard, kind) {
            (Some(guard), _) => Some(receiver.attach(guard.program().fd().as_fd())?),
            (None, Kind::PassAll) => Some(receiver.attach(self.simple.program("pass_all")?)?),
            (None, _) => None,
        };
        let before = guard.as_mut().map(|guard| guard.counts()).transpose()?;
        let (sample, bytes) = transfer::run(&self.lab, cpus, bulk, requests)?;
        if let (Some(guard), Some(before)) = (guard, before) {
            guard.drain()?;
            let moved = guard::moved(&before, &guard.counts()?);
            let passed = moved.iter().filter(|((action, _), _)| *action == Action::Pass);
            let passed: u64 = passed.map(|(_, frames)| frames).sum();
            ensure!(moved.keys().all(|(action, _)| *action == Action::Pass), "drops: {moved:?}");
            ensure!(passed >= bytes / u64::from(self.mtu), "{bytes} bytes in {moved:?}");
        }
        if let Some(link) = link {
            link.detach()?;
        }
        Ok(sample)
    }
}
