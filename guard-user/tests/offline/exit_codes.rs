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
fn an_answer_that_cannot_be_written_is_none() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/cluster.yaml");
    let question = ["trace", "--manifest", manifest, "--node", "sched-0"];
    let packet = ["--from", "10.9.9.9", "--to", "10.77.0.10:9091"];
    let mut command = trainguard(&[&question[..], &packet].concat());
    assert_eq!(code(&mut command), Some(0));
    let full = File::options().write(true).open("/dev/full").expect("a device that is always full");
    assert_eq!(code(command.stdout(full)), Some(2));
}

#[test]
fn nobody_to_ask_is_a_code_of_its_own() {
    let nowhere = tempfile::tempdir().expect("a directory");
    let nowhere = nowhere.path().to_str().expect("UTF-8");
    let directories = ["--run-dir", nowhere, "--bpf-dir", nowhere];
    for verb in [&["status"][..], &["stats", "--once"], &["status", "--format", "json"]] {
        assert_eq!(code(&mut trainguard(&[verb, &directories].concat())), Some(3), "{verb:?}");
    }
}

#[test]
fn a_wrong_flag_is_no_answer() {
    for args in [&["status", "--frobnicate"][..], &["daemon"], &["daemon", "--mode", "fast"], &[]] {
        assert_eq!(code(&mut trainguard(args)), Some(2), "{args:?}");
    }
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/cluster.yaml");
    let tcx = trainguard(&["daemon", "--manifest", manifest, "--mode", "tcx"]).status();
    assert_eq!(tcx.expect("the binary starts").code(), Some(2), "said before anything is touched");
}
