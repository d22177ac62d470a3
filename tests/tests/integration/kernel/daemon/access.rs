//! Access to a daemon: root and the group of the socket may query it, only root may send commands.

use std::{
    os::unix::fs::{PermissionsExt as _, chown},
    process::Command,
};

use guard_tests::node::{Node, binary, enforcing};

/// Group and user ids without an account.
const GROUP: u32 = 54_321;
const OTHER_GROUP: u32 = 54_322;
const USER: u32 = 54_323;

/// Runs the binary as an unprivileged user with this group. Returns its exit code and its error output.
fn run_as(node: &Node, group: u32, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={USER}"), &format!("--regid={group}"), "--clear-groups"]);
    // A copy, because other users may have no access to the build directory.
    command.arg(node.path("trainguard")).args(args);
    for (flag, path) in [("--run-dir", node.path("run")), ("--bpf-dir", node.pins())] {
        command.arg(flag).arg(path);
    }
    let output = command.output().expect("setpriv");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_group_may_query_and_only_root_may_command() {
    let Some(mut node) = Node::new("access/group") else { return };
    std::fs::copy(binary(), node.path("trainguard")).expect("a copy");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(node.path(""), open).expect("a mode");
    // Files created in a directory with this mode get its group; systemd creates a unit's directory this
    // way.
    std::fs::create_dir(node.path("run")).expect("a directory");
    chown(node.path("run"), None, Some(GROUP)).expect("a group");
    let setgid = std::fs::Permissions::from_mode(0o2755);
    std::fs::set_permissions(node.path("run"), setgid).expect("a mode");
    node.start(&[]);
    node.wait("enforcing", enforcing);

    for args in [&["status"][..], &["stats", "--once"], &["events"]] {
        let (code, stderr) = run_as(&node, GROUP, args);
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        let (code, stderr) = run_as(&node, OTHER_GROUP, args);
        assert_eq!(code, Some(3), "{args:?}: {stderr}");
        assert!(stderr.contains("ermission denied"), "{args:?}: {stderr}");
    }
    let (code, stderr) = run_as(&node, GROUP, &["confirm"]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("ermission denied"), "{stderr}");
    let (code, stderr) = run_as(&node, GROUP, &["detach"]);
    assert_ne!(code, Some(0), "{stderr}");
    node.assert_guarded();
}
