//! `trainguard learn` on the command line: its proposals for captures that the tests write, and for
//! captures of a real job. Each proposal is checked with `replay` on the same capture.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Output,
};

use guard_test_support::{
    packet::{ACK, PSH, SYN, segment},
    pcap::{Frame, Pcap},
};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::binary::command as trainguard;

const NODE: [u8; 4] = [10, 77, 0, 10];
const MEMBER: [u8; 4] = [10, 77, 0, 30];
const OTHER_MEMBER: [u8; 4] = [10, 77, 0, 31];
const UNLISTED: [u8; 4] = [192, 0, 2, 9];
/// An arbitrary time in 2026, in nanoseconds since the epoch.
const EPOCH: u64 = 1_790_000_000_000_000_000;

/// TCP flags of a segment with data.
const DATA: u8 = PSH | ACK;

const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: demo
interfaces: [eth0]
nodes:
  - name: node
    addresses: [10.77.0.10]
    roles: [server]
  - name: worker-[0-1]
    addresses: [\"10.77.0.[30-31]\"]
    roles: [worker]
networks:
  old: [10.9.0.0/24]
policies: [policy.yaml]
";

const POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: mine
services:
  - name: guarded
    roles: [server]
    ports: [tcp/9091]
    match: all
    allow: { roles: [worker], networks: [old] }
    mode: observe
";

/// The behaviour of a source at a port of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Behaviour {
    /// Opens a connection and exchanges data in both directions.
    Exchanges,
    /// Tries to open a connection and gets no answer.
    GetsNoAnswer,
    /// Opens a connection, is answered, and sends no data.
    SendsNoData,
    /// Opens a connection and sends data, and gets none back.
    GetsNoData,
    /// Sends data segments of a connection that was never opened.
    NeverOpens,
}

fn frames(behaviour: Behaviour, from: [u8; 4], source_port: u16, port: u16) -> Vec<Vec<u8>> {
    let (there, here) = ((from, source_port), (NODE, port));
    let open = segment(there, here, SYN, 0);
    let answer = segment(here, there, SYN | ACK, 0);
    let ack = segment(there, here, ACK, 0);
    let (says, answers) = (segment(there, here, DATA, 20), segment(here, there, DATA, 30));
    match behaviour {
        Behaviour::Exchanges => vec![open, answer, ack, says, answers],
        Behaviour::GetsNoAnswer => vec![open.clone(), open],
        Behaviour::SendsNoData => vec![open, answer, ack],
        Behaviour::GetsNoData => vec![open, answer, ack, says],
        Behaviour::NeverOpens => vec![says.clone(), says],
    }
}

fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let times = (EPOCH..).step_by(2_000_000);
    let frames = times.zip(frames).map(|(time_ns, frame)| Frame::at(time_ns, frame.clone()));
    Pcap::default().file(&frames.collect::<Vec<_>>())
}

/// A temporary directory with a manifest, a policy and a capture.
struct Place(TempDir);

impl Place {
    fn new(frames: &[Vec<u8>]) -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        for (name, text) in [("cluster.yaml", MANIFEST), ("policy.yaml", POLICY)] {
            fs::write(place.path(name), text).expect("a file");
        }
        fs::write(place.path("seen.pcap"), pcap(frames)).expect("a capture");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn learn(&self, more: &[&str]) -> Output {
        let mut command = trainguard(&["learn"]);
        if !more.contains(&"--node") {
            command.args(["--node", "node"]);
        }
        command.arg("--manifest").arg(self.path("cluster.yaml"));
        command.arg("--capture").arg(self.path("seen.pcap"));
        command.args(more).output().expect("learn")
    }

    fn json(&self, more: &[&str]) -> Value {
        let output = self.learn(&[&["--format", "json"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Writes the proposal and returns the path of its manifest.
    fn propose(&self, more: &[&str]) -> PathBuf {
        let new = self.path("new");
        let output = self.learn(&[&["--output", new.to_str().expect("UTF-8")], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let manifest = new.join("cluster.yaml");
        let lint = trainguard(&["lint", "--fail-on", "error"]).arg(&new).output().expect("lint");
        assert_eq!(lint.status.code(), Some(0), "{}", String::from_utf8_lossy(&lint.stdout));
        manifest
    }

    fn replay(&self, manifest: &Path) -> Vec<Value> {
        let mut command = trainguard(&["replay", "--node", "node", "--format", "json"]);
        let output = command.arg("--manifest").arg(manifest).arg(self.path("seen.pcap")).output();
        let output = output.expect("replay");
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the explanation of a source at a port: `by` of a contact, or `why` of a source left out.
fn explanation(answer: &Value, source: [u8; 4], port: Option<&str>) -> Option<String> {
    let source = Ipv4Addr::from(source).to_string();
    let of = |list: &str, fact: &str| {
        let entry = answer[list]
            .as_array()?
            .iter()
            .find(|entry| entry["source"] == source.as_str() && entry["port"].as_str() == port)?;
        entry[fact].as_str().map(str::to_owned)
    };
    of("contacts", "by").or_else(|| of("left_out", "why"))
}

#[test]
fn each_contact_becomes_a_service_an_entry_or_is_left_out() {
    let frames = [
        frames(Behaviour::Exchanges, MEMBER, 40_000, 8000),
        frames(Behaviour::Exchanges, UNLISTED, 40_000, 8000),
        frames(Behaviour::Exchanges, MEMBER, 40_001, 9091),
        frames(Behaviour::Exchanges, [10, 77, 0, 99], 40_000, 9091),
        frames(Behaviour::Exchanges, MEMBER, 40_002, 22),
        frames(Behaviour::Exchanges, MEMBER, 40_003, 45_000),
        frames(Behaviour::GetsNoAnswer, [192, 0, 2, 10], 40_000, 8000),
        frames(Behaviour::SendsNoData, [192, 0, 2, 11], 40_000, 8000),
        frames(Behaviour::GetsNoData, [192, 0, 2, 12], 40_000, 8000),
        frames(Behaviour::NeverOpens, [192, 0, 2, 13], 40_000, 8000),
        frames(Behaviour::GetsNoAnswer, [127, 0, 0, 1], 40_000, 8000),
        frames(Behaviour::GetsNoAnswer, NODE, 40_000, 8001),
        // A connection that the node opened: the remote end is not a client.
        vec![
            segment((NODE, 50_000), ([192, 0, 2, 14], 443), SYN, 0),
            segment(([192, 0, 2, 14], 443), (NODE, 50_000), SYN | ACK, 0),
            segment((NODE, 50_000), ([192, 0, 2, 14], 443), DATA, 9),
            segment(([192, 0, 2, 14], 443), (NODE, 50_000), DATA, 9),
        ],
    ];
    let place = Place::new(&frames.concat());
    let answer = place.json(&[]);
    let of = |source, port| explanation(&answer, source, Some(port)).unwrap_or_default();
    assert_eq!(of(MEMBER, "tcp/8000"), "service");
    assert_eq!(of(UNLISTED, "tcp/8000"), "service");
    assert_eq!(of(MEMBER, "tcp/9091"), "allowed");
    assert_eq!(of([10, 77, 0, 99], "tcp/9091"), "entry");
    assert_eq!(of(MEMBER, "tcp/45000"), "service");
    for (source, port, why) in [
        (MEMBER, Some("tcp/22"), "no service is proposed for ssh"),
        ([192, 0, 2, 10], Some("tcp/8000"), "never answered"),
        ([192, 0, 2, 11], Some("tcp/8000"), "no data went both ways"),
        ([192, 0, 2, 12], Some("tcp/8000"), "no data went both ways"),
        ([127, 0, 0, 1], None, "forged"),
        (NODE, None, "forged"),
    ] {
        let explanation = explanation(&answer, source, port).unwrap_or_default();
        assert!(explanation.contains(why), "{source:?}: {explanation}");
    }
    for unproposed in [[192, 0, 2, 13], [192, 0, 2, 14]] {
        let address = Ipv4Addr::from(unproposed).to_string();
        let documents = answer["documents"].to_string();
        assert!(!documents.contains(&address), "{address} is proposed: {documents}");
    }
    let notes = answer["notes"].to_string();
    assert!(notes.contains("1 connection was already open"), "{notes}");
    assert!(notes.contains("no proof of membership"), "{notes}");

    let manifest = answer["documents"]["manifest"].as_str().expect("a manifest");
    assert!(manifest.contains("  learned-tcp-8000: [192.0.2.9/32]\n  old:"), "{manifest}");
    assert!(manifest.contains("addresses: [10.77.0.99]\n    roles: [worker]"), "{manifest}");
    assert!(manifest.contains("policies: [learned.yaml, policy.yaml]"), "{manifest}");
    let policy = answer["documents"]["policy"].as_str().expect("a policy");
    assert!(policy.contains("ports: [tcp/32768-60999]\n    match: new-connections"), "{policy}");
    assert!(policy.contains("mode: observe") && !policy.contains("mode: enforce"), "{policy}");
    // The same capture gives the same proposal.
    assert_eq!(place.json(&[]), answer);
}

#[test]
fn port_scanners_are_left_out() {
    let scanner = [10, 77, 0, 66];
    let mut all = frames(Behaviour::Exchanges, MEMBER, 40_000, 8000);
    all.extend((1..40).flat_map(|port| frames(Behaviour::GetsNoAnswer, scanner, 41_000, port)));
    all.extend(frames(Behaviour::Exchanges, scanner, 41_000, 8000));
    let place = Place::new(&all);
    let answer = place.json(&[]);
    let why = explanation(&answer, scanner, None).expect("an entry in `left_out`");
    assert!(why.contains("port scan: it tried 39 ports without success"), "{why}");
    assert!(!answer["documents"].to_string().contains("10.77.0.66"), "{answer:#}");
    let text = String::from_utf8_lossy(&place.learn(&[]).stdout).into_owned();
    assert!(text.contains("10.77.0.66, 81 packets: port scan"), "{text}");
}

#[test]
fn prefixes_need_aggregate_and_never_cover_left_out_sources() {
    let exchanges = |last| frames(Behaviour::Exchanges, [192, 0, 2, last], 40_000, 8000);
    let place = Place::new(&[exchanges(9), exchanges(10), exchanges(11)].concat());
    let network = |place: &Place, more: &[&str]| {
        let answer = place.json(more);
        let manifest = answer["documents"]["manifest"].as_str().expect("a manifest").to_owned();
        let line = manifest.lines().find(|line| line.contains("learned-tcp-8000:"));
        line.expect("a network").trim().to_owned()
    };
    let exact = "learned-tcp-8000: [192.0.2.9/32, 192.0.2.10/32, 192.0.2.11/32]";
    assert_eq!(network(&place, &[]), exact);
    assert_eq!(network(&place, &["--aggregate", "/24"]), "learned-tcp-8000: [192.0.2.0/24]");
    assert_eq!(network(&place, &["--aggregate", "/64"]), exact, "/64 applies to IPv6 only");
    // Two addresses that share a prefix are merged; the third stays as it is.
    let some = "learned-tcp-8000: [192.0.2.9/32, 192.0.2.10/31]";
    assert_eq!(network(&place, &["--aggregate", "/31"]), some);
    let unanswered = frames(Behaviour::GetsNoAnswer, [192, 0, 2, 77], 40_000, 8000);
    let place = Place::new(&[exchanges(9), exchanges(10), exchanges(11), unanswered].concat());
    assert_eq!(network(&place, &["--aggregate", "/24"]), exact);
    let wrong = place.learn(&["--aggregate", "/0"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn captures_without_a_proposal_give_the_reason() {
    let place = Place::new(&frames(Behaviour::Exchanges, MEMBER, 40_000, 9091));
    let answer = place.json(&[]);
    assert_eq!(answer["documents"], Value::Null, "the policy already allows every contact");
    let output = place.learn(&["--output", place.path("new").to_str().expect("UTF-8")]);
    assert!(stderr(&output).contains("no file was written"), "{}", stderr(&output));
    assert!(!place.path("new").exists());

    let elsewhere = segment((MEMBER, 1), (UNLISTED, 2), SYN, 0);
    let place = Place::new(&[elsewhere]);
    let output = place.learn(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no frame of the capture is from or to `node`"));

    // A capture of one direction only.
    let inwards = frames(Behaviour::Exchanges, MEMBER, 40_000, 8000).into_iter();
    let inwards: Vec<_> = inwards.filter(|frame| frame[26..30] == MEMBER).collect();
    let place = Place::new(&inwards);
    let answer = place.json(&[]);
    assert_eq!(answer["documents"], Value::Null);
    assert!(answer["notes"].to_string().contains("Capture both directions"), "{answer:#}");

    // An existing directory is not written to.
    let place = Place::new(&frames(Behaviour::Exchanges, MEMBER, 40_000, 8000));
    let output = place.learn(&["--output", place.0.path().to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(place.path("cluster.yaml")).expect("a manifest"), MANIFEST);
}

/// A real job, captured at its scheduler and at a worker, with one of its hosts missing from the
/// manifest.
#[test]
fn every_connection_of_a_captured_job_is_learned() {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    for file in ["mxnet-baseline.pcap", "mxnet-late-scheduler.pcap"] {
        for (node, address, port) in
            [("sched-0", [10, 77, 0, 1], "tcp/9091"), ("worker-0", [10, 77, 0, 11], "")]
        {
            let place = Place::new(&[]);
            fs::copy(captures.join(file), place.path("seen.pcap")).expect("a capture");
            let manifest = "\
apiVersion: trainguard/v1
kind: Cluster
name: captured
interfaces: [eth0]
nodes:
  - { name: sched-0, addresses: [10.77.0.1], roles: [server, scheduler] }
  - { name: worker-0, addresses: [10.77.0.11], roles: [server, worker] }
  - { name: worker-1, addresses: [10.77.0.12], roles: [worker] }
  - { name: server-0, addresses: [10.77.0.21], roles: [worker] }
networks: { old: [10.9.0.0/24] }
policies: [policy.yaml]
";
            fs::write(place.path("cluster.yaml"), manifest).expect("a manifest");
            let policy = POLICY.replace("9091", "8080");
            fs::write(place.path("policy.yaml"), policy).expect("a policy");
            let answer = place.json(&["--node", node]);
            let contacts = answer["contacts"].as_array().expect("contacts");
            assert!(contacts.iter().all(|contact| contact["by"] == "service"), "{answer:#}");
            if !port.is_empty() {
                assert!(contacts.iter().all(|contact| contact["port"] == port), "{answer:#}");
                assert_eq!(contacts.len(), 4, "two workers, two servers: {answer:#}");
            }
            assert!(answer["documents"]["manifest"].to_string().contains("[10.77.0.22/32]"));
            let proposed = place.propose(&["--node", node]);
            let mut command = trainguard(&["replay", "--received", "--format", "json"]);
            command.args(["--node", node]).arg("--manifest").arg(proposed);
            let output = command.arg(place.path("seen.pcap")).output().expect("replay");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.lines().count() > 100, "{address:?}: {}", stderr(&output));
            let refused =
                text.lines().find(|line| line.contains("not_allowed") || line.contains("limit_"));
            assert_eq!(refused, None, "{file} at {node}");
        }
    }
}

/// Generates sources: two members, and unlisted hosts that share a network.
fn source() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![
        Just(MEMBER),
        Just(OTHER_MEMBER),
        (1_u8..6).prop_map(|last| [192, 0, 2, last]),
        (1_u8..4).prop_map(|last| [10, 77, 0, 200 + last]),
    ]
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        3 => Just(Behaviour::Exchanges),
        1 => Just(Behaviour::GetsNoAnswer),
        1 => Just(Behaviour::SendsNoData),
        1 => Just(Behaviour::GetsNoData),
        1 => Just(Behaviour::NeverOpens),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(8000_u16), Just(8001), Just(9091), Just(22), Just(45_000), Just(45_001)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every contact in the proposal passes, and sources that were left out are refused wherever the
    /// proposal guards. The answer states the same result for each as `replay`.
    #[test]
    fn a_proposal_admits_exactly_the_contacts_that_it_lists(
        contacts in proptest::collection::vec((source(), behaviour(), port()), 1..24),
        aggregate in any::<bool>(),
    ) {
        let mut all = Vec::new();
        for (source_port, (from, behaviour, port)) in (40_000..).zip(&contacts) {
            all.extend(frames(*behaviour, *from, source_port, *port));
        }
        let place = Place::new(&all);
        let more: &[&str] = if aggregate { &["--aggregate", "/24"] } else { &[] };
        let answer = place.json(more);
        let manifest = if answer["documents"].is_null() {
            place.path("cluster.yaml")
        } else {
            place.propose(more)
        };
        let exchanged: BTreeSet<([u8; 4], u16)> = contacts
            .iter()
            .filter(|(_, behaviour, _)| *behaviour == Behaviour::Exchanges)
            .map(|(from, _, port)| (*from, *port))
            .collect();
        let mut verdicts: BTreeMap<([u8; 4], u16), BTreeSet<String>> = BTreeMap::new();
        for (frame, verdict) in all.iter().zip(place.replay(&manifest)) {
            if frame[30..34] == NODE && frame[47] & ACK == 0 {
                let from = <[u8; 4]>::try_from(&frame[26..30]).expect("an address");
                let port = u16::from_be_bytes([frame[36], frame[37]]);
                let reason = verdict["reason"].as_str().expect("a reason").to_owned();
                verdicts.entry((from, port)).or_default().insert(reason);
            }
        }
        for ((from, port), reasons) in &verdicts {
            let name = format!("tcp/{port}");
            let explanation = explanation(&answer, *from, Some(&name));
            let one = reasons.iter().next().filter(|_| reasons.len() == 1);
            let reason = one.expect("one reason for all segments that open a connection").as_str();
            let by = explanation.as_deref().unwrap_or_default();
            if exchanged.contains(&(*from, *port)) && *port != 22 && !by.contains("service admits") {
                prop_assert_eq!(reason, "allowed", "{:?} at {}: {} {:#}", from, port, by, answer);
                continue;
            }
            let left = answer["left_out"].as_array().expect("a list").iter().find(|left| {
                left["source"] == Ipv4Addr::from(*from).to_string() && left["port"] == name
            });
            let then = left.and_then(|left| left["then"].as_str());
            let expected = match reason {
                "not_allowed" => "refused",
                "unguarded" => "open",
                "allowed" => "allowed",
                other => other,
            };
            prop_assert_eq!(then, Some(expected), "{:?} at {}: {:#}", from, port, answer);
            // Only a source that was seen talking is admitted, except by the role of a member that was
            // seen, or on another port of the ephemeral range.
            let random = |port| port >= 32_768 && exchanged.contains(&(*from, port));
            let member = [MEMBER, OTHER_MEMBER].contains(from);
            let entry = answer["entries"].as_array().expect("entries").iter().any(|entry| {
                entry["source"] == Ipv4Addr::from(*from).to_string()
            });
            let fine = member || entry || (*port >= 32_768 && [45_000, 45_001].into_iter().any(random));
            prop_assert!(reason != "allowed" || fine, "{:?} at {}: {:#}", from, port, answer);
        }
    }
}
