//! The audit log: each command is recorded with the caller's credentials as the kernel reports them,
//! whatever its result.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use guard_test_support::binary;
use guard_tests::{
    node::{MANIFEST, Node, POLICY, WAIT_TIMEOUT, enforcing},
    system::mounts::Mounted,
};
use serde_json::Value;

/// User and group id of an unprivileged account that is in no group of the daemon.
const UNPRIVILEGED: u32 = 65534;

fn run(node: &Node, args: &[&str]) -> Option<i32> {
    node.trainguard(args).output().expect("running trainguard").status.code()
}

fn read(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

#[test]
fn each_command_is_recorded_with_its_caller() {
    let Some(mut node) = Node::new("audit/commands") else { return };
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    node.write("next.yaml", &MANIFEST.replace("policy.yaml", "next-policy.yaml"));
    node.write("next-policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let path = node.path("next.yaml");
    let path = path.to_str().expect("a path");
    assert_eq!(run(&node, &["apply", path, "--confirm-within", "1h"]), Some(0));
    assert_eq!(run(&node, &["apply", path]), Some(1));
    assert_eq!(run(&node, &["rollback"]), Some(0));
    assert_eq!(run(&node, &["mode", "observe", "--for", "1h"]), Some(0));
    assert_eq!(run(&node, &["mode", "policy"]), Some(0));
    assert_eq!(run(&node, &["confirm"]), Some(1));
    node.signal("HUP");
    let file = node.path("state/audit.jsonl");
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while read(&file).len() < 7 {
        assert!(Instant::now() < deadline, "{:?}", read(&file));
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut detach = node.trainguard(&["detach"]);
    assert!(detach.arg("--bpf-dir").arg(node.pins()).status().expect("detach").success());

    let records = read(&file);
    let summary = |record: &Value| {
        ["request", "result"].map(|field| record[field].as_str().expect("a text").to_owned())
    };
    let expected = [
        ("apply", "done"),
        ("apply", "refused"),
        ("rollback", "done"),
        ("mode", "done"),
        ("mode", "done"),
        ("confirm", "refused"),
        ("reload", "done"),
        ("detach", "done"),
    ];
    let expected = expected.map(|(request, result)| [request.to_owned(), result.to_owned()]);
    assert_eq!(records.iter().map(summary).collect::<Vec<_>>(), expected, "{records:#?}");
    let first = &records[0];
    assert_eq!(first["schema"], "trainguard/event/v1");
    assert_eq!(first["kind"], "audit");
    assert_eq!((&first["uid"], &first["user"]), (&0.into(), &"root".into()), "{first}");
    assert_eq!(first["command"], "trainguard");
    assert!(first["pid"].as_i64().is_some_and(|pid| pid > 1), "{first}");
    let login = fs::read_to_string("/proc/self/loginuid").ok();
    let login = login.and_then(|uid| uid.trim().parse().ok()).filter(|uid: &u32| *uid != u32::MAX);
    assert_eq!(first["login_uid"].as_u64(), login.map(u64::from), "{first}");
    assert_eq!(first["old_policy"], before["policy_hash"], "{first}");
    assert_ne!(first["new_policy"], before["policy_hash"], "{first}");
    assert_eq!(records[2]["new_policy"], before["policy_hash"], "{}", records[2]);
    let arguments = first["arguments"].as_str().expect("arguments");
    assert!(arguments.contains(path) && arguments.contains("on trial for 3600 s"), "{arguments}");
    assert!(records[1]["text"].as_str().expect("a reason").contains("on trial"), "{}", records[1]);
    assert!(records[6]["uid"].is_null(), "a signal has no known sender: {}", records[6]);

    // The same records are among the events, and in the log.
    let output = node.trainguard(&["events", "--kind", "audit"]).output().expect("events");
    let events = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(events.lines().count(), records.len(), "{events}");
    let compact = ["events", "--kind", "audit", "--format", "compact"];
    let output = node.trainguard(&compact).output().expect("events");
    let events = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(events.contains("audit refused confirm by root"), "{events}");
    assert!(node.log().contains("refused confirm: no policy is on trial"), "{}", node.log());
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Case 146: a user whom the mode of the socket lets through is still refused, and the attempt is
/// recorded.
#[test]
fn an_unauthorized_user_is_refused_and_recorded() {
    let Some(mut node) = Node::new("audit/refused") else { return };
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    let socket = node.path("run/control.sock");
    for (path, mode) in
        [(node.path("."), 0o755), (node.path("run"), 0o755), (socket.clone(), 0o666)]
    {
        set_mode(&path, mode);
    }
    let as_unprivileged = |gid: u32| -> (Option<i32>, String) {
        let mode = ["mode", "observe", "--for", "1h", "--run-dir"];
        let mut command = binary::command(binary::path(), mode);
        command.arg(node.path("run"));
        // Setting the user id also drops supplementary groups.
        let output = command.uid(UNPRIVILEGED).gid(gid).output();
        let Output { status, stderr, .. } = match output {
            Ok(output) => output,
            Err(error) => panic!("another user cannot run the binary: {error}"),
        };
        (status.code(), String::from_utf8_lossy(&stderr).into_owned())
    };
    let (code, stderr) = as_unprivileged(UNPRIVILEGED);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("may not command"), "{stderr}");
    let status = node.status().expect("a status");
    assert_eq!(status["policy_hash"], before["policy_hash"]);
    let records = read(&node.path("state/audit.jsonl"));
    let [record] = &records[..] else { panic!("one record: {records:#?}") };
    assert_eq!((&record["uid"], &record["gid"]), (&UNPRIVILEGED.into(), &UNPRIVILEGED.into()));
    assert_eq!((&record["result"], &record["request"]), (&"refused".into(), &"request".into()));
    assert_eq!(record["arguments"], "POST /v1/mode");

    // The group of the socket may send commands if the mode of the socket allows it.
    std::os::unix::fs::chown(&socket, None, Some(UNPRIVILEGED)).expect("a group");
    set_mode(&socket, 0o660);
    let (code, stderr) = as_unprivileged(UNPRIVILEGED);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(node.status().expect("a status")["mode"], "observe");
}

/// Fills the file system of a directory.
fn fill(directory: &Path) {
    let filler = File::options().append(true).create(true).open(directory.join("filler"));
    let mut filler = filler.expect("a file");
    let full = std::iter::repeat(()).map(|()| filler.write_all(&[0; 512])).find_map(Result::err);
    assert_eq!(full.and_then(|error| error.raw_os_error()), Some(libc::ENOSPC));
}

/// Case 111: a full disk prevents no rollback, and is reported.
#[test]
fn a_full_disk_does_not_block_a_rollback() {
    let Some(mut node) = Node::new("audit/full") else { return };
    let state = node.path("state");
    fs::create_dir(&state).expect("a directory");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"]).arg(&state);
    if !mount.status().expect("mount").success() {
        guard_tests::skip::skip("audit/full", "a tmpfs cannot be mounted");
        return;
    }
    let _mounted = Mounted(state.clone());
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    node.write("next.yaml", &MANIFEST.replace("policy.yaml", "next-policy.yaml"));
    node.write("next-policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let path = node.path("next.yaml");
    let path = path.to_str().expect("a path");
    assert_eq!(run(&node, &["apply", path, "--confirm-within", "1h"]), Some(0));
    fill(&state);
    // More records than the last free bytes have room for, so that in the end none can be written.
    for _ in 0..40 {
        assert_eq!(run(&node, &["apply", path]), Some(1));
    }
    let status = node.status().expect("a status");
    assert!(status["problems"].to_string().contains("audit.jsonl"), "{status}");
    assert_eq!(run(&node, &["rollback"]), Some(0));
    let status = node.status().expect("a status");
    assert_eq!(status["policy_hash"], before["policy_hash"]);
    fill(&state);
    // A reload also comes into force, and the failure to save the policy is reported.
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9093"));
    let next = node.wait("followed", |next| next["policy_hash"] != status["policy_hash"]);
    assert!(next["problems"].to_string().contains("last-good.json"), "{next}");
    node.assert_guarded();
    fs::remove_file(state.join("filler")).expect("removing");
    assert_eq!(run(&node, &["mode", "policy"]), Some(0));
    let status = node.status().expect("a status");
    assert!(!status["problems"].to_string().contains("audit.jsonl"), "{status}");
}
