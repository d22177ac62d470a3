//! How long a subcommand waits for a busy daemon.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use guard_tests::node::{Node, POLICY, enforcing};

/// A stopped daemon stands for one that builds a large generation on a busy machine: a query gives up
/// after seconds, a command keeps waiting.
#[test]
fn a_command_waits_for_a_daemon_that_works() {
    let Some(mut node) = Node::new("patience/busy") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let send = |signal: &str| {
        let mut kill = Command::new("kill");
        let sent = kill.args(["-s", signal, &node.daemon_id().to_string()]).status();
        assert!(sent.expect("kill").success());
    };
    send("STOP");
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let path = node.path("cluster.yaml");
    let path = path.to_str().expect("a path");
    let spawn = |verb: &[&str]| {
        let mut verb = node.trainguard(verb);
        verb.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let mut apply = spawn(&["apply", path, "--answer-within", "500ms"]);
    // A command with a timeout of its own. It is a dry run, because the daemon may still read it later.
    let limits = ["--answer-within", "500ms", "--command-within", "1s"];
    let given_up = spawn(&[&["apply", path, "--dry-run"], &limits[..]].concat());
    let status = spawn(&["status", "--answer-within", "1s"]).wait_with_output().expect("status");
    assert_eq!(status.status.code(), Some(3), "a question is given up");
    let told = String::from_utf8_lossy(&status.stderr);
    assert!(told.contains("not within 1 seconds"), "{told}");
    let given_up = given_up.wait_with_output().expect("apply ends");
    assert_eq!(given_up.status.code(), Some(3), "a command is given up, too, but later");
    let told = String::from_utf8_lossy(&given_up.stderr);
    assert!(told.contains("0.5 seconds more") && told.contains("not within 1 seconds"), "{told}");
    thread::sleep(Duration::from_secs(2));
    assert!(apply.try_wait().expect("apply").is_none(), "it waits on");
    send("CONT");
    let output = apply.wait_with_output().expect("apply ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("the daemon is at it"), "{told}");
    assert_eq!(told.matches("waited for").count(), 1, "{told}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("generation 2"), "{output:?}");
    node.assert_guarded();
    node.signal("KILL");
    // A command does not wait for a daemon that has ended.
    let output = node.trainguard(&["apply", "--reload"]).output().expect("apply");
    assert_eq!(output.status.code(), Some(3));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("no daemon answers") && !told.contains("is at it"), "{told}");
}
