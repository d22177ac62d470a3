//! `trainguard trace` on the command line: the steps of one decision, and its exit codes.

use std::{fs, process::Output};

use super::binary::trainguard;

/// The tests below refer to its line numbers.
const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: example
interfaces: [eth0]
nodes:
  - name: sched-0
    addresses: [10.77.0.10, \"fd77::10\"]
    roles: [scheduler]
  - name: worker-[0-3]
    addresses: [\"10.77.0.[30-33]\", \"fd77::[30-33]\"]
    roles: [worker]
  - { name: \"store-0\", addresses: [10.77.0.40], roles: [storage] }
networks:
  management: [10.9.0.0/24, 10.0.0.0/8, \"fd09::/64\"]
  lab: [10.8.0.0/16]
policies: [mxnet.yaml]
";
const POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: mxnet
services:
  - name: scheduler
    roles: [scheduler]
    ports: [tcp/9091]
    match: all
    allow:
      roles: [scheduler, worker]
    mode: enforce
    limits:
      perSource:
        newConnections: { rate: 200/s, burst: 1000 }
      total:
        newConnections: { rate: 2000/s, burst: 4000 }
  - name: members-only
    roles: [scheduler, worker]
    ports: [tcp/any]
    except: [tcp/22]
    match: new-connections
    allow:
      roles: [scheduler, worker]
      networks: [management]
      cidrs: [10.9.0.0/28, 203.0.113.0/24, \"fd09::/16\"]
    mode: enforce
  - name: metrics
    roles: [storage]
    ports: [udp/9100]
    match: all
    allow: { any: true }
    mode: enforce
    limits: { total: { packets: { rate: 1k/s, burst: 1k } } }
  - name: unused-lab
    roles: [storage]
    ports: [tcp/9999]
    match: all
    allow: { networks: [lab] }
    mode: enforce
";

fn trace(args: &[&str]) -> Output {
    trace_on("sched-0", args)
}

fn trace_on(node: &str, args: &[&str]) -> Output {
    trace_with(POLICY, node, args)
}

fn trace_with(policy: &str, node: &str, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("cluster.yaml"), MANIFEST).expect("a file");
    fs::write(dir.path().join("mxnet.yaml"), policy).expect("a file");
    let trace = ["trace", "--node", node, "--manifest", "cluster.yaml"];
    trainguard(dir.path(), &[&trace, args].concat(), "")
}

fn document(args: &[&str]) -> serde_json::Value {
    let output = trace(&[args, &["--format", "json"]].concat());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is UTF-8")
}

#[track_caller]
fn assert_answer(args: &[&str], expected: &str) {
    let output = trace(args);
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[track_caller]
fn assert_refused(args: &[&str], expected: &str) {
    let output = trace(args);
    let printed = text(&output.stderr);
    assert!(printed.contains(expected), "{printed}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(output.status.code(), Some(2), "{printed}");
}

#[test]
fn a_member_is_traced_to_its_limits() {
    assert_answer(
        &["--from", "10.77.0.30", "--to", "10.77.0.10:9091"],
        "\
Ethernet frame, EtherType 0x0800
from 10.77.0.30 to tcp/9091, opens a connection
guarded by `mxnet/scheduler` (mxnet.yaml:5:11): matches every packet, enforces
10.77.0.30 is `worker-0`, listed by mxnet/members-only, mxnet/scheduler
admitted to `mxnet/scheduler` by role `worker` (allowed at mxnet.yaml:10:26): `worker-[0-3]` at \
             cluster.yaml:9:11
limit on new connections of this source: 1 charged, within it (buckets start full)
limit on new connections of all sources together: 1 charged, within it (buckets start full)
verdict: pass, allowed by scheduler
",
    );
}

#[test]
fn an_unlisted_source_is_traced_to_its_drop_in_both_families() {
    for (from, to, ethertype) in
        [("192.0.2.9", "10.77.0.10:9091", "0800"), ("2001:db8::9", "[fd77::10]:9091", "86dd")]
    {
        assert_answer(
            &["--from", from, "--to", to],
            &format!(
                "\
Ethernet frame, EtherType 0x{ethertype}
from {from} to tcp/9091, opens a connection
guarded by `mxnet/scheduler` (mxnet.yaml:5:11): matches every packet, enforces
{from} is not a node of the manifest, listed by no service of this node
no entry admits the source to `mxnet/scheduler`; any of these would:
  add the address to a node of role `scheduler` (`sched-0` at cluster.yaml:6:11) or `worker` \
                 (`worker-[0-3]` at cluster.yaml:9:11)
  list the address under `cidrs` in `allow` of `mxnet/scheduler` (mxnet.yaml:5:11)
verdict: drop, not_allowed by scheduler
"
            ),
        );
    }
}

#[test]
fn flags_distinguish_replies_from_new_connections() {
    let packet = ["--from", "192.0.2.9:443", "--to", "10.77.0.10:50000"];
    let verdict = |flags: &str| {
        let output = trace(&[&packet[..], &["--flags", flags]].concat());
        text(&output.stdout).lines().last().unwrap_or_default().to_owned()
    };
    assert_eq!(verdict("SA"), "verdict: pass, established by members-only");
    assert_eq!(verdict("A"), "verdict: pass, established by members-only");
    assert_eq!(verdict("S"), "verdict: drop, not_allowed by members-only");
}

#[test]
fn what_a_socket_of_the_node_would_change_is_named() {
    let listens = "on the node a listening socket would not get the segment (not_allowed)";
    let opened =
        "the segment passes (established) if it belongs to a connection that the node opened";
    let guarded = POLICY.replace("allow: { any: true }", "allow: { networks: [lab] }");
    let to = ["--from", "192.0.2.9", "--to", "10.77.0.40:9100", "--proto", "udp"];
    let output = trace_with(&guarded, "store-0", &to);
    let connected =
        "on the node the packet passes (established) if a UDP socket is connected to the sender";
    assert!(text(&output.stdout).contains(connected), "{}", text(&output.stdout));
    for (from, to, flags, expected) in [
        ("192.0.2.9", "10.77.0.10:50000", "A", Some(listens)),
        ("192.0.2.9", "10.77.0.10:50000", "SA", Some(listens)),
        ("192.0.2.9", "10.77.0.10:9091", "SA", Some(opened)),
        ("192.0.2.9", "10.77.0.10:9091", "S", None),
        ("192.0.2.9", "10.77.0.10:50000", "S", None),
        ("192.0.2.9", "10.77.0.10:22", "A", None),
        ("10.77.0.30", "10.77.0.10:50000", "A", None),
        ("10.77.0.30", "10.77.0.10:9091", "A", None),
    ] {
        let output = trace(&["--from", from, "--to", to, "--flags", flags]);
        let answer = text(&output.stdout);
        let lines: Vec<&str> =
            answer.lines().filter(|line| line.starts_with("no socket is known here; ")).collect();
        assert_eq!(lines.len(), usize::from(expected.is_some()), "{answer}");
        if let (Some(expected), [line]) = (expected, lines.as_slice()) {
            assert!(line.ends_with(expected), "{answer}");
        }
    }
}

#[test]
fn forwarded_packets_pass_unless_the_service_guards_them() {
    let answer = |policy: &str, from: &str, to: &str| {
        let output = trace_with(policy, "sched-0", &["--from", from, "--to", to, "--forwarded"]);
        (text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
    };
    let verdict = |answer: &str| answer.lines().last().unwrap_or_default().to_owned();
    let behind = "10.88.0.2:9091";
    let (passes, note) = answer(POLICY, "192.0.2.9", behind);
    assert_eq!(verdict(&passes), "verdict: pass, forwarded by scheduler");
    let step = "the node only forwards it, and the service passes forwarded packets\n";
    assert!(passes.contains(step) && !passes.contains("no socket"), "{passes}");
    assert_eq!(note, "");
    // A member would be charged to a limit.
    let (member, _) = answer(POLICY, "10.77.0.30", behind);
    assert_eq!(verdict(&member), "verdict: pass, forwarded by scheduler");
    assert!(!member.contains("limit on"), "{member}");
    let guard = POLICY.replacen("mode: enforce", "mode: enforce\n    forwarded: guard", 1);
    let (guarded, _) = answer(&guard, "192.0.2.9", behind);
    assert_eq!(verdict(&guarded), "verdict: drop, not_allowed by scheduler");
    assert!(guarded.contains("enforces, forwarded packets as well\n"), "{guarded}");
    let (member, _) = answer(&guard, "10.77.0.30", behind);
    assert_eq!(verdict(&member), "verdict: pass, allowed by scheduler");
    // The node forwards nothing to itself.
    let (_, note) = answer(POLICY, "192.0.2.9", "10.77.0.10:9091");
    assert!(note.contains("10.77.0.10 is an address of `sched-0`"), "{note}");
}

#[test]
fn json_output_is_a_document() {
    let args = ["--from", "192.0.2.9", "--to", "10.77.0.10:22", "--format", "json"];
    let output = trace(&args);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "trainguard/trace/v1");
    assert_eq!(document["action"], "pass");
    assert_eq!(document["reason"], "unguarded");
    assert_eq!(document["service"], serde_json::Value::Null);
    let steps = document["steps"].as_array().unwrap();
    assert!(steps.iter().all(serde_json::Value::is_string), "{document}");
    assert!(
        steps.iter().any(|step| step == "no service of this node guards this traffic"),
        "{document}"
    );
}

/// Returns the steps that state which entry admits the source, or what would admit it.
fn admitted(from: &str, to: &str, args: &[&str]) -> Vec<String> {
    let document = document(&[&["--from", from, "--to", to], args].concat());
    let steps = document["steps"].as_array().expect("steps").iter();
    let steps = steps.map(|step| step.as_str().expect("a text").to_owned());
    steps.filter(|step| step.contains("admit") || step.starts_with("  ")).collect()
}

#[test]
fn every_entry_that_admits_a_source_is_named_with_its_lines() {
    let members_only = "10.77.0.10:50000";
    assert_eq!(
        admitted("10.9.0.7", members_only, &[]),
        [
            "admitted to `mxnet/members-only` by network `management` (allowed at \
             mxnet.yaml:24:18): 10.9.0.0/24 at cluster.yaml:14:3",
            "admitted to `mxnet/members-only` by prefix 10.9.0.0/28 at mxnet.yaml:25:15",
        ]
    );
    assert_eq!(
        admitted("fd09:0:0:1::7", "[fd77::10]:50000", &[]),
        ["admitted to `mxnet/members-only` by prefix fd09::/16 at mxnet.yaml:25:44"]
    );
    // A node whose address is also in a listed network is admitted by both.
    assert_eq!(
        admitted("10.77.0.33", members_only, &[]),
        [
            "admitted to `mxnet/members-only` by role `worker` (allowed at mxnet.yaml:23:26): \
             `worker-[0-3]` at cluster.yaml:9:11",
            "admitted to `mxnet/members-only` by network `management` (allowed at \
             mxnet.yaml:24:18): 10.0.0.0/8 at cluster.yaml:14:3",
        ]
    );
    let to = ["--from", "192.0.2.9", "--to", "10.77.0.40:9100", "--proto", "udp"];
    let output = trace_on("store-0", &to);
    let admitted =
        "admitted to `mxnet/metrics` by `any: true` of the service at mxnet.yaml:27:11\n";
    assert!(text(&output.stdout).contains(admitted), "{}", text(&output.stdout));
}

#[test]
fn advice_depends_on_whether_the_manifest_lists_the_source() {
    // A node of another role, in a network that the service does not list.
    assert_eq!(
        admitted("10.77.0.40", "10.77.0.10:9091", &[]),
        [
            "no entry admits the source to `mxnet/scheduler`; any of these would:",
            "  list a role of `store-0` (storage) in `allow` of `mxnet/scheduler` \
             (mxnet.yaml:5:11)",
            "  give `store-0` at cluster.yaml:12:13 the role `scheduler` or `worker`",
            "  list network `management` (10.0.0.0/8 at cluster.yaml:14:3) in `allow` of \
             `mxnet/scheduler` (mxnet.yaml:5:11)",
            "  list the address under `cidrs` in `allow` of `mxnet/scheduler` (mxnet.yaml:5:11)",
        ]
    );
    // An unknown source; the service lists a network to which its address could be added.
    assert_eq!(
        admitted("192.0.2.9", "10.77.0.10:50000", &[]).get(2).map(String::as_str),
        Some("  add the address to network `management` (cluster.yaml:14:3)")
    );
    // A reply passes, so there is no advice.
    assert_eq!(
        admitted("192.0.2.9", "10.77.0.10:50000", &["--flags", "A"]),
        ["no entry admits the source to `mxnet/members-only`"]
    );
    // No source may use the node's own address, whatever is listed.
    assert_eq!(admitted("10.77.0.10", "10.77.0.10:9091", &[]), [""; 0]);
}

#[test]
fn json_output_has_places_by_line_and_column() {
    let member = document(&["--from", "10.77.0.30", "--to", "10.77.0.10:9091"]);
    let rule = serde_json::json!({ "file": "mxnet.yaml", "line": 5, "column": 11 });
    assert_eq!(member["rule"], rule);
    let entry = serde_json::json!([{
        "kind": "role", "name": "worker", "entry": "worker-[0-3]",
        "file": "cluster.yaml", "line": 9, "column": 11,
    }]);
    assert_eq!(member["admitted_by"], entry);
    assert_eq!(member["ways_in"], serde_json::json!([]));
    let unlisted = document(&["--from", "192.0.2.9", "--to", "10.77.0.10:9091"]);
    assert_eq!(unlisted["rule"], rule);
    assert_eq!(unlisted["admitted_by"], serde_json::json!([]));
    assert_eq!(unlisted["ways_in"].as_array().map(Vec::len), Some(2));
    let unguarded = document(&["--from", "192.0.2.9", "--to", "10.77.0.10:22"]);
    assert_eq!(unguarded["rule"], serde_json::Value::Null);
}

#[test]
fn protocols_without_ports_are_traced_without_a_port() {
    let gre = ["--from", "192.0.2.9", "--to", "10.77.0.10", "--proto", "47"];
    let output = trace(&gre);
    assert!(text(&output.stdout).ends_with("verdict: pass, unguarded\n"));
    let output = trace(&[&gre[..], &["--tunnel", "gre"]].concat());
    assert!(text(&output.stdout).contains("a tunnel device of this node would decapsulate it"));
    assert!(text(&output.stdout).ends_with("verdict: drop, tunnel\n"));
}

#[test]
fn every_protocol_with_ports_can_be_traced() {
    for (proto, shown) in [("udp", "udp"), ("udplite", "udp"), ("sctp", "sctp"), ("UDP", "udp")] {
        let output = trace(&["--from", "192.0.2.9", "--to", "10.77.0.10:9091", "--proto", proto]);
        let answer = text(&output.stdout);
        assert!(answer.contains(&format!("from 192.0.2.9 to {shown}/9091\n")), "{answer}");
        assert!(answer.ends_with("verdict: pass, unguarded\n"), "{answer}");
    }
}

#[test]
fn a_port_that_a_range_leaves_alone_is_named() {
    let beside = "`udp/1-1000` of `mxnet/low` (mxnet.yaml:40:11) contains udp/123, but a range leaves \
                  this port alone; name `udp/123` by itself to guard it";
    let low = "  - name: low\n    roles: [storage]\n    ports: [udp/1-1000, udp/67]\n    match: all\n    \
               allow: { networks: [lab] }\n    mode: enforce\n";
    let policy = format!("{POLICY}{low}");
    for (to, lines) in [
        ("10.77.0.40:123", vec![beside, "verdict: pass, unguarded"]),
        ("10.77.0.40:67", vec!["verdict: drop, not_allowed by low"]),
        ("10.77.0.40:2000", vec!["verdict: pass, unguarded"]),
    ] {
        let args = ["--from", "192.0.2.9", "--to", to, "--proto", "udp"];
        let output = trace_with(&policy, "store-0", &args);
        let answer = text(&output.stdout);
        assert!(answer.ends_with(&format!("{}\n", lines.join("\n"))), "{answer}");
        assert_eq!(answer.contains("leaves this port alone"), lines.len() == 2, "{answer}");
    }
}

#[test]
fn an_expectation_decides_the_exit_code() {
    let code = |from: &str, expect: &str| {
        trace(&["--from", from, "--to", "10.77.0.10:9091", "--expect", expect]).status.code()
    };
    assert_eq!(code("10.77.0.30", "pass"), Some(0));
    assert_eq!(code("10.77.0.30", "drop"), Some(1));
    assert_eq!(code("192.0.2.9", "drop"), Some(0));
    assert_eq!(code("192.0.2.9", "pass"), Some(1));
    assert_eq!(code("192.0.2.9", "perhaps"), Some(2));
}

#[test]
fn an_address_of_another_host_gets_a_warning() {
    let output = trace(&["--from", "192.0.2.9", "--to", "10.77.0.20:9091"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("10.77.0.20 is not an address of `sched-0`"));
}

#[test]
fn invalid_packets_exit_with_2() {
    let from = ["--from", "192.0.2.9", "--to"];
    let with = |rest: &[&'static str]| [&from[..], rest].concat();
    assert_refused(&with(&["[fd77::10]:9091"]), "are of different address families");
    assert_refused(&with(&["10.77.0.10"]), "--to needs a port for tcp");
    assert_refused(&with(&["10.77.0.10", "--proto", "132"]), "--to needs a port for 132");
    assert_refused(&with(&["10.77.0.10:70000"]), "--to `10.77.0.10:70000`");
    assert_refused(&with(&["sched-0:9091"]), "expected an address");
    assert_refused(&with(&["10.77.0.10:9091", "--proto", "256"]), "--proto `256`");
    assert_refused(&with(&["10.77.0.10:9091", "--flags", "SX"]), "`X` is none of");
}
