//! What the guard answers when it is asked.

use std::{net::IpAddr, time::SystemTime};

use guard_common::{parse, verdict::Verdict};

use super::{
    doors::Door,
    guard::Guard,
    metrics::{self, Moments},
    server::{Ask, Detach, Detached},
    view::{self, Stats, TopSource},
};
use crate::{event::missing::Missing, kernel::error::KernelError, policy::compiled::name_of};

/// Sources in the statistics.
const TOP: usize = 20;

impl Guard {
    /// Answers a request. Who has stopped listening needs no answer.
    pub(super) async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Status(reply) => drop(reply.send(self.status().await)),
            Ask::Stats(reply) => {
                self.drain_events();
                drop(reply.send(self.stats().await));
            }
            Ask::Metrics(reply) => {
                self.drain_events();
                self.keep_tallies();
                let status = self.status().await;
                let shared = self.running.as_ref().map(|running| &running.shared);
                drop(reply.send(metrics::text(&status, shared, &self.moments())));
            }
            Ask::Events { after, limit, reply } => {
                drop(reply.send(self.journal.page(after, limit)));
            }
            Ask::MissingMembers(reply) => drop(reply.send(self.missing_members())),
            // Who has stopped waiting was told that nobody answers.
            Ask::Detach(_, reply) if reply.is_closed() => {}
            Ask::Detach(detach, reply) => drop(reply.send(self.detach(&detach))),
            Ask::Apply(_, reply) if reply.is_closed() => {}
            Ask::Apply(apply, reply) => drop(reply.send(self.apply(&apply))),
            Ask::Confirm(reply) => drop(reply.send(self.confirm())),
            Ask::RollBack(reply) => drop(reply.send(self.roll_back())),
        }
    }

    fn moments(&self) -> Moments {
        Moments {
            started: self.started,
            in_force: self.running.as_ref().map(|running| running.since),
            last_load: self.last_load.as_ref().map(|last| (last.began, last.success)),
            connections: Door::ALL.map(|door| self.doors.open(door)),
        }
    }

    pub(super) async fn stats(&mut self) -> Result<Stats, KernelError> {
        let running =
            self.running.as_ref().ok_or_else(|| KernelError::new("no policy is in force"))?;
        let mut stats = Stats::read(&running.shared)?;
        let now = self.condition(&self.devices_now().await.0);
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
fn port(protocol: u8, port: u16) -> Option<String> {
    let transport = parse::transport(protocol)?;
    Some(format!("{}/{port}", transport.name()))
}
