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
fn a_wrong_interval_gets_examples_of_intervals() {
    for wrong in ["0", "0.01", "99ms", "1e300", "nan", "inf", "2days", "five", "", "5x", "1s 2"] {
        let output = stats(&[wrong]);
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {printed}");
        assert!(printed.contains("such as 5, 0.5, 500ms or 2s"), "{wrong}: {printed}");
    }
    for wrong in ["-1", "-0.5"] {
        assert_eq!(stats(&[wrong]).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn a_wrong_count_gets_the_minimum() {
    for wrong in ["0", "1.5", "many", "", "99999999999999999999"] {
        let output = stats(&["1", wrong]);
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {printed}");
        assert!(printed.contains("at least 1"), "{wrong}: {printed}");
    }
    assert_eq!(stats(&["1", "2", "3"]).status.code(), Some(2));
    assert_eq!(stats(&["1", "--once"]).status.code(), Some(2), "`--once` takes no interval");
}

#[test]
fn json_without_an_end_is_refused() {
    let output = stats(&["1", "--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ndjson"));
}

#[test]
fn without_a_daemon_at_the_start_stats_ends() {
    for args in
        [&[][..], &["1"], &["1", "3"], &["5s"], &["500ms", "--format", "ndjson"], &["--once"]]
    {
        let output = stats(args);
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {printed}");
        assert!(printed.contains("no daemon answers at"), "{args:?}: {printed}");
        assert!(output.stdout.is_empty());
    }
}
