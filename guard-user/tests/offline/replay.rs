//! `trainguard replay` on the command line: a verdict per frame, for captures that the tests write.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use guard_test_support::{
    binary, bundle, packet,
    pcap::{Blocks, Frame, Pcap},
    text as frames,
};

const MEMBER: [u8; 4] = [10, 77, 0, 30];
const UNLISTED: [u8; 4] = [192, 0, 2, 9];
const NODE: [u8; 4] = [10, 77, 0, 10];
/// An arbitrary time in 2026, in nanoseconds since the epoch.
const EPOCH: u64 = 1_790_000_000_000_000_000;

/// Returns a frame with a segment that opens a connection, with `payload` bytes after its header.
fn syn(from: [u8; 4], to: [u8; 4], port: u16, payload: usize) -> Vec<u8> {
    packet::segment((from, 40_000), (to, port), packet::SYN, payload)
}

fn arp() -> Vec<u8> {
    frames::frame("eth broadcast type=0x806 / bytes 46").expect("a frame")
}

/// Returns one frame for each kind of verdict.
fn samples() -> Vec<Frame> {
    vec![
        Frame::at(EPOCH, syn(MEMBER, NODE, 9091, 0)),
        Frame::at(EPOCH + 1_000_000, syn(UNLISTED, NODE, 9091, 500)).cut(96),
        Frame::at(EPOCH + 2_000_000, arp()),
        Frame::at(EPOCH + 3_000_000, syn(UNLISTED, NODE, 22, 0)),
        Frame::at(EPOCH + 4_000_000, vec![2; 13]),
    ]
}

const SAMPLE_LINES: &str = r#"{"frame":1,"action":"pass","reason":"allowed","service":"scheduler"}
{"frame":2,"action":"drop","reason":"not_allowed","service":"scheduler"}
{"frame":3,"action":"pass","reason":"not_ip","service":null}
{"frame":4,"action":"pass","reason":"unguarded","service":null}
{"frame":5,"action":"drop","reason":"undecodable","service":null}
"#;

/// Returns a little-endian pcap file of Ethernet frames with microsecond timestamps.
fn pcap(frames: &[Frame]) -> Vec<u8> {
    Pcap::default().file(frames)
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/cluster.yaml")
}

fn command(manifest: &Path, args: &[&str]) -> Command {
    let mut command = super::binary::command(&["replay"]);
    command.arg("--manifest").arg(manifest).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a replay with a capture on standard input.
fn feed(command: &mut Command, capture: &[u8]) -> Output {
    binary::feed(command.arg("-"), capture)
}

/// Replays a capture from standard input with a manifest.
fn replay_on(manifest: &Path, args: &[&str], capture: &[u8]) -> Output {
    feed(&mut command(manifest, args), capture)
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

/// Returns the JSON lines without the fields that describe time and content of the frame.
fn lines(answer: &[u8]) -> Vec<serde_json::Value> {
    let parse = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let fields = line.as_object_mut().expect("an object");
        for of_frame in ["time_ns", "source", "transport", "destination_port"] {
            fields.remove(of_frame);
        }
        line
    };
    text(answer).lines().map(parse).collect()
}

#[track_caller]
fn assert_lines(output: &Output, expected: &str) {
    assert_eq!(lines(&output.stdout), lines(expected.as_bytes()), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

/// Asserts that the command failed with exit code 2 and an error message that contains `expected`.
#[track_caller]
fn assert_refused(output: &Output, expected: &str) {
    let printed = text(&output.stderr);
    assert!(printed.contains(expected), "{printed}");
    assert!(!printed.contains("panicked"), "{printed}");
    assert_eq!(output.status.code(), Some(2), "{printed}");
}

/// Writes a cluster with node `n` at 10.0.0.1, another node of its role, nodes of other roles, and these
/// policies.
fn cluster(policies: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let mut names = Vec::new();
    for (number, policy) in policies.iter().enumerate() {
        let name = format!("p{number}.yaml");
        fs::write(dir.path().join(&name), policy).expect("a file");
        names.push(name);
    }
    let manifest = bundle::cluster("c")
        .node("n", "10.0.0.1", "a")
        .node("m", "10.0.0.2", "a")
        .node("b-[3-4]", "10.0.0.[3-4]", "b")
        .network("lab", "[10.9.0.0/16]")
        .policies(&names.join(", "));
    fs::write(dir.path().join("cluster.yaml"), manifest.to_string()).expect("a file");
    dir
}

fn policy(name: &str, port: u16, mode: &str, limits: &str) -> String {
    let service = bundle::service("s", "a", &format!("tcp/{port}"), "roles: [a]");
    bundle::policy(name, [service.replace("enforce", mode) + limits])
}

#[test]
fn every_frame_has_its_line_in_either_byte_order_and_resolution() {
    for (big, nanoseconds) in [(false, false), (false, true), (true, false), (true, true)] {
        let form = Pcap { big_endian: big, nanoseconds, ..Pcap::default() };
        let output = replay(&["--format", "json"], &form.file(&samples()));
        assert_lines(&output, SAMPLE_LINES);
    }
    for big in [false, true] {
        let blocks = Blocks::section(big).interface(1, 9);
        let blocks =
            samples().iter().fold(blocks, |blocks, frame| blocks.packet(0, frame.time_ns, frame));
        assert_lines(&replay(&["--format", "json"], &blocks.file), SAMPLE_LINES);
    }
}

#[test]
fn a_file_is_read_like_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("some.pcap");
    fs::write(&file, pcap(&samples())).unwrap();
    let args = ["--node", "sched-0", "--format", "json"];
    let output = command(&shipped(), &args).arg(&file).output().unwrap();
    assert_lines(&output, SAMPLE_LINES);
    let output = command(&shipped(), &args).arg(dir.path().join("none")).output().unwrap();
    assert_refused(&output, "cannot open");
}

#[test]
fn json_lines_have_time_source_and_port() {
    let output = replay(
        &["--format", "json"],
        &Pcap { nanoseconds: true, ..Pcap::default() }.file(&samples()),
    );
    let expected = r#"{"frame":2,"action":"drop","reason":"not_allowed","service":"scheduler","time_ns":1790000000001000000,"source":"192.0.2.9","transport":"tcp","destination_port":9091}
{"frame":3,"action":"pass","reason":"not_ip","service":null,"time_ns":1790000000002000000}
"#;
    let answer: String = text(&output.stdout).split_inclusive('\n').skip(1).take(2).collect();
    assert_eq!(answer, expected);
}

/// Replays in the directory of a cluster, so that file positions do not depend on the machine.
fn replay_in(dir: &Path, args: &[&str], capture: &[u8]) -> Output {
    let mut command = command(Path::new("cluster.yaml"), &[&["--node", "n"], args].concat());
    feed(command.current_dir(dir), capture)
}

const OWN: [u8; 4] = [10, 0, 0, 1];

#[test]
fn text_output_is_a_summary() {
    let dir = cluster(&[&policy("p", 80, "enforce", ""), &policy("q", 81, "observe", "")]);
    let second = 1_000_000_000;
    let frames = [
        Frame::at(EPOCH, syn([10, 0, 0, 2], OWN, 80, 0)),
        Frame::at(EPOCH + second, syn(UNLISTED, OWN, 80, 500)).cut(96),
        Frame::at(EPOCH + 61 * second, syn(UNLISTED, OWN, 80, 0)),
        Frame::at(EPOCH + 2 * second, arp()),
        Frame::at(EPOCH + 2 * second, syn([10, 9, 0, 7], OWN, 81, 0)),
        Frame::at(EPOCH + 3 * second, syn(UNLISTED, OWN, 22, 0)),
        Frame::at(EPOCH + 4 * second, vec![2; 13]),
        Frame::at(EPOCH + 4 * second, syn([10, 0, 0, 2], OWN, 80, 0)).cut(20),
    ];
    let output = replay_in(dir.path(), &[], &pcap(&frames));
    let expected = "
 service  action      reason       frames  share  bytes  first    last
 -        drop        undecodable       1  14.2%     13  4.000   4.000
 -        pass        not_ip            1  14.2%     60  2.000   2.000
 -        pass        unguarded         1  14.2%     54  3.000   3.000
 p/s      drop        not_allowed       2  28.5%    608  1.000  61.000
 p/s      pass        allowed           1  14.2%     54  0.000   0.000
 q/s      would drop  not_allowed       1  14.2%     54  2.000   2.000
first refused frames:
  frame 2: 192.0.2.9:40000 to tcp/80: drop, not_allowed by p/s (p0.yaml:5:11)
  frame 3: 192.0.2.9:40000 to tcp/80: drop, not_allowed by p/s (p0.yaml:5:11)
  frame 5: 10.9.0.7:40000 to tcp/81: would drop, not_allowed by q/s (p1.yaml:5:11)
  frame 7: not readable: drop, undecodable
most refused sources:
  192.0.2.9: 2 frames by p/s; not in the manifest
  10.9.0.7: 1 frame by q/s; in network `lab`, 10.9.0.0/16 at cluster.yaml:10:3
1 frame is too short in the capture to be evaluated; raise the snap length (tcpdump -s 0)
as node `n`: 8 frames, 3 dropped, 1 would be dropped, 1 not evaluated; 897 bytes in 61.000 s from \
                    2026-09-21T14:13:20.000Z
";
    assert_answer(&output, expected.trim_start_matches('\n'));
}

#[test]
fn refused_members_are_named_and_the_rest_is_counted() {
    // The service does not admit role `b`. Its host sends the most frames.
    let dir = cluster(&[&policy("p", 80, "enforce", "")]);
    let mut frames = vec![Frame::at(EPOCH, syn([10, 0, 0, 3], OWN, 80, 0)); 3];
    frames.extend((1..=12).map(|host| Frame::at(EPOCH, syn([192, 0, 2, host], OWN, 80, 0))));
    let output = replay_in(dir.path(), &[], &pcap(&frames));
    let answer = text(&output.stdout);
    let top: Vec<&str> = answer
        .lines()
        .skip_while(|line| *line != "most refused sources:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .collect();
    assert_eq!(top.len(), 11, "{answer}");
    assert_eq!(top[0], "  10.0.0.3: 3 frames by s; `b-3`, `b-[3-4]` at cluster.yaml:8:13");
    assert_eq!(top[1], "  192.0.2.1: 1 frame by s; not in the manifest");
    assert_eq!(top[10], "  and 3 others");
}

/// Returns the reason for a frame cut to `kept` bytes, and whether the output marks it as truncated.
fn evaluate_cut(frame: &[u8], kept: usize) -> (String, bool) {
    let frame = Frame::at(EPOCH, frame.to_vec()).cut(kept);
    // A second, complete frame, because a capture in which nothing can be decided is an error.
    let capture = pcap(&[frame, Frame::at(EPOCH, arp())]);
    let output = replay(&["--format", "json"], &capture);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let line = lines(&output.stdout).swap_remove(0);
    let truncated = line.get("truncated").is_some_and(|flag| flag == true);
    let warned = text(&output.stderr).contains("1 frame is too short in the capture");
    assert_eq!(warned, truncated, "{}", text(&output.stderr));
    (line["reason"].as_str().expect("a reason").to_owned(), truncated)
}

#[test]
fn frames_cut_by_the_capture_are_marked_truncated() {
    let frame = syn(UNLISTED, NODE, 9091, 0);
    for (kept, reason) in
        [(13, "undecodable"), (14, "malformed_ip"), (29, "malformed_ip"), (30, "malformed_l4")]
    {
        assert_eq!(evaluate_cut(&frame, kept), (reason.to_owned(), true), "{kept} bytes");
        // The same bytes as a complete frame are malformed, not truncated.
        let whole = frame.get(..kept).expect("a longer frame");
        let (reason, truncated) = evaluate_cut(whole, kept);
        assert!(reason.starts_with("malformed") || reason == "undecodable", "{reason}");
        assert!(!truncated, "{kept} bytes");
    }
    let mut tagged = frame;
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    assert_eq!(evaluate_cut(&tagged, 16), ("undecodable".to_owned(), true));
}

#[test]
fn verdicts_that_need_only_kept_bytes_are_certain() {
    let not_cut = |reason: &str| (reason.to_owned(), false);
    let cut = |reason: &str| (reason.to_owned(), true);
    // Ports but no flags were kept. Verdicts that do not depend on flags are certain.
    let kept = 38;
    assert_eq!(evaluate_cut(&syn(UNLISTED, NODE, 9091, 0), kept), not_cut("not_allowed"));
    assert_eq!(evaluate_cut(&syn(UNLISTED, NODE, 22, 0), kept), not_cut("unguarded"));
    assert_eq!(evaluate_cut(&syn([127, 0, 0, 1], NODE, 9091, 0), kept), not_cut("martian"));
    // The segment could be a reply, or a limit on new connections might not apply to it.
    assert_eq!(evaluate_cut(&syn(UNLISTED, NODE, 50_000, 0), kept), cut("not_allowed"));
    assert_eq!(evaluate_cut(&syn(MEMBER, NODE, 9091, 0), kept), cut("allowed"));
    // The flags were kept as well, so nothing is missing.
    assert_eq!(evaluate_cut(&syn(UNLISTED, NODE, 50_000, 0), 48), not_cut("not_allowed"));
    assert_eq!(evaluate_cut(&syn(MEMBER, NODE, 9091, 0), 48), not_cut("allowed"));
}

#[test]
fn captures_with_only_cut_frames_exit_with_2() {
    let capture = pcap(&[Frame::at(EPOCH, syn(MEMBER, NODE, 9091, 0)).cut(20)]);
    let output = replay(&[], &capture);
    assert_refused(&output, "the capture cut every frame too short to be evaluated");
    // The destination is not known either.
    assert_refused(&replay(&["--received"], &capture), "cut every frame too short");
}

#[test]
fn all_packet_blocks_are_read_with_their_times() {
    let [member, unlisted] = [0, 1].map(|nth| samples()[nth].clone());
    for big in [false, true] {
        // The second interface counts microseconds from one day after the epoch.
        let offset: i64 = 86_400;
        let offset = if big { offset.to_be_bytes() } else { offset.to_le_bytes() };
        let blocks = Blocks::section(big)
            .interface_with(1, 40, &[(9, &[9])])
            .interface_with(1, 0, &[(9, &[6]), (14, &offset)])
            .obsolete(1, 7, &member)
            .packet(1, 8, &unlisted)
            // Cut to the snap length of the first interface.
            .simple(&member.clone().cut(40));
        let output = replay(&["--format", "json"], &blocks.file);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let answer: Vec<serde_json::Value> = text(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let times: Vec<Option<u64>> = answer.iter().map(|line| line["time_ns"].as_u64()).collect();
        let day = 86_400_000_000_000;
        assert_eq!(times, [Some(day + 7000), Some(day + 8000), None], "big endian: {big}");
        let reasons: Vec<&str> = answer.iter().filter_map(|line| line["reason"].as_str()).collect();
        assert_eq!(reasons, ["allowed", "not_allowed", "allowed"], "big endian: {big}");
        assert_eq!(answer[2]["truncated"], true, "the flags lie behind the snap length");
    }
}

#[test]
fn broken_obsolete_blocks_exit_with_2() {
    for (keep, expected) in [(19, "cannot be read"), (30, "cannot be read")] {
        let mut blocks = Blocks::section(false).interface(1, 6);
        let lengths = [54_u32.to_le_bytes(), 54_u32.to_le_bytes()].concat();
        let mut body = [&[0; 12][..], &lengths, &[0; 54]].concat();
        body.truncate(keep);
        blocks.add(2, &body);
        assert_refused(&replay(&[], &blocks.file), expected);
    }
    let blocks = Blocks::section(false).interface(1, 6).obsolete(3, 0, &opening(EPOCH));
    assert_refused(&replay(&[], &blocks.file), "cannot be read");
}

#[test]
fn compressed_files_get_the_command_to_unpack_them() {
    for (magic, unpack) in [
        (&[0x1f, 0x8b, 8, 0][..], "gunzip -c FILE"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd -dc FILE"),
        (&[0xfd, b'7', b'z', b'X'], "xz -dc FILE"),
    ] {
        let file = [magic, &[0x5a; 200]].concat();
        assert_refused(&replay(&[], &file), unpack);
    }
}

#[test]
fn no_progress_is_drawn_without_a_terminal() {
    let frames = vec![Frame::at(EPOCH, syn(MEMBER, NODE, 22, 1000)); 4000];
    for format in ["text", "json"] {
        let output = replay(&["--format", format], &pcap(&frames));
        assert_eq!(text(&output.stderr), "");
        assert!(!text(&output.stdout).contains(['\r', '\u{1b}']));
    }
}

#[test]
fn sections_and_interfaces_are_independent() {
    // The second section has the other byte order. Its only interface counts in units of 2^-21 s, about
    // half a microsecond.
    let samples = samples();
    let (member, unlisted) = (&samples[0], &samples[1]);
    let first =
        Blocks::section(false).interface(113, 6).interface(1, 9).packet(1, member.time_ns, member);
    let second = Blocks::section(true).interface(1, 0x95).packet(0, 7, unlisted);
    let output = replay(&["--format", "json"], &[first.file, second.file].concat());
    let expected: String = SAMPLE_LINES.split_inclusive('\n').take(2).collect();
    assert_lines(&output, &expected);
}

#[test]
fn received_leaves_out_frames_for_other_hosts() {
    let others = Frame::at(EPOCH, syn(UNLISTED, [10, 77, 0, 20], 9091, 0));
    let mut frames = samples();
    frames.truncate(3);
    frames.insert(0, others.clone());
    let output = replay(&["--received", "--format", "json"], &pcap(&frames));
    // Frames keep their numbers in the capture, which other tools show as well.
    let expected: String = SAMPLE_LINES.split_inclusive('\n').take(3).collect();
    let expected = (1..4).rev().fold(expected, |lines, number| {
        lines.replace(&format!("\"frame\":{number},"), &format!("\"frame\":{},", number + 1))
    });
    assert_lines(&output, &expected);
    let output = replay(&["--received"], &pcap(&[others]));
    assert_refused(&output, "no frame of the capture is addressed to this node");
}

#[test]
fn frames_to_addresses_of_other_hosts_are_counted_in_a_note() {
    let (container, other) = ([10, 88, 0, 2], [10, 88, 0, 3]);
    let mut to_group = syn(UNLISTED, [224, 0, 0, 1], 9091, 0);
    to_group[0] |= 1;
    let capture = pcap(&[
        Frame::at(EPOCH, syn(UNLISTED, NODE, 9091, 0)),
        Frame::at(EPOCH, syn(UNLISTED, container, 9091, 0)),
        Frame::at(EPOCH, syn(MEMBER, other, 9091, 0)),
        // Sent by the node itself, to a group, and not IP.
        Frame::at(EPOCH, syn(NODE, UNLISTED, 80, 0)),
        Frame::at(EPOCH, to_group),
        Frame::at(EPOCH, arp()),
    ]);
    let note = |args: &[&str]| {
        let output = replay(args, &capture);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stderr).to_owned()
    };
    let two = note(&[]);
    let expected = "note: 2 frames of other hosts were sent to addresses that the manifest does not \
                    give to `sched-0`; offline every frame is treated as for this node";
    assert!(two.starts_with(expected), "{two}");
    let one = note(&["--own", "10.88.0.2", "--format", "json"]);
    assert!(one.starts_with("note: 1 frame of other hosts was sent"), "{one}");
    assert_eq!(note(&["--own", "10.88.0.2", "--own", "10.88.0.3"]), "");
    assert_eq!(note(&["--received"]), "");
    assert_refused(&replay(&["--own", "worker-0"], &capture), "--own");
}

#[test]
fn observed_frames_pass_and_are_marked_would_drop() {
    let dir = cluster(&[&policy("p", 80, "observe", "")]);
    let frames = [
        Frame::at(EPOCH, syn([10, 0, 0, 2], [10, 0, 0, 1], 80, 0)),
        Frame::at(EPOCH, syn(UNLISTED, [10, 0, 0, 1], 80, 0)),
    ];
    let manifest = dir.path().join("cluster.yaml");
    let capture = pcap(&frames);
    let output = replay_on(&manifest, &["--node", "n", "--format", "json"], &capture);
    let expected = r#"{"frame":1,"action":"pass","reason":"allowed","service":"s"}
{"frame":2,"action":"pass","reason":"not_allowed","service":"s","would_drop":true}
"#;
    assert_lines(&output, expected);
}

#[test]
fn services_of_equal_name_get_the_policy_name() {
    let dir = cluster(&[&policy("p", 80, "enforce", ""), &policy("q", 81, "enforce", "")]);
    let frames = [80, 81].map(|port| Frame::at(EPOCH, syn(UNLISTED, [10, 0, 0, 1], port, 0)));
    let manifest = dir.path().join("cluster.yaml");
    let capture = pcap(&frames);
    let output = replay_on(&manifest, &["--node", "n", "--format", "json"], &capture);
    let expected = r#"{"frame":1,"action":"drop","reason":"not_allowed","service":"p/s"}
{"frame":2,"action":"drop","reason":"not_allowed","service":"q/s"}
"#;
    assert_lines(&output, expected);
}

/// Asserts the reasons under a service that admits a burst of two connections and then one per second.
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

fn opening(time_ns: u64) -> Frame {
    Frame::at(time_ns, syn([10, 0, 0, 2], [10, 0, 0, 1], 80, 0))
}

const FITS: &str = "allowed";
const BEYOND: &str = "limit_new_connections";

#[test]
fn limits_use_the_time_of_the_capture() {
    let second = 1_000_000_000;
    // The last two frames have earlier timestamps: the clock does not go back for them.
    let times = [0, 0, second / 2, second, second, 3 * second, second, 0];
    let frames = times.map(|time| opening(EPOCH + time));
    let expected = [FITS, FITS, BEYOND, FITS, BEYOND, FITS, FITS, BEYOND];
    for nanoseconds in [false, true] {
        assert_limited(&Pcap { nanoseconds, ..Pcap::default() }.file(&frames), &expected);
    }
}

#[test]
fn a_frame_without_a_time_does_not_stop_the_clock_of_the_rest() {
    // Regression: the clock started at 0, and the second frame exceeded the range of a bucket's time.
    let second = 1_000_000_000;
    let frame = opening(0);
    let blocks = Blocks::section(false)
        .interface(1, 9)
        .simple(&frame)
        .packet(0, EPOCH, &frame)
        .packet(0, EPOCH, &frame)
        .packet(0, EPOCH + second, &frame);
    assert_limited(&blocks.file, &[FITS, FITS, BEYOND, FITS]);
    // The same with a wrong timestamp.
    let frames = [0, EPOCH, EPOCH, EPOCH, EPOCH + second].map(opening);
    assert_limited(&pcap(&frames), &[FITS, FITS, FITS, BEYOND, FITS]);
}

#[test]
fn truncated_files_exit_with_2() {
    let mut capture = pcap(&samples());
    capture.pop();
    let output = replay(&["--format", "json"], &capture);
    assert_refused(&output, "the file ends within frame 5");
    let before: String = SAMPLE_LINES.split_inclusive('\n').take(4).collect();
    assert_eq!(
        lines(&output.stdout),
        lines(before.as_bytes()),
        "frames before the damage were evaluated"
    );
    let output = replay(&[], &capture);
    assert_refused(&output, "the file ends within frame 5");
    let summary = text(&output.stdout);
    assert!(summary.contains("as node `sched-0`: 4 frames, 1 dropped"), "{summary}");
}

#[test]
fn files_without_ethernet_frames_exit_with_2() {
    let output = replay(&[], &Pcap { link_type: 113, ..Pcap::default() }.file(&samples()));
    assert_refused(&output, "frame 1 has link type 113 (Linux cooked capture), not Ethernet");
    assert_refused(&output, "`tcpdump -i any` omits the Ethernet header");
    let frame = opening(EPOCH);
    let blocks = Blocks::section(false).interface(276, 6).packet(0, 0, &frame);
    assert_refused(&replay(&[], &blocks.file), "frame 1 has link type 276");
    let raw = Pcap { big_endian: true, nanoseconds: true, link_type: 101, ..Pcap::default() };
    let raw = raw.file(&samples());
    assert_refused(&replay(&[], &raw), "link type 101 (IP without Ethernet");
    assert_refused(&replay(&[], b""), "unknown format: expected a pcap file, a pcapng file");
    assert_refused(
        &replay(&[], &[0x5a; 4096]),
        "unknown format: expected a pcap file, a pcapng file",
    );
    assert_refused(&replay(&[], &pcap(&[])), "the capture has no frames");
}

#[test]
fn damaged_and_oversized_frames_exit_with_2() {
    let mut capture = pcap(&samples()[..1]);
    // A second frame whose header claims a length of 4 GB.
    capture.extend([0; 8]);
    capture.extend([0xff; 8]);
    capture.resize(capture.len() + (3 << 20), 0);
    let output = replay(&["--format", "json"], &capture);
    assert_refused(&output, "frame");
    // A packet of an interface that no block describes.
    let blocks = Blocks::section(false).interface(1, 6).packet(7, 0, &opening(EPOCH));
    assert_refused(&replay(&[], &blocks.file), "cannot be read");
}

#[test]
fn unknown_nodes_exit_with_2() {
    let capture = pcap(&samples());
    let output = replay_on(&shipped(), &["--node", "sched-9"], &capture);
    assert_refused(&output, "sched-9");
    let output = replay_on(Path::new("no-such-manifest.yaml"), &["--node", "n"], &capture);
    assert_refused(&output, "no-such-manifest.yaml");
    assert_refused(&replay(&["--tunnel", "teredo"], &capture), "known kinds are ipip");
    assert_refused(&replay(&["--tunnel", "vxlan:x"], &capture), "PORT is a number");
}

#[test]
fn frames_to_the_port_of_a_tunnel_device_are_dropped() {
    let mut frame = syn(UNLISTED, NODE, 4789, 0);
    frame[23] = 17;
    let capture = pcap(&[Frame::at(EPOCH, frame)]);
    let without = replay(&["--format", "json"], &capture);
    assert!(text(&without.stdout).contains("\"unguarded\""), "{}", text(&without.stdout));
    let with = replay(&["--format", "json", "--tunnel", "vxlan:4789"], &capture);
    assert!(text(&with.stdout).contains("\"drop\",\"reason\":\"tunnel\""));
}

#[test]
fn a_closed_pipe_is_not_a_failure() {
    let frames = vec![Frame::at(EPOCH, syn(MEMBER, NODE, 22, 0)); 5000];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long.pcap");
    fs::write(&file, pcap(&frames)).unwrap();
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
