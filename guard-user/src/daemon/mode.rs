//! The modes of services, by hand: `trainguard mode`. An override lasts for a time, which the
//! daemon keeps, or until it is changed; the policy stays what it is.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    connections::Consent,
    deadline::Deadline,
    guard::Guard,
    server::Applied,
    state::is_of_another_version,
    timing::SHORTEST,
    trial::{Refusal, said},
    view::{self, ModeOverride},
};
use crate::policy::{
    Bundle, Loaded,
    syntax::{document::Mode, text},
};

/// The shortest and the longest time of an override.
pub const MODE_FOR: [Duration; 2] = [SHORTEST, Duration::from_hours(30 * 24)];

/// What services shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Count what they would drop, drop nothing.
    Observe,
    /// Drop.
    Enforce,
    /// What their policy says.
    Policy,
}

impl Wish {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
            Self::Policy => "policy",
        }
    }
}

/// The body of `POST /v1/mode`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeChange {
    /// What services shall do.
    pub mode: Wish,
    /// Which: by their names, or `policy/service`; all if there are none.
    #[serde(default)]
    pub services: Vec<String>,
    /// For how many seconds; until it is changed if there are none.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// What may be cut.
    #[serde(default)]
    pub consent: Consent,
}

/// Modes that are not those of the policy, as the state directory keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Override {
    mode: Wish,
    services: Vec<String>,
    /// Since when, as all documents write it.
    since: String,
    /// Until when; until it is changed if there is none.
    until: Option<Deadline>,
}

impl Override {
    fn is_over(&self) -> bool {
        self.until.as_ref().is_some_and(|until| until.left().is_none())
    }

    /// Whether it is about a service.
    fn means(&self, label: &str, name: &str) -> bool {
        self.services.is_empty()
            || self.services.iter().any(|wanted| wanted == label || wanted == name)
    }

    /// For the status.
    pub(super) fn status(&self) -> ModeOverride {
        let left = self.until.as_ref().map(|until| until.left().unwrap_or_default());
        ModeOverride {
            mode: self.mode.name().to_owned(),
            services: self.services.clone(),
            since: self.since.clone(),
            until: left.map(|left| view::time(SystemTime::now() + left)),
            seconds_left: left.map(|left| left.as_secs()),
        }
    }
}

impl std::fmt::Display for ModeChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mode, services, seconds, consent } = self;
        let which =
            if services.is_empty() { "all services".to_owned() } else { services.join(", ") };
        write!(f, "{}: {which}", mode.name())?;
        match seconds.map(Duration::from_secs) {
            _ if *mode == Wish::Policy => {}
            Some(time) => write!(f, ", for {}", humantime::format_duration(time))?,
            None => f.write_str(", until it is changed")?,
        }
        write!(f, "{consent}")
    }
}

impl Guard {
    /// Gives services the modes that are wanted by hand.
    pub(super) fn override_modes(&self, loaded: &mut Loaded) {
        let Some(wanted) = &self.mode_override else { return };
        let mode = match wanted.mode {
            Wish::Observe => Mode::Observe,
            Wish::Enforce => Mode::Enforce,
            Wish::Policy => return,
        };
        let services = loaded.cluster.services.iter_mut();
        for service in services.filter(|service| wanted.means(&service.label, &service.name)) {
            service.mode = mode;
        }
    }

    /// Goes on with an override that an earlier daemon was told of.
    pub(super) fn resume_mode(&mut self) {
        match self.state.mode() {
            Ok(None) => {}
            Ok(Some(wanted)) if wanted.is_over() => {
                tracing::warn!("the time of the mode by hand is over: the policy's modes are back");
                self.forget_mode();
            }
            Ok(Some(wanted)) => {
                let what = wanted.mode.name();
                tracing::warn!(mode = what, "the mode by hand goes on; the policy's is not asked");
                self.mode_override = Some(wanted);
            }
            Err(error) => {
                tracing::error!("the mode by hand of an earlier daemon is over: {error:#}");
                if !is_of_another_version(&error) {
                    self.forget_mode();
                }
            }
        }
    }

    /// Changes the mode of services.
    pub(super) fn change_mode(&mut self, change: &ModeChange) -> Result<Applied, Refusal> {
        if self.trial.is_some() {
            let why = "a policy is on trial: `trainguard confirm` or `rollback` first";
            return Err(why.to_owned().into());
        }
        let wanted = self.wanted_mode(change)?;
        let bundle = self.bundle_in_force().or_else(|| self.bundle_of_files());
        let bundle = bundle.ok_or_else(|| {
            "what is in force is neither in the state directory nor in the files, so it cannot be \
             built again with other modes; `trainguard apply` puts a policy into force, \
             `trainguard detach` takes the guard off"
                .to_owned()
        })?;
        let before = self.mark();
        let kept = std::mem::replace(&mut self.mode_override, wanted);
        match self.switch_mode(&bundle, &change.consent) {
            Ok(connections) => {
                self.keep_mode();
                let what = change.to_string();
                tracing::warn!("mode by hand: {what}");
                let note =
                    if change.mode == Wish::Policy { "mode_of_policy" } else { "mode_by_hand" };
                self.note_policy(note, &[what]);
                let mut applied = self.in_force(before.as_ref())?;
                applied.connections = connections;
                applied.problems.extend(self.mode_problems());
                applied.problems.extend(self.problems.iter().cloned());
                Ok(applied)
            }
            Err(refusal) => {
                self.mode_override = kept;
                Err(refusal)
            }
        }
    }

    fn switch_mode(
        &mut self,
        bundle: &Bundle,
        consent: &Consent,
    ) -> Result<super::cuts::Connections, Refusal> {
        let prepared = self.prepare(&bundle.manifest, bundle, None);
        let prepared = prepared.map_err(|failure| said(&failure))?;
        let connections = self.connections_under(&prepared.ready, consent.session);
        consent.check(&connections)?;
        self.install(prepared.ready).map_err(|failure| said(&failure))?;
        Ok(connections)
    }

    fn wanted_mode(&self, change: &ModeChange) -> Result<Option<Override>, String> {
        let ModeChange { mode, services, seconds, .. } = change;
        if *mode == Wish::Policy {
            return Ok(None);
        }
        let running = self.running.as_ref().ok_or("nothing is in force")?;
        let known: Vec<&view::ServiceStatus> = running.facts.services.values().collect();
        for name in services {
            if !known.iter().any(|service| service.is_called(name)) {
                let names: Vec<&str> = known.iter().map(|service| &*service.name).collect();
                let name = text::shown(name);
                let names = names.join(", ");
                return Err(format!("this node has no service `{name}`; it has {names}"));
            }
        }
        let accepted = [self.wanted.timing.shortest, MODE_FOR[1]];
        let until = match seconds.map(Duration::from_secs) {
            None => None,
            Some(time) if (accepted[0]..=accepted[1]).contains(&time) => {
                Some(Deadline::after(time).map_err(|error| error.to_string())?)
            }
            Some(_) => {
                let [shortest, longest] = accepted.map(humantime::format_duration);
                return Err(format!("a mode by hand takes from {shortest} to {longest}"));
            }
        };
        let since = view::time(SystemTime::now());
        Ok(Some(Override { mode: *mode, services: services.clone(), since, until }))
    }

    /// Ends an override whose time is over.
    pub(super) fn check_mode(&mut self) {
        let Some(over) = self.mode_override.take_if(|wanted| wanted.is_over()) else { return };
        tracing::warn!("the time of the mode by hand is over");
        match self.load_again() {
            Ok(()) => {
                self.forget_mode();
                self.note_policy("mode_of_policy", &["its time is over".to_owned()]);
            }
            Err(failure) => {
                let why = said(&failure);
                tracing::error!("the policy's modes cannot be set, trying again: {why}");
                let until = Deadline::after(self.wanted.timing.retry).ok();
                self.mode_override = Some(Override { until, ..over });
            }
        }
    }

    /// Keeps the override, or that there is none. In force it is; that the next daemon would not
    /// know of it is worth a problem, no more.
    fn keep_mode(&mut self) {
        let kept = match &self.mode_override {
            Some(wanted) => self.state.keep_mode(wanted),
            None => self.state.forget_mode(),
        };
        if let Err(error) = kept {
            tracing::error!("{error:#}");
            self.problems.push(format!("{error:#}; the next daemon will not know of the mode"));
        }
    }

    fn forget_mode(&mut self) {
        self.mode_override = None;
        self.keep_mode();
    }

    /// What of the mode by hand the status has to say aloud.
    pub(super) fn mode_problems(&self) -> Vec<String> {
        let Some(wanted) = &self.mode_override else { return Vec::new() };
        let mut problems = Vec::new();
        if wanted.mode == Wish::Observe {
            let until = match &wanted.until {
                Some(until) => format!("until {}", view::time(until.time())),
                None => "until somebody changes it".to_owned(),
            };
            problems.push(format!(
                "opened by hand: services only observe, {until}; `trainguard mode policy` ends it"
            ));
        }
        for name in &wanted.services {
            let services = self.running.iter().flat_map(|running| running.facts.services.values());
            if !services.into_iter().any(|service| service.is_called(name)) {
                problems.push(format!(
                    "the mode by hand names service `{name}`, which this node does not have now"
                ));
            }
        }
        problems
    }
}
