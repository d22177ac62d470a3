//! A policy on trial: in force, and undone by the daemon unless the operator confirms it in time.
//!
//! The daemon keeps the deadline and what to return to, both on disk, so that neither a terminal
//! that hangs nor a daemon that ends loses them. The deadline is one of the clock that counts from
//! boot and cannot be set. A machine that was started again has no trial: it begins with its files.

use std::{
    fs, io,
    time::{Duration, SystemTime},
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{
    failure::Failure,
    guard::{Guard, hexadecimal},
    server::{Applied, Apply},
    view::{self, TrialStatus},
};
use crate::{
    kernel::error::KernelError,
    policy::{self, Bundle, Disk},
};

/// After how long a return that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// The shortest and the longest time to confirm in.
pub const CONFIRM_WITHIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_hours(24)];

/// A trial, as the state directory keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// Id of the boot that the deadline counts from.
    boot: String,
    /// When it ends, since boot.
    deadline: Duration,
    /// What is tried.
    pub(super) bundle: Bundle,
    /// This daemon goes on with what an earlier one has begun, and has not loaded its files yet.
    #[serde(skip)]
    resumed: bool,
}

/// Time since boot, suspension included.
fn since_boot() -> Result<Duration, KernelError> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_err(|error| KernelError::of("reading the clock", io::Error::from(error)))?;
    Ok(now.into())
}

/// Id of this boot (random(4)).
fn boot_id() -> Result<String, KernelError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(PATH).map_err(|error| KernelError::of(PATH, error))?;
    Ok(id.trim_end().to_owned())
}

impl Trial {
    fn begin(bundle: Bundle, within: Duration) -> Result<Self, KernelError> {
        let deadline = since_boot()?.saturating_add(within);
        Ok(Self { boot: boot_id()?, deadline, bundle, resumed: false })
    }

    /// How long it goes on; none if it is over, or of another boot.
    fn left(&self) -> Option<Duration> {
        let same_boot = boot_id().is_ok_and(|id| id == self.boot);
        let now = since_boot().ok().filter(|_| same_boot)?;
        self.deadline.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// When it ends, by the clock of the wall.
    pub(super) fn deadline(&self) -> SystemTime {
        SystemTime::now() + self.left().unwrap_or_default()
    }

    /// For the status.
    pub(super) fn status(&self) -> TrialStatus {
        let left = self.left().unwrap_or_default();
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
                self.forget_trial();
                return false;
            }
        };
        if let Some(left) = trial.left() {
            match self.load_bundle(&trial.bundle) {
                Ok(()) => {
                    tracing::warn!(seconds = left.as_secs(), "the trial goes on");
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
        let sources = match policy::load(&self.wanted.manifest, &Disk) {
            Ok(loaded) => loaded.sources,
            Err(error) => error.sources,
        };
        self.watch.set_paths(sources, began);
    }

    /// Puts a policy into force, for good or on trial.
    pub(super) fn apply(&mut self, apply: &Apply) -> Result<Applied, String> {
        if self.trial.is_some() {
            return Err("a policy is on trial: `trainguard confirm` or `rollback` first".into());
        }
        let before = self.running.as_ref().map(|running| running.number);
        match apply.confirm_within {
            None => {
                self.load_bundle(&apply.bundle).map_err(|failure| said(&failure))?;
                self.keep(&apply.bundle);
                self.follow_files(&apply.bundle);
            }
            Some(seconds) => self.begin_trial(&apply.bundle, Duration::from_secs(seconds))?,
        }
        self.in_force(before)
    }

    fn begin_trial(&mut self, bundle: &Bundle, within: Duration) -> Result<(), String> {
        if !(CONFIRM_WITHIN[0]..=CONFIRM_WITHIN[1]).contains(&within) {
            let [shortest, longest] = CONFIRM_WITHIN.map(humantime::format_duration);
            return Err(format!("a trial takes from {shortest} to {longest}"));
        }
        // What cannot be undone must not be tried.
        let is_kept = self.kept && self.state.last_good().is_ok_and(|bundle| bundle.is_some());
        if !is_kept {
            return Err("what is in force is not in the state directory: a trial could not be \
                        undone"
                .to_owned());
        }
        let trial = Trial::begin(bundle.clone(), within).map_err(|error| error.to_string())?;
        // Before the switch: a daemon that ends in between undoes it.
        self.state.keep_trial(&trial).map_err(|error| format!("{error:#}"))?;
        if let Err(failure) = self.load_bundle(bundle) {
            self.forget_trial();
            return Err(said(&failure));
        }
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
    pub(super) fn confirm(&mut self) -> Result<Applied, String> {
        let trial = self.trial.take().ok_or("no policy is on trial")?;
        self.keep(&trial.bundle);
        if !self.kept {
            self.trial = Some(trial);
            return Err(format!("it is not confirmed: {}", self.problems.join("; ")));
        }
        self.forget_trial();
        self.follow_files(&trial.bundle);
        tracing::warn!("the policy on trial is confirmed");
        self.note_policy("confirmed", &[]);
        self.in_force(None)
    }

    /// Ends the trial: what was in force before is again.
    pub(super) fn roll_back(&mut self) -> Result<Applied, String> {
        if self.trial.is_none() {
            return Err("no policy is on trial".to_owned());
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
        if self.trial.as_ref().is_none_or(|trial| trial.left().is_some()) {
            return;
        }
        tracing::warn!("nobody has confirmed the policy on trial");
        if let Err(why) = self.roll_back() {
            tracing::error!("the policy on trial cannot be undone, trying again: {why}");
            if let (Some(trial), Ok(now)) = (&mut self.trial, since_boot()) {
                trial.deadline = now + AGAIN;
            }
        }
    }

    /// What is in force now, where the generation of this number was.
    pub(super) fn in_force(&self, before: Option<u64>) -> Result<Applied, String> {
        let running = self.running.as_ref().ok_or("nothing is in force")?;
        Ok(Applied {
            generation: running.number,
            policy_hash: hexadecimal(&running.hash),
            changed: before != Some(running.number),
            trial: self.trial.as_ref().map(Trial::status),
            problems: self.outdated.clone(),
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
        let same = policy::load(&self.wanted.manifest, &Disk)
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
fn said(failure: &Failure) -> String {
    failure.lines().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_ends_with_its_time_and_with_its_boot() {
        let trial = Trial::begin(Bundle::default(), Duration::from_mins(10)).expect("a clock");
        assert!(trial.left().is_some_and(|left| left > Duration::from_mins(9)));
        let over = Trial { deadline: Duration::from_nanos(1), ..trial.clone() };
        assert_eq!(over.left(), None);
        let elsewhere = Trial { boot: "another".to_owned(), ..trial };
        assert_eq!(elsewhere.left(), None);
    }
}
