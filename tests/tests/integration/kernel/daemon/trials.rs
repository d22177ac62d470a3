//! `apply`, `confirm` and `rollback` with a real daemon: a trial is undone, whatever happens to its
//! caller and to the daemon.

use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{MANIFEST, MEMBER, Node, POLICY, PORT, STRANGER, enforcing};
use serde_json::Value;

use guard_user::policy;
use guard_user::{api::control::Apply, policy::Disk};

/// Allows trials shorter than the command line accepts.
const SHORT: [&str; 2] = ["--timing", "shortest=1s,files=50ms"];

/// Writes a policy that refuses the members.
fn locking_out(node: &Node) {
    node.write("next.yaml", &MANIFEST.replace("policy.yaml", "next-policy.yaml"));
    node.write("next-policy.yaml", &POLICY.replace("roles: [worker]", "roles: [scheduler]"));
}

fn run(node: &Node, verb: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = node.trainguard(verb).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

fn apply(node: &Node, manifest: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let path = node.path(manifest);
    run(node, &[&["apply", path.to_str().expect("a path")], more].concat())
}

/// Puts `next.yaml` on trial for a time that may be shorter than the command line accepts.
fn try_for(node: &Node, seconds: u64) {
    let loaded = policy::load(&node.path("next.yaml"), &Disk).expect("a policy");
    let confirm_within = Some(seconds);
    let apply = Apply { bundle: loaded.bundle, confirm_within, ..Apply::default() };
    let applied = node.client().apply(&apply).expect("it is applied");
    assert!(applied.trial.is_some());
}

fn on_trial(status: &Value) -> bool {
    status["trial"].is_object()
}

fn member_gets_in(node: &Node) -> bool {
    let answers = node.answers(MEMBER[0], PORT);
    assert_eq!(answers, node.answers(MEMBER[1], PORT), "both families alike");
    assert!(!node.answers(STRANGER[0], PORT), "a stranger never gets in");
    answers
}

#[test]
fn what_nobody_confirms_is_undone() {
    let Some(mut node) = Node::new("trials/undone") else { return };
    node.start(&SHORT);
    node.wait("enforcing", enforcing);
    assert!(member_gets_in(&node));
    locking_out(&node);
    let (code, said, told) = apply(&node, "next.yaml", &["--confirm-within", "1h"]);
    assert_eq!(code, Some(0), "{said}{told}");
    assert!(said.starts_with("in force: generation 2, policy "), "{said}");
    assert!(told.contains("trainguard confirm"), "{told}");
    assert!(!member_gets_in(&node));
    let status = node.status().expect("a status");
    assert!(on_trial(&status), "{status}");
    assert_eq!(status["up_to_date"], false);
    let left = status["trial"]["seconds_left"].as_u64().expect("a time");
    assert!((3000..=3600).contains(&left), "{status}");
    let (_, shown, _) = run(&node, &["status"]);
    assert!(shown.contains("on trial") && shown.contains("trainguard confirm"), "{shown}");

    // During a trial no other policy comes into force, and errors of an attempt are reported.
    let (code, _, told) = apply(&node, "next.yaml", &[]);
    assert_eq!(code, Some(1));
    assert!(told.contains("on trial"), "{told}");
    node.write("policy.yaml", &format!("{POLICY}# touched\n"));
    node.signal("HUP");
    assert!(on_trial(&node.status().expect("a status")));
    assert!(!member_gets_in(&node));
    let (code, ..) = run(&node, &["rollback"]);
    assert_eq!(code, Some(0));
    assert!(member_gets_in(&node));

    // Again, until the time expires.
    let began = Instant::now();
    try_for(&node, 2);
    let status = node.wait("undone", |status| !on_trial(status));
    assert!(began.elapsed() >= Duration::from_secs(2), "it was undone early");
    assert_eq!(status["up_to_date"], true, "{status}");
    assert!(member_gets_in(&node));
    assert!(node.log().contains("nobody has confirmed"), "{}", node.log());
    let (code, _, told) = run(&node, &["confirm"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("no policy is on trial"), "{told}");
}

#[test]
fn a_trial_outlives_the_daemon_and_is_undone_by_the_next_one() {
    let Some(mut node) = Node::new("trials/crash") else { return };
    node.start(&SHORT);
    node.wait("enforcing", enforcing);
    locking_out(&node);
    // On a busy machine the time may expire before the next daemon has answered; then try a longer one.
    let goes_on = [4, 8, 20, 40].into_iter().any(|seconds| {
        try_for(&node, seconds);
        node.signal("KILL");
        assert!(!member_gets_in(&node), "without a daemon it stays as it was");
        node.start(&SHORT);
        let status = node.wait("enforcing", enforcing);
        let goes_on = status["trial"]["seconds_left"].as_u64() >= Some(2);
        if !goes_on {
            node.wait("undone", |status| !on_trial(status));
        }
        goes_on
    });
    assert!(goes_on, "{}", node.log());
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
    try_for(&node, 2);
    node.signal("KILL");
    thread::sleep(Duration::from_millis(2200));
    node.start(&SHORT);
    assert!(!on_trial(&node.wait("enforcing", enforcing)));
    assert!(member_gets_in(&node));
}

#[test]
fn what_is_confirmed_or_rolled_back_stays_so() {
    let Some(mut node) = Node::new("trials/settled") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    locking_out(&node);
    let (code, ..) = apply(&node, "next.yaml", &["--confirm-within", "1h"]);
    assert_eq!(code, Some(0));
    let (code, said, _) = run(&node, &["rollback"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(member_gets_in(&node));

    apply(&node, "next.yaml", &["--confirm-within", "1h"]);
    let (code, said, told) = run(&node, &["confirm"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(said.starts_with("confirmed, in force"), "{said}");
    // The daemon follows its files, but the policy in force differs from them: that is reported.
    assert!(told.contains("next.yaml") && told.contains("says something else"), "{told}");
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
    let (code, _, told) = apply(&node, "old.yaml", &[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(member_gets_in(&node));
}

#[test]
fn what_cannot_be_tried_is_refused_and_changes_nothing() {
    let Some(mut node) = Node::new("trials/refused") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let before = node.generation();
    locking_out(&node);
    for (time, part) in [("1s", "expected 5s to 1day"), ("2d", "1day"), ("soon", "number")] {
        let (code, _, told) = apply(&node, "next.yaml", &["--confirm-within", time]);
        assert_eq!(code, Some(2), "{time}: {told}");
        assert!(told.contains(part), "{time}: {told}");
    }
    // Invalid files are reported by the command, which reads them.
    node.write("next-policy.yaml", "nonsense\n");
    let (code, _, told) = apply(&node, "next.yaml", &[]);
    assert_eq!(code, Some(2));
    assert!(told.contains("next-policy.yaml:1"), "{told}");
    // Valid files that are not for this node are reported by the daemon.
    locking_out(&node);
    node.write("next.yaml", &MANIFEST.replace("name: node", "name: other"));
    let (code, _, told) = apply(&node, "next.yaml", &["--confirm-within", "1m"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("`node`"), "{told}");
    // A node that could not undo the trial.
    locking_out(&node);
    std::fs::remove_dir_all(node.path("state")).expect("removing");
    std::fs::write(node.path("state"), "in the way").expect("writing");
    let (code, _, told) = apply(&node, "next.yaml", &["--confirm-within", "1m"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("could not be undone"), "{told}");
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
fn other_interfaces_are_a_change_without_another_policy() {
    let Some(mut node) = Node::new("trials/interfaces") else { return };
    node.add_link("eth1");
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    node.write("next.yaml", &MANIFEST.replace("[eth0]", "[eth0, eth1]"));
    let (code, said, told) = apply(&node, "next.yaml", &[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(!said.contains("as before"), "{said}");
    let status = node.status().expect("a status");
    assert_eq!(status["policy_hash"], before["policy_hash"]);
    assert_eq!(status["generation"], before["generation"]);
    assert_ne!(status["files_hash"], before["files_hash"]);
    assert_eq!(status["interfaces"][1]["state"], "guarded", "{status}");
    assert!(node.log().contains("other interfaces are meant: `eth0, eth1`"), "{}", node.log());
    let (_, said, _) = apply(&node, "next.yaml", &[]);
    assert!(said.contains("as before"), "{said}");
}
