//! What the guard answers when it is asked.

use std::{collections::BTreeSet, net::IpAddr, time::SystemTime};

use guard_common::{parse, verdict::Verdict};

use super::{
    guard::{Guard, hexadecimal},
    interfaces, metrics,
    server::{Ask, Detach, Detached},
    view::{self, InterfaceStatus, Stats, Status, TopSource},
};
use crate::{event::missing::Missing, kernel::error::KernelError, policy::compiled::name_of};

/// Sources in the statistics.
const TOP: usize = 20;

impl Guard {
    /// Answers a request. Who has stopped listening needs no answer.
    pub(super) fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::Stats(reply) => {
                self.drain_events();
                drop(reply.send(self.stats()));
            }
            Ask::Metrics(reply) => {
                let shared = self.running.as_ref().map(|running| &running.shared);
                drop(reply.send(metrics::text(&self.status(), shared, self.loads)));
            }
            Ask::Events { after, limit, reply } => {
                drop(reply.send(self.journal.page(after, limit)));
            }
            Ask::MissingMembers(reply) => drop(reply.send(self.missing_members())),
            // Who has stopped waiting was told that nobody answers.
            Ask::Detach(_, reply) if reply.is_closed() => {}
            Ask::Detach(detach, reply) => drop(reply.send(self.detach(&detach))),
        }
    }

    fn status(&self) -> Status {
        let mut status = Status {
            schema: view::STATUS_SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up_to_date: self.outdated.is_empty(),
            manifest: self.wanted.manifest.display().to_string(),
            tunnels: interfaces::describe_tunnels(&self.devices),
            problems: [&self.outdated[..], &self.lasting].concat(),
            ..Status::default()
        };
        if let Some(running) = &self.running {
            status.generation = running.number;
            status.policy_hash = hexadecimal(&running.hash);
            status.in_force_since = Some(view::time(running.since));
            status.cluster.clone_from(&running.facts.cluster);
            status.node.clone_from(&running.facts.node);
            status.tables = running.facts.tables.clone();
            status.services = running.facts.services.values().cloned().collect();
            status.interfaces = self.links.status(&self.selection, running.generation.program_id());
        }
        let drops = status.services.iter().any(|service| service.mode == "enforce");
        let guarded = |interface: &&InterfaceStatus| interface.state == "guarded";
        let open = |interface: &InterfaceStatus| {
            interface.state == "failed" || interface.state == "detached"
        };
        status.enforcing = drops
            && status.interfaces.iter().any(|interface| guarded(&interface))
            && !status.interfaces.iter().any(open);
        status.problems.extend(self.problems.iter().cloned());
        let interfaces = status.interfaces.iter();
        status.problems.extend(interfaces.filter_map(|interface| {
            Some(format!("{}: {}", interface.name, interface.problem.as_deref()?))
        }));
        let wanted: BTreeSet<&str> =
            status.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let bare = self.devices.iter().filter(|device| {
            device.up && device.name != "lo" && !wanted.contains(device.name.as_str())
        });
        status.unguarded = bare.map(|device| device.name.clone()).collect();
        status
    }

    fn stats(&mut self) -> Result<Stats, KernelError> {
        let running =
            self.running.as_ref().ok_or_else(|| KernelError::new("no policy is in force"))?;
        let mut stats = Stats::read(&running.shared)?;
        let now = self.status();
        stats.node = now.node;
        stats.enforcing = Some(now.enforcing);
        stats.in_force_since = now.in_force_since;
        for row in &mut stats.interfaces {
            let interface = now.interfaces.iter().find(|interface| interface.name == row.name);
            row.mode = interface.and_then(|interface| interface.mode.clone());
        }
        for row in &mut stats.services {
            let service = now.services.iter().find(|service| service.name == row.name);
            row.mode = service.map(|service| service.mode.clone());
        }
        let facts = &running.facts;
        let service_of =
            |verdict: &Verdict| Some(facts.services.get(&verdict.service?)?.name.clone());
        stats.top_sources = self
            .top
            .most(TOP, SystemTime::now())
            .into_iter()
            .map(|(addr, entry)| TopSource {
                address: IpAddr::from(addr).to_string(),
                node: name_of(&facts.names, &addr).map(str::to_owned),
                sampled: entry.sampled,
                packets: entry.packets,
                first_seen: view::time(entry.first),
                last_seen: view::time(entry.last),
                reason: entry.verdict.reason.name().to_owned(),
                service: service_of(&entry.verdict),
                port: port(entry.protocol, entry.port),
            })
            .collect();
        Ok(stats)
    }

    fn missing_members(&self) -> Missing {
        let facts = self.running.as_ref().map(|running| &running.facts);
        let names = facts.map(|facts| facts.names.as_slice()).unwrap_or_default();
        Missing {
            instance: self.journal.instance.clone(),
            node: facts.map(|facts| facts.node.clone()).unwrap_or_default(),
            manifest: self.wanted.manifest.display().to_string(),
            ..self.journal.strangers.missing(names)
        }
    }

    fn detach(&mut self, detach: &Detach) -> Result<Detached, KernelError> {
        let detached = self.links.detach(&detach.interfaces);
        self.note_interfaces();
        let detached = detached?;
        tracing::warn!(interfaces = detached.detached.join(" "), "detached, as asked for");
        Ok(detached)
    }
}

/// A destination as policies write it: `tcp/9091`. None for a protocol without ports.
pub(super) fn port(protocol: u8, port: u16) -> Option<String> {
    let transport = parse::transport(protocol)?;
    Some(format!("{}/{port}", transport.name()))
}
