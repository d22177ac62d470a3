//! `apply`, `confirm` and `rollback` with a real daemon: a trial is undone, whatever happens to its
//! caller and to the daemon.

use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{MANIFEST, MEMBER, Node, POLICY, PORT, UNLISTED, enforcing};
use serde_json::Value;

use guard_user::policy;
use guard_user::{api::control::Apply, policy::Disk};

/// Allows trials shorter than the command line accepts.
const SHORT: [&str; 2] = ["--timing", "shortest=1s,files=50ms"];

/// Writes a policy that refuses the members.
fn write_policy_without_members(node: &Node) {
    node.write("next.yaml", &MANIFEST.replace("policy.yaml", "next-policy.yaml"));
    node.write("next-policy.yaml", &POLICY.replace("roles: [worker]", "roles: [scheduler]"));
}

fn run(node: &Node, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        node.trainguard(args).output().expect("running trainguard");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

fn apply(node: &Node, manifest: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let path = node.path(manifest);
    run(node, &[&["apply", path.to_str().expect("a path")], more].concat())
}

/// Puts `next.yaml` on trial for a time that may be shorter than the command line accepts.
fn apply_trial_for(node: &Node, seconds: u64) {
    let loaded = policy::load(&node.path("next.yaml"), &Disk).expect("a policy");
    let confirm_within = Some(seconds);
    let apply = Apply { bundle: loaded.bundle, confirm_within, ..Apply::default() };
    let applied = node.client().apply(&apply).expect("applying");
    assert!(applied.trial.is_some());
}

fn on_trial(status: &Value) -> bool {
    status["trial"].is_object()
}

fn member_gets_in(node: &Node) -> bool {
    let answers = node.answers(MEMBER[0], PORT);
    assert_eq!(answers, node.answers(MEMBER[1], PORT), "both families alike");
    assert!(!node.answers(UNLISTED[0], PORT), "an unlisted source never gets in");
    answers
}

#[test]
fn an_unconfirmed_trial_is_undone() {
    let Some(mut node) = Node::new("trials/undone") else { return };
    node.start(&SHORT);
    node.wait("enforcing", enforcing);
    assert!(member_gets_in(&node));
    write_policy_without_members(&node);
    let (code, stdout, stderr) = apply(&node, "next.yaml", &["--confirm-within", "1h"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.starts_with("in force: generation 2, policy "), "{stdout}");
    assert!(stderr.contains("trainguard confirm"), "{stderr}");
    assert!(!member_gets_in(&node));
    let status = node.status().expect("a status");
    assert!(on_trial(&status), "{status}");
    assert_eq!(status["up_to_date"], false);
    let left = status["trial"]["seconds_left"].as_u64().expect("a time");
    assert!((3000..=3600).contains(&left), "{status}");
    let (_, shown, _) = run(&node, &["status"]);
    assert!(shown.contains("on trial") && shown.contains("trainguard confirm"), "{shown}");

    // During a trial no other policy comes into force, and errors of an attempt are reported.
    let (code, _, stderr) = apply(&node, "next.yaml", &[]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("on trial"), "{stderr}");
    node.write("policy.yaml", &format!("{POLICY}# touched\n"));
    node.signal("HUP");
    assert!(on_trial(&node.status().expect("a status")));
    assert!(!member_gets_in(&node));
    let (code, ..) = run(&node, &["rollback"]);
    assert_eq!(code, Some(0));
    assert!(member_gets_in(&node));

    // Again, until the time expires.
    let began = Instant::now();
    apply_trial_for(&node, 2);
    let status = node.wait("undone", |status| !on_trial(status));
    assert!(began.elapsed() >= Duration::from_secs(2), "the trial was undone early");
    assert_eq!(status["up_to_date"], true, "{status}");
    assert!(member_gets_in(&node));
    assert!(node.log().contains("policy on trial not confirmed in time"), "{}", node.log());
    let (code, _, stderr) = run(&node, &["confirm"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("no policy is on trial"), "{stderr}");
}

#[test]
fn a_trial_outlives_the_daemon_and_is_undone_by_the_next_one() {
    let Some(mut node) = Node::new("trials/crash") else { return };
    node.start(&SHORT);
    node.wait("enforcing", enforcing);
    write_policy_without_members(&node);
    // On a busy machine the time may expire before the next daemon has answered; then try a longer one.
    let survived = [4, 8, 20, 40].into_iter().any(|seconds| {
        apply_trial_for(&node, seconds);
        node.signal("KILL");
        assert!(!member_gets_in(&node), "without a daemon the trial stays in force");
        node.start(&SHORT);
        let status = node.wait("enforcing", enforcing);
        let survived = status["trial"]["seconds_left"].as_u64() >= Some(2);
        if !survived {
            node.wait("undone", |status| !on_trial(status));
        }
        survived
    });
    assert!(survived, "{}", node.log());
    assert!(!member_gets_in(&node));
    let status = node.wait("undone", |status| !on_trial(status));
    assert!(member_gets_in(&node));
    // From now on the daemon follows the files, which it has not loaded yet.
    node.write("policy.yaml", &POLICY.replace("roles: [worker]", "roles: [scheduler]"));
    node.wait("followed", |next| next["policy_hash"] != status["policy_hash"]);
    assert!(!member_gets_in(&node));
    node.write("policy.yaml", POLICY);
    node.wait("back", |next| next["policy_hash"] == status["policy_hash"]);

    // A trial that expires while no daemon runs is undone when the next one starts.
    apply_trial_for(&node, 2);
    node.signal("KILL");
    thread::sleep(Duration::from_millis(2200));
    node.start(&SHORT);
    assert!(!on_trial(&node.wait("enforcing", enforcing)));
    assert!(member_gets_in(&node));
}

#[test]
fn confirmed_and_rolled_back_policies_stay() {
    let Some(mut node) = Node::new("trials/settled") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    write_policy_without_members(&node);
    let (code, ..) = apply(&node, "next.yaml", &["--confirm-within", "1h"]);
    assert_eq!(code, Some(0));
    let (code, stdout, _) = run(&node, &["rollback"]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(member_gets_in(&node));

    apply(&node, "next.yaml", &["--confirm-within", "1h"]);
    let (code, stdout, stderr) = run(&node, &["confirm"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("confirmed, in force"), "{stdout}");
    // The daemon follows its files, but the policy in force differs from them: that is reported.
    assert!(stderr.contains("next.yaml") && stderr.contains("differs from"), "{stderr}");
    let status = node.status().expect("a status");
    assert_eq!((on_trial(&status), &status["up_to_date"]), (false, &Value::Bool(false)));
    assert!(!member_gets_in(&node));

    // Once the files have the same contents, there is no problem, and a restart changes nothing.
    node.write("policy.yaml", &POLICY.replace("roles: [worker]", "roles: [scheduler]"));
    node.wait("up to date", |status| status["up_to_date"] == true);
    assert!(!member_gets_in(&node));
    node.signal("TERM");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert!(!member_gets_in(&node));

    // Applied permanently, without a trial.
    node.write("old.yaml", &MANIFEST.replace("policy.yaml", "old-policy.yaml"));
    node.write("old-policy.yaml", POLICY);
    let (code, _, stderr) = apply(&node, "old.yaml", &[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(member_gets_in(&node));
}

#[test]
fn invalid_trials_are_refused_and_change_nothing() {
    let Some(mut node) = Node::new("trials/refused") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let before = node.generation();
    write_policy_without_members(&node);
    for (time, part) in [("1s", "expected 5s to 1day"), ("2d", "1day"), ("soon", "number")] {
        let (code, _, stderr) = apply(&node, "next.yaml", &["--confirm-within", time]);
        assert_eq!(code, Some(2), "{time}: {stderr}");
        assert!(stderr.contains(part), "{time}: {stderr}");
    }
    // Invalid files are reported by the command, which reads them.
    node.write("next-policy.yaml", "nonsense\n");
    let (code, _, stderr) = apply(&node, "next.yaml", &[]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("next-policy.yaml:1"), "{stderr}");
    // Valid files that are not for this node are reported by the daemon.
    write_policy_without_members(&node);
    node.write("next.yaml", &MANIFEST.replace("name: node", "name: other"));
    let (code, _, stderr) = apply(&node, "next.yaml", &["--confirm-within", "1m"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("`node`"), "{stderr}");
    // A node that could not undo the trial.
    write_policy_without_members(&node);
    std::fs::remove_dir_all(node.path("state")).expect("removing");
    std::fs::write(node.path("state"), "in the way").expect("writing");
    let (code, _, stderr) = apply(&node, "next.yaml", &["--confirm-within", "1m"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("could not be undone"), "{stderr}");
    let status = node.status().expect("a status");
    assert!(!on_trial(&status));
    assert_eq!(node.generation(), before);
    assert!(member_gets_in(&node));
    node.signal("TERM");
    let (code, ..) = run(&node, &["rollback"]);
    assert_eq!(code, Some(3));
}

/// The interfaces are not part of the policy's hash, but changing them is a change.
#[test]
fn changed_interfaces_are_applied_although_the_policy_is_the_same() {
    let Some(mut node) = Node::new("trials/interfaces") else { return };
    node.add_link("eth1");
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    node.write("next.yaml", &MANIFEST.replace("[eth0]", "[eth0, eth1]"));
    let (code, stdout, stderr) = apply(&node, "next.yaml", &[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stdout.contains("as before"), "{stdout}");
    let status = node.status().expect("a status");
    assert_eq!(status["policy_hash"], before["policy_hash"]);
    assert_eq!(status["generation"], before["generation"]);
    assert_ne!(status["files_hash"], before["files_hash"]);
    assert_eq!(status["interfaces"][1]["state"], "guarded", "{status}");
    assert!(node.log().contains("interface patterns changed: `eth0, eth1`"), "{}", node.log());
    let (_, stdout, _) = apply(&node, "next.yaml", &[]);
    assert!(stdout.contains("as before"), "{stdout}");
}
