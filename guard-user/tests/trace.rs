//! `trainguard trace` as it is typed: the steps of one decision, and its exit codes.

use std::{
    path::Path,
    process::{Command, Output},
};

fn trace(args: &[&str]) -> Output {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/cluster.yaml");
    Command::new(env!("CARGO_BIN_EXE_trainguard"))
        .args(["trace", "--node", "sched-0", "--manifest"])
        .arg(manifest)
        .args(args)
        .output()
        .expect("the binary starts")
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
fn assert_refused(args: &[&str], said: &str) {
    let output = trace(args);
    let talk = text(&output.stderr);
    assert!(talk.contains(said), "{talk}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(output.status.code(), Some(2), "{talk}");
}

#[test]
fn a_member_is_followed_to_its_limits() {
    assert_answer(
        &["--from", "10.77.0.30", "--to", "10.77.0.10:9091"],
        "\
Ethernet frame, EtherType 0x0800
from 10.77.0.30 to tcp/9091, opens a connection
guarded by `mxnet/scheduler`: matches every packet, enforces
10.77.0.30 is `worker-0`, listed by mxnet/members-only, mxnet/scheduler
limit on new connections of this source: 1 charged, within it (buckets start full)
limit on new connections of all sources together: 1 charged, within it (buckets start full)
verdict: pass, allowed by scheduler
",
    );
}

#[test]
fn a_stranger_is_followed_to_the_refusal_in_either_family() {
    for (from, to, ethertype) in
        [("192.0.2.9", "10.77.0.10:9091", "0800"), ("2001:db8::9", "[fd77::10]:9091", "86dd")]
    {
        assert_answer(
            &["--from", from, "--to", to],
            &format!(
                "\
Ethernet frame, EtherType 0x{ethertype}
from {from} to tcp/9091, opens a connection
guarded by `mxnet/scheduler`: matches every packet, enforces
{from} is no node of the manifest, listed by no service of this node
verdict: drop, not_allowed by scheduler
"
            ),
        );
    }
}

#[test]
fn flags_tell_replies_from_new_connections() {
    let strange = ["--from", "192.0.2.9:443", "--to", "10.77.0.10:50000"];
    let verdict = |flags: &str| {
        let output = trace(&[&strange[..], &["--flags", flags]].concat());
        text(&output.stdout).lines().last().unwrap_or_default().to_owned()
    };
    assert_eq!(verdict("SA"), "verdict: pass, established by members-only");
    assert_eq!(verdict("A"), "verdict: pass, established by members-only");
    assert_eq!(verdict("S"), "verdict: drop, not_allowed by members-only");
}

#[test]
fn programs_get_a_document() {
    let args = ["--from", "192.0.2.9", "--to", "10.77.0.10:22", "--format", "json"];
    let output = trace(&args);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "trainguard/trace/v1");
    assert_eq!(document["action"], "pass");
    assert_eq!(document["reason"], "unguarded");
    assert_eq!(document["service"], serde_json::Value::Null);
    let steps = document["steps"].as_array().unwrap();
    assert!(steps.iter().all(serde_json::Value::is_string), "{document}");
    assert!(steps.iter().any(|step| step == "no service of this node guards that"), "{document}");
}

#[test]
fn protocols_without_ports_need_none() {
    let gre = ["--from", "192.0.2.9", "--to", "10.77.0.10", "--proto", "47"];
    let output = trace(&gre);
    assert!(text(&output.stdout).ends_with("verdict: pass, unguarded\n"));
    let output = trace(&[&gre[..], &["--tunnel", "gre"]].concat());
    assert!(text(&output.stdout).contains("a tunnel device of this node would unpack it"));
    assert!(text(&output.stdout).ends_with("verdict: drop, tunnel\n"));
}

#[test]
fn every_protocol_with_ports_can_be_asked_about() {
    for (proto, shown) in [("udp", "udp"), ("udplite", "udp"), ("sctp", "sctp"), ("UDP", "udp")] {
        let output = trace(&["--from", "192.0.2.9", "--to", "10.77.0.10:9091", "--proto", proto]);
        let answer = text(&output.stdout);
        assert!(answer.contains(&format!("from 192.0.2.9 to {shown}/9091\n")), "{answer}");
        assert!(answer.ends_with("verdict: pass, unguarded\n"), "{answer}");
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
fn an_address_of_another_host_is_remarked_on() {
    let output = trace(&["--from", "192.0.2.9", "--to", "10.77.0.20:9091"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("10.77.0.20 is no address of `sched-0`"));
}

#[test]
fn what_makes_no_packet_is_no_answer() {
    let from = ["--from", "192.0.2.9", "--to"];
    let with = |rest: &[&'static str]| [&from[..], rest].concat();
    assert_refused(&with(&["[fd77::10]:9091"]), "are not of one family");
    assert_refused(&with(&["10.77.0.10"]), "--to needs a port for tcp");
    assert_refused(&with(&["10.77.0.10", "--proto", "132"]), "--to needs a port for 132");
    assert_refused(&with(&["10.77.0.10:70000"]), "--to `10.77.0.10:70000`");
    assert_refused(&with(&["sched-0:9091"]), "expected an address");
    assert_refused(&with(&["10.77.0.10:9091", "--proto", "256"]), "--proto `256`");
    assert_refused(&with(&["10.77.0.10:9091", "--flags", "SX"]), "`X` is none of");
}
