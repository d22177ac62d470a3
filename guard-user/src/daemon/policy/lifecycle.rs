//! The life cycle of policies: which policy is in force, where it came from, and what may replace it.
//! The policy in force is given up only when its replacement has been loaded.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    candidate::{Candidate, NAME_AN_INTERFACE, NodeOptions},
    connection_impact::MAX_REPORTED,
    dataplane::{Change, Dataplane, InForce, policy_event},
    documents::{ActiveOverride, Trial},
    file_watcher::FileWatcher,
    state_dir::StateDir,
};
use crate::{
    api::{
        connections::Connections,
        control::{Applied, Refusal, Session},
        events::PolicyChange,
        status::{LoadResult, LoadStatus, SourceKind, SourceStatus},
    },
    daemon::{
        install_error::{InstallError, log_findings},
        timing::Timing,
        trusted_files::TrustedFiles,
    },
    policy::{
        self, Bundle, Files, Loaded, Placement,
        compile::hash::hexadecimal,
        compiled::CompiledPolicy,
        resolve::signature::{self, Signed},
    },
    text::time,
};

/// The origin of the policy in force.
#[derive(Debug)]
pub(crate) enum Origin {
    /// The files that the daemon follows.
    Files,
    /// The copy in the state directory, because the files could not be loaded.
    LastGood {
        /// Why the files could not be loaded.
        because: String,
    },
    /// A policy that was applied and differs from the files.
    Applied {
        /// Path of its manifest.
        from: PathBuf,
    },
    /// A policy on trial.
    Trial {
        /// The policy on trial and its deadline.
        trial: Box<Trial>,
        /// The origin of the policy that the trial returns to.
        before: Box<Origin>,
    },
}

/// An attempt to load the files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadAttempt {
    /// When it began.
    pub(crate) began: SystemTime,
    /// Whether the files came into force.
    pub(crate) success: bool,
}

/// Generation number and interface patterns of the policy in force.
pub(crate) type Mark = (u64, Vec<String>);

/// The options that concern policies.
#[derive(Debug, Clone)]
pub(crate) struct PolicyOptions {
    /// Path of the manifest that the daemon follows.
    pub(crate) manifest: PathBuf,
    /// The choice of this node in the manifest, and of the interfaces to guard.
    pub(crate) node: NodeOptions,
    /// Path of the public key with which policies must be signed; none to accept unsigned policies.
    pub(crate) policy_key: Option<PathBuf>,
    /// Intervals and time limits.
    pub(crate) timing: Timing,
}

/// The owner of the policy state: the policy in force, its origin, trials, mode overrides, and the
/// watched files.
///
/// It reads and checks policy files, the state directory and signatures, and decides which policy comes
/// into force. It knows interfaces, events and counters only through a [`Dataplane`], which each method
/// that changes the policy in force takes as an argument.
///
/// # Examples
///
/// The tests in `daemon/policy/tests.rs` use a lifecycle with a [`Dataplane`] without a kernel. A
/// short one is `the_files_come_into_force_and_are_saved`.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub(super) options: PolicyOptions,
    pub(super) state_dir: StateDir,
    pub(super) watcher: FileWatcher,
    pub(super) in_force: Option<InForce>,
    pub(super) origin: Origin,
    /// Whether the state directory holds the policy in force.
    pub(super) is_saved: bool,
    /// Serial number with which the policy in force was signed; none if unsigned policies are accepted.
    pub(super) serial: Option<u64>,
    /// Why the policy in force differs from the files; empty if it does not.
    pub(super) differences: Vec<String>,
    /// SHA-256 over the files that were read last and did not come into force.
    rejected_files: Option<[u8; 32]>,
    last_load: Option<LoadAttempt>,
    pub(super) mode_override: Option<ActiveOverride>,
    /// Problems that last until the next start.
    start_problems: Vec<String>,
    /// Problems that last until the next switch.
    pub(super) problems: Vec<String>,
}

/// The result of [`Lifecycle::prepare`].
pub(super) struct Prepared {
    pub(super) candidate: Candidate,
    pub(super) bundle: Bundle,
}

/// How files are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// The daemon's own files, read since this time. They are watched, their signature is checked, and
    /// they are saved once they are in force.
    Followed { since: SystemTime },
    /// Files that were checked earlier, or come with a request that is checked by the caller.
    Known,
}

impl Lifecycle {
    /// Starts without a policy. `start_problems`: problems that last until the next start.
    pub(crate) fn new(
        options: PolicyOptions,
        state_dir: StateDir,
        start_problems: Vec<String>,
    ) -> Self {
        Self {
            watcher: FileWatcher::new(&options.timing),
            options,
            state_dir,
            in_force: None,
            origin: Origin::Files,
            is_saved: true,
            serial: None,
            differences: Vec::new(),
            rejected_files: None,
            last_load: None,
            mode_override: None,
            start_problems,
            problems: Vec::new(),
        }
    }

    /// Puts the policy of the manifest into force, or the last known good one if the manifest is
    /// invalid. Continues a trial or a mode override of an earlier daemon.
    ///
    /// # Errors
    /// No policy came into force.
    pub(crate) fn start(&mut self, dataplane: &mut dyn Dataplane) -> Result<(), InstallError> {
        self.resume_mode();
        if self.resume_trial(dataplane) {
            return Ok(());
        }
        match self.load_files(dataplane) {
            Ok(()) => Ok(()),
            // A request that the system refuses for one policy fails for another one, too.
            Err(error @ InstallError::System(_)) => Err(error),
            Err(error) => {
                error.explain();
                self.report(dataplane, PolicyChange::Refused, &error.lines());
                self.load_last_good(&error, dataplane)
            }
        }
    }

    /// Returns the policy in force; none before the start.
    pub(crate) fn in_force(&self) -> Option<&InForce> {
        self.in_force.as_ref()
    }

    /// Returns the path of the manifest that the daemon follows.
    pub(crate) fn manifest(&self) -> &Path {
        &self.options.manifest
    }

    /// Returns the last attempt to load the files.
    pub(crate) fn last_load(&self) -> Option<LoadAttempt> {
        self.last_load
    }

    /// Returns the policy on trial; none if there is no trial.
    pub(crate) fn trial(&self) -> Option<&Trial> {
        match &self.origin {
            Origin::Trial { trial, .. } => Some(trial),
            Origin::Files | Origin::LastGood { .. } | Origin::Applied { .. } => None,
        }
    }

    /// Returns the mode override; none if the policy's modes are in force.
    pub(crate) fn mode_override(&self) -> Option<&ActiveOverride> {
        self.mode_override.as_ref()
    }

    /// Returns whether the policy in force is that of the files.
    pub(crate) fn is_up_to_date(&self) -> bool {
        self.differences.is_empty() && self.trial().is_none()
    }

    /// Returns the problems that concern more than the last switch: of the mode override, the files and
    /// the start.
    pub(crate) fn lasting_problems(&self) -> Vec<String> {
        [self.mode_problems(), self.differences.clone(), self.start_problems.clone()].concat()
    }

    /// Returns the problems of the last switch.
    pub(crate) fn switch_problems(&self) -> &[String] {
        &self.problems
    }

    /// Returns the origin of the policy in force, for the status.
    pub(crate) fn source(&self) -> SourceStatus {
        let (kind, path) = match &self.origin {
            Origin::Trial { trial, .. } => (SourceKind::Trial, trial.bundle.manifest.clone()),
            Origin::Applied { from } => (SourceKind::Applied, from.clone()),
            Origin::LastGood { .. } => (SourceKind::LastGood, self.state_dir.last_good_path()),
            Origin::Files => (SourceKind::Files, self.options.manifest.clone()),
        };
        SourceStatus {
            kind: self.in_force.as_ref().map_or(SourceKind::None, |_| kind),
            path: path.display().to_string(),
            serial: self.serial,
            why: self.fallback_reason(),
            changed: self.watcher.differs(),
            refused_files: self.rejected_files.as_ref().map(|hash| hexadecimal(hash)),
            last_load: self.last_load.map(|LoadAttempt { began, success }| LoadStatus {
                time: time(began),
                result: if success { LoadResult::Success } else { LoadResult::Failure },
            }),
        }
    }

    /// Returns why the last known good policy is in force, or why a trial returns to it.
    fn fallback_reason(&self) -> Option<String> {
        let origin = match &self.origin {
            Origin::Trial { before, .. } => before,
            origin => origin,
        };
        match origin {
            Origin::LastGood { because } => Some(because.clone()),
            _ => None,
        }
    }

    /// Loads the files again if they have changed. During a trial nothing is loaded; a change is
    /// noticed after the trial.
    pub(crate) fn check_files(&mut self, dataplane: &mut dyn Dataplane) {
        if self.trial().is_none() && self.watcher.changed() {
            tracing::info!("policy files have changed");
            // The error is in the log and in the events.
            drop(self.reload(dataplane));
        }
    }

    /// Loads the files again. If they are invalid, the policy in force stays in force.
    ///
    /// # Errors
    /// The files did not come into force. The text is the reason.
    pub(crate) fn reload(&mut self, dataplane: &mut dyn Dataplane) -> Result<(), String> {
        if self.trial().is_some() {
            let why = "a policy is on trial: files are not loaded until the trial ends";
            tracing::warn!("{why}");
            return Err(format!("{why}; `trainguard confirm` or `trainguard rollback` ends it"));
        }
        dataplane.report(Change::Reloading);
        let loaded = self.load_files(dataplane);
        if let Err(error) = &loaded {
            error.explain();
            self.differences = error.lines();
            self.report(dataplane, PolicyChange::Refused, &error.lines());
            let generation = self.in_force.as_ref().map_or(0, |now| now.number);
            tracing::error!(
                generation,
                "policy files not loaded; the running generation stays in force"
            );
        }
        dataplane.report(Change::Reloaded);
        loaded.map_err(|error| error.lines().join("\n"))
    }

    /// Builds the policy in force again, for example because tunnels or modes have changed. The files
    /// are not used unless nothing is saved, because they may be invalid at the moment.
    ///
    /// # Errors
    /// The policy cannot be built, or the kernel refuses it.
    pub(crate) fn load_again(&mut self, dataplane: &mut dyn Dataplane) -> Result<(), InstallError> {
        match self.trial() {
            Some(trial) => {
                let bundle = trial.bundle.clone();
                self.load_bundle(&bundle, dataplane)
            }
            None if self.is_saved => self.load_saved(dataplane),
            None => self.load_files(dataplane),
        }
    }

    fn load_files(&mut self, dataplane: &mut dyn Dataplane) -> Result<(), InstallError> {
        let began = SystemTime::now();
        self.watcher.mark();
        let manifest = self.options.manifest.clone();
        let reading = Reading::Followed { since: began };
        let loaded = self.load(&manifest, &TrustedFiles, reading, dataplane);
        let success = loaded.is_ok();
        self.last_load = Some(LoadAttempt { began, success });
        dataplane.report(Change::Loaded { success });
        if success {
            self.differences.clear();
            self.rejected_files = None;
            self.origin = Origin::Files;
        } else {
            self.rejected_files = self.watcher.digest(&self.options.manifest);
        }
        loaded
    }

    /// Loads the saved policy, for a start with invalid files.
    fn load_last_good(
        &mut self,
        error: &InstallError,
        dataplane: &mut dyn Dataplane,
    ) -> Result<(), InstallError> {
        self.differences = error.lines();
        tracing::warn!("policy files not loaded; loading the last known good policy");
        self.load_saved(dataplane)?;
        self.origin =
            Origin::LastGood { because: self.differences.first().cloned().unwrap_or_default() };
        let lines = ["saved by an earlier daemon".to_owned()];
        self.report(dataplane, PolicyChange::LastGood, &lines);
        Ok(())
    }

    pub(super) fn load_saved(&mut self, dataplane: &mut dyn Dataplane) -> Result<(), InstallError> {
        let saved = self.state_dir.last_good().map_err(|error| of_state_dir(&error))?;
        let bundle = saved.ok_or_else(|| {
            let hint = "correct the errors above; `trainguard lint` checks files without \
                        privileges. A guard that an earlier daemon attached stays in force";
            InstallError::Unfit("there is no policy to put into force".to_owned(), Some(hint))
        })?;
        self.load_bundle(&bundle, dataplane)?;
        // The saved policy is the one whose signature was accepted last.
        let accepted =
            self.options.policy_key.as_ref().and_then(|_| self.state_dir.accepted().ok()?);
        self.serial = accepted.map(|accepted| accepted.serial);
        Ok(())
    }

    pub(super) fn load_bundle(
        &mut self,
        bundle: &Bundle,
        dataplane: &mut dyn Dataplane,
    ) -> Result<(), InstallError> {
        self.load(&bundle.manifest, bundle, Reading::Known, dataplane)
    }

    /// Loads a policy and puts it into force.
    fn load(
        &mut self,
        manifest: &Path,
        files: &dyn Files,
        reading: Reading,
        dataplane: &mut dyn Dataplane,
    ) -> Result<(), InstallError> {
        let Prepared { candidate, bundle } = self.prepare(manifest, files, reading, dataplane)?;
        if reading == Reading::Known {
            return self.install(candidate, dataplane);
        }
        let accepted =
            self.check_signature(&bundle, || Signed::read(manifest, files), dataplane)?;
        let connections = self.connections_under(&candidate, None, dataplane);
        self.install(candidate, dataplane)?;
        self.save(&bundle);
        self.accept(accepted.as_ref());
        self.warn_of_cuts(&connections, dataplane);
        Ok(())
    }

    /// Puts a policy into force.
    pub(super) fn install(
        &mut self,
        candidate: Candidate,
        dataplane: &mut dyn Dataplane,
    ) -> Result<(), InstallError> {
        self.problems.clear();
        let installed = dataplane.install(candidate, self.in_force.as_ref())?;
        self.in_force = Some(installed.in_force);
        self.problems.extend(installed.problem);
        Ok(())
    }

    /// Reads and compiles a policy without putting it into force.
    pub(super) fn prepare(
        &mut self,
        manifest: &Path,
        files: &dyn Files,
        reading: Reading,
        dataplane: &dyn Dataplane,
    ) -> Result<Prepared, InstallError> {
        let mut loaded = match policy::load(manifest, files) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.watch(&error.sources, reading);
                return Err(InstallError::Files(error));
            }
        };
        self.watch(&loaded.sources, reading);
        if reading != Reading::Known && !loaded.report.diagnostics.is_empty() {
            log_findings(&loaded.report);
        }
        self.override_modes(&mut loaded);
        let candidate = self.compile(&loaded, dataplane)?;
        Ok(Prepared { candidate, bundle: loaded.bundle })
    }

    /// Watches the files that a followed policy was read from.
    pub(super) fn watch(&mut self, sources: &[PathBuf], reading: Reading) {
        let Reading::Followed { since } = reading else { return };
        let mut sources = sources.to_vec();
        if self.options.policy_key.is_some() {
            sources.extend(signature::paths(&self.options.manifest));
        }
        self.watcher.set_paths(sources, since);
    }

    fn compile(
        &self,
        loaded: &Loaded,
        dataplane: &dyn Dataplane,
    ) -> Result<Candidate, InstallError> {
        let patterns = self.options.node.patterns(loaded)?;
        // Under the patterns in force, a port was put into a bridge later: its guard stays, and the
        // status reports it.
        let is_new = self.in_force.as_ref().is_none_or(|now| now.info.patterns != patterns);
        if is_new && let Some(why) = dataplane.refused_ports(&patterns) {
            return Err(InstallError::Unfit(why, None));
        }
        // A typo in `interfaces` must not leave the node unguarded.
        let others = self.in_force.as_ref().is_some_and(|now| now.info.patterns != patterns);
        if others && !dataplane.has_device(&patterns) {
            let why = format!("no interface on this node matches `{}`", patterns.join(", "));
            return Err(InstallError::Unfit(why, Some(NAME_AN_INTERFACE)));
        }
        let placement = dataplane.placement()?;
        self.options.node.compile(loaded, patterns, &placement, dataplane.tunnels())
    }

    /// Returns the effect of a policy on open connections. A failure to list them is part of the
    /// result.
    pub(super) fn connections_under(
        &self,
        candidate: &Candidate,
        session: Option<Session>,
        dataplane: &dyn Dataplane,
    ) -> Connections {
        let current = self.in_force.as_ref();
        if current.is_some_and(|now| now.is_same_as(candidate)) {
            return Connections::default();
        }
        let impact = dataplane
            .connections_under(candidate, session, current, &mut || self.compile_in_force());
        impact.unwrap_or_else(|error| Connections {
            incomplete: Some(error.to_string()),
            ..Connections::default()
        })
    }

    /// Compiles the policy in force again. Returns none if its texts are not known any more; then all
    /// open connections are assumed to pass.
    fn compile_in_force(&self) -> Option<CompiledPolicy> {
        let current = self.in_force.as_ref()?;
        let bundle = self.bundle_in_force()?;
        let mut loaded = policy::load(&bundle.manifest, &bundle).ok()?;
        self.override_modes(&mut loaded);
        let node = loaded.cluster.nodes.iter().find(|node| node.name == current.info.node)?;
        let policy = policy::compile(&loaded, node, &Placement::default()).ok()?;
        (policy.hash == current.hash).then_some(policy)
    }

    /// Warns of connections that the new files cut. No consent is required: the authors of the files
    /// have checked them, and a node that ignores its files would be worse.
    fn warn_of_cuts(&self, connections: &Connections, dataplane: &mut dyn Dataplane) {
        let cut = &connections.cut;
        if cut.connections == 0 {
            return;
        }
        let lines = cut.lines(MAX_REPORTED);
        tracing::warn!(
            connections = cut.connections,
            "the new policy cuts open connections: {}",
            lines.join("; ")
        );
        self.report(dataplane, PolicyChange::CutsConnections, &lines);
    }

    /// Saves the policy in force. A failure is recorded as a problem: the policy stays in force, but
    /// would not survive a reboot.
    pub(super) fn save(&mut self, bundle: &Bundle) {
        let saved = self.state_dir.keep(bundle);
        self.is_saved = saved.is_ok();
        self.note_problem(saved);
    }

    /// Logs a failure of the state directory and adds it to the problems.
    pub(super) fn note_problem(&mut self, result: anyhow::Result<()>) {
        if let Err(error) = result {
            tracing::error!("{error:#}");
            self.problems.push(format!("{error:#}"));
        }
    }

    /// Returns the texts of the policy in force; none if they are not saved.
    pub(super) fn bundle_in_force(&self) -> Option<Bundle> {
        match self.trial() {
            Some(trial) => Some(trial.bundle.clone()),
            None if self.is_saved => self.state_dir.last_good().ok()?,
            None => None,
        }
    }

    /// Returns the texts of the files, if they are the policy in force.
    pub(super) fn bundle_of_files(&self) -> Option<Bundle> {
        let bundle = policy::load(&self.options.manifest, &TrustedFiles).ok()?.bundle;
        let current = self.in_force.as_ref()?;
        (bundle.hash() == current.info.files_hash).then_some(bundle)
    }

    /// Returns a mark of the policy in force, to be compared by [`Self::applied`].
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.in_force.as_ref().map(|now| (now.number, now.info.patterns.clone()))
    }

    /// Describes the policy in force, and whether it differs from an earlier mark.
    ///
    /// # Errors
    /// No policy is in force.
    pub(crate) fn applied(&self, before: Option<&Mark>) -> Result<Applied, Refusal> {
        let current = self.in_force.as_ref().ok_or("no policy is in force")?;
        Ok(Applied {
            generation: current.number,
            policy_hash: hexadecimal(&current.hash),
            changed: before != self.mark().as_ref(),
            trial: self.trial().map(Trial::status),
            problems: self.differences.clone(),
            ..Applied::default()
        })
    }

    /// Reports an event about the policy in force.
    pub(super) fn report(
        &self,
        dataplane: &mut dyn Dataplane,
        what: PolicyChange,
        lines: &[String],
    ) {
        let event = policy_event(what, self.in_force.as_ref(), lines);
        dataplane.report(Change::Event(event));
    }
}

/// Converts an error of the state directory.
pub(crate) fn of_state_dir(error: &anyhow::Error) -> InstallError {
    InstallError::unfit(format_args!("{error:#}"))
}
