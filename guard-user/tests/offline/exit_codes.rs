//! Exit codes that no other test covers.

use std::{
    fs::File,
    process::{Command, Stdio},
};

use super::binary;

fn trainguard(args: &[&str]) -> Command {
    let mut command = binary::command(args);
    command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
    command
}

fn code(command: &mut Command) -> Option<i32> {
    command.status().expect("the binary starts").code()
}

#[test]
fn output_that_cannot_be_written_exits_with_2() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/cluster.yaml");
    let trace = ["trace", "--manifest", manifest, "--node", "sched-0"];
    let packet = ["--from", "10.9.9.9", "--to", "10.77.0.10:9091"];
    let mut command = trainguard(&[&trace[..], &packet].concat());
    assert_eq!(code(&mut command), Some(0));
    let full = File::options().write(true).open("/dev/full").expect("a device that is always full");
    assert_eq!(code(command.stdout(full)), Some(2));
}

#[test]
fn no_daemon_exits_with_3() {
    let empty = tempfile::tempdir().expect("a directory");
    let empty = empty.path().to_str().expect("UTF-8");
    let directories = ["--run-dir", empty, "--bpf-dir", empty];
    for subcommand in [&["status"][..], &["stats", "--once"], &["status", "--format", "json"]] {
        assert_eq!(
            code(&mut trainguard(&[subcommand, &directories].concat())),
            Some(3),
            "{subcommand:?}"
        );
    }
}

#[test]
fn wrong_flags_exit_with_2() {
    for args in [&["status", "--frobnicate"][..], &["daemon"], &["daemon", "--mode", "fast"], &[]] {
        assert_eq!(code(&mut trainguard(args)), Some(2), "{args:?}");
    }
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/cluster.yaml");
    let tcx = trainguard(&["daemon", "--manifest", manifest, "--mode", "tcx"]).status();
    assert_eq!(
        tcx.expect("the binary starts").code(),
        Some(2),
        "the mode is refused before anything is attached"
    );
}
