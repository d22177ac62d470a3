//! Policies on trial: in force, and undone by the daemon unless an operator confirms them in time
//! ("commit confirmed" of Junos).
//!
//! The daemon keeps the deadline, the policy on trial and the policy to return to on disk. Neither a
//! hanging terminal nor the end of the daemon loses them. The deadline is a time of the clock that
//! counts from boot, which cannot be set. A reboot ends a trial: the daemon then starts with its files.
//!
//! Decision: `docs/decisions/0032-trials-belong-to-the-daemon.md`.

use std::time::{Duration, SystemTime};

use super::{
    candidate::Candidate,
    dataplane::Dataplane,
    documents::{Accepted, Trial},
    lifecycle::{Lifecycle, Origin, Prepared, Reading},
    state_dir::is_of_another_version,
};
use crate::{
    api::{
        connections::Connections,
        control::{Applied, Apply, CONFIRM_WITHIN, Refusal},
        events::PolicyChange,
    },
    daemon::{deadline::Deadline, trusted_files::TrustedFiles},
    policy::{self, Bundle, compile::hash::hexadecimal},
};

impl Lifecycle {
    /// Continues a trial that an earlier daemon began. Returns whether there is one to continue.
    pub(super) fn resume_trial(&mut self, dataplane: &mut dyn Dataplane) -> bool {
        let trial = match self.state_dir.trial() {
            Ok(Some(trial)) => trial,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!("trial of an earlier daemon not resumed: {error:#}");
                if !is_of_another_version(&error) {
                    self.forget_trial();
                }
                return false;
            }
        };
        let why = match trial.deadline.left() {
            None => "it was not confirmed in time",
            Some(left) => match self.load_bundle(&trial.bundle, dataplane) {
                Ok(()) => {
                    tracing::warn!(seconds = left.as_secs(), "trial resumed");
                    self.serial = trial.serial();
                    self.begin(Trial { resumed: true, ..trial });
                    self.watch_unread_files();
                    return true;
                }
                Err(error) => {
                    error.explain();
                    "its policy cannot be loaded"
                }
            },
        };
        tracing::warn!("trial of an earlier daemon not resumed, policy undone: {why}");
        self.forget_trial();
        false
    }

    /// Watches the files, which were not loaded at the start because of a trial.
    fn watch_unread_files(&mut self) {
        let since = SystemTime::now();
        let sources = match policy::load(&self.options.manifest, &TrustedFiles) {
            Ok(loaded) => loaded.sources,
            Err(error) => error.sources,
        };
        self.watch(&sources, Reading::Followed { since });
    }

    /// Puts a policy into force, permanently or on trial. A dry run only reports the effect.
    ///
    /// # Errors
    /// A trial is in progress, the policy is invalid or not accepted, it would cut connections without
    /// consent, or the kernel refuses it.
    pub(crate) fn apply(
        &mut self,
        apply: &Apply,
        dataplane: &mut dyn Dataplane,
    ) -> Result<Applied, Refusal> {
        let Apply { bundle, confirm_within, signed, dry_run, consent } = apply;
        if self.trial().is_some() && !dry_run {
            let why =
                "a policy is on trial: run `trainguard confirm` or `trainguard rollback` first";
            return Err(why.into());
        }
        let before = self.mark();
        let within = confirm_within.map(Duration::from_secs);
        if let Some(within) = within.filter(|_| !dry_run) {
            self.require_saved_policy(within)?;
        }
        // Of the request, only the files that were read are used from here on.
        let prepared = self.prepare(&bundle.manifest, bundle, Reading::Known, dataplane);
        let Prepared { candidate, bundle } = prepared.map_err(|error| error.text())?;
        let bundle = &bundle;
        let accepted = self.check_signature(bundle, || Ok(signed.clone()), dataplane);
        let accepted = accepted.map_err(|error| error.text())?;
        let connections = self.connections_under(&candidate, consent.session, dataplane);
        if *dry_run {
            return self.planned(&candidate, connections);
        }
        consent.check(&connections)?;
        match within {
            None => {
                self.install(candidate, dataplane).map_err(|error| error.text())?;
                self.save(bundle);
                self.accept(accepted.as_ref());
                self.origin = self.origin_of_applied(bundle);
            }
            Some(within) => self.begin_trial(bundle, accepted, candidate, within, dataplane)?,
        }
        Ok(Applied { connections, ..self.applied(before.as_ref())? })
    }

    /// Returns the answer to a dry run.
    fn planned(&self, candidate: &Candidate, connections: Connections) -> Result<Applied, Refusal> {
        let current = self.in_force.as_ref().ok_or("no policy is in force")?;
        Ok(Applied {
            generation: current.number,
            policy_hash: hexadecimal(&candidate.policy.hash),
            changed: !current.is_same_as(candidate),
            connections,
            in_force: self.bundle_in_force(),
            ..Applied::default()
        })
    }

    /// Refuses a trial of an invalid duration, or one that could not be undone because the policy in
    /// force is not saved.
    fn require_saved_policy(&self, within: Duration) -> Result<(), Refusal> {
        let accepted = [self.options.timing.shortest, CONFIRM_WITHIN[1]];
        if !(accepted[0]..=accepted[1]).contains(&within) {
            let [shortest, longest] = accepted.map(humantime::format_duration);
            return Err(format!("a trial must last from {shortest} to {longest}").into());
        }
        let is_saved =
            self.is_saved && self.state_dir.last_good().is_ok_and(|bundle| bundle.is_some());
        if !is_saved {
            return Err(
                "the policy in force is not saved in the state directory, so a trial could \
                        not be undone"
                    .into(),
            );
        }
        Ok(())
    }

    fn begin_trial(
        &mut self,
        bundle: &Bundle,
        accepted: Option<Accepted>,
        candidate: Candidate,
        within: Duration,
        dataplane: &mut dyn Dataplane,
    ) -> Result<(), Refusal> {
        let trial =
            Trial::begin(bundle.clone(), accepted, within).map_err(|error| error.to_string())?;
        // Before the switch, so that the next start undoes the trial if the daemon ends in between.
        self.state_dir.keep_trial(&trial).map_err(|error| format!("{error:#}"))?;
        if let Err(error) = self.install(candidate, dataplane) {
            self.forget_trial();
            return Err(error.text().into());
        }
        self.serial = trial.serial();
        tracing::warn!(
            manifest = %bundle.manifest.display(),
            seconds = within.as_secs(),
            "policy on trial, undone unless confirmed"
        );
        let lines =
            [format!("undone after {} unless confirmed", humantime::format_duration(within))];
        self.report(dataplane, PolicyChange::OnTrial, &lines);
        self.begin(trial);
        Ok(())
    }

    fn begin(&mut self, trial: Trial) {
        let before = std::mem::replace(&mut self.origin, Origin::Files);
        self.origin = Origin::Trial { trial: Box::new(trial), before: Box::new(before) };
    }

    /// Keeps the policy on trial.
    ///
    /// # Errors
    /// There is no trial, or the policy cannot be saved.
    pub(crate) fn confirm(&mut self, dataplane: &mut dyn Dataplane) -> Result<Applied, Refusal> {
        let trial = self.trial().ok_or("no policy is on trial")?.clone();
        self.save(&trial.bundle);
        if !self.is_saved {
            let why = self.problems.join("; ");
            return Err(format!("the policy on trial is not confirmed: {why}").into());
        }
        self.forget_trial();
        self.accept(trial.accepted.as_ref());
        self.origin = self.origin_of_applied(&trial.bundle);
        tracing::warn!("policy on trial confirmed");
        self.report(dataplane, PolicyChange::Confirmed, &[]);
        self.applied(None)
    }

    /// Ends the trial: the policy that was in force before it is put into force again.
    ///
    /// # Errors
    /// There is no trial, or the policy that was in force before it cannot be loaded.
    pub(crate) fn roll_back(&mut self, dataplane: &mut dyn Dataplane) -> Result<Applied, Refusal> {
        if self.trial().is_none() {
            return Err("no policy is on trial".into());
        }
        self.load_saved(dataplane).map_err(|error| error.text())?;
        if let Origin::Trial { trial, before } = std::mem::replace(&mut self.origin, Origin::Files)
        {
            self.origin = *before;
            if trial.resumed {
                // Without the trial, this daemon would have started with its files.
                self.watcher.forget();
            }
        }
        self.forget_trial();
        tracing::warn!("policy on trial undone");
        self.report(dataplane, PolicyChange::Undone, &[]);
        self.applied(None)
    }

    /// Ends a trial whose deadline has passed.
    pub(crate) fn check_trial(&mut self, dataplane: &mut dyn Dataplane) {
        if self.trial().is_none_or(|trial| trial.deadline.left().is_some()) {
            return;
        }
        tracing::warn!("policy on trial not confirmed in time");
        if let Err(why) = self.roll_back(dataplane) {
            let why = why.why;
            tracing::error!("policy on trial not undone, trying again: {why}");
            let again = Deadline::after(self.options.timing.retry);
            if let (Origin::Trial { trial, .. }, Ok(again)) = (&mut self.origin, again) {
                trial.deadline = again;
            }
        }
    }

    fn forget_trial(&mut self) {
        let forgotten = self.state_dir.forget_trial();
        self.note_problem(forgotten);
    }

    /// Returns the origin of a policy that was applied, and records its difference to the files: the
    /// next start puts the files into force again.
    fn origin_of_applied(&mut self, applied: &Bundle) -> Origin {
        self.differences.clear();
        let same = policy::load(&self.options.manifest, &TrustedFiles)
            .is_ok_and(|loaded| loaded.bundle.has_texts_of(applied));
        if same {
            return Origin::Files;
        }
        let (from, manifest) = (applied.manifest.display(), self.options.manifest.display());
        self.differences.push(format!(
            "the policy in force was applied from `{from}` and differs from `{manifest}`, which \
             the daemon follows and loads at its next start"
        ));
        Origin::Applied { from: applied.manifest.clone() }
    }
}
