//! Arguments that `trainguard stats` accepts and refuses where no daemon runs.

use std::process::Output;

use super::binary;

fn stats(args: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("missing");
    let mut command = binary::command(&["stats"]);
    command.args(args).arg("--run-dir").arg(&missing).arg("--bpf-dir").arg(&missing);
    command.output().expect("the binary runs")
}

#[test]
fn what_is_no_interval_is_told_what_one_is() {
    for wrong in ["0", "0.01", "99ms", "1e300", "nan", "inf", "2days", "five", "", "5x", "1s 2"] {
        let output = stats(&[wrong]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {said}");
        assert!(said.contains("such as 5, 0.5, 500ms or 2s"), "{wrong}: {said}");
    }
    for wrong in ["-1", "-0.5"] {
        assert_eq!(stats(&[wrong]).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn what_is_no_count_is_told_what_one_is() {
    for wrong in ["0", "1.5", "many", "", "99999999999999999999"] {
        let output = stats(&["1", wrong]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {said}");
        assert!(said.contains("at least 1"), "{wrong}: {said}");
    }
    assert_eq!(stats(&["1", "2", "3"]).status.code(), Some(2));
    assert_eq!(stats(&["1", "--once"]).status.code(), Some(2), "once is no interval");
}

#[test]
fn one_document_needs_an_end() {
    let output = stats(&["1", "--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ndjson"));
}

#[test]
fn with_nobody_to_ask_at_the_start_it_ends() {
    for args in
        [&[][..], &["1"], &["1", "3"], &["5s"], &["500ms", "--format", "ndjson"], &["--once"]]
    {
        let output = stats(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert!(said.contains("no daemon answers at"), "{args:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}
