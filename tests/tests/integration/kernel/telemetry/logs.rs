//! The daemon's log: bounded in any case, sent to the journal with fields, and never waiting for a
//! reader.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::{
        fs::MetadataExt as _,
        net::{UnixDatagram, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aya_obj::Object;
use guard_common::names;
use guard_tests::{
    node::{MANIFEST, MEMBER, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT, enforcing},
    skip,
};
use guard_user::embedded_object::kernel_object;
use serde_json::Value;

/// Maximum number of records from one place in the code within a minute, twice, because a test may span
/// two minutes.
const MAX_RECORDS: usize = 2 * 20;

/// A daemon that the test starts itself; killed on drop.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the node's daemon behind a shell script, in a mount namespace of its own with an empty `/run`.
/// The script ends with `exec "$@"`.
fn start(node: &Node, script: &str, stderr: Stdio) -> Daemon {
    let command_line = node.daemon_command(&[]);
    let args: Vec<_> = command_line.get_args().collect();
    let mut command = Command::new("ip");
    // `ip netns exec NAMESPACE`, then the command to run there.
    command.args(&args[..3]).args(["unshare", "--mount", "sh", "-ec"]);
    command.arg(format!("mount -t tmpfs tmpfs /run; {script}")).arg("sh").args(&args[3..]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    Daemon(command.spawn().expect("the daemon starts"))
}

fn lines(log: &str, part: &str) -> usize {
    log.lines().filter(|line| line.contains(part)).count()
}

#[test]
fn repeated_causes_keep_the_log_short() {
    let Some(mut node) = Node::new("logs/short") else { return };
    node.add_link("eth1");
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, \"eth1*\"]"));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    for round in 0..10_000 {
        let mut stream = UnixStream::connect(node.path("run/control.sock")).expect("a socket");
        if round % 100 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        }
    }
    // A file with another error each time, loaded whether it has changed or not.
    let failures = |node: &Node| {
        let mut stream = UnixStream::connect(node.path("run/stats.sock")).expect("a socket");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let name = "trainguard_policy_loads_total{result=\"failure\"} ";
        let line = answer.lines().find_map(|line| line.strip_prefix(name)).expect("a counter");
        line.parse::<u64>().expect("a number")
    };
    let deadline = Instant::now() + WAIT_TIMEOUT * 2;
    let mut round = 0;
    while failures(&node) < 60 {
        round += 1;
        node.write("policy.yaml", &format!("not{round}: \"\u{1b}[31m ours\"\n"));
        node.signal("HUP");
        thread::sleep(Duration::from_millis(10));
        assert!(Instant::now() < deadline, "{} loads", failures(&node));
    }
    let names = ["eth1", "eth1b"];
    for round in 0..60 {
        node.ip(&["link", "set", names[round % 2], "name", names[(round + 1) % 2]]);
        thread::sleep(Duration::from_millis(20));
    }
    let status = node.wait("answering", |status| status["log"]["suppressed"].as_u64() > Some(9000));
    assert_eq!(status["enforcing"], true);
    let log = node.log();
    for part in ["control connection", "not loaded; the running", "renamed from", "not0"] {
        assert!(lines(&log, part) <= MAX_RECORDS, "{part}: {} lines", lines(&log, part));
    }
    assert!(lines(&log, "control connection") >= 20, "{log}");
    assert!(log.len() < 200_000, "{} bytes", log.len());
    assert!(!log.contains('\u{1b}'), "escape sequences of a file");
    // When the daemon ends, it reports what it left out.
    node.signal("TERM");
    let log = node.log();
    assert!(lines(&log, "more like this were not written; the last was: control") >= 1, "{log}");
    node.assert_guarded();
}

/// Parses the fields of a datagram to the journal.
fn fields(datagram: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').expect("a line");
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            fields.push((text(&line[..equals]), text(&line[equals + 1..])));
            rest = after;
        } else {
            let length = u64::from_le_bytes(after[..8].try_into().expect("a length"));
            let value = &after[8..8 + usize::try_from(length).expect("a length")];
            fields.push((text(line), text(value)));
            rest = &after[8 + value.len() + 1..];
        }
    }
    fields
}

/// Returns the next record whose message contains `part`.
fn record(journal: &UnixDatagram, part: &str) -> Vec<(String, String)> {
    let mut datagram = vec![0; 1 << 16];
    loop {
        let length = journal.recv(&mut datagram).unwrap_or_else(|error| panic!("{part}: {error}"));
        let fields = fields(&datagram[..length]);
        if fields.iter().any(|(name, value)| name == "MESSAGE" && value.contains(part)) {
            return fields;
        }
    }
}

fn value_of<'a>(record: &'a [(String, String)], field: &str) -> &'a str {
    let found = record.iter().find(|(name, _)| name == field);
    found.map_or("", |(_, value)| value.as_str())
}

/// Returns the assignment of `JOURNAL_STREAM` for a file.
fn stream_of(file: &File) -> String {
    let metadata = file.metadata().expect("metadata");
    format!("JOURNAL_STREAM={}:{}", metadata.dev(), metadata.ino())
}

#[test]
fn a_journal_gets_records_with_fields_and_priorities() {
    let Some(node) = Node::new("logs/journal") else { return };
    let socket = node.path("journal");
    let journal = UnixDatagram::bind(&socket).expect("a socket");
    journal.set_read_timeout(Some(WAIT_TIMEOUT)).expect("a time");
    let stderr = File::create(node.path("log")).expect("a log");
    let script = to_journal(&socket, &stderr);
    let _daemon = start(&node, &script, stderr.into());
    let guarded = record(&journal, "guarded");
    for (field, value) in [
        ("MESSAGE", "guarded interface=eth0 mode=native"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "trainguard"),
        ("TRAINGUARD_INTERFACE", "eth0"),
        ("TRAINGUARD_MODE", "native"),
    ] {
        assert_eq!(value_of(&guarded, field), value);
    }
    let in_force = record(&journal, "policy in force");
    assert_eq!(value_of(&in_force, "TRAINGUARD_GENERATION"), "1");
    assert_eq!(value_of(&in_force, "TRAINGUARD_NODE"), "node");
    assert_eq!(value_of(&in_force, "TRAINGUARD_POLICY").len(), 64);
    // Findings with their source text are one record, and quoted text adds no field.
    let harmful = "\"\u{7f}PRIORITY=0\"";
    node.write("policy.yaml", &POLICY.replace("mode: enforce", &format!("mode: {harmful}")));
    let page = record(&journal, "policy.yaml:");
    assert_eq!(value_of(&page, "PRIORITY"), "3");
    let text = value_of(&page, "MESSAGE");
    assert!(text.lines().count() > 3 && text.contains("error["), "{text}");
    assert!(!text.contains('\u{7f}'), "{text:?}");
    let kept = record(&journal, "not loaded");
    assert_eq!((value_of(&kept, "PRIORITY"), value_of(&kept, "TRAINGUARD_GENERATION")), ("3", "1"));
    assert_eq!(node.log(), "", "nothing on standard error");
    let exit = node.trainguard(&["detach"]).output().expect("detach");
    assert!(exit.status.success());
    assert_eq!(value_of(&record(&journal, "detached"), "PRIORITY"), "4");
}

#[test]
fn a_stalled_journal_does_not_block_the_daemon() {
    let Some(node) = Node::new("logs/still") else { return };
    let socket = node.path("journal");
    let _unread = UnixDatagram::bind(&socket).expect("a socket");
    let stderr = File::create(node.path("log")).expect("a log");
    let script = format!("export TRAINGUARD_LOG=debug; {}", to_journal(&socket, &stderr));
    let _daemon = start(&node, &script, stderr.into());
    reload_until_lost(&node);
}

/// Returns a script that makes `socket` the journal's socket and `stderr` its stream.
fn to_journal(socket: &Path, stderr: &File) -> String {
    format!(
        "mkdir -p /run/systemd/journal; ln -s {} /run/systemd/journal/socket; export {}; exec \"$@\"",
        socket.display(),
        stream_of(stderr)
    )
}

/// Loads policies until many records are lost, and asserts that the last policy guards the node.
fn reload_until_lost(node: &Node) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while node.status().is_none() {
        assert!(Instant::now() < deadline, "the daemon does not answer");
        thread::sleep(Duration::from_millis(20));
    }
    let mut generation = 1;
    let lost = |status: &Value| status["log"]["lost"].as_u64() > Some(100);
    while !lost(&node.wait("answering", |_| true)) {
        generation += 1;
        let role = if generation % 2 == 0 { "[scheduler]" } else { "[worker]" };
        node.write("policy.yaml", &POLICY.replace("[worker]", role));
        node.wait("the next one", |status| status["generation"] == generation);
        assert!(generation < 1000, "no record was lost although nothing reads the log");
    }
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let status = node.wait("the next one", |status| status["generation"] == generation + 1);
    assert_eq!(status["enforcing"], true);
    assert!(!node.answers(UNLISTED[0], PORT));
    assert!(node.answers(MEMBER[0], PORT));
}

#[test]
fn without_a_journal_the_text_has_priorities_and_the_reason() {
    let Some(node) = Node::new("logs/no-journal") else { return };
    let stderr = File::create(node.path("log")).expect("a log");
    let script = format!("export {}; exec \"$@\"", stream_of(&stderr));
    let _daemon = start(&node, &script, stderr.into());
    node.wait("enforcing", enforcing);
    let log = node.log();
    assert_eq!(lines(&log, "the journal cannot be reached"), 1, "{log}");
    assert!(log.lines().all(|line| line.starts_with("<4>") || line.starts_with("<6>")), "{log}");
    assert!(log.contains("<6>guarded interface=eth0 mode=native\n"), "{log}");
}

#[test]
fn another_stream_than_the_journal_gets_text_with_times() {
    let Some(node) = Node::new("logs/other") else { return };
    let stderr = File::create(node.path("log")).expect("a log");
    let script = format!("export {}9; exec \"$@\"", stream_of(&stderr));
    let _daemon = start(&node, &script, stderr.into());
    node.wait("enforcing", enforcing);
    let log = node.log();
    assert!(log.lines().all(|line| line.starts_with("20") && line.contains("Z  INFO ")), "{log}");
}

#[test]
fn an_unread_log_does_not_block_the_daemon() {
    let Some(node) = Node::new("logs/pipe") else { return };
    let mut daemon = start(&node, "export TRAINGUARD_LOG=trace; exec \"$@\"", Stdio::piped());
    let unread = daemon.0.stderr.take().expect("a pipe");
    reload_until_lost(&node);
    drop(unread);
}

/// A log line for each verdict would cost more than the verdict.
#[test]
fn the_shipped_kernel_object_has_no_log() {
    if skip::kernel("logs/object").is_none() {
        return;
    }
    let object = Object::parse(kernel_object().expect("an object")).expect("an object of ours");
    let maps: Vec<&String> = object.maps.keys().collect();
    assert!(object.maps.contains_key(names::MAP_COUNTERS), "{maps:?}");
    // aya-log writes to a map called `AYA_LOGS`.
    assert!(!maps.iter().any(|name| name.to_lowercase().contains("log")), "{maps:?}");
}
