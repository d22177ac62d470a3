//! A policy on trial: in force, and undone by the daemon unless the operator confirms it in time.
//!
//! The daemon keeps the deadline and what to return to, both on disk, so that neither a terminal
//! that hangs nor a daemon that ends loses them. The deadline is one of the clock that counts from
//! boot and cannot be set. A machine that was started again has no trial: it begins with its files.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    cuts::Connections,
    deadline::Deadline,
    failure::Failure,
    guard::{Guard, Prepared, Ready, hexadecimal},
    server::{Applied, Apply},
    signature::{self, Accepted},
    state::is_of_another_version,
    timing::SHORTEST,
    trusted::Trusted,
    view::{self, TrialStatus},
};
use crate::{
    kernel::error::KernelError,
    policy::{self, Bundle},
};

/// The shortest and the longest time to confirm in.
pub const CONFIRM_WITHIN: [Duration; 2] = [SHORTEST, Duration::from_hours(24)];

/// Number of a generation, and the patterns of interfaces beside it.
pub(super) type Mark = (u64, Vec<String>);

/// A trial, as the state directory keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// When it ends.
    #[serde(flatten)]
    deadline: Deadline,
    /// What is tried.
    pub(super) bundle: Bundle,
    /// What is to be remembered of its signature once it is confirmed.
    #[serde(default)]
    accepted: Option<Accepted>,
    /// This daemon goes on with what an earlier one has begun, and has not loaded its files yet.
    #[serde(skip)]
    resumed: bool,
}

/// Why something is not done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Refusal {
    /// Why.
    #[serde(rename = "error")]
    pub(super) why: String,
    /// The connections that it would cut, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) connections: Option<Box<Connections>>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl<T: Into<String>> From<T> for Refusal {
    fn from(why: T) -> Self {
        Self { why: why.into(), connections: None }
    }
}

impl Trial {
    fn begin(
        bundle: Bundle,
        accepted: Option<Accepted>,
        within: Duration,
    ) -> Result<Self, KernelError> {
        Ok(Self { deadline: Deadline::after(within)?, bundle, accepted, resumed: false })
    }

    /// The serial number that it was signed with.
    fn serial(&self) -> Option<u64> {
        self.accepted.as_ref().map(|accepted| accepted.serial)
    }

    /// For the status.
    pub(super) fn status(&self) -> TrialStatus {
        let left = self.deadline.left().unwrap_or_default();
        TrialStatus {
            manifest: self.bundle.manifest.display().to_string(),
            deadline: view::time(SystemTime::now() + left),
            seconds_left: left.as_secs(),
        }
    }
}

impl Guard {
    /// Goes on with a trial that an earlier daemon has begun, if it is still going on.
    pub(super) fn resume_trial(&mut self) -> bool {
        let trial = match self.state.trial() {
            Ok(Some(trial)) => trial,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!("the trial of an earlier daemon is over: {error:#}");
                if !is_of_another_version(&error) {
                    self.forget_trial();
                }
                return false;
            }
        };
        if let Some(left) = trial.deadline.left() {
            match self.load_bundle(&trial.bundle) {
                Ok(()) => {
                    tracing::warn!(seconds = left.as_secs(), "the trial goes on");
                    self.serial = trial.serial();
                    self.trial = Some(Trial { resumed: true, ..trial });
                    self.expect_files();
                    return true;
                }
                Err(failure) => failure.explain(),
            }
        }
        tracing::warn!("the trial of an earlier daemon was not confirmed: it is undone");
        self.forget_trial();
        false
    }

    /// Looks at the files from now on, which were not loaded at the start because of the trial.
    fn expect_files(&mut self) {
        let began = SystemTime::now();
        let mut sources = match policy::load(&self.wanted.manifest, &Trusted) {
            Ok(loaded) => loaded.sources,
            Err(error) => error.sources,
        };
        if self.wanted.policy_key.is_some() {
            sources.extend(signature::paths(&self.wanted.manifest));
        }
        self.watch.set_paths(sources, began);
    }

    /// Puts a policy into force, for good or on trial.
    pub(super) fn apply(&mut self, apply: &Apply) -> Result<Applied, Refusal> {
        let Apply { bundle, confirm_within, signed, dry_run, consent } = apply;
        if self.trial.is_some() && !dry_run {
            return Err("a policy is on trial: `trainguard confirm` or `rollback` first".into());
        }
        let before = self.mark();
        let within = confirm_within.map(Duration::from_secs);
        if let Some(within) = within.filter(|_| !dry_run) {
            self.require_way_back(within)?;
        }
        // Of what was sent, only what is read counts.
        let prepared = self.prepare(&bundle.manifest, bundle, None);
        let Prepared { ready, bundle } = prepared.map_err(|failure| said(&failure))?;
        let bundle = &bundle;
        let accepted = self.check_signature(bundle, || Ok(signed.clone()));
        let accepted = accepted.map_err(|failure| said(&failure))?;
        let connections = self.connections_under(&ready, consent.session);
        if *dry_run {
            return self.planned(&ready, connections);
        }
        consent.check(&connections)?;
        match within {
            None => {
                self.install(ready).map_err(|failure| said(&failure))?;
                self.keep(bundle);
                self.accept(accepted.as_ref());
                self.follow_files(bundle);
            }
            Some(within) => self.begin_trial(bundle, accepted, ready, within)?,
        }
        Ok(Applied { connections, ..self.in_force(before.as_ref())? })
    }

    /// What would become of it.
    fn planned(&self, ready: &Ready, connections: Connections) -> Result<Applied, Refusal> {
        let running = self.running.as_ref().ok_or("nothing is in force")?;
        Ok(Applied {
            generation: running.number,
            policy_hash: hexadecimal(&ready.policy.hash),
            changed: running.hash != ready.policy.hash
                || running.facts.patterns != ready.facts.patterns,
            connections,
            in_force: self.bundle_in_force(),
            ..Applied::default()
        })
    }

    /// The texts of what is in force; none if they are not kept.
    pub(super) fn bundle_in_force(&self) -> Option<Bundle> {
        match &self.trial {
            Some(trial) => Some(trial.bundle.clone()),
            None if self.kept => self.state.last_good().ok()?,
            None => None,
        }
    }

    /// The texts of the files, if they are what is in force.
    pub(super) fn bundle_of_files(&self) -> Option<Bundle> {
        let bundle = policy::load(&self.wanted.manifest, &Trusted).ok()?.bundle;
        let running = self.running.as_ref()?;
        (bundle.hash() == running.facts.files_hash).then_some(bundle)
    }

    /// What cannot be undone must not be tried.
    fn require_way_back(&self, within: Duration) -> Result<(), String> {
        let accepted = [self.wanted.timing.shortest, CONFIRM_WITHIN[1]];
        if !(accepted[0]..=accepted[1]).contains(&within) {
            let [shortest, longest] = accepted.map(humantime::format_duration);
            return Err(format!("a trial takes from {shortest} to {longest}"));
        }
        let is_kept = self.kept && self.state.last_good().is_ok_and(|bundle| bundle.is_some());
        if !is_kept {
            return Err("what is in force is not in the state directory: a trial could not be \
                        undone"
                .to_owned());
        }
        Ok(())
    }

    fn begin_trial(
        &mut self,
        bundle: &Bundle,
        accepted: Option<Accepted>,
        ready: Ready,
        within: Duration,
    ) -> Result<(), String> {
        let trial =
            Trial::begin(bundle.clone(), accepted, within).map_err(|error| error.to_string())?;
        // Before the switch: a daemon that ends in between undoes it.
        self.state.keep_trial(&trial).map_err(|error| format!("{error:#}"))?;
        if let Err(failure) = self.install(ready) {
            self.forget_trial();
            return Err(said(&failure));
        }
        self.serial = trial.serial();
        tracing::warn!(
            manifest = %bundle.manifest.display(),
            seconds = within.as_secs(),
            "on trial: undone unless confirmed"
        );
        self.note_policy(
            "on_trial",
            &[format!("undone after {}", humantime::format_duration(within))],
        );
        self.trial = Some(trial);
        Ok(())
    }

    /// Keeps what is on trial.
    pub(super) fn confirm(&mut self) -> Result<Applied, Refusal> {
        let trial = self.trial.take().ok_or("no policy is on trial")?;
        self.keep(&trial.bundle);
        if !self.kept {
            self.trial = Some(trial);
            return Err(format!("it is not confirmed: {}", self.problems.join("; ")).into());
        }
        self.forget_trial();
        self.accept(trial.accepted.as_ref());
        self.follow_files(&trial.bundle);
        tracing::warn!("the policy on trial is confirmed");
        self.note_policy("confirmed", &[]);
        self.in_force(None)
    }

    /// Ends the trial: what was in force before is again.
    pub(super) fn roll_back(&mut self) -> Result<Applied, Refusal> {
        if self.trial.is_none() {
            return Err("no policy is on trial".into());
        }
        self.load_kept().map_err(|failure| said(&failure))?;
        if self.trial.take().is_some_and(|trial| trial.resumed) {
            // Without the trial this daemon would have begun with them.
            self.watch.forget();
        }
        self.forget_trial();
        tracing::warn!("the policy on trial is undone");
        self.note_policy("undone", &[]);
        self.in_force(None)
    }

    /// Ends a trial whose time is over.
    pub(super) fn check_trial(&mut self) {
        if self.trial.as_ref().is_none_or(|trial| trial.deadline.left().is_some()) {
            return;
        }
        tracing::warn!("nobody has confirmed the policy on trial");
        if let Err(why) = self.roll_back() {
            let why = why.why;
            tracing::error!("the policy on trial cannot be undone, trying again: {why}");
            let again = Deadline::after(self.wanted.timing.retry);
            if let (Some(trial), Ok(again)) = (&mut self.trial, again) {
                trial.deadline = again;
            }
        }
    }

    /// What is in force: which generation, and which interfaces are meant.
    pub(super) fn mark(&self) -> Option<Mark> {
        self.running.as_ref().map(|running| (running.number, running.facts.patterns.clone()))
    }

    /// What is in force now, where this was.
    pub(super) fn in_force(&self, before: Option<&Mark>) -> Result<Applied, Refusal> {
        let running = self.running.as_ref().ok_or("nothing is in force")?;
        Ok(Applied {
            generation: running.number,
            policy_hash: hexadecimal(&running.hash),
            changed: before != self.mark().as_ref(),
            trial: self.trial.as_ref().map(Trial::status),
            problems: self.outdated.clone(),
            ..Applied::default()
        })
    }

    pub(super) fn load_bundle(&mut self, bundle: &Bundle) -> Result<(), Failure> {
        self.load(&bundle.manifest, bundle, None)
    }

    fn forget_trial(&mut self) {
        if let Err(error) = self.state.forget_trial() {
            tracing::error!("{error:#}");
            self.problems.push(format!("{error:#}"));
        }
    }

    /// What was applied is not what the daemon follows: says so, unless the files agree.
    fn follow_files(&mut self, applied: &Bundle) {
        let same = policy::load(&self.wanted.manifest, &Trusted)
            .is_ok_and(|loaded| loaded.bundle.has_texts_of(applied));
        self.outdated.clear();
        self.kept_because = None;
        self.applied_from = (!same).then(|| applied.manifest.clone());
        if !same {
            let (from, manifest) = (applied.manifest.display(), self.wanted.manifest.display());
            self.outdated.push(format!(
                "in force is what was applied from `{from}`; `{manifest}`, which the daemon follows \
                 and starts with, says something else"
            ));
        }
    }
}

/// Why a policy was not put into force.
pub(super) fn said(failure: &Failure) -> String {
    failure.lines().join("\n")
}
