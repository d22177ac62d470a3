//! The switch from one policy to another: the order of its effects on interfaces, events and counters.
//!
//! [`NodeDataplane`] implements [`Dataplane`], through which `policy::Lifecycle` puts its decisions
//! into effect. Apart from `main_loop.rs`, only this module changes several owners together.

use std::time::SystemTime;

use guard_common::layout::daemon_counters::{SIGNATURES_REFUSED, SIGNATURES_REPLAYED};

use super::{
    install_error::InstallError,
    interfaces::{Interfaces, PinReport, attachments::Note},
    policy::{
        Candidate, Change, Dataplane, InForce, PolicyInfo,
        connection_impact::{self, GuardedInterfaces},
        dataplane::{Installed, policy_event},
    },
    serve::{Serving, systemd::Work},
    telemetry::{Telemetry, names::Names},
};
use crate::{
    api::{connections::Connections, control::Session, events::PolicyChange},
    logs::Log,
    policy::{
        Placement,
        compile::hash::hexadecimal,
        compiled::{CompiledPolicy, Tunnels},
    },
    sys,
    system_error::SystemError,
};

/// Borrows of the owners that a policy takes effect on, and of the log.
pub(super) struct NodeDataplane<'d> {
    pub(super) interfaces: &'d mut Interfaces,
    pub(super) telemetry: &'d mut Telemetry,
    pub(super) serving: &'d mut Serving,
    pub(super) log: &'d Log,
}

impl NodeDataplane<'_> {
    /// Reads the events from the kernel's ring. `in_force` gives the names of services and nodes.
    pub(super) fn drain_events(&mut self, in_force: Option<&InForce>) {
        self.serving.notifier.mark_done(Work::Events);
        #[cfg(feature = "log")]
        self.interfaces.flush_log();
        let Some(in_force) = in_force else { return };
        if let Some((shared, devices)) = self.interfaces.shared_and_devices() {
            let PolicyInfo { services, names: nodes, .. } = &in_force.info;
            self.telemetry.drain(shared, Names { services, nodes, devices });
        }
    }

    /// Adds the daemon's counters to the pinned map.
    pub(super) fn save_counters(&mut self) {
        self.serving.limits.tally(&mut self.telemetry.counters);
        self.telemetry.counters.add_log(self.log.missing());
        let Some(shared) = self.interfaces.shared_mut() else { return };
        if let Err(error) = self.telemetry.counters.flush(shared) {
            tracing::error!("{error}");
        }
    }

    /// Attaches and detaches until the interfaces are as the policy in force requires.
    pub(super) fn reconcile(&mut self, info: &PolicyInfo) {
        let notes = self.interfaces.reconcile(&info.patterns);
        self.report_interfaces(notes);
    }

    /// Adds events about interfaces.
    pub(super) fn report_interfaces(&mut self, notes: Vec<Note>) {
        for Note { what, interface, text } in notes {
            self.telemetry.events.interface(what, &interface, &text);
        }
    }

    /// Adds events about pins.
    pub(super) fn report_pins(&mut self, pins: PinReport, in_force: Option<&InForce>) {
        for line in pins.events {
            self.telemetry.policy_event(policy_event(PolicyChange::Pins, in_force, &[line]));
        }
    }

    /// Keeps the running generation for a candidate that enforces the same as the policy in force. Only
    /// what is known about the policy changes, and the interfaces, if the patterns changed.
    fn keep_generation(&mut self, candidate: Candidate, current: &InForce) -> Installed {
        let Candidate { info, cluster_networks, tunnels, .. } = candidate;
        tracing::info!(generation = current.number, "policy unchanged");
        let (before, now) = (&current.info.patterns, &info.patterns);
        let changed_patterns = (before != now).then(|| {
            let (before, now) = (before.join(", "), now.join(", "));
            format!("interface patterns changed: `{now}`, before `{before}`")
        });
        if let Some(text) = &changed_patterns {
            tracing::info!("{text}");
        }
        let InForce { number, since, hash, .. } = *current;
        let in_force = InForce { number, since, hash, tunnels, info };
        self.telemetry.set_policy(cluster_networks, &in_force.info.names);
        let event =
            policy_event(PolicyChange::Unchanged, Some(&in_force), changed_patterns.as_slice());
        self.telemetry.policy_event(event);
        self.reconcile(&in_force.info);
        Installed { in_force, problem: None }
    }

    /// Records the policy in force in the pinned maps. Called after the switch, because until then the
    /// old generation charges the buckets of its members. A failure does not undo the switch; its text
    /// is returned.
    fn record(&mut self, policy: &CompiledPolicy, number: u64) -> Option<String> {
        let shared = self.interfaces.shared_mut()?;
        let recorded = shared
            .keep_members(&policy.members)
            .and_then(|()| shared.set_generation(number, &hexadecimal(&policy.hash)));
        let error = recorded.err()?;
        tracing::error!(hint = error.hint_text(), "{error}");
        Some(error.to_string())
    }
}

impl Dataplane for NodeDataplane<'_> {
    fn tunnels(&self) -> Tunnels {
        self.interfaces.tunnels()
    }

    fn has_device(&self, patterns: &[String]) -> bool {
        !self.interfaces.select(patterns).devices.is_empty()
    }

    fn refused_ports(&self, patterns: &[String]) -> Option<String> {
        self.interfaces.refused_ports(patterns)
    }

    fn placement(&self) -> Result<Placement, SystemError> {
        self.interfaces.placement()
    }

    fn install(
        &mut self,
        candidate: Candidate,
        current: Option<&InForce>,
    ) -> Result<Installed, InstallError> {
        candidate.info.node.clone_into(&mut self.telemetry.events.node);
        if let Some(current) = current
            && current.hash == candidate.policy.hash
            && current.tunnels == candidate.tunnels
        {
            let kept = self.keep_generation(candidate, current);
            sys::trim_heap();
            return Ok(kept);
        }
        // Before the switch, because a slot may get another service: its counts so far belong to the
        // old one.
        self.drain_events(current);
        self.save_counters();
        let pins = self.interfaces.restore_pins()?;
        self.report_pins(pins, current);
        let Candidate { policy, info, cluster_networks, tunnels } = candidate;
        let loaded = self.interfaces.load(&policy)?;
        self.telemetry.watch_kernel_ring(&loaded.shared)?;
        let number = loaded.number;
        // From here on the new generation takes over, one interface after the other.
        let notes = self.interfaces.switch(loaded, &info.patterns);
        self.report_interfaces(notes);
        let in_force =
            InForce { number, since: SystemTime::now(), hash: policy.hash, tunnels, info };
        let problem = self.record(&policy, number);
        self.telemetry.set_policy(cluster_networks, &in_force.info.names);
        if self.interfaces.is_unguarded() {
            // The reason was logged for each interface.
            tracing::error!(generation = number, "policy loaded, no interface attached");
        } else {
            tracing::info!(
                generation = number,
                node = in_force.info.node,
                policy = hexadecimal(&policy.hash),
                services = in_force.info.services.len(),
                "policy in force"
            );
            let event = policy_event(PolicyChange::InForce, Some(&in_force), &[]);
            self.telemetry.policy_event(event);
        }
        drop(policy);
        sys::trim_heap();
        Ok(Installed { in_force, problem })
    }

    fn connections_under(
        &self,
        candidate: &Candidate,
        session: Option<Session>,
        current: Option<&InForce>,
        compile_current: &mut dyn FnMut() -> Option<CompiledPolicy>,
    ) -> Result<Connections, SystemError> {
        let selection = self.interfaces.select(&candidate.info.patterns);
        let interfaces = GuardedInterfaces {
            devices: self.interfaces.devices(),
            now: self.interfaces.guarded(),
            then: selection.devices.iter().map(|device| device.index).collect(),
            untold: self.interfaces.untold_families(),
        };
        connection_impact::impact(candidate, &interfaces, session, current, compile_current)
    }

    fn report(&mut self, change: Change) {
        match change {
            Change::Event(event) => self.telemetry.policy_event(event),
            Change::Loaded { success } => self.telemetry.counters.add_load(success),
            Change::SignatureRejected { replayed } => {
                let counter = if replayed { SIGNATURES_REPLAYED } else { SIGNATURES_REFUSED };
                self.telemetry.counters.add(counter, 1);
            }
            Change::Reloading => self.serving.notifier.reloading(),
            Change::Reloaded => self.serving.notifier.reloaded(),
        }
    }
}
