//! The daemon under a service manager: its notifications, when it is ready, and a reload that waits for
//! the result. The manager is a datagram socket of this test.

use std::{
    os::unix::net::UnixDatagram,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{MANIFEST, Node, POLICY, WAIT_TIMEOUT, enforcing};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Sends notifications more often than usual.
const TIMING: [&str; 2] = ["--timing", "manager=100ms,line=500ms"];
/// The same, and files are read on request only, not when they change.
const ON_REQUEST: [&str; 2] = ["--timing", "manager=100ms,line=500ms,files=1h"];
/// Time without a notification that counts as silence.
const SILENCE: Duration = Duration::from_millis(750);

/// A daemon, and the socket on which it sends its notifications.
struct Managed {
    daemon: Child,
    socket: UnixDatagram,
}

impl Managed {
    fn start(node: &Node, more: &[&str], watchdog: Option<Duration>) -> Self {
        let path = node.path("notify");
        // The socket of an earlier daemon.
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let timing = if more.contains(&TIMING[0]) { &[][..] } else { &TIMING };
        let mut command = node.daemon_command(&[more, timing].concat());
        command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        Self { daemon: command.spawn().expect("the daemon starts"), socket }
    }

    fn next(&self, timeout: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.socket.set_read_timeout(Some(timeout)).expect("a time limit");
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Returns the notifications up to the first that contains `wanted`.
    fn until(&self, wanted: &str) -> Vec<String> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let mut messages = Vec::new();
        while Instant::now() < deadline {
            messages.extend(self.next(Duration::from_millis(100)));
            if messages.last().is_some_and(|last| last.contains(wanted)) {
                return messages;
            }
        }
        panic!("no `{wanted}` in {messages:?}");
    }

    /// Returns the notifications of a period.
    fn within(&self, time: Duration) -> Vec<String> {
        let deadline = Instant::now() + time;
        let left = || Some(deadline.saturating_duration_since(Instant::now()));
        let mut messages = Vec::new();
        while let Some(left) = left().filter(|left| !left.is_zero()) {
            messages.extend(self.next(left));
        }
        messages
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.daemon.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("signalling the daemon");
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn has(messages: &[String], wanted: &str) -> bool {
    messages.iter().any(|message| message.lines().any(|line| line.starts_with(wanted)))
}

fn reload(node: &Node) -> Output {
    node.trainguard(&["apply", "--reload"]).output().expect("apply")
}

#[test]
fn ready_means_that_every_interface_is_guarded() {
    let Some(node) = Node::new("service/ready") else { return };
    let interfaces = ["--interface", "eth0", "--interface", "eth7", "--wait", "10m"];
    let managed = Managed::start(&node, &interfaces, None);
    node.wait("waiting", |status| status["interfaces"][1]["state"] == "missing");
    node.assert_guarded();
    assert!(!has(&managed.within(SILENCE), "READY=1"), "ready without eth7");
    node.add_link("eth7");
    managed.until("READY=1");
    let status = managed.until("STATUS=").pop().expect("a message");
    let (before, after) = status.split_once('@').expect("a hash");
    assert_eq!(before, "STATUS=enforcing test");
    assert!(after.get(7..).is_some_and(|after| after.starts_with(" on 2 interfaces")), "{status}");
    managed.signal(Signal::SIGTERM);
    let last = managed.until("STOPPING=1").pop().expect("a message");
    assert!(last.contains("STATUS=ended; the guard stays in force"), "{last}");
    node.assert_guarded();
}

/// Case 97, the part that needs no booting machine: a device that is late neither ends the daemon nor
/// opens what was guarded before, and is guarded when it appears.
#[test]
fn the_wait_for_a_missing_interface_is_reported_and_bounded() {
    let Some(mut node) = Node::new("service/missing") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("TERM");

    let began = Instant::now();
    let managed = Managed::start(&node, &["--interface", "eth9", "--wait", "2s"], None);
    let messages = managed.until("READY=1");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    // A status line that was sent already is not sent again.
    let line = messages.into_iter().rfind(|line| line.starts_with("STATUS="));
    let line = line.or_else(|| managed.until("STATUS=").pop()).expect("a message");
    assert!(line.starts_with("STATUS=NOT ENFORCING test@"), "{line}");
    assert!(line.contains(" on 0 interfaces"), "{line}");
    assert!(line.ends_with("; waiting for eth9\n"), "{line}");
    let status = node.status().expect("a status");
    assert_eq!(status["enforcing"], false);
    // The earlier daemon guarded eth0, which stays guarded until another interface is.
    node.assert_guarded();
    node.add_link("eth9");
    node.wait("enforcing", enforcing);
    let line = managed.until("STATUS=enforcing").pop().expect("a message");
    assert!(line.contains(" on 1 interface"), "{line}");
    // A daemon that was ready completes a reload at once, whatever is missing.
    node.ip(&["link", "del", "eth9"]);
    node.wait("missing", |status| status["interfaces"][0]["state"] == "missing");
    managed.signal(Signal::SIGHUP);
    managed.until("RELOADING=1");
    managed.until("READY=1");
}

#[test]
fn a_reload_waits_for_the_result() {
    let Some(node) = Node::new("service/reload") else { return };
    let managed = Managed::start(&node, &ON_REQUEST, None);
    managed.until("READY=1");

    node.write("policy.yaml", &POLICY.replace("[tcp/9091, udp/9091]", "[tcp/9091]"));
    let output = reload(&node);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout.starts_with("the files are in force: generation 2, policy "), "{stdout}");
    assert_eq!(node.generation(), 2);
    let messages = managed.until("READY=1");
    let reloading = messages.iter().find(|message| message.starts_with("RELOADING=1\n"));
    let since = reloading.and_then(|message| message.split_once("MONOTONIC_USEC="));
    let since: u64 = since.and_then(|(_, time)| time.trim().parse().ok()).expect("a time");
    assert!(since > 0);

    node.write("policy.yaml", &POLICY.replace("tcp/9091", "tcp/nine"));
    let output = reload(&node);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("policy.yaml:7:13: error[TG105]"), "{stderr}");
    managed.until("READY=1");
    // Earlier status lines, for example about drops, may arrive first.
    let line = managed.until("; differs from the files: ").pop().expect("a message");
    assert!(line.starts_with("STATUS=enforcing test@"), "{line}");
    node.assert_guarded();
    assert_eq!(node.generation(), 2);
}

#[test]
fn a_reload_does_not_end_a_trial() {
    let Some(node) = Node::new("service/trial") else { return };
    let managed = Managed::start(&node, &[], None);
    managed.until("READY=1");
    let other = node.path("other.yaml");
    node.write("other.yaml", &MANIFEST.replace("name: test", "name: tried"));
    let mut apply = node.trainguard(&["apply", "--confirm-within", "5m"]);
    let output = apply.arg(&other).output().expect("apply");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = reload(&node);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("a policy is on trial"), "{stderr}");
    let line = managed.until("ON TRIAL, undone at ").pop().expect("a message");
    assert!(line.starts_with("STATUS=enforcing tried@"), "{line}");
}

#[test]
fn a_reload_without_a_daemon_fails() {
    let Some(node) = Node::new("service/no-daemon") else { return };
    assert_eq!(reload(&node).status.code(), Some(3));
    let both = node.trainguard(&["apply", "--reload", "cluster.yaml"]).output().expect("apply");
    assert_eq!(both.status.code(), Some(2));
}

/// Case 93, SIGSTOP: a daemon that does no work sends no watchdog notification, so the manager ends it.
#[test]
fn a_stuck_daemon_sends_no_watchdog_notification() {
    let Some(node) = Node::new("service/stuck") else { return };
    let managed = Managed::start(&node, &[], Some(Duration::from_secs(1)));
    managed.until("READY=1");
    for _ in 0..3 {
        managed.until("WATCHDOG=1");
    }
    managed.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(200));
    while managed.next(Duration::from_millis(10)).is_some() {}
    assert_eq!(managed.within(2 * SILENCE), Vec::<String>::new());
    node.assert_guarded();
    managed.signal(Signal::SIGCONT);
    managed.until("WATCHDOG=1");
}

/// Case 103: without a bpf file system nothing is attached, and the daemon does not report that it is
/// ready.
#[test]
fn without_a_bpf_file_system_the_daemon_is_never_ready() {
    let Some(node) = Node::new("service/bpffs") else { return };
    let plain = node.path("plain");
    std::fs::create_dir(&plain).expect("a directory");
    let plain = plain.to_str().expect("UTF-8");
    let mut managed = Managed::start(&node, &["--bpf-dir", plain, "--wait", "1s"], None);
    assert_eq!(managed.daemon.wait().expect("waiting for the process").code(), Some(2));
    assert!(!has(&managed.within(Duration::from_millis(100)), "READY=1"));
    assert!(
        node.answers(guard_tests::node::UNLISTED[0], guard_tests::node::PORT),
        "no program is attached"
    );
}

/// The unit mounts the pin directory at another place, because its user has no access to the original
/// path.
#[test]
fn pins_may_be_reached_through_a_mount_of_their_directory() {
    let Some(mut node) = Node::new("service/mounted") else { return };
    let (pins, mounted) = (node.pins(), node.path("mounted"));
    std::fs::create_dir(&pins).expect("the pin directory");
    std::fs::create_dir(&mounted).expect("a mount point");
    let mount = |command: &mut Command| {
        let output = command.output().expect("mount");
        assert!(output.status.success(), "{output:?}");
    };
    mount(Command::new("mount").arg("--bind").arg(&pins).arg(&mounted));
    node.start(&["--bpf-dir", mounted.to_str().expect("UTF-8")]);
    node.wait("enforcing", enforcing);
    node.assert_guarded();
    node.signal("KILL");
    mount(Command::new("umount").arg(&mounted));
    node.assert_guarded();
    // Root finds the pins at the original path.
    let mut detach = node.trainguard(&["detach"]);
    let output = detach.arg("--bpf-dir").arg(&pins).output().expect("detach");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        node.answers(guard_tests::node::UNLISTED[0], guard_tests::node::PORT),
        "the program is detached"
    );
}
