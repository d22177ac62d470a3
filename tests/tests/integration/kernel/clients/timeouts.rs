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
fn a_command_waits_for_a_busy_daemon() {
    let Some(mut node) = Node::new("timeouts/busy") else { return };
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
    let spawn = |args: &[&str]| {
        let mut command = node.trainguard(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starting the command")
    };
    let mut apply = spawn(&["apply", path, "--answer-within", "500ms"]);
    // A command with a timeout of its own. It is a dry run, because the daemon may still read it later.
    let limits = ["--answer-within", "500ms", "--command-within", "1s"];
    let timed_out = spawn(&[&["apply", path, "--dry-run"], &limits[..]].concat());
    let status = spawn(&["status", "--answer-within", "1s"]).wait_with_output().expect("status");
    assert_eq!(status.status.code(), Some(3), "a query times out");
    let stderr = String::from_utf8_lossy(&status.stderr);
    assert!(stderr.contains("no response within 1 seconds"), "{stderr}");
    let timed_out = timed_out.wait_with_output().expect("apply ends");
    assert_eq!(timed_out.status.code(), Some(3), "a command also times out, but later");
    let stderr = String::from_utf8_lossy(&timed_out.stderr);
    assert!(
        stderr.contains("0.5 seconds more") && stderr.contains("no response within 1 seconds"),
        "{stderr}"
    );
    thread::sleep(Duration::from_secs(2));
    assert!(apply.try_wait().expect("apply").is_none(), "apply still waits");
    send("CONT");
    let output = apply.wait_with_output().expect("apply ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("the daemon is still working on the request"), "{stderr}");
    assert_eq!(stderr.matches("waiting up to").count(), 1, "{stderr}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("generation 2"), "{output:?}");
    node.assert_guarded();
    node.signal("KILL");
    // A command does not wait for a daemon that has ended.
    let output = node.trainguard(&["apply", "--reload"]).output().expect("apply");
    assert_eq!(output.status.code(), Some(3));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("no daemon answers") && !stderr.contains("is still working"),
        "{stderr}"
    );
}
