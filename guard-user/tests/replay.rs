//! `trainguard replay` as it is typed: a verdict per frame, of captures that the tests write.

use std::{
    fs,
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const MEMBER: [u8; 4] = [10, 77, 0, 30];
const STRANGER: [u8; 4] = [192, 0, 2, 9];
const NODE: [u8; 4] = [10, 77, 0, 10];
/// Some day of 2026, in nanoseconds.
const EPOCH: u64 = 1_790_000_000_000_000_000;

/// A frame of a capture.
#[derive(Clone)]
struct Kept {
    time_ns: u64,
    bytes: Vec<u8>,
    wire_len: usize,
}

impl Kept {
    fn at(time_ns: u64, bytes: Vec<u8>) -> Self {
        Self { time_ns, wire_len: bytes.len(), bytes }
    }

    fn cut(mut self, kept: usize) -> Self {
        self.bytes.truncate(kept);
        self
    }
}

/// A segment that opens a connection, with some bytes behind its header.
fn syn(from: [u8; 4], to: [u8; 4], port: u16, payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend(u16::try_from(40 + payload).expect("a short payload").to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(from);
    frame.extend(to);
    frame.extend(40_000_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(frame.len() + payload, 0xab);
    frame
}

fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 2, 8, 6]);
    frame.resize(60, 0);
    frame
}

/// One frame of each fate.
fn fates() -> Vec<Kept> {
    vec![
        Kept::at(EPOCH, syn(MEMBER, NODE, 9091, 0)),
        Kept::at(EPOCH + 1_000_000, syn(STRANGER, NODE, 9091, 500)).cut(96),
        Kept::at(EPOCH + 2_000_000, arp()),
        Kept::at(EPOCH + 3_000_000, syn(STRANGER, NODE, 22, 0)),
        Kept::at(EPOCH + 4_000_000, vec![2; 13]),
    ]
}

const FATES: &str = r#"{"frame":1,"action":"pass","reason":"allowed","service":"scheduler"}
{"frame":2,"action":"drop","reason":"not_allowed","service":"scheduler"}
{"frame":3,"action":"pass","reason":"not_ip","service":null}
{"frame":4,"action":"pass","reason":"unguarded","service":null}
{"frame":5,"action":"drop","reason":"undecodable","service":null}
"#;

fn word(big: bool, value: usize) -> [u8; 4] {
    let value = u32::try_from(value).expect("32 bits");
    if big { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn half(big: bool, value: u16) -> [u8; 2] {
    if big { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn pcap(big: bool, nanoseconds: bool, linktype: usize, frames: &[Kept]) -> Vec<u8> {
    let (magic, unit) = if nanoseconds { (0xa1b2_3c4d, 1) } else { (0xa1b2_c3d4, 1000) };
    let mut file = word(big, magic).to_vec();
    file.extend(half(big, 2));
    file.extend(half(big, 4));
    for value in [0, 0, 262_144, linktype] {
        file.extend(word(big, value));
    }
    for frame in frames {
        let fraction = frame.time_ns % 1_000_000_000 / unit;
        for value in [frame.time_ns / 1_000_000_000, fraction] {
            file.extend(word(big, usize::try_from(value).expect("32 bits")));
        }
        file.extend(word(big, frame.bytes.len()));
        file.extend(word(big, frame.wire_len));
        file.extend(&frame.bytes);
    }
    file
}

/// Blocks of a pcapng file.
struct Blocks {
    big: bool,
    file: Vec<u8>,
}

impl Blocks {
    fn section(big: bool) -> Self {
        let mut blocks = Self { big, file: Vec::new() };
        let mut body = word(big, 0x1a2b_3c4d).to_vec();
        body.extend(half(big, 1));
        body.extend(half(big, 0));
        body.extend([0xff; 8]);
        blocks.add(0x0a0d_0d0a, &body);
        blocks
    }

    fn add(&mut self, kind: usize, body: &[u8]) {
        let padded = body.len().next_multiple_of(4);
        self.file.extend(word(self.big, kind));
        self.file.extend(word(self.big, padded + 12));
        self.file.extend(body);
        self.file.resize(self.file.len() + padded - body.len(), 0);
        self.file.extend(word(self.big, padded + 12));
    }

    /// An interface whose timestamps have this `if_tsresol`.
    fn interface(mut self, linktype: u16, resolution: u8) -> Self {
        let mut body = half(self.big, linktype).to_vec();
        body.extend([0; 6]);
        body.extend(half(self.big, 9));
        body.extend(half(self.big, 1));
        body.extend([resolution, 0, 0, 0, 0, 0, 0, 0]);
        self.add(1, &body);
        self
    }

    fn packet(mut self, interface: usize, units: u64, frame: &Kept) -> Self {
        let mut body = word(self.big, interface).to_vec();
        for half in [units >> 32, units & 0xffff_ffff] {
            body.extend(word(self.big, usize::try_from(half).expect("32 bits")));
        }
        body.extend(word(self.big, frame.bytes.len()));
        body.extend(word(self.big, frame.wire_len));
        body.extend(&frame.bytes);
        self.add(6, &body);
        self
    }

    /// A packet without a time.
    fn simple(mut self, frame: &Kept) -> Self {
        let mut body = word(self.big, frame.wire_len).to_vec();
        body.extend(&frame.bytes);
        self.add(3, &body);
        self
    }
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/cluster.yaml")
}

fn command(manifest: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainguard"));
    command.arg("replay").arg("--manifest").arg(manifest).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Replays a capture from standard input.
fn replay_on(manifest: &Path, args: &[&str], capture: &[u8]) -> Output {
    let mut child = command(manifest, args).arg("-").spawn().expect("the binary starts");
    if let Some(mut input) = child.stdin.take() {
        // A replay that has failed does not read on.
        let _ = input.write_all(capture);
    }
    child.wait_with_output().expect("the binary ends")
}

fn replay(args: &[&str], capture: &[u8]) -> Output {
    replay_on(&shipped(), &[&["--node", "sched-0"], args].concat(), capture)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is UTF-8")
}

#[track_caller]
fn assert_answer(output: &Output, expected: &str) {
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

/// No answer, with this said about it.
#[track_caller]
fn assert_refused(output: &Output, said: &str) {
    let talk = text(&output.stderr);
    assert!(talk.contains(said), "{talk}");
    assert!(!talk.contains("panicked"), "{talk}");
    assert_eq!(output.status.code(), Some(2), "{talk}");
}

/// A cluster of one node `n` at 10.0.0.1, with these policies.
fn cluster(policies: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let mut names = Vec::new();
    for (number, policy) in policies.iter().enumerate() {
        let name = format!("p{number}.yaml");
        fs::write(dir.path().join(&name), policy).expect("a file");
        names.push(name);
    }
    let manifest = format!(
        "apiVersion: trainguard/v1\nkind: Cluster\nname: c\ninterfaces: [eth0]\nnodes:\n  \
         - {{ name: n, addresses: [10.0.0.1], roles: [a] }}\n  \
         - {{ name: m, addresses: [10.0.0.2], roles: [a] }}\npolicies: [{}]\n",
        names.join(", ")
    );
    fs::write(dir.path().join("cluster.yaml"), manifest).expect("a file");
    dir
}

fn policy(name: &str, port: u16, mode: &str, limits: &str) -> String {
    format!(
        "apiVersion: trainguard/v1\nkind: Policy\nname: {name}\nservices:\n  - name: s\n    \
         roles: [a]\n    ports: [tcp/{port}]\n    match: all\n    allow: {{ roles: [a] }}\n    \
         mode: {mode}\n{limits}"
    )
}

#[test]
fn every_frame_has_its_line_in_either_byte_order_and_resolution() {
    for (big, nanoseconds) in [(false, false), (false, true), (true, false), (true, true)] {
        let output = replay(&["--format", "json"], &pcap(big, nanoseconds, 1, &fates()));
        assert_answer(&output, FATES);
    }
    for big in [false, true] {
        let blocks = Blocks::section(big).interface(1, 9);
        let blocks =
            fates().iter().fold(blocks, |blocks, frame| blocks.packet(0, frame.time_ns, frame));
        assert_answer(&replay(&["--format", "json"], &blocks.file), FATES);
    }
}

#[test]
fn a_file_is_read_like_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("some.pcap");
    fs::write(&file, pcap(false, false, 1, &fates())).unwrap();
    let args = ["--node", "sched-0", "--format", "json"];
    let output = command(&shipped(), &args).arg(&file).output().unwrap();
    assert_answer(&output, FATES);
    let output = command(&shipped(), &args).arg(dir.path().join("none")).output().unwrap();
    assert_refused(&output, "cannot open");
}

#[test]
fn people_get_a_summary() {
    let output = replay(&[], &pcap(false, false, 1, &fates()));
    let expected = "
 service    action  reason       frames  bytes
 -          drop    undecodable       1     13
 -          pass    not_ip            1     60
 -          pass    unguarded         1     54
 scheduler  drop    not_allowed       1    554
 scheduler  pass    allowed           1     54
the first that were refused:
  frame 2: 192.0.2.9:40000 to tcp/9091: drop, not_allowed by scheduler
  frame 5: not readable: drop, undecodable
as node `sched-0`: 5 frames, 2 dropped
";
    assert_answer(&output, expected.trim_start_matches('\n'));
}

#[test]
fn sections_and_interfaces_keep_to_themselves() {
    // The second section is of the other byte order, and its only interface counts in halves of
    // a microsecond, 2^-21 seconds each.
    let fates = fates();
    let (member, stranger) = (&fates[0], &fates[1]);
    let first =
        Blocks::section(false).interface(113, 6).interface(1, 9).packet(1, member.time_ns, member);
    let second = Blocks::section(true).interface(1, 0x95).packet(0, 7, stranger);
    let output = replay(&["--format", "json"], &[first.file, second.file].concat());
    let expected: String = FATES.split_inclusive('\n').take(2).collect();
    assert_answer(&output, &expected);
}

#[test]
fn frames_for_others_are_left_out_if_asked() {
    let others = Kept::at(EPOCH, syn(STRANGER, [10, 77, 0, 20], 9091, 0));
    let mut frames = fates();
    frames.truncate(3);
    frames.insert(0, others.clone());
    let output = replay(&["--received", "--format", "json"], &pcap(false, false, 1, &frames));
    // Numbers are those of the capture, as other tools show them.
    let expected: String = FATES.split_inclusive('\n').take(3).collect();
    let expected = (1..4).rev().fold(expected, |lines, number| {
        lines.replace(&format!("\"frame\":{number},"), &format!("\"frame\":{},", number + 1))
    });
    assert_answer(&output, &expected);
    let output = replay(&["--received"], &pcap(false, false, 1, &[others]));
    assert_refused(&output, "no frame of the capture is for this node");
}

#[test]
fn observing_passes_and_says_what_it_would_drop() {
    let dir = cluster(&[&policy("p", 80, "observe", "")]);
    let frames = [
        Kept::at(EPOCH, syn([10, 0, 0, 2], [10, 0, 0, 1], 80, 0)),
        Kept::at(EPOCH, syn(STRANGER, [10, 0, 0, 1], 80, 0)),
    ];
    let manifest = dir.path().join("cluster.yaml");
    let capture = pcap(false, false, 1, &frames);
    let output = replay_on(&manifest, &["--node", "n", "--format", "json"], &capture);
    let expected = r#"{"frame":1,"action":"pass","reason":"allowed","service":"s"}
{"frame":2,"action":"pass","reason":"not_allowed","service":"s","would_drop":true}
"#;
    assert_answer(&output, expected);
}

#[test]
fn services_of_one_name_are_told_apart_by_their_policies() {
    let dir = cluster(&[&policy("p", 80, "enforce", ""), &policy("q", 81, "enforce", "")]);
    let frames = [80, 81].map(|port| Kept::at(EPOCH, syn(STRANGER, [10, 0, 0, 1], port, 0)));
    let manifest = dir.path().join("cluster.yaml");
    let capture = pcap(false, false, 1, &frames);
    let output = replay_on(&manifest, &["--node", "n", "--format", "json"], &capture);
    let expected = r#"{"frame":1,"action":"drop","reason":"not_allowed","service":"p/s"}
{"frame":2,"action":"drop","reason":"not_allowed","service":"q/s"}
"#;
    assert_answer(&output, expected);
}

/// Reasons, of a service that admits a burst of two connections and then one each second.
#[track_caller]
fn assert_limited(capture: &[u8], expected: &[&str]) {
    let limits = "    limits: { perSource: { newConnections: { rate: 1/s, burst: 2 } } }\n";
    let dir = cluster(&[&policy("p", 80, "enforce", limits)]);
    let manifest = dir.path().join("cluster.yaml");
    let output = replay_on(&manifest, &["--node", "n", "--format", "json"], capture);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let reasons: Vec<String> = text(&output.stdout)
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["reason"].as_str().expect("a reason").to_owned()
        })
        .collect();
    assert_eq!(reasons, expected);
}

fn opening(time_ns: u64) -> Kept {
    Kept::at(time_ns, syn([10, 0, 0, 2], [10, 0, 0, 1], 80, 0))
}

const FITS: &str = "allowed";
const BEYOND: &str = "limit_new_connections";

#[test]
fn limits_run_on_the_time_of_the_capture() {
    let second = 1_000_000_000;
    // The last two come late: the clock does not go back for them.
    let times = [0, 0, second / 2, second, second, 3 * second, second, 0];
    let frames = times.map(|time| opening(EPOCH + time));
    let expected = [FITS, FITS, BEYOND, FITS, BEYOND, FITS, FITS, BEYOND];
    for nanoseconds in [false, true] {
        assert_limited(&pcap(false, nanoseconds, 1, &frames), &expected);
    }
}

#[test]
fn a_frame_without_a_time_does_not_stop_the_clock_of_the_rest() {
    // The clock once began at 0 here, and ran out of what a bucket counts at the second frame.
    let second = 1_000_000_000;
    let frame = opening(0);
    let blocks = Blocks::section(false)
        .interface(1, 9)
        .simple(&frame)
        .packet(0, EPOCH, &frame)
        .packet(0, EPOCH, &frame)
        .packet(0, EPOCH + second, &frame);
    assert_limited(&blocks.file, &[FITS, FITS, BEYOND, FITS]);
    // The same with a time that is wrong.
    let frames = [0, EPOCH, EPOCH, EPOCH, EPOCH + second].map(opening);
    assert_limited(&pcap(false, false, 1, &frames), &[FITS, FITS, FITS, BEYOND, FITS]);
}

#[test]
fn a_file_that_is_cut_off_is_no_answer() {
    let mut capture = pcap(false, false, 1, &fates());
    capture.pop();
    let output = replay(&["--format", "json"], &capture);
    assert_refused(&output, "the file ends in the middle of frame 5");
    let before: String = FATES.split_inclusive('\n').take(4).collect();
    assert_eq!(text(&output.stdout), before, "what was read was judged");
}

#[test]
fn what_is_no_capture_of_ethernet_frames_is_no_answer() {
    let output = replay(&[], &pcap(false, false, 113, &fates()));
    assert_refused(&output, "frame 1 has link type 113, not Ethernet");
    let frame = opening(EPOCH);
    let blocks = Blocks::section(false).interface(276, 6).packet(0, 0, &frame);
    assert_refused(&replay(&[], &blocks.file), "frame 1 has link type 276");
    assert_refused(&replay(&[], b""), "neither a pcap nor a pcapng file");
    assert_refused(&replay(&[], &[0x5a; 4096]), "neither a pcap nor a pcapng file");
    assert_refused(&replay(&[], &pcap(false, false, 1, &[])), "the capture has no frames");
}

#[test]
fn damage_and_boundless_frames_are_no_answer() {
    let mut capture = pcap(false, false, 1, &fates()[..1]);
    // A second frame that claims four gigabytes.
    capture.extend([0; 8]);
    capture.extend([0xff; 8]);
    capture.resize(capture.len() + (3 << 20), 0);
    let output = replay(&["--format", "json"], &capture);
    assert_refused(&output, "frame");
    // An interface that no block has described.
    let blocks = Blocks::section(false).interface(1, 6).packet(7, 0, &opening(EPOCH));
    assert_refused(&replay(&[], &blocks.file), "cannot be read");
}

#[test]
fn a_node_that_is_not_known_is_no_answer() {
    let capture = pcap(false, false, 1, &fates());
    let output = replay_on(&shipped(), &["--node", "sched-9"], &capture);
    assert_refused(&output, "sched-9");
    let output = replay_on(Path::new("no-such-manifest.yaml"), &["--node", "n"], &capture);
    assert_refused(&output, "no-such-manifest.yaml");
    assert_refused(&replay(&["--tunnel", "teredo"], &capture), "known kinds are ipip");
    assert_refused(&replay(&["--tunnel", "vxlan:x"], &capture), "PORT is a number");
}

#[test]
fn a_tunnel_device_makes_its_port_a_question() {
    let mut frame = syn(STRANGER, NODE, 4789, 0);
    frame[23] = 17;
    let capture = pcap(false, false, 1, &[Kept::at(EPOCH, frame)]);
    let without = replay(&["--format", "json"], &capture);
    assert!(text(&without.stdout).contains("\"unguarded\""), "{}", text(&without.stdout));
    let with = replay(&["--format", "json", "--tunnel", "vxlan:4789"], &capture);
    assert!(text(&with.stdout).contains("\"drop\",\"reason\":\"tunnel\""));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let frames = vec![Kept::at(EPOCH, syn(MEMBER, NODE, 22, 0)); 5000];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long.pcap");
    fs::write(&file, pcap(false, false, 1, &frames)).unwrap();
    let args = ["--node", "sched-0", "--format", "json"];
    let mut child = command(&shipped(), &args).arg(&file).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn addresses_of_the_tests_are_those_of_the_manifest() {
    let manifest = fs::read_to_string(shipped()).unwrap();
    assert!(manifest.contains(&Ipv4Addr::from(NODE).to_string()));
}
