//! The life cycle of policies, on a data plane that only records the calls.

use std::{fs, path::PathBuf, time::Duration};

use super::{
    candidate::{Candidate, NodeOptions},
    dataplane::{Change, Dataplane, InForce, Installed},
    lifecycle::{Lifecycle, Origin, PolicyOptions},
    state_dir::StateDir,
};
use crate::{
    api::{
        connections::Connections,
        control::{Apply, ModeChange, RequestedMode, Session},
        events::PolicyChange,
        status::{LoadResult, ServiceMode, SourceKind},
    },
    daemon::{deadline::Deadline, install_error::InstallError, timing::Timing},
    policy::{
        Bundle, Placement,
        compiled::{CompiledPolicy, Tunnels},
    },
    system_error::SystemError,
};

const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: test
interfaces: [eth0]
nodes:
  - { name: node, addresses: [10.0.0.1], roles: [scheduler] }
  - { name: worker, addresses: [10.0.0.2], roles: [worker] }
policies: [policy.yaml]
";

/// Returns a policy that guards one port.
fn policy(port: u16) -> String {
    format!(
        "apiVersion: trainguard/v1\nkind: Policy\nname: test\nservices:\n  - name: s\n    roles: \
         [scheduler]\n    ports: [tcp/{port}]\n    match: all\n    allow: {{ roles: [worker] }}\n    mode: enforce\n"
    )
}

/// Records installed policies and reported changes.
#[derive(Debug, Default)]
struct Recorder {
    installed: u64,
    /// Whether the kernel refuses every policy.
    refuses: bool,
    /// Whether all interfaces are ports of a bridge.
    bridged: bool,
    events: Vec<PolicyChange>,
    /// Results of loading the files.
    loads: Vec<bool>,
    /// Rejected signatures: whether each was replayed.
    rejected: Vec<bool>,
}

impl Dataplane for Recorder {
    fn tunnels(&self) -> Tunnels {
        Tunnels::default()
    }

    fn has_device(&self, patterns: &[String]) -> bool {
        patterns.iter().any(|pattern| pattern.starts_with("eth"))
    }

    fn refused_ports(&self, patterns: &[String]) -> Option<String> {
        self.bridged.then(|| format!("`{}` is a port of a bridge", patterns.join(", ")))
    }

    fn placement(&self) -> Result<Placement, SystemError> {
        Ok(Placement::default())
    }

    fn install(
        &mut self,
        candidate: Candidate,
        _current: Option<&InForce>,
    ) -> Result<Installed, InstallError> {
        if self.refuses {
            return Err(SystemError::new("no memory").into());
        }
        self.installed += 1;
        let Candidate { policy, info, tunnels, .. } = candidate;
        let since = std::time::SystemTime::now();
        let in_force = InForce { number: self.installed, since, hash: policy.hash, tunnels, info };
        Ok(Installed { in_force, problem: None })
    }

    fn connections_under(
        &self,
        _candidate: &Candidate,
        _session: Option<Session>,
        _current: Option<&InForce>,
        _compile_current: &mut dyn FnMut() -> Option<CompiledPolicy>,
    ) -> Result<Connections, SystemError> {
        Ok(Connections::default())
    }

    fn report(&mut self, change: Change) {
        match change {
            Change::Event(event) => self.events.push(event.what),
            Change::Loaded { success } => self.loads.push(success),
            Change::SignatureRejected { replayed } => self.rejected.push(replayed),
            Change::Reloading | Change::Reloaded => {}
        }
    }
}

/// The files of a node, and its state directory.
struct Node {
    directory: tempfile::TempDir,
    key: Option<PathBuf>,
}

impl Node {
    fn new() -> Self {
        let node = Self { directory: tempfile::tempdir().expect("a directory"), key: None };
        node.write("cluster.yaml", MANIFEST);
        node.write("policy.yaml", &policy(9091));
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// Returns a daemon that has not started.
    fn daemon(&self) -> (Lifecycle, Recorder) {
        let options = PolicyOptions {
            manifest: self.path("cluster.yaml"),
            node: NodeOptions { node: Some("node".to_owned()), interfaces: Vec::new() },
            policy_key: self.key.clone(),
            timing: Timing::default(),
        };
        let state_dir = StateDir::at(&self.path("state"));
        (Lifecycle::new(options, state_dir, Vec::new()), Recorder::default())
    }

    /// Returns a daemon that has started.
    fn started(&self) -> (Lifecycle, Recorder) {
        let (mut lifecycle, mut recorder) = self.daemon();
        if let Err(error) = lifecycle.start(&mut recorder) {
            panic!("the start failed: {error:?}, {:?}", lifecycle.lasting_problems());
        }
        (lifecycle, recorder)
    }

    /// Returns a request to apply a policy for another port.
    fn apply(&self, port: u16) -> Apply {
        let manifest = self.path("other.yaml");
        let text = policy(port);
        let bundle = Bundle::new(
            manifest.to_str().expect("UTF-8"),
            [
                (manifest.to_str().expect("UTF-8"), MANIFEST),
                (self.path("policy.yaml").to_str().expect("UTF-8"), &text),
            ],
        );
        Apply { bundle, ..Apply::default() }
    }
}

fn kind(lifecycle: &Lifecycle) -> SourceKind {
    lifecycle.source().kind
}

fn policy_hash(lifecycle: &Lifecycle) -> [u8; 32] {
    lifecycle.in_force().expect("a policy in force").hash
}

#[test]
fn the_files_come_into_force_and_are_saved() {
    let node = Node::new();
    let (lifecycle, recorder) = node.started();
    assert_eq!((kind(&lifecycle), lifecycle.is_up_to_date()), (SourceKind::Files, true));
    assert_eq!((recorder.installed, &recorder.loads[..]), (1, &[true][..]));
    assert_eq!(recorder.events, []);
    assert!(lifecycle.bundle_in_force().is_some());
    let load = lifecycle.source().last_load.expect("a load");
    assert_eq!(load.result, LoadResult::Success);
}

#[test]
fn a_start_with_invalid_files_and_no_saved_policy_fails() {
    let node = Node::new();
    node.write("policy.yaml", "nonsense");
    let (mut lifecycle, mut recorder) = node.daemon();
    let error = lifecycle.start(&mut recorder).expect_err("nothing to put into force");
    assert!(matches!(error, InstallError::Unfit(..)), "{error:?}");
    assert_eq!((recorder.installed, &recorder.loads[..]), (0, &[false][..]));
    assert_eq!(recorder.events, [PolicyChange::Refused]);
    assert_eq!(kind(&lifecycle), SourceKind::None);
}

#[test]
fn ports_of_bridges_are_refused_unless_the_patterns_are_in_force_already() {
    let node = Node::new();
    let (mut lifecycle, mut recorder) = node.daemon();
    recorder.bridged = true;
    let error = lifecycle.start(&mut recorder).expect_err("a port of a bridge");
    assert!(error.text().contains("there is no policy"), "{error:?}");
    assert_eq!((recorder.installed, &recorder.events[..]), (0, &[PolicyChange::Refused][..]));
    // An interface that is put into a bridge later keeps its guard, under other policies, too.
    let (mut lifecycle, mut recorder) = node.started();
    recorder.bridged = true;
    node.write("policy.yaml", &policy(9092));
    lifecycle.reload(&mut recorder).expect("the interfaces stay");
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth1]"));
    let why = lifecycle.reload(&mut recorder).expect_err("another port of a bridge");
    assert!(why.contains("`eth1` is a port of a bridge"), "{why}");
    assert_eq!(recorder.installed, 2);
}

#[test]
fn a_start_with_invalid_files_puts_the_last_good_policy_into_force() {
    let node = Node::new();
    let hash = policy_hash(&node.started().0);
    node.write("policy.yaml", "nonsense");
    let (mut lifecycle, mut recorder) = node.started();
    assert_eq!((kind(&lifecycle), policy_hash(&lifecycle)), (SourceKind::LastGood, hash));
    assert_eq!(recorder.events, [PolicyChange::Refused, PolicyChange::LastGood]);
    let source = lifecycle.source();
    assert!(source.why.is_some_and(|why| why.contains("policy.yaml")));
    assert!(source.refused_files.is_some() && !lifecycle.is_up_to_date());
    // Valid files replace it.
    node.write("policy.yaml", &policy(9092));
    lifecycle.reload(&mut recorder).expect("good files");
    assert_eq!((kind(&lifecycle), lifecycle.is_up_to_date()), (SourceKind::Files, true));
    assert_ne!(policy_hash(&lifecycle), hash);
    assert_eq!(lifecycle.source().refused_files, None);
}

#[test]
fn the_last_good_policy_does_not_replace_one_that_the_kernel_refuses() {
    let node = Node::new();
    node.started();
    let (mut lifecycle, mut recorder) = node.daemon();
    recorder.refuses = true;
    let error = lifecycle.start(&mut recorder).expect_err("the kernel refuses");
    assert!(matches!(error, InstallError::System(_)), "{error:?}");
    assert!(lifecycle.in_force().is_none());
}

#[test]
fn invalid_files_leave_the_policy_in_force() {
    let node = Node::new();
    let (mut lifecycle, mut recorder) = node.started();
    let hash = policy_hash(&lifecycle);
    for wrong in ["nonsense", "apiVersion: trainguard/v1\nkind: Policy\nname: test\nservices: 7\n"]
    {
        node.write("policy.yaml", wrong);
        lifecycle.reload(&mut recorder).expect_err("wrong files");
        assert_eq!((kind(&lifecycle), policy_hash(&lifecycle)), (SourceKind::Files, hash));
        assert!(!lifecycle.is_up_to_date() && !lifecycle.lasting_problems().is_empty());
    }
    // A typo in the interfaces would leave the node unguarded.
    node.write("policy.yaml", &policy(9091));
    node.write("cluster.yaml", &MANIFEST.replace("eth0", "ehh0"));
    let why = lifecycle.reload(&mut recorder).expect_err("no such interface");
    assert!(why.contains("`ehh0`"), "{why}");
    recorder.refuses = true;
    node.write("cluster.yaml", MANIFEST);
    node.write("policy.yaml", &policy(9092));
    lifecycle.reload(&mut recorder).expect_err("the kernel refuses");
    assert_eq!((recorder.installed, policy_hash(&lifecycle)), (1, hash));
    assert_eq!(recorder.events, [PolicyChange::Refused; 4]);
    assert_eq!(recorder.loads, [true, false, false, false, false]);
}

#[test]
fn an_applied_policy_is_in_force_until_the_files_are_loaded() {
    let node = Node::new();
    let (mut lifecycle, mut recorder) = node.started();
    let apply = node.apply(9092);
    let planned = lifecycle.apply(&Apply { dry_run: true, ..apply.clone() }, &mut recorder);
    assert!(planned.expect("a plan").changed);
    assert_eq!((recorder.installed, kind(&lifecycle)), (1, SourceKind::Files));
    let applied = lifecycle.apply(&apply, &mut recorder).expect("a policy");
    assert!(applied.changed && applied.generation == 2);
    assert_eq!((kind(&lifecycle), lifecycle.is_up_to_date()), (SourceKind::Applied, false));
    // The daemon starts with its files.
    assert_eq!(kind(&node.started().0), SourceKind::Files);
    lifecycle.reload(&mut recorder).expect("good files");
    assert_eq!((kind(&lifecycle), lifecycle.is_up_to_date()), (SourceKind::Files, true));
}

#[test]
fn a_trial_is_undone_or_confirmed() {
    let node = Node::new();
    let (mut lifecycle, mut recorder) = node.started();
    let hash = policy_hash(&lifecycle);
    let apply = Apply { confirm_within: Some(60), ..node.apply(9092) };
    lifecycle.confirm(&mut recorder).expect_err("no trial");
    lifecycle.roll_back(&mut recorder).expect_err("no trial");

    let applied = lifecycle.apply(&apply, &mut recorder).expect("a trial");
    assert!(applied.trial.is_some());
    assert_eq!(kind(&lifecycle), SourceKind::Trial);
    lifecycle.apply(&apply, &mut recorder).expect_err("one trial at a time");
    lifecycle.reload(&mut recorder).expect_err("no reload during a trial");
    let mode = ModeChange {
        mode: RequestedMode::Observe,
        services: Vec::new(),
        seconds: None,
        consent: crate::api::control::Consent::default(),
    };
    lifecycle.change_mode(&mode, &mut recorder).expect_err("no change of modes during a trial");
    lifecycle.roll_back(&mut recorder).expect("rolled back");
    assert_eq!((kind(&lifecycle), policy_hash(&lifecycle)), (SourceKind::Files, hash));

    lifecycle.apply(&apply, &mut recorder).expect("a trial");
    lifecycle.confirm(&mut recorder).expect("confirmed");
    assert_eq!(kind(&lifecycle), SourceKind::Applied);
    assert_ne!(policy_hash(&lifecycle), hash);
    let expected = [
        PolicyChange::OnTrial,
        PolicyChange::Undone,
        PolicyChange::OnTrial,
        PolicyChange::Confirmed,
    ];
    assert_eq!(recorder.events, expected);

    // A rollback returns to the applied policy, not to the files.
    let apply = Apply { confirm_within: Some(60), ..node.apply(9093) };
    lifecycle.apply(&apply, &mut recorder).expect("a trial");
    lifecycle.roll_back(&mut recorder).expect("rolled back");
    assert_eq!(kind(&lifecycle), SourceKind::Applied);
}

#[test]
fn an_unconfirmed_trial_ends_by_itself() {
    let node = Node::new();
    let (mut lifecycle, mut recorder) = node.started();
    let hash = policy_hash(&lifecycle);
    let apply = Apply { confirm_within: Some(60), ..node.apply(9092) };
    lifecycle.apply(&apply, &mut recorder).expect("a trial");
    lifecycle.check_trial(&mut recorder);
    assert_eq!(kind(&lifecycle), SourceKind::Trial, "there is time left");
    let Origin::Trial { trial, .. } = &mut lifecycle.origin else { panic!("no trial") };
    trial.deadline = Deadline::after(Duration::ZERO).expect("a clock");
    // As long as the kernel refuses, the trial goes on and ending it is tried again.
    recorder.refuses = true;
    lifecycle.check_trial(&mut recorder);
    assert_eq!(kind(&lifecycle), SourceKind::Trial);
    let Origin::Trial { trial, .. } = &mut lifecycle.origin else { panic!("no trial") };
    assert!(trial.deadline.left().is_some(), "tried again later");
    trial.deadline = Deadline::after(Duration::ZERO).expect("a clock");
    recorder.refuses = false;
    lifecycle.check_trial(&mut recorder);
    assert_eq!((kind(&lifecycle), policy_hash(&lifecycle)), (SourceKind::Files, hash));
}

#[test]
fn a_trial_outlives_the_daemon_and_ends_in_time() {
    let node = Node::new();
    let (mut lifecycle, mut recorder) = node.started();
    let hash = policy_hash(&lifecycle);
    let apply = Apply { confirm_within: Some(60), ..node.apply(9092) };
    lifecycle.apply(&apply, &mut recorder).expect("a trial");
    let (mut next, mut recorder) = node.started();
    assert_eq!((kind(&next), &recorder.loads[..]), (SourceKind::Trial, &[][..]));
    assert_ne!(policy_hash(&next), hash);
    next.roll_back(&mut recorder).expect("rolled back");
    assert_eq!((kind(&next), policy_hash(&next)), (SourceKind::Files, hash));
    assert_eq!(kind(&node.started().0), SourceKind::Files, "the state directory has none");

    lifecycle.roll_back(&mut recorder).expect("rolled back");
    lifecycle.apply(&apply, &mut recorder).expect("a trial");
    let Origin::Trial { trial, .. } = &mut lifecycle.origin else { panic!("no trial") };
    trial.deadline = Deadline::after(Duration::ZERO).expect("a clock");
    let over = trial.as_ref().clone();
    lifecycle.state_dir.keep_trial(&over).expect("a state directory");
    let (next, _) = node.started();
    assert_eq!(
        (kind(&next), policy_hash(&next)),
        (SourceKind::Files, hash),
        "the deadline has passed"
    );
}

#[test]
fn a_policy_that_could_not_be_undone_is_not_put_on_trial() {
    let node = Node::new();
    node.write("state", "no directory");
    let (mut lifecycle, mut recorder) = node.started();
    assert!(!lifecycle.switch_problems().is_empty(), "a problem: the policy is not saved");
    let apply = Apply { confirm_within: Some(60), ..node.apply(9092) };
    let refusal =
        lifecycle.apply(&apply, &mut recorder).expect_err("the trial could not be undone");
    assert!(refusal.why.contains("state directory"), "{refusal}");
    assert_eq!((recorder.installed, kind(&lifecycle)), (1, SourceKind::Files));
}

#[test]
fn a_mode_override_outlives_reloads_and_the_daemon_and_ends_in_time() {
    let node = Node::new();
    let (mut lifecycle, mut recorder) = node.started();
    let mode = |lifecycle: &Lifecycle| {
        let services = &lifecycle.in_force().expect("a policy").info.services;
        services.values().next().expect("a service").mode
    };
    let change = |mode| ModeChange {
        mode,
        services: Vec::new(),
        seconds: Some(3600),
        consent: crate::api::control::Consent::default(),
    };
    let unknown = ModeChange { services: vec!["t".to_owned()], ..change(RequestedMode::Observe) };
    lifecycle.change_mode(&unknown, &mut recorder).expect_err("no such service");
    recorder.refuses = true;
    lifecycle
        .change_mode(&change(RequestedMode::Observe), &mut recorder)
        .expect_err("the kernel refuses");
    assert!(lifecycle.mode_override().is_none());
    recorder.refuses = false;
    lifecycle.change_mode(&change(RequestedMode::Observe), &mut recorder).expect("a mode");
    assert_eq!(mode(&lifecycle), ServiceMode::Observe);
    lifecycle.reload(&mut recorder).expect("good files");
    assert_eq!(mode(&lifecycle), ServiceMode::Observe);
    assert!(lifecycle.lasting_problems().iter().any(|problem| problem.contains("mode override")));

    let (mut next, mut recorder) = node.started();
    assert_eq!(mode(&next), ServiceMode::Observe);
    next.check_mode(&mut recorder);
    assert_eq!(mode(&next), ServiceMode::Observe, "there is time left");
    let over = Deadline::after(Duration::ZERO).expect("a clock");
    next.mode_override.as_mut().expect("an override").until = Some(over);
    next.check_mode(&mut recorder);
    assert_eq!(mode(&next), ServiceMode::Enforce);
    assert_eq!(recorder.events, [PolicyChange::ModeOfPolicy]);
    assert_eq!(mode(&node.started().0), ServiceMode::Enforce, "the state directory has none");
}

#[test]
fn without_its_key_a_daemon_accepts_nothing_new() {
    let mut node = Node::new();
    let hash = policy_hash(&node.started().0);
    node.key = Some(node.path("no-such-key"));
    let (mut lifecycle, mut recorder) = node.started();
    assert_eq!((kind(&lifecycle), policy_hash(&lifecycle)), (SourceKind::LastGood, hash));
    node.write("policy.yaml", &policy(9092));
    let why = lifecycle.reload(&mut recorder).expect_err("no key");
    assert!(why.contains("no-such-key"), "{why}");
    let refusal = lifecycle.apply(&node.apply(9092), &mut recorder).expect_err("no key");
    assert!(refusal.why.contains("no-such-key"), "{refusal}");
    assert_eq!((kind(&lifecycle), policy_hash(&lifecycle)), (SourceKind::LastGood, hash));
    assert_eq!(recorder.rejected, [false; 3]);
}
