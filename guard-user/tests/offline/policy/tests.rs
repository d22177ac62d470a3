//! `trainguard test` on the command line: results, how failures are reported, and recording.

use std::{fs, path::Path};

use guard_test_support::{
    bundle::{self, Cluster},
    packet,
    pcap::{Frame, Pcap},
};

use crate::binary::trainguard;

fn manifest() -> Cluster {
    bundle::cluster("demo").node("sched", "10.0.0.1, fd00::1", "scheduler").node(
        "worker",
        "10.0.1.0, fd00::1:0",
        "worker",
    )
}

fn policy() -> String {
    let service = bundle::service("s", "scheduler", "tcp/9091", "roles: [worker]");
    let limits = "    limits: { perSource: { newConnections: { rate: 1/s, burst: 10 } } }\n";
    bundle::policy("p", [service + limits])
}

const TESTS: &str = "\
apiVersion: trainguard/v1
kind: Test
manifest: m.yaml
tests:
  - name: a worker registers
    node: sched
    packet: { from: worker, to: tcp/9091, times: 10 }
    expect: { verdict: pass, reason: allowed, service: s }
  - name: a worker opens too many connections
    node: sched
    packet: { from: worker, to: tcp/9091, after: 10 }
    expect: { verdict: drop, reason: limit_new_connections, service: p/s }
  - name: an unlisted source is refused
    node: sched
    packet: { from: \"2001:db8::7\", to: tcp/9091, flags: A }
    expect: { verdict: drop, reason: not_allowed, service: s }
  - name: ssh is not guarded
    node: sched
    packet: { from: 192.0.2.7, to: tcp/22 }
    expect: { verdict: pass, reason: unguarded }
";

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        let dir = Self(tempfile::tempdir().expect("a directory"));
        dir.write("m.yaml", manifest().to_string());
        dir.write("p.yaml", policy());
        dir.write("p.test.yaml", TESTS);
        dir
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), text).expect("written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).expect("a file")
    }

    fn run(&self, args: &[&str], input: &str) -> (Option<i32>, String, String) {
        let output = trainguard(self.path(), &[&["test"], args].concat(), input);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

#[test]
fn tests_that_hold_pass() {
    let dir = Dir::new();
    for args in [&[][..], &["."], &["p.test.yaml"], &[".", "p.test.yaml"]] {
        let (code, out, err) = dir.run(args, "");
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.ends_with(" passed, 0 failed\n"), "{out}");
    }
    let (code, out, _) = dir.run(&["--filter", "unlisted"], "");
    assert_eq!((code, out.as_str()), (Some(0), "1 passed, 0 failed\n"));
}

#[test]
fn packets_can_be_forwarded() {
    let dir = Dir::new();
    let limited = TESTS.replace(
        "node: sched\n    packet: { from: worker, to: tcp/9091, after",
        "node: sched\n    \
        forwarded: true\n    packet: { from: worker, to: tcp/9091, after",
    );
    let unlisted = limited.replace(
        "node: sched\n    packet: { from: \"2001",
        "node: sched\n    forwarded: true\n    \
        packet: { from: \"2001",
    );
    let passes = unlisted
        .replace(
            "verdict: drop, reason: limit_new_connections, service: p/s",
            "verdict: pass, reason: forwarded, service: s",
        )
        .replace("verdict: drop, reason: not_allowed", "verdict: pass, reason: forwarded");
    dir.write("p.test.yaml", &passes);
    let (code, out, err) = dir.run(&[], "");
    assert_eq!((code, out.as_str()), (Some(0), "4 passed, 0 failed\n"), "{err}");
    // The same packets at a service that guards them.
    dir.write("p.yaml", policy().replace("mode: enforce", "mode: enforce\n    forwarded: guard"));
    assert_eq!(dir.run(&[], "").1.lines().last(), Some("2 passed, 2 failed"));
    dir.write("p.test.yaml", &unlisted);
    assert_eq!(dir.run(&[], "").1, "4 passed, 0 failed\n");
    // A capture: all of its frames are forwarded.
    let syn = packet::segment(([192, 0, 2, 9], 40_000), ([10, 88, 0, 2], 9091), packet::SYN, 0);
    dir.write("job.pcap", Pcap::default().file(&[Frame::at(0, syn)]));
    let test = |reason: &str| {
        let (head, _) = TESTS.split_once("tests:\n").expect("tests");
        format!(
            "{head}tests:\n  - name: a job\n    node: sched\n    forwarded: true\n    capture: job.pcap\n    expect: \
             {{ summary: [{{ {reason}, service: s, frames: 1 }}] }}\n"
        )
    };
    dir.write("p.test.yaml", test("verdict: drop, reason: not_allowed"));
    assert_eq!(dir.run(&[], "").1, "1 passed, 0 failed\n");
    dir.write("p.yaml", policy());
    dir.write("p.test.yaml", test("verdict: pass, reason: forwarded"));
    assert_eq!(dir.run(&[], "").1, "1 passed, 0 failed\n");
}

/// Tests of the shipped policies: each profile has some, and all of them pass.
#[test]
fn shipped_policies_pass_their_tests() {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let profiles = fs::read_dir(&policies).expect("a directory").flatten().filter(|entry| {
        let name = entry.file_name().into_string().expect("UTF-8");
        let stem = name.strip_suffix(".yaml");
        stem.is_some_and(|stem| !stem.contains('.') && stem != "cluster")
    });
    let mut count = 0;
    for profile in profiles {
        let tests = profile.path().with_extension("test.yaml");
        let tests_path = tests.to_str().expect("UTF-8");
        let output = trainguard(&policies, &["test", tests_path], "");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {text}", tests.display());
        count += 1;
    }
    assert_eq!(count, 14, "a new profile raises this number");
}

#[test]
fn failed_tests_are_reported_with_their_lines() {
    let dir = Dir::new();
    let wrong = TESTS.replace("times: 10 }", "times: 12 }").replace(
        "verdict: pass, reason: unguarded",
        "verdict: drop, reason: not_allowed, service: s",
    );
    dir.write("p.test.yaml", wrong);
    let (code, out, err) = dir.run(&["--junit", "out.xml"], "");
    assert_eq!(code, Some(1), "{err}");
    let expected = "\
FAILED p.test.yaml:5: a worker registers
       from 10.0.1.0 to 10.0.0.1:9091 on sched, packet 11 of 12: expected pass, allowed by s; found drop, limit_new_connections by s
       from fd00::1:0 to [fd00::1]:9091 on sched, packet 11 of 12: expected pass, allowed by s; found drop, limit_new_connections by s
FAILED p.test.yaml:17: ssh is not guarded
       from 192.0.2.7 to 10.0.0.1:22 on sched: expected drop, not_allowed by s; found pass, unguarded
2 passed, 2 failed
";
    assert_eq!(out, expected);
    let xml = dir.read("out.xml");
    let xml = roxmltree::Document::parse(&xml).expect("well-formed");
    let count = |name: &str| xml.descendants().filter(|node| node.has_tag_name(name)).count();
    assert_eq!((count("testcase"), count("failure")), (4, 2));
    let (_, out, _) = dir.run(&["--format", "json"], "");
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&json["schema"], &json["failed"]), (&"trainguard/test/v1".into(), &2.into()));
    assert_eq!(json["tests"][0]["line"], 5);
    assert_eq!(json["tests"][2]["passed"], true);
}

#[test]
fn every_part_of_a_verdict_is_compared() {
    for (from, to) in [
        (
            "expect: { verdict: drop, reason: not_allowed, service: s }",
            "expect: { verdict: would-drop, reason: not_allowed, service: s }",
        ),
        (
            "expect: { verdict: drop, reason: not_allowed, service: s }",
            "expect: { verdict: drop, reason: martian, service: s }",
        ),
        (
            "expect: { verdict: drop, reason: not_allowed, service: s }",
            "expect: { verdict: drop, reason: not_allowed, service: t }",
        ),
        (
            "expect: { verdict: drop, reason: not_allowed, service: s }",
            "expect: { verdict: drop, reason: not_allowed, service: q/s }",
        ),
        (
            "expect: { verdict: drop, reason: not_allowed, service: s }",
            "expect: { verdict: drop, reason: not_allowed }",
        ),
        (
            "expect: { verdict: pass, reason: unguarded }",
            "expect: { verdict: pass, reason: unguarded, service: s }",
        ),
        ("after: 10", "after: 9"),
    ] {
        let dir = Dir::new();
        assert!(TESTS.contains(from));
        dir.write("p.test.yaml", TESTS.replacen(from, to, 1));
        let (code, out, _) = dir.run(&[], "");
        assert_eq!(code, Some(1), "{from} -> {to}");
        assert!(out.ends_with("3 passed, 1 failed\n"), "{from} -> {to}: {out}");
    }
}

#[test]
fn tests_that_cannot_run_exit_with_2() {
    let dir = Dir::new();
    fs::create_dir(dir.path().join("empty")).expect("a directory");
    for (args, text, expected) in [
        (&["empty"][..], TESTS.to_owned(), "no tests to run"),
        (&["gone.test.yaml"], TESTS.to_owned(), "does not exist"),
        (&["--filter", "no such name"], TESTS.to_owned(), "no tests to run"),
        (&[], TESTS.replace("m.yaml", "gone.yaml"), "p.test.yaml:3:11"),
        (&[], TESTS.replace("manifest: m.yaml", "manifest: p.yaml"), "expected a manifest"),
        (&[], TESTS.replace("node: sched", "node: shed"), "did you mean `sched`?"),
        (&[], TESTS.replace("from: worker", "from: wrker"), "did you mean `worker`?"),
        (&[], TESTS.replace("a worker opens too many connections", "a worker registers"), "TG205"),
        (&["p.yaml"], TESTS.to_owned(), "expected tests"),
        (&["--junit", "gone/out.xml"], TESTS.to_owned(), "cannot write `gone/out.xml`"),
    ] {
        dir.write("p.test.yaml", &text);
        let (code, out, err) = dir.run(args, "");
        assert_eq!(code, Some(2), "{args:?}: {out}{err}");
        assert!(err.contains(expected), "{args:?}: {expected:?} is not in {err}");
    }
    // A file that cannot be used does not hide the results of others.
    dir.write("p.test.yaml", TESTS);
    dir.write("q.test.yaml", TESTS.replace("m.yaml", "gone.yaml"));
    let (code, out, _) = dir.run(&[], "");
    assert_eq!((code, out.as_str()), (Some(2), "4 passed, 0 failed\n"));
}

/// Returns a pcap file of Ethernet frames, each cut to at most the given length.
fn pcap(frames: &[(Vec<u8>, usize)]) -> Vec<u8> {
    let times = (1_700_000_000_000_000_000..).step_by(1000);
    let frames = times
        .zip(frames)
        .map(|(time_ns, (frame, kept))| Frame::at(time_ns, frame.clone()).cut(*kept));
    Pcap::default().file(&frames.collect::<Vec<_>>())
}

#[test]
fn a_summary_names_every_frame_of_the_capture() {
    use guard_common::port_table::Transport::Tcp;
    use guard_user::probe::{FLAGS_OPENING, Probe};
    let frame = |from: &str, port| {
        Probe::new(from.parse().expect("an address"), Tcp, port, FLAGS_OPENING).frame()
    };
    let all = usize::MAX;
    let frames = [
        (frame("10.0.1.0", 9091), all),
        (frame("10.0.1.0", 9091), all),
        (frame("192.0.2.7", 9091), all),
        (frame("192.0.2.7", 22), all),
    ];
    let dir = Dir::new();
    dir.write("job.pcap", pcap(&frames));
    let test = |summary: &str| {
        format!(
            "apiVersion: trainguard/v1\nkind: Test\nmanifest: m.yaml\ntests:\n  - name: a job\n    node: \
             sched\n    capture: job.pcap\n    expect:\n      summary:\n{summary}"
        )
    };
    let whole = "        - { verdict: pass, reason: allowed, service: s, frames: 2 }
        - { verdict: drop, reason: not_allowed, service: s, frames: 1 }
        - { verdict: pass, reason: unguarded, frames: 1 }
";
    dir.write("p.test.yaml", test(whole));
    let (code, out, err) = dir.run(&[], "");
    assert_eq!(code, Some(0), "{out}{err}");
    for (from, to, expected) in [
        ("frames: 2", "frames: 3", "expected 3 frames pass, allowed by s; found 2"),
        (
            "        - { verdict: pass, reason: unguarded, frames: 1 }\n",
            "",
            "1 frame pass, unguarded, which `summary` does not name",
        ),
        (
            "service: s, frames: 1",
            "service: t, frames: 1",
            "expected 1 frame drop, not_allowed by t; found 0",
        ),
    ] {
        dir.write("p.test.yaml", test(&whole.replacen(from, to, 1)));
        let (code, out, _) = dir.run(&[], "");
        assert_eq!(code, Some(1), "{out}");
        assert!(out.contains(expected), "{expected:?} is not in {out}");
    }
    // A test whose capture cut the frames too short gives no result.
    dir.write("p.test.yaml", test(whole));
    dir.write("job.pcap", pcap(&[(frame("192.0.2.7", 9091), 30)]));
    let (code, _, err) = dir.run(&[], "");
    assert_eq!(code, Some(2));
    assert!(err.contains("snap length"), "{err}");
}

#[test]
fn recorded_events_become_tests_that_pass() {
    let dir = Dir::new();
    let event = |source: &str, port: u16, more: &str| {
        format!(
            "{{\"schema\":\"trainguard/event/v1\",\"node\":\"sched\",\"verdict\":\"drop\",\"reason\":\"not_allowed\",\
             \"service\":\"s\",\"source\":\"{source}\",\"transport\":\"tcp\",\"port\":{port}{more}}}\n"
        )
    };
    let events = [
        event("192.0.2.9", 9091, ""),
        event("2001:db8::9", 9091, ",\"interface\":\"eth0\""),
        event("192.0.2.9", 9091, ""),
    ]
    .concat();
    // Recorded tests are printed, appended to a file, or written to a new file.
    let (code, out, err) = dir.run(&["--record"], &events);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out.matches("- name:").count(), 2, "equal events give one test: {out}");
    let (code, _, err) = dir.run(&["--record", "p.test.yaml"], &events);
    assert_eq!(code, Some(0), "{err}");
    assert!(dir.read("p.test.yaml").starts_with(TESTS), "existing tests stay");
    assert_eq!(dir.run(&[], "").1, "6 passed, 0 failed\n");
    let (_, _, err) = dir.run(&["--record", "p.test.yaml"], &events);
    assert!(err.contains("no new tests"), "{err}");
    let (code, _, err) = dir.run(&["--record", "new.test.yaml", "--manifest", "m.yaml"], &events);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(dir.run(&["new.test.yaml"], "").1, "2 passed, 0 failed\n");
    // Recorded tests fail when the policy changes.
    dir.write(
        "p.yaml",
        policy().replace("roles: [worker] }", "roles: [worker], cidrs: [192.0.2.0/24] }"),
    );
    assert_eq!(dir.run(&["new.test.yaml"], "").1.lines().last(), Some("1 passed, 1 failed"));
}

/// A pattern of policies does not match the test files beside them.
#[test]
fn patterns_of_policies_do_not_match_test_files() {
    let dir = Dir::new();
    dir.write("m.yaml", manifest().policies("\"p*.yaml\"").to_string());
    let lint = |args: &[&str]| {
        let output = trainguard(dir.path(), &[&["lint"], args].concat(), "");
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    assert_eq!(lint(&[]), (Some(0), String::new()));
    assert_eq!(dir.run(&[], "").1, "4 passed, 0 failed\n");
    dir.write("m.yaml", manifest().policies("\"p.test.*\"").to_string());
    let (code, out) = lint(&["m.yaml"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("matches no policy file"), "{out}");
    dir.write("m.yaml", manifest().policies("p.yaml, p.test.yaml").to_string());
    let (code, out) = lint(&["m.yaml"]);
    assert_eq!(code, Some(1), "a test file in `policies` is an error: {out}");
}

/// Frames that a replay refuses can be recorded as tests, which pass.
#[test]
fn refused_frames_become_tests() {
    use guard_common::port_table::Transport::Tcp;
    use guard_user::probe::{FLAGS_ESTABLISHED, FLAGS_OPENING, Probe};
    let frame = |from: &str, port, flags| {
        let probe = Probe::new(from.parse().expect("an address"), Tcp, port, flags);
        (probe.frame(), usize::MAX)
    };
    let dir = Dir::new();
    let frames = [
        frame("10.0.1.0", 9091, FLAGS_OPENING),
        frame("192.0.2.7", 9091, FLAGS_OPENING),
        frame("192.0.2.8", 9091, FLAGS_ESTABLISHED),
        frame("192.0.2.7", 9091, FLAGS_OPENING),
        frame("192.0.2.7", 22, FLAGS_OPENING),
        (frame("192.0.2.9", 9091, FLAGS_OPENING).0, 30),
    ];
    dir.write("job.pcap", pcap(&frames));
    let replay =
        ["replay", "--manifest", "m.yaml", "--node", "sched", "--format", "json", "job.pcap"];
    let output = trainguard(dir.path(), &replay, "");
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(lines.lines().count(), 6, "{lines}");
    let args = ["--record", "new.test.yaml", "--manifest", "m.yaml", "--node", "sched"];
    let (code, _, err) = dir.run(&args, &lines);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("2 new tests"), "{err}");
    assert_eq!(dir.run(&["new.test.yaml"], "").1, "2 passed, 0 failed\n");
}

#[test]
fn events_that_cannot_be_recorded_are_reported_and_others_recorded() {
    let dir = Dir::new();
    let good = "{\"schema\":\"trainguard/event/v1\",\"verdict\":\"drop\",\"reason\":\"not_allowed\",\"service\":\"s\",\
                \"source\":\"192.0.2.9\",\"transport\":\"tcp\",\"port\":9091}";
    for (line, expected) in [
        ("not json".to_owned(), "not an event"),
        (good.replace("event/v1", "event/v9"), "unknown schema `"),
        (good.replace("\"192.0.2.9\"", "null"), "without source and port"),
        (good.replace("not_allowed", "limit_packets"), "depends on earlier packets"),
        (good.replace("\"192.0.2.9\"", "\"worker\""), "not an event"),
    ] {
        let input = format!("{line}\n{good}\n");
        let (code, out, err) = dir.run(&["--record", "--node", "sched"], &input);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("line 1") && err.contains(expected), "{expected:?} is not in {err}");
        assert_eq!(out.matches("- name:").count(), 1, "the others are recorded: {out}");
    }
    let (code, _, err) = dir.run(&["--record"], &format!("{good}\n"));
    assert_eq!(code, Some(2));
    assert!(err.contains("--node"), "{err}");
    let (code, _, err) = dir.run(&["--record", "new.test.yaml", "--node", "sched"], good);
    assert_eq!(code, Some(2));
    assert!(err.contains("--manifest"), "{err}");
    // A file to which the tests cannot be appended is not changed.
    let reordered = TESTS.replace("manifest: m.yaml\n", "") + "manifest: m.yaml\n";
    dir.write("p.test.yaml", &reordered);
    let (code, out, err) = dir.run(&["--record", "p.test.yaml", "--node", "sched"], good);
    assert_eq!(code, Some(2), "{err}");
    assert!(out.contains("- name:"), "printed instead: {out}");
    assert_eq!(dir.read("p.test.yaml"), reordered);
    // Hostile names stay inside their quotes.
    let evil = good.replace("\"schema\"", "\"node\":\"x\\\\u0022 }\\\\n- y\",\"schema\"");
    let (_, out, _) = dir.run(&["--record"], &evil.replace("\\\\", "\\"));
    assert!(!out.contains("\n- y"), "{out}");
}
