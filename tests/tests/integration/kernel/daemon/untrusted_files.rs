//! Files that other users could have written, with a real daemon: each is refused with a remedy, the
//! daemon goes on, and the policy in force stays.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
    process::Command,
};

use guard_tests::{
    node::{MANIFEST, Node, POLICY, enforcing},
    system::mounts::Mounted,
};

/// The expected message, and a function that makes such a file.
type Case<'a> = (&'a str, &'a dyn Fn(&Path));

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Replaces a file of the node atomically.
fn replace(node: &Node, name: &str, make: impl FnOnce(&Path)) {
    let next = node.path("next one");
    make(&next);
    fs::rename(next, node.path(name)).expect("renaming");
}

/// Case 128: writable by others, owned by another user, a hard link, a pipe, a device: refused without
/// blocking.
#[test]
fn files_that_other_users_may_change_are_refused() {
    let Some(mut node) = Node::new("untrusted_files/running") else { return };
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    let write = |path: &Path, text: &str| fs::write(path, text).expect("writing");
    for file in ["cluster.yaml", "policy.yaml"] {
        let text = if file == "cluster.yaml" { MANIFEST } else { POLICY };
        let cases: [Case<'_>; 6] = [
            ("mode 0666", &|path| {
                write(path, text);
                set_mode(path, 0o666);
            }),
            ("belongs to user 1000", &|path| {
                write(path, text);
                chown(path, Some(1000), None).expect("an owner");
            }),
            ("2 hard links", &|path| {
                let other = node.path("other name");
                // The file of an earlier case, if there is one.
                let _ = fs::remove_file(&other);
                write(&other, text);
                fs::hard_link(other, path).expect("a hard link");
            }),
            ("not a regular file", &|path| {
                nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
            }),
            ("not a regular file", &|path| symlink("/dev/zero", path).expect("a link")),
            ("belongs to user 1000", &|path| {
                let other = node.path("theirs");
                write(&other, text);
                chown(&other, Some(1000), None).expect("an owner");
                symlink(other, path).expect("a link");
            }),
        ];
        for (part, make) in cases {
            replace(&node, file, make);
            let status = node.wait(part, |status| status["up_to_date"] == false);
            let problems = status["problems"].to_string();
            assert!(problems.contains(part), "{file}: `{part}` not in {problems}");
            for fact in ["generation", "policy_hash", "enforcing"] {
                assert_eq!(status[fact], before[fact], "{file}, {part}: {fact}");
            }
            node.write(file, text);
            node.wait("up to date again", |status| status["up_to_date"] == true);
        }
    }
    // A file of /proc, where the size is 0 and the owner is root: it is not a policy.
    replace(&node, "policy.yaml", |path| symlink("/proc/version", path).expect("a link"));
    let status = node.wait("refused", |status| status["up_to_date"] == false);
    assert_eq!(status["policy_hash"], before["policy_hash"]);
    node.assert_guarded();
    // An applied and confirmed policy may come from files with any mode, because the caller has read
    // them.
    set_mode(&node.path("cluster.yaml"), 0o666);
}

/// A `ConfigMap` is a directory that all users may write, mounted read-only.
#[test]
fn a_read_only_mount_may_have_any_mode() {
    let Some(mut node) = Node::new("untrusted_files/configmap") else { return };
    let volume = node.path("volume");
    fs::create_dir(&volume).expect("a directory");
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&volume);
        assert!(command.status().expect("mount").success(), "{options}");
    };
    mount("mode=0777");
    let _mounted = Mounted(volume.clone());
    let data = volume.join("..2026_01_01");
    fs::create_dir(&data).expect("a directory");
    set_mode(&data, 0o755);
    symlink("..2026_01_01", volume.join("..data")).expect("a link");
    for (file, text) in [("cluster.yaml", MANIFEST), ("policy.yaml", POLICY)] {
        fs::write(data.join(file), text).expect("a file");
        symlink(format!("..data/{file}"), volume.join(file)).expect("a link");
    }
    let manifest = volume.join("cluster.yaml");
    let more = ["--manifest", manifest.to_str().expect("a path")];
    fs::remove_file(node.path("cluster.yaml")).expect("removing");
    let start = |node: &Node| {
        let mut command = node.trainguard(&["daemon", "--node", "node"]);
        command.args(more).arg("--state-dir").arg(node.path("state"));
        command.arg("--bpf-dir").arg(node.pins());
        command
    };
    let output = start(&node).output().expect("waiting for the process");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("volume` (mode 0777)"), "{stderr}");

    mount("remount,ro,mode=0777");
    symlink(&manifest, node.path("cluster.yaml")).expect("a link");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.assert_guarded();
}

/// The files that the daemon saves are checked by the same rule.
#[test]
fn a_state_directory_that_others_may_write_is_not_read() {
    let Some(mut node) = Node::new("untrusted_files/state") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let mode = node.trainguard(&["mode", "observe", "--until-changed"]).status();
    assert!(mode.expect("mode").success());
    node.signal("TERM");
    set_mode(&node.path("state"), 0o777);
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    assert!(status["mode_override"].is_null(), "{status}");
    assert!(node.log().contains("state` (mode 0777): `chmod go-w` it"), "{}", node.log());
    node.assert_guarded();
}
