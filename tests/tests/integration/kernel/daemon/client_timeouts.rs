//! How long a verb waits for a daemon that is at something else.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{Node, POLICY, enforcing};

/// A daemon that stands still stands for one that builds a large generation on a busy machine: a
/// question is given up after seconds, a command is not.
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
    let began = Instant::now();
    let mut apply = node.trainguard(&["apply"]);
    apply.arg(node.path("cluster.yaml")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let apply = apply.spawn().expect("apply");
    let status = node.trainguard(&["status"]).output().expect("status");
    assert_eq!(status.status.code(), Some(3), "a question is given up");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    thread::sleep(Duration::from_secs(13).saturating_sub(began.elapsed()));
    send("CONT");
    let output = apply.wait_with_output().expect("apply ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("the daemon is at it"), "{told}");
    assert_eq!(told.matches("waited for").count(), 1, "{told}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("generation 2"), "{output:?}");
    node.assert_guarded();
    node.signal("KILL");
    // One that ends is not waited for.
    let began = Instant::now();
    let output = node.trainguard(&["apply", "--reload"]).output().expect("apply");
    assert_eq!(output.status.code(), Some(3));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
