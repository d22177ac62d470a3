//! What the guard answers when it is asked.

use std::{net::IpAddr, rc::Rc, time::SystemTime};

use guard_common::{parse, verdict::Verdict};
use tokio::time::Instant;

use super::{
    audit::Request,
    doors::{Asked, Door},
    exposition::Told,
    guard::Guard,
    metrics::{self, Moments},
    server::{Ask, Detach, Detached},
    view::{self, Stats, TopSource},
};
use crate::{
    event::missing::Missing,
    kernel::{error::KernelError, sys},
    policy::compiled::name_of,
};

/// Bytes of metrics whose making leaves the heap much larger than it need be.
const LARGE: usize = 1 << 20;
/// Sources in the statistics.
const TOP: usize = 20;

impl Guard {
    /// Answers those who wait for statistics or metrics.
    pub(super) async fn answer_readers(&mut self) {
        let began = Instant::now();
        let (stats, metrics) = self.readers.take();
        if !stats.is_empty() {
            self.drain_events();
            let answer = self.stats().await;
            for reply in stats {
                drop(reply.send(answer.clone()));
            }
        }
        if !metrics.is_empty() {
            let answer = self.metrics().await;
            for (form, reply) in metrics {
                drop(reply.send(answer.clone().map(|told| told.of(form))));
            }
        }
        self.readers.answered(began);
    }

    async fn metrics(&mut self) -> Result<Rc<Told>, KernelError> {
        self.drain_events();
        self.keep_tallies();
        let status = self.status().await;
        let shared = self.running.as_ref().map(|running| &running.shared);
        let text = metrics::text(&status, shared, &self.moments())?;
        if text.len() > LARGE {
            sys::trim_heap();
        }
        Ok(Rc::new(Told::new(text)))
    }

    /// Answers a request. Who has stopped listening needs no answer.
    pub(super) async fn answer(&mut self, asked: Asked) {
        let Asked { caller, ask } = asked;
        let caller = caller.as_ref();
        match ask {
            Ask::Stats(reply) => self.readers.want_stats(reply),
            Ask::Metrics(form, reply) => self.readers.want_metrics(form, reply),
            Ask::Status(reply) if reply.is_closed() => {}
            Ask::Status(reply) => drop(reply.send(self.status().await)),
            Ask::Events { after, limit, reply } => {
                drop(reply.send(self.journal.page(after, limit)));
            }
            Ask::MissingMembers(reply) => drop(reply.send(self.missing_members())),
            // Who has stopped waiting was told that nobody answers.
            Ask::Detach(_, reply) if reply.is_closed() => {}
            Ask::Detach(detach, reply) => {
                let arguments = match &detach.interfaces[..] {
                    [] => "all interfaces".to_owned(),
                    interfaces => interfaces.join(" "),
                };
                let request = Request { name: "detach", arguments };
                let detached = self.audited(caller, request, |guard| guard.detach(&detach));
                drop(reply.send(detached));
            }
            Ask::Apply(_, reply) if reply.is_closed() => {}
            Ask::Apply(apply, reply) => {
                let request = Request { name: "apply", arguments: apply.to_string() };
                drop(reply.send(self.audited(caller, request, |guard| guard.apply(&apply))));
            }
            Ask::Reload(reply) if reply.is_closed() => {}
            Ask::Reload(reply) => {
                let request = Request { name: "reload", arguments: String::new() };
                let reloaded = self.audited(caller, request, |guard| {
                    let before = guard.mark();
                    guard.reload()?;
                    guard.in_force(before.as_ref())
                });
                drop(reply.send(reloaded));
            }
            Ask::Confirm(reply) => {
                let request = Request { name: "confirm", arguments: String::new() };
                drop(reply.send(self.audited(caller, request, Self::confirm)));
            }
            Ask::RollBack(reply) => {
                let request = Request { name: "rollback", arguments: String::new() };
                drop(reply.send(self.audited(caller, request, Self::roll_back)));
            }
            Ask::Mode(_, reply) if reply.is_closed() => {}
            Ask::Mode(change, reply) => {
                let request = Request { name: "mode", arguments: change.to_string() };
                let changed = self.audited(caller, request, |guard| guard.change_mode(&change));
                drop(reply.send(changed));
            }
            Ask::Refused(request) => {
                if let Some(caller) = caller {
                    let request = Request { name: "request", arguments: request };
                    self.audit_refused(caller, request);
                }
            }
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
