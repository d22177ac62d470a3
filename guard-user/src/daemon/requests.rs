//! Requests from the sockets, and the reload by signal.
//!
//! Decision: `docs/decisions/0047-commands-wait-for-their-work.md`.

use std::{fmt::Display, net::IpAddr, rc::Rc, time::SystemTime};

use guard_common::{parse, verdict::Verdict};
use tokio::time::Instant;

use super::{
    main_loop::Daemon,
    policy::lifecycle::LoadAttempt,
    serve::{
        Exposition, Peer,
        audit::{self, Command, PolicyId},
        connection_limits::Endpoint,
        metrics::{self, Moments},
        request::{Ask, QueuedRequest},
    },
    telemetry::counters,
};
use crate::{
    api::{
        control::{Detach, Detached},
        events::missing::Missing,
        stats::{Stats, TopSource},
    },
    policy::{compile::hash::hexadecimal, compiled::name_of},
    sys,
    system_error::SystemError,
    text::time,
};

/// Length in bytes of a metrics text from which on the heap is trimmed after making it.
const TRIM_THRESHOLD_BYTES: usize = 1 << 20;
/// Maximum number of sources in the statistics.
const TOP_SOURCES: usize = 20;

impl Daemon {
    /// Answers all clients that wait for statistics or metrics, with one reading of the counters for
    /// each kind.
    pub(super) async fn answer_reads(&mut self) {
        let began = Instant::now();
        let (stats, metrics) = self.serving.pending.take();
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
                drop(reply.send(answer.clone().map(|exposition| exposition.of(form))));
            }
        }
        self.serving.pending.answered(began);
    }

    async fn metrics(&mut self) -> Result<Rc<Exposition>, SystemError> {
        self.drain_events();
        self.save_counters();
        let status = self.status().await;
        let text = metrics::text(&status, self.interfaces.shared(), &self.moments())?;
        if text.len() > TRIM_THRESHOLD_BYTES {
            sys::trim_heap();
        }
        Ok(Rc::new(Exposition::new(text)))
    }

    /// Answers a request. If its client has given up waiting, the request gets no answer, and a command
    /// is not carried out either, because the client has already reported that the daemon did not
    /// respond. The exception is rollback, which restores the policy that was in force before.
    pub(super) async fn answer(&mut self, request: QueuedRequest) {
        let QueuedRequest { caller: peer, ask } = request;
        let peer = peer.as_ref();
        match ask {
            Ask::Stats(reply) => self.serving.pending.queue_stats(reply),
            Ask::Metrics(form, reply) => self.serving.pending.queue_metrics(form, reply),
            Ask::Status(reply) if reply.is_closed() => {}
            Ask::Status(reply) => drop(reply.send(self.status().await)),
            Ask::Events { after, limit, reply } => {
                drop(reply.send(self.telemetry.events.page(after, limit)));
            }
            Ask::MissingMembers(reply) => drop(reply.send(self.missing_members())),
            Ask::Detach(_, reply) if reply.is_closed() => {}
            Ask::Detach(detach, reply) => {
                let arguments = match &detach.interfaces[..] {
                    [] => "all interfaces".to_owned(),
                    interfaces => interfaces.join(" "),
                };
                let command = Command { name: "detach", arguments };
                let detached = self.audited(peer, command, |daemon| daemon.detach(&detach));
                drop(reply.send(detached));
            }
            Ask::Apply(_, reply) if reply.is_closed() => {}
            Ask::Apply(apply, reply) => {
                let command = Command { name: "apply", arguments: apply.to_string() };
                let applied = self.audited(peer, command, |daemon| {
                    let (policy, mut dataplane) = daemon.split();
                    policy.apply(&apply, &mut dataplane)
                });
                drop(reply.send(applied));
            }
            Ask::Reload(reply) if reply.is_closed() => {}
            Ask::Reload(reply) => {
                let command = Command { name: "reload", arguments: String::new() };
                let reloaded = self.audited(peer, command, |daemon| {
                    let (policy, mut dataplane) = daemon.split();
                    let before = policy.mark();
                    policy.reload(&mut dataplane)?;
                    policy.applied(before.as_ref())
                });
                drop(reply.send(reloaded));
            }
            Ask::Confirm(reply) if reply.is_closed() => {}
            Ask::Confirm(reply) => {
                let command = Command { name: "confirm", arguments: String::new() };
                let confirmed = self.audited(peer, command, |daemon| {
                    let (policy, mut dataplane) = daemon.split();
                    policy.confirm(&mut dataplane)
                });
                drop(reply.send(confirmed));
            }
            Ask::RollBack(reply) => {
                let command = Command { name: "rollback", arguments: String::new() };
                let undone = self.audited(peer, command, |daemon| {
                    let (policy, mut dataplane) = daemon.split();
                    policy.roll_back(&mut dataplane)
                });
                drop(reply.send(undone));
            }
            Ask::Mode(_, reply) if reply.is_closed() => {}
            Ask::Mode(change, reply) => {
                let command = Command { name: "mode", arguments: change.to_string() };
                let changed = self.audited(peer, command, |daemon| {
                    let (policy, mut dataplane) = daemon.split();
                    policy.change_mode(&change, &mut dataplane)
                });
                drop(reply.send(changed));
            }
            Ask::Refused(request) => {
                if let Some(why) = peer.and_then(|_| self.serving.audit.refusal()) {
                    let command = Command { name: "request", arguments: request };
                    self.record(peer, command, self.policy_id(), Some(why));
                }
            }
        }
    }

    /// Loads the files again because of SIGHUP.
    pub(super) fn reload_by_signal(&mut self) {
        let command = Command { name: "reload", arguments: "by SIGHUP".to_owned() };
        // The error is in the log and in the events.
        drop(self.audited(None, command, |daemon| {
            let (policy, mut dataplane) = daemon.split();
            policy.reload(&mut dataplane)
        }));
    }

    /// Carries out a command, and records its sender and its result.
    fn audited<T, E: Display>(
        &mut self,
        peer: Option<&Peer>,
        command: Command,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let before = self.policy_id();
        let result = work(self);
        let why = result.as_ref().err().map(ToString::to_string);
        self.record(peer, command, before, why);
        result
    }

    fn record(
        &mut self,
        peer: Option<&Peer>,
        command: Command,
        before: PolicyId,
        why: Option<String>,
    ) {
        let record = audit::record(peer, command, before, self.policy_id(), why);
        let event = self.telemetry.events.audit(record);
        self.serving.audit.write(&event);
    }

    fn policy_id(&self) -> PolicyId {
        let in_force = self.policy.in_force();
        PolicyId {
            hash: in_force.map(|now| hexadecimal(&now.hash)).unwrap_or_default(),
            generation: in_force.map_or(0, |now| now.number),
        }
    }

    fn moments(&self) -> Moments {
        Moments {
            started: self.serving.started,
            in_force: self.policy.in_force().map(|now| now.since),
            last_load: self
                .policy
                .last_load()
                .map(|LoadAttempt { began, success }| (began, success)),
            connections: Endpoint::ALL.map(|endpoint| self.serving.limits.open(endpoint)),
        }
    }

    /// Returns the statistics.
    ///
    /// # Errors
    /// No policy is in force, or the counters cannot be read.
    pub(super) async fn stats(&mut self) -> Result<Stats, SystemError> {
        let (Some(in_force), Some(shared)) = (self.policy.in_force(), self.interfaces.shared())
        else {
            return Err(SystemError::new("no policy is in force"));
        };
        let mut stats = counters::read(shared)?;
        let now = self.status_without_ports(&self.interfaces.devices_now().await.0);
        stats.node = now.node;
        stats.enforcing = Some(now.enforcing);
        stats.in_force_since = now.in_force_since;
        for row in &mut stats.interfaces {
            let interface = now.interfaces.iter().find(|interface| interface.name == row.name);
            row.mode = interface.and_then(|interface| interface.mode);
        }
        for row in &mut stats.services {
            let service = now.services.iter().find(|service| service.name == row.name);
            row.mode = service.map(|service| service.mode);
        }
        let info = &in_force.info;
        let service_of =
            |verdict: &Verdict| Some(info.services.get(&verdict.service?)?.name.clone());
        stats.top_sources = self
            .telemetry
            .top
            .most(TOP_SOURCES, SystemTime::now())
            .into_iter()
            .map(|(addr, entry)| TopSource {
                address: IpAddr::from(addr).to_string(),
                node: name_of(&info.names, &addr).map(str::to_owned),
                sampled: entry.sampled,
                packets: entry.packets,
                first_seen: time(entry.first),
                last_seen: time(entry.last),
                reason: entry.verdict.reason.name().to_owned(),
                service: service_of(&entry.verdict),
                port: port(entry.protocol, entry.port),
            })
            .collect();
        Ok(stats)
    }

    fn missing_members(&self) -> Missing {
        let info = self.policy.in_force().map(|now| &now.info);
        let names = info.map(|info| info.names.as_slice()).unwrap_or_default();
        let events = &self.telemetry.events;
        Missing {
            instance: events.instance.clone(),
            node: info.map(|info| info.node.clone()).unwrap_or_default(),
            manifest: self.policy.manifest().display().to_string(),
            ..events.refused_sources.missing(names)
        }
    }

    fn detach(&mut self, detach: &Detach) -> Result<Detached, SystemError> {
        let (detached, notes) = self.interfaces.detach(&detach.interfaces);
        self.split().1.report_interfaces(notes);
        let detached = detached?;
        tracing::warn!(interfaces = detached.detached.join(" "), "detached on request");
        Ok(detached)
    }
}

/// Formats a destination as policies write it: `tcp/9091`. None for a protocol without ports.
fn port(protocol: u8, port: u16) -> Option<String> {
    let transport = parse::transport(protocol)?;
    Some(format!("{}/{port}", transport.name()))
}
