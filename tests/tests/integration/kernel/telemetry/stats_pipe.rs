//! `stats` in a pipe: rows and documents of a real daemon, also while it stops and starts.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{MEMBER, Node, PORT, UNLISTED, WAIT_TIMEOUT, enforcing};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

fn stats(node: &Node, args: &[&str]) -> Command {
    let mut command = node.trainguard(&[&["stats"], args].concat());
    command.arg("--bpf-dir").arg(node.pins());
    command
}

/// Returns the output of `stats`, which must exit with code 0.
fn lines(node: &Node, args: &[&str]) -> Vec<String> {
    let output = stats(node, args).output().expect("running trainguard");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    assert_eq!(stderr, "", "{args:?}");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

fn guarded(test: &str) -> Option<Node> {
    let mut node = Node::new(test)?;
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert!(!node.answers(UNLISTED[0], PORT));
    assert!(node.answers(MEMBER[0], PORT));
    Some(node)
}

fn ended(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("`stats` does not end");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn three_samples_are_three_rows_for_the_interface() {
    let Some(node) = guarded("stats_pipe/rows") else { return };
    let begun = Instant::now();
    let lines = lines(&node, &["0.3", "3"]);
    assert!(begun.elapsed() >= Duration::from_millis(600), "two intervals separate three samples");
    assert!(lines[0].starts_with("TIME "), "{lines:#?}");
    let rows: Vec<Vec<&str>> =
        lines[1..].iter().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.iter().all(|row| row.len() == 9), "{lines:#?}");
    let units = |name: &str| -> Vec<&str> {
        rows.iter().filter(|row| row[2] == name).map(|row| row[3]).collect()
    };
    assert_eq!(units("eth0"), ["total", "/s", "/s"], "{lines:#?}");
    // No source is refused any more when the second sample is taken.
    assert_eq!(units("not_allowed"), ["total"], "{lines:#?}");
    let total = rows.iter().find(|row| row[2] == "not_allowed").expect("a row");
    assert_eq!(total[5].parse(), Ok(node.packets("not_allowed")));
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "columns: {lines:#?}");
}

#[test]
fn documents_have_rates_from_the_second_sample_on() {
    let Some(node) = guarded("stats_pipe/ndjson") else { return };
    let read = |line: &String| -> Value { serde_json::from_str(line).expect("a document") };
    let documents: Vec<Value> =
        lines(&node, &["200ms", "3", "--format", "ndjson"]).iter().map(read).collect();
    assert_eq!(documents.len(), 3);
    for (index, document) in documents.iter().enumerate() {
        assert_eq!(document["schema"], "trainguard/stats/v1");
        assert_eq!(document["node"], "node");
        let rates = [
            &document["interval_seconds"],
            &document["interfaces"][0]["dropped_per_second"],
            &document["services"][0]["passed_per_second"],
            &document["reasons"]["not_allowed"]["packets_per_second"],
            &document["top_sources"][0]["packets_per_second"],
        ];
        assert!(rates.iter().all(|rate| rate.is_null() == (index == 0)), "{document}");
    }
    assert!(documents[1]["interval_seconds"].as_f64().is_some_and(|seconds| seconds >= 0.2));

    let once = lines(&node, &["--once", "--format", "json"]);
    let [once] = once.as_slice() else { panic!("one document: {once:?}") };
    let once = read(once);
    assert_eq!(once["interfaces"][0]["passed_per_second"], Value::Null);
    let service = &once["services"][0];
    for field in ["passed", "dropped", "would_drop"] {
        assert!(service[field].is_u64(), "{service}");
    }
    assert_eq!(service["name"], "scheduler");
    assert!(once["reasons"]["not_allowed"]["packets"].as_u64().is_some_and(|count| count > 0));
    assert!(once["reasons"]["not_allowed"]["bytes"].is_u64());
    assert_eq!(once["top_sources"][0]["address"], "10.77.0.99");

    let last = lines(&node, &["0.2", "3", "--format", "json"]);
    let [last] = last.as_slice() else { panic!("one document: {last:?}") };
    let seconds = read(last)["interval_seconds"].as_f64().expect("a span");
    assert!(seconds >= 0.4, "rates over the whole time: {seconds}");
}

#[test]
fn stats_ends_when_its_reader_closes_the_pipe() {
    let Some(mut node) = guarded("stats_pipe/closed") else { return };
    let mut child =
        stats(&node, &["0.1"]).stdout(Stdio::piped()).spawn().expect("running trainguard");
    let mut reader = BufReader::new(child.stdout.take().expect("the standard output"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line at once");
    assert!(line.starts_with("TIME"), "{line}");
    drop(reader);
    assert_eq!(ended(&mut child).code(), Some(0));

    // Also a process that has nothing to write, because of a long interval or without a daemon.
    let mut idle =
        stats(&node, &["1h"]).stdout(Stdio::piped()).spawn().expect("running trainguard");
    drop(idle.stdout.take());
    assert_eq!(ended(&mut idle).code(), Some(0));

    let mut command = stats(&node, &["0.1", "--format", "ndjson"]);
    let mut child = command.stdout(Stdio::null()).spawn().expect("running trainguard");
    thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a number")), Signal::SIGINT)
        .expect("signalling the command");
    assert_eq!(ended(&mut child).code(), Some(0), "an interrupt is a normal exit");
    node.signal("TERM");
}

#[test]
fn a_lost_and_a_restored_daemon_are_reported_once_each() {
    let Some(mut node) = guarded("stats_pipe/gone") else { return };
    let mut command = stats(&node, &["0.1", "--format", "ndjson"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("running trainguard");
    let mut reader = BufReader::new(child.stdout.take().expect("the standard output"));
    let mut until = |what: &str, wanted: fn(&Value) -> bool| {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a line");
            let document: Value = serde_json::from_str(&line).expect("a document");
            if wanted(&document) {
                return;
            }
            assert!(Instant::now() < deadline, "not {what}: {document}");
        }
    };
    until("the daemon", |document| document["enforcing"] == true);
    node.signal("KILL");
    until("the maps", |document| {
        document["enforcing"].is_null() && document["interfaces"][0]["name"] == "eth0"
    });
    node.start(&[]);
    until("the daemon again", |document| document["enforcing"] == true);
    drop(reader);
    assert_eq!(ended(&mut child).code(), Some(0));
    let mut stderr = String::new();
    child.stderr.take().expect("the standard error").read_to_string(&mut stderr).expect("text");
    assert_eq!(stderr.matches("no daemon answers").count(), 1, "{stderr}");
    assert_eq!(stderr.matches("the daemon answers again").count(), 1, "{stderr}");
}
