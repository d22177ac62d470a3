//! `trainguard replay` and `trainguard trace` as they are typed: output and exit codes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn trainguard(verb: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainguard"))
        .current_dir(root())
        .arg(verb)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const NODE: [&str; 4] = ["--manifest", "policies/cluster.yaml", "--node", "sched-0"];

fn trace(args: &[&str]) -> Output {
    trainguard("trace", &[&NODE, args].concat())
}

/// A pcap file with these frames, a second apart.
fn pcap(frames: &[Vec<u8>]) -> tempfile::NamedTempFile {
    let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0]);
    for (second, frame) in (0_u32..).zip(frames) {
        let length = u32::try_from(frame.len()).expect("a short frame");
        for field in [second, 0, length, length] {
            file.extend(field.to_le_bytes());
        }
        file.extend(frame);
    }
    let path = tempfile::NamedTempFile::new().expect("a file");
    fs::write(path.path(), file).expect("writing");
    path
}

/// A SYN segment to the scheduler's port, over IPv4.
fn syn(source: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    frame.extend(source);
    frame.extend([10, 77, 0, 10, 0x9c, 0x40, 0x23, 0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2]);
    frame.extend([0; 6]);
    frame
}

fn replay(file: &Path, args: &[&str]) -> Output {
    let file = file.to_str().expect("UTF-8");
    trainguard("replay", &[&NODE, args, &[file]].concat())
}

#[test]
fn every_frame_gets_a_line_in_its_order() {
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 2, 8, 6], &[0; 28]].concat();
    let frames = [syn([10, 77, 0, 20]), arp, syn([10, 9, 9, 9]), vec![2, 2, 3]];
    let file = pcap(&frames);
    let output = replay(file.path(), &["--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let expected = [
        json!({"frame": 1, "action": "pass", "reason": "allowed", "service": "scheduler"}),
        json!({"frame": 2, "action": "pass", "reason": "not_ip", "service": null}),
        json!({"frame": 3, "action": "drop", "reason": "not_allowed", "service": "scheduler"}),
        json!({"frame": 4, "action": "drop", "reason": "undecodable", "service": null}),
    ];
    assert_eq!(lines, expected);

    let output = replay(file.path(), &["--received"]);
    let said = text(&output.stdout);
    assert!(said.contains("3 frames, 1 dropped, 1 not for this node left out"), "{said}");
    assert!(said.contains("frame 3: 10.9.9.9:40000 to tcp/9091: drop, not_allowed"), "{said}");
}

#[test]
fn limits_follow_the_time_of_the_capture() {
    // 200/s with a burst of 1000, in one instant and then a second later.
    let file = pcap(&vec![syn([10, 77, 0, 20]); 2]);
    let mut bytes = fs::read(file.path()).expect("reading");
    let (header, record) = (bytes[..24].to_vec(), bytes[24..bytes.len() / 2 + 12].to_vec());
    bytes = header;
    for _ in 0..1100 {
        bytes.extend(&record);
    }
    let mut later = record;
    later[0] = 1;
    for _ in 0..300 {
        bytes.extend(&later);
    }
    fs::write(file.path(), bytes).expect("writing");
    let output = replay(file.path(), &["--format", "json"]);
    let count = |reason: &str| text(&output.stdout).matches(reason).count();
    assert_eq!((count("\"allowed\""), count("limit_new_connections")), (1200, 200));
}

#[test]
fn what_is_no_capture_is_an_error_with_its_reason() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    for (content, said) in [
        (&b""[..], "neither a pcap nor a pcapng file"),
        (b"apiVersion: trainguard/v1", "neither a pcap nor a pcapng file"),
        (&fs::read(pcap(&[syn([1; 4])]).path()).expect("reading")[..60], "middle of frame 1"),
        (&fs::read(pcap(&[]).path()).expect("reading"), "has no frames"),
    ] {
        fs::write(file.path(), content).expect("writing");
        let output = replay(file.path(), &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
    assert_eq!(replay(Path::new("/no/such/file"), &[]).status.code(), Some(2));
}

#[test]
fn a_trace_tells_each_step() {
    let output = trace(&["--from", "10.9.9.9", "--to", "10.77.0.10:9091"]);
    assert_eq!(output.status.code(), Some(0));
    let expected = "\
Ethernet frame, EtherType 0x0800
from 10.9.9.9 to tcp/9091, opens a connection
guarded by `mxnet/scheduler`: matches every packet, enforces
10.9.9.9 is no node of the manifest, listed by no service of this node
verdict: drop, not_allowed by scheduler
";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn a_trace_can_be_expected() {
    let from_member = ["--from", "[fd77::30]:5", "--to", "[fd77::10]:9091", "--expect"];
    assert_eq!(trace(&[&from_member[..], &["pass"]].concat()).status.code(), Some(0));
    assert_eq!(trace(&[&from_member[..], &["drop"]].concat()).status.code(), Some(1));
    let reply = ["--from", "10.9.9.9", "--to", "10.77.0.10:40001", "--flags", "SA"];
    assert_eq!(trace(&[&reply[..], &["--expect", "pass"]].concat()).status.code(), Some(0));
    let tunnel = ["--from", "10.9.9.9", "--to", "10.77.0.10", "--proto", "47"];
    assert_eq!(trace(&[&tunnel[..], &["--expect", "pass"]].concat()).status.code(), Some(0));
    let device = ["--tunnel", "gre", "--expect", "drop"];
    assert_eq!(trace(&[&tunnel[..], &device].concat()).status.code(), Some(0));
}

#[test]
fn a_trace_as_json_has_the_verdict() {
    let output = trace(&["--from", "10.77.0.30", "--to", "10.77.0.10:9091", "--format", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["schema"], "trainguard/trace/v1");
    assert_eq!(answer["action"], "pass");
    assert_eq!(answer["reason"], "allowed");
    assert_eq!(answer["service"], "scheduler");
    assert!(answer["steps"].as_array().is_some_and(|steps| steps.len() > 4));
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    for (args, said) in [
        (&["--from", "10.9.9.9", "--to", "[fd77::10]:9091"][..], "not of one family"),
        (&["--from", "10.9.9.9", "--to", "10.77.0.10"], "needs a port"),
        (&["--from", "nobody", "--to", "10.77.0.10:1"], "--from `nobody`"),
        (&["--from", "10.9.9.9", "--to", "10.77.0.10:1", "--proto", "300"], "--proto `300`"),
        (&["--from", "10.9.9.9", "--to", "10.77.0.10:1", "--flags", "Q"], "`Q`"),
    ] {
        let output = trace(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
    let nobody = ["--manifest", "policies/cluster.yaml", "--node", "sched-7"];
    let question = ["--from", "10.9.9.9", "--to", "10.77.0.10:1"];
    let output = trainguard("trace", &[&nobody[..], &question].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("did you mean `sched-0`?"), "{}", text(&output.stderr));
}
