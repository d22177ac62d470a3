//! Mode overrides, set by `trainguard mode`. The daemon keeps an override for a given time or until it
//! is changed. The policy itself does not change.
//!
//! Decision: `docs/decisions/0034-mode-override-is-a-compilation.md`.

use std::time::{Duration, SystemTime};

use super::{
    dataplane::Dataplane,
    documents::ActiveOverride,
    lifecycle::{Lifecycle, Prepared, Reading},
    state_dir::is_of_another_version,
};
use crate::{
    api::{
        connections::Connections,
        control::{Applied, Consent, MODE_FOR, ModeChange, Refusal, RequestedMode},
        events::PolicyChange,
        status::ServiceStatus,
    },
    daemon::deadline::Deadline,
    policy::{
        Bundle, Loaded,
        syntax::{document::Mode, text},
    },
    text::time,
};

impl Lifecycle {
    /// Applies the mode override to the services of a policy.
    pub(super) fn override_modes(&self, loaded: &mut Loaded) {
        let Some(wanted) = &self.mode_override else { return };
        let mode = match wanted.mode {
            RequestedMode::Observe => Mode::Observe,
            RequestedMode::Enforce => Mode::Enforce,
            RequestedMode::Policy => return,
        };
        let services = loaded.cluster.services.iter_mut();
        for service in services.filter(|service| wanted.applies_to(&service.label, &service.name)) {
            service.mode = mode;
        }
    }

    /// Continues an override of an earlier daemon.
    pub(super) fn resume_mode(&mut self) {
        match self.state_dir.mode() {
            Ok(None) => {}
            Ok(Some(wanted)) if wanted.is_over() => {
                tracing::warn!("mode override expired; the policy's modes are in force");
                self.forget_mode();
            }
            Ok(Some(wanted)) => {
                let what = wanted.mode.name();
                tracing::warn!(mode = what, "mode override still active");
                self.mode_override = Some(wanted);
            }
            Err(error) => {
                tracing::error!("mode override of an earlier daemon not resumed: {error:#}");
                if !is_of_another_version(&error) {
                    self.forget_mode();
                }
            }
        }
    }

    /// Changes the mode of services.
    ///
    /// # Errors
    /// A trial is in progress, a service is unknown, the policy in force cannot be built again, the
    /// change would cut connections without consent, or the kernel refuses it.
    pub(crate) fn change_mode(
        &mut self,
        change: &ModeChange,
        dataplane: &mut dyn Dataplane,
    ) -> Result<Applied, Refusal> {
        if self.trial().is_some() {
            let why =
                "a policy is on trial: run `trainguard confirm` or `trainguard rollback` first";
            return Err(why.to_owned().into());
        }
        let wanted = self.wanted_mode(change)?;
        let bundle = self.bundle_in_force().or_else(|| self.bundle_of_files());
        let bundle = bundle.ok_or_else(|| {
            "the policy in force is neither in the state directory nor in the files, so it cannot \
             be built again with other modes; `trainguard apply` puts a policy into force, \
             `trainguard detach` removes the guard"
                .to_owned()
        })?;
        let before = self.mark();
        let previous = std::mem::replace(&mut self.mode_override, wanted);
        let connections = match self.switch_mode(&bundle, &change.consent, dataplane) {
            Ok(connections) => connections,
            Err(refusal) => {
                self.mode_override = previous;
                return Err(refusal);
            }
        };
        self.save_mode();
        let what = change.to_string();
        tracing::warn!("mode changed on request: {what}");
        let event = if change.mode == RequestedMode::Policy {
            PolicyChange::ModeOfPolicy
        } else {
            PolicyChange::ModeOverridden
        };
        self.report(dataplane, event, &[what]);
        let mut applied = self.applied(before.as_ref())?;
        applied.connections = connections;
        applied.problems.extend(self.mode_problems());
        applied.problems.extend(self.problems.iter().cloned());
        Ok(applied)
    }

    fn switch_mode(
        &mut self,
        bundle: &Bundle,
        consent: &Consent,
        dataplane: &mut dyn Dataplane,
    ) -> Result<Connections, Refusal> {
        let prepared = self.prepare(&bundle.manifest, bundle, Reading::Known, dataplane);
        let Prepared { candidate, .. } = prepared.map_err(|error| error.text())?;
        let connections = self.connections_under(&candidate, consent.session, dataplane);
        consent.check(&connections)?;
        self.install(candidate, dataplane).map_err(|error| error.text())?;
        Ok(connections)
    }

    fn wanted_mode(&self, change: &ModeChange) -> Result<Option<ActiveOverride>, Refusal> {
        let ModeChange { mode, services, seconds, .. } = change;
        if *mode == RequestedMode::Policy {
            return Ok(None);
        }
        let current = self.in_force.as_ref().ok_or("no policy is in force")?;
        let known: Vec<&ServiceStatus> = current.info.services.values().collect();
        for name in services {
            if !known.iter().any(|service| service.is_called(name)) {
                let names: Vec<&str> = known.iter().map(|service| &*service.name).collect();
                let name = text::shown(name);
                let names = names.join(", ");
                return Err(format!("this node has no service `{name}`; it has {names}").into());
            }
        }
        let accepted = [self.options.timing.shortest, MODE_FOR[1]];
        let until = match seconds.map(Duration::from_secs) {
            None => None,
            Some(time) if (accepted[0]..=accepted[1]).contains(&time) => {
                Some(Deadline::after(time).map_err(|error| error.to_string())?)
            }
            Some(_) => {
                let [shortest, longest] = accepted.map(humantime::format_duration);
                let why = format!("a mode override must last from {shortest} to {longest}");
                return Err(why.into());
            }
        };
        let since = time(SystemTime::now());
        Ok(Some(ActiveOverride { mode: *mode, services: services.clone(), since, until }))
    }

    /// Ends an override whose time has passed.
    pub(crate) fn check_mode(&mut self, dataplane: &mut dyn Dataplane) {
        let Some(over) = self.mode_override.take_if(|wanted| wanted.is_over()) else { return };
        tracing::warn!("mode override expired");
        match self.load_again(dataplane) {
            Ok(()) => {
                self.forget_mode();
                let lines = ["the mode override has expired".to_owned()];
                self.report(dataplane, PolicyChange::ModeOfPolicy, &lines);
            }
            Err(error) => {
                let why = error.text();
                tracing::error!("mode override not ended, trying again: {why}");
                // Without a clock the old deadline stays: an override without one would last.
                let until = Deadline::after(self.options.timing.retry).ok().or(over.until);
                self.mode_override = Some(ActiveOverride { until, ..over });
            }
        }
    }

    /// Saves the override, or removes the saved one. A failure is recorded as a problem: the override
    /// is in force, but the next daemon would not know about it.
    fn save_mode(&mut self) {
        let saved = match &self.mode_override {
            Some(wanted) => self.state_dir.keep_mode(wanted),
            None => self.state_dir.forget_mode(),
        };
        if let Err(error) = saved {
            tracing::error!("{error:#}");
            self.problems.push(format!("{error:#}; the next daemon will not know the new mode"));
        }
    }

    fn forget_mode(&mut self) {
        self.mode_override = None;
        self.save_mode();
    }

    /// Returns the problems of the mode override, for the status.
    pub(super) fn mode_problems(&self) -> Vec<String> {
        let Some(wanted) = &self.mode_override else { return Vec::new() };
        let mut problems = Vec::new();
        if wanted.mode == RequestedMode::Observe {
            let until = match &wanted.until {
                Some(until) => format!("until {}", time(until.time())),
                None => "until it is changed".to_owned(),
            };
            problems.push(format!(
                "mode override: services only observe, {until}; `trainguard mode policy` ends it"
            ));
        }
        for name in &wanted.services {
            let services = self.in_force.iter().flat_map(|now| now.info.services.values());
            if !services.into_iter().any(|service| service.is_called(name)) {
                problems.push(format!(
                    "the mode override names service `{name}`, which this node does not have"
                ));
            }
        }
        problems
    }
}
