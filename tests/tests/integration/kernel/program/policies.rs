//! The unit tests of the shipped policies, decided by the real program. The tests of guard-user run them
//! on the host.

use std::path::Path;

use guard_test_support::binary;
use guard_tests::skip;

#[test]
fn shipped_policies_pass_their_tests_in_the_kernel() {
    let Some(()) = skip::kernel("policies/kernel") else { return };
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let run = |kernel: &[&str]| {
        let mut command = binary::command(binary::path(), ["test"]);
        let output = command.args(kernel).arg(&policies).output().expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{text}{error}");
        text
    };
    let on_host = run(&[]);
    assert!(on_host.ends_with(" passed, 0 failed\n"), "{on_host}");
    assert_eq!(run(&["--kernel"]), on_host, "the same tests");
}

/// Tests of a wrong policy fail in the kernel as on the host, with the same text.
#[test]
fn a_failing_test_fails_in_the_kernel_as_well() {
    let Some(()) = skip::kernel("policies/fails") else { return };
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let dir = tempfile::tempdir().expect("a directory");
    for file in ["mxnet.yaml", "mxnet.test.yaml"] {
        let text = std::fs::read_to_string(policies.join(file)).expect("a policy");
        // Limits so low that no job could start.
        let text = text.replace("burst: 1000", "burst: 3").replace("rate: 200/s", "rate: 9/s");
        std::fs::write(dir.path().join(file), text).expect("written");
    }
    let run = |kernel: &[&str]| {
        let mut command = binary::command(binary::path(), ["test"]);
        let output = command.args(kernel).arg(dir.path()).output().expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, on_host) = run(&[]);
    assert_eq!(code, Some(1), "{on_host}");
    assert!(on_host.contains("limit_new_connections"), "{on_host}");
    assert_eq!(run(&["--kernel"]), (code, on_host));
}
