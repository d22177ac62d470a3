//! Bad input, with the code, line and column of every finding that it must give.

use std::sync::LazyLock;

use super::shape;
use guard_user::policy;
use guard_user::{
    cli::SchemaDocument,
    policy::{Bundle, syntax::diagnostic::Severity},
};
use jsonschema::Validator;

static CLUSTER: LazyLock<Validator> = LazyLock::new(|| shape::validator(SchemaDocument::Cluster));
static SERVICES: LazyLock<Validator> = LazyLock::new(|| shape::validator(SchemaDocument::Policy));

const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: demo
interfaces: [eth0]
nodes:
  - name: sched
    addresses: [10.0.0.1, \"fd00::1\"]
    roles: [scheduler]
  - name: worker-[0-3]
    addresses: [\"10.0.1.[0-3]\"]
    roles: [worker]
networks:
  office: [10.9.0.0/24]
policies: [p.yaml]
";

const POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: p
services:
  - name: s
    roles: [scheduler]
    ports: [tcp/9091]
    match: all
    allow:
      roles: [scheduler, worker]
      networks: [office]
    mode: enforce
    limits:
      perSource:
        newConnections: { rate: 200/s, burst: 1000 }
";

/// Returns `file:line:column CODE` for each finding, in order; or `loaded` and the warnings. Also checks
/// that the JSON Schemas agree about the shape of each document.
fn findings(texts: &[(&str, &str)]) -> Vec<String> {
    for (path, text) in texts {
        // `l.txt` is a list of prefixes.
        if *path == "m.yaml" {
            shape::assert_parser_and_schema_agree(SchemaDocument::Cluster, &CLUSTER, text);
        } else if *path != "l.txt" {
            shape::assert_parser_and_schema_agree(SchemaDocument::Policy, &SERVICES, text);
        }
    }
    let texts = texts.iter().copied();
    let bundle = Bundle::new("m.yaml", texts);
    let (report, first) = match policy::load("m.yaml".as_ref(), &bundle) {
        Ok(loaded) => (loaded.report, Some("loaded".to_owned())),
        Err(error) => (error.report, None),
    };
    let all = report
        .diagnostics
        .iter()
        .map(|d| format!("{} {}", report.sources.describe(d.place), d.code));
    first.into_iter().chain(all).collect()
}

#[test]
fn the_base_of_all_cases_is_clean() {
    assert_eq!(findings(&[("m.yaml", MANIFEST), ("p.yaml", POLICY)]), ["loaded"]);
}

/// Replaces `from` in the policy by `to` and compares the findings, given as line, column and code.
fn policy_case(from: &str, to: &str, expected: &[&str]) {
    assert!(POLICY.contains(from), "{from:?} is not in the policy");
    let text = POLICY.replacen(from, to, 1);
    let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &text)]);
    let expected: Vec<String> = expected.iter().map(|e| format!("p.yaml:{e}")).collect();
    assert_eq!(found, expected, "{from:?} -> {to:?}");
}

fn manifest_case(from: &str, to: &str, expected: &[&str]) {
    assert!(MANIFEST.contains(from), "{from:?} is not in the manifest");
    let text = MANIFEST.replacen(from, to, 1);
    let found = findings(&[("m.yaml", &text), ("p.yaml", POLICY)]);
    let expected: Vec<String> = expected.iter().map(|e| format!("m.yaml:{e}")).collect();
    assert_eq!(found, expected, "{from:?} -> {to:?}");
}

#[test]
fn dialect() {
    for (from, to, expected) in [
        ("mode: enforce", "mode: enforce\n    mode: observe", "13:5 TG002"),
        ("mode: enforce", "mode: &a enforce", "12:11 TG003"),
        ("mode: enforce", "mode: *a", "12:11 TG003"),
        ("mode: enforce", "<<: { mode: enforce }", "12:5 TG003"),
        ("mode: enforce", "mode: !allow enforce", "12:11 TG004"),
        ("mode: enforce", "mode: !!str enforce", "12:11 TG004"),
        ("mode: enforce", "mode: enf\u{202e}orce", "12:14 TG005"),
        ("mode: enforce", "mode: enf\u{200b}orce", "12:14 TG005"),
        ("mode: enforce", "mode: enf\u{85}orce", "12:14 TG005"),
        ("mode: enforce", "mode: enf\u{2028}orce", "12:14 TG005"),
        ("mode: enforce", "mode: enf\0orce", "12:14 TG005"),
        ("mode: enforce", "mode: enf\u{7f}orce", "12:14 TG005"),
        // YAML takes a carriage return for a line break; most viewers show it as part of the comment.
        ("mode: enforce", "# only\r    mode: enforce", "12:11 TG005"),
        ("mode: enforce", "mode: \"enf\\u202eorce\"", "12:11 TG005"),
        ("apiVersion", "\u{feff}apiVersion", "1:1 TG005"),
        ("apiVersion", "%YAML 1.1\n---\napiVersion", "1:1 TG008"),
        ("mode: enforce", "mode:", "12:9 TG007"),
        ("mode: enforce", "mode: ~", "12:11 TG007"),
        ("mode: enforce", "mode: [enforce", "13:11 TG001"),
        ("mode: enforce", "\tmode: enforce", "12:6 TG001"),
        ("name: s", "name: yes", "5:11 TG006"),
        ("name: s", "name: 0o17", "5:11 TG006"),
        ("name: s", "name: 0x10", "5:11 TG006"),
        ("name: s", "name: 1e3", "5:11 TG006"),
        ("name: s", "name: 010", "5:11 TG006"),
        ("name: s", "name: 1_000", "5:11 TG006"),
        ("burst: 1000", "burst: \"1000\"", "15:47 TG006"),
        ("burst: 1000", "burst: 1_000", "15:47 TG006"),
        ("burst: 1000", "burst: +5", "15:47 TG006"),
        ("burst: 1000", "burst: 1e3", "15:47 TG006"),
        ("burst: 1000", "burst: 010", "15:47 TG006"),
        ("burst: 1000", "burst: 0x10", "15:47 TG006"),
        ("burst: 1000", "burst: 0o17", "15:47 TG006"),
    ] {
        policy_case(from, to, &[expected]);
    }
    let windows = POLICY.replace('\n', "\r\n");
    assert_eq!(findings(&[("m.yaml", MANIFEST), ("p.yaml", &windows)]), ["loaded"]);
    let two = format!("{POLICY}---\n{POLICY}");
    let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &two)]);
    assert_eq!(found, ["p.yaml:16:1 TG008"]);
    for empty in ["", "\n", "# nothing\n", "---\n", "~\n"] {
        let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", empty)]);
        assert!(found[0].ends_with("TG007"), "{empty:?}: {found:?}");
        assert_eq!(found.len(), 1, "{empty:?}: {found:?}");
    }
    let brackets = "[".repeat(10_000);
    let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &brackets)]);
    assert_eq!(found, ["p.yaml:1:33 TG009"]);
    let dashes = "- ".repeat(10_000);
    let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &dashes)]);
    assert_eq!(found, ["p.yaml:1:65 TG009"]);
}

#[test]
fn shape() {
    for (from, to, expected) in [
        ("allow:", "alow:", &["5:5 TG102", "9:5 TG101"][..]),
        ("    mode: enforce\n", "", &["5:5 TG102"]),
        ("    match: all\n", "", &["5:5 TG102"]),
        ("name: p", "nam: p", &["1:1 TG102", "3:1 TG101"]),
        ("trainguard/v1", "trainguard/v2", &["1:13 TG107"]),
        ("kind: Policy", "kind: Polcy", &["2:7 TG107"]),
        ("kind: Policy\n", "", &["1:1 TG102"]),
        ("kind: Policy", "kind: Cluster", &["1:1 TG107", "1:1 TG102", "1:1 TG102", "4:1 TG101"]),
        ("[tcp/9091]", "tcp/9091", &["7:12 TG109"]),
        ("[tcp/9091]", "[]", &["7:12 TG007"]),
        ("[tcp/9091]", "[9091]", &["7:13 TG105"]),
        ("[tcp/9091]", "[\"9091\"]", &["7:13 TG105"]),
        ("[tcp/9091]", "[tcp/0]", &["7:13 TG105"]),
        ("[tcp/9091]", "[tcp/65536]", &["7:13 TG105"]),
        ("[tcp/9091]", "[tcp/-1]", &["7:13 TG105"]),
        ("[tcp/9091]", "[tcp/29500.0]", &["7:13 TG105"]),
        ("[tcp/9091]", "[tcp/0x7334]", &["7:13 TG105"]),
        ("[tcp/9091]", "[tcp/1_000]", &["7:13 TG105"]),
        ("[tcp/9091]", "[tcp/٩]", &["7:13 TG105"]),
        ("[tcp/9091]", "[tcp/5-3, tpc/80, udp/x]", &["7:13 TG105", "7:22 TG105", "7:30 TG105"]),
        ("name: s", "name: \"a b\"", &["5:11 TG110"]),
        ("name: s", "name: .s", &["5:11 TG110"]),
        ("match: all", "match: everything", &["8:12 TG112"]),
        ("mode: enforce", "mode: Enforce", &["12:11 TG112"]),
        ("mode: enforce", "mode: enforce\n    forwarded: drop", &["13:16 TG112"]),
        ("mode: enforce", "mode: enforce\n    forwarded: [guard]", &["13:16 TG109"]),
        ("rate: 200/s", "rate: 200", &["15:33 TG111"]),
        ("rate: 200/s", "rate: 0/s", &["15:33 TG111"]),
        ("rate: 200/s", "rate: 2G/s", &["15:33 TG111"]),
        ("rate: 200/s", "rate: 200kB/s", &["15:33 TG111"]),
        ("rate: 200/s", "rate: 1.5k/s", &["15:33 TG006"]),
        ("burst: 1000", "burst: 0", &["15:47 TG111"]),
        // The burst lasts for less than a tick of the limiter's clock, which is at most 10 ms.
        ("rate: 200/s, burst: 1000", "rate: 200k/s, burst: 1999", &["15:48 TG111"]),
        ("burst: 1000", "burst: 7G", &["15:47 TG111"]),
        ("burst: 1000", "burst: 99999999999G", &["15:47 TG111"]),
        (", burst: 1000", "", &["15:27 TG102"]),
        ("networks: [office]", "cidrs: [10.1.2.3/8]", &["11:15 TG103"]),
        ("networks: [office]", "cidrs: [\"fd00::1/64\"]", &["11:15 TG103"]),
        ("networks: [office]", "cidrs: [10.0.0.0/33]", &["11:15 TG104"]),
        ("networks: [office]", "cidrs: [10.0.0.0/08]", &["11:15 TG104"]),
        ("networks: [office]", "cidrs: [010.1.2.3]", &["11:15 TG104"]),
        ("networks: [office]", "cidrs: [10.1]", &["11:15 TG104"]),
        ("networks: [office]", "cidrs: [1.2.3.4.]", &["11:15 TG104"]),
        ("networks: [office]", "cidrs: [\"fe80::1%eth0\"]", &["11:15 TG104"]),
        ("networks: [office]", "cidrs: [\"::ffff:10.0.0.1/128\"]", &["11:15 TG104"]),
        ("networks: [office]", "cidrs: [host.example]", &["11:15 TG104"]),
        ("networks: [office]", "cidrs: [0.0.0.0/0, \"::/0\"]", &["11:15 TG201", "11:26 TG201"]),
    ] {
        policy_case(from, to, expected);
    }
}

#[test]
fn forwarded_is_pass_or_guard() {
    for word in ["pass", "guard"] {
        let text =
            POLICY.replace("mode: enforce", &format!("mode: enforce\n    forwarded: {word}"));
        assert_eq!(findings(&[("m.yaml", MANIFEST), ("p.yaml", &text)]), ["loaded"], "{word}");
    }
}

#[test]
fn an_empty_allow_is_an_error() {
    let allow = "allow:\n      roles: [scheduler, worker]\n      networks: [office]\n";
    for (to, expected) in [
        ("allow:\n", &["9:10 TG007"][..]),
        ("allow: {}\n", &["9:12 TG206"]),
        ("allow: []\n", &["9:12 TG109"]),
        ("allow: { roles: [] }\n", &["9:21 TG206"]),
        ("allow: { any: yes }\n", &["9:19 TG006"]),
        ("allow: { any: false }\n", &["9:19 TG006"]),
        ("allow: { any: \"true\" }\n", &["9:19 TG006"]),
        ("allow: { any: true, roles: [worker] }\n", &["9:19 TG203"]),
    ] {
        policy_case(allow, to, expected);
    }
}

#[test]
fn meaning() {
    for (from, to, expected) in [
        ("roles: [scheduler]", "roles: [schedulr]", &["6:13 TG407"][..]),
        ("roles: [scheduler, worker]", "roles: [wrker]", &["10:15 TG407"]),
        ("networks: [office]", "networks: [offices]", &["11:18 TG408"]),
        ("[tcp/9091]", "[tcp/33000]", &["7:13 TG209"]),
        ("[tcp/9091]", "[tcp/any]", &["7:13 TG209"]),
        ("[tcp/9091]", "[udp/60000-61000, tcp/1]", &["7:13 TG209"]),
        (
            "[tcp/9091]\n    match: all",
            "[udp/9]\n    match: new-connections",
            &["7:13 TG203", "15:27 TG203"],
        ),
        ("[tcp/9091]", "[tcp/9091]\n    except: [tcp/9091]", &["5:11 TG204"]),
    ] {
        let at: Vec<&str> = expected.to_vec();
        // A misspelt role or network leaves the correct one unused.
        let text = POLICY.replacen(from, to, 1);
        let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &text)]);
        let found: Vec<&str> = found.iter().filter_map(|f| f.strip_prefix("p.yaml:")).collect();
        assert_eq!(found, at, "{from:?} -> {to:?}");
    }
    let warns = POLICY.replace("[tcp/9091]", "[tcp/9091]\n    except: [tcp/22]");
    let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &warns)]);
    assert_eq!(found, ["loaded", "p.yaml:8:14 TG204"]);
    let packets = POLICY.replace("newConnections:", "packets:");
    let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &packets)]);
    assert_eq!(found, ["loaded", "p.yaml:15:20 TG210"]);
    let bytes = POLICY.replace(
        "newConnections: { rate: 200/s, burst: 1000 }",
        "bytes: { rate: 500kB/s, burst: 9000B }",
    );
    let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &bytes)]);
    assert_eq!(found, ["loaded", "p.yaml:15:40 TG211"]);
    // Exactly what a tick lets through.
    let tick = POLICY.replace("rate: 200/s, burst: 1000", "rate: 200k/s, burst: 2000");
    assert_eq!(findings(&[("m.yaml", MANIFEST), ("p.yaml", &tick)]), ["loaded"]);
    let tiny = bytes.replace("9000B", "63B");
    let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &tiny)]);
    assert_eq!(found, ["p.yaml:15:40 TG111"]);
}

/// Ranges with ports that they leave alone, and ranges from which source ports are taken. The second
/// value replaces the ports of the policy, the third is the findings after `loaded`.
#[test]
fn ranges_with_ports_of_dhcp_and_ntp_and_with_source_ports() {
    for (ports, expected) in [
        ("[tcp/9091, udp/60-70]", &["7:23 TG215"][..]),
        ("[tcp/9091, udp/1-32767]", &["7:23 TG215", "7:23 TG216"]),
        ("[tcp/9091, udp/100-200, udp/500-600]", &["7:23 TG215", "7:36 TG215"]),
        // Named by itself, or taken out.
        ("[tcp/9091, udp/60-70, udp/67, udp/68]", &[]),
        ("[tcp/9091, udp/60-70, udp/67]", &["7:23 TG215"]),
        ("[tcp/9091, udp/60-70]\n    except: [udp/65-69]", &[]),
        ("[tcp/9091, udp/67-67, udp/123]", &[]),
        ("[tcp/9091, tcp/60-70, sctp/1-1000, udp/69-122]", &[]),
        // Nothing but such ports.
        ("[tcp/9091, udp/67-68]", &["7:23 TG215"]),
        // Source ports: the width decides, and where the range lies.
        ("[udp/10000-10099, tcp/1]", &["7:13 TG216"]),
        ("[udp/10000-10098, tcp/1]", &[]),
        ("[udp/600-1023, tcp/1]", &[]),
        ("[udp/61000-65535, tcp/1]", &["7:13 TG216"]),
        ("[tcp/10000-10999]", &["7:13 TG216"]),
        ("[tcp/10000-10998]", &[]),
        ("[sctp/10000-19999, tcp/1]", &[]),
    ] {
        let text = POLICY.replacen("[tcp/9091]", ports, 1);
        let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &text)]);
        let at = expected.iter().map(|e| format!("p.yaml:{e}"));
        let expected: Vec<String> = std::iter::once("loaded".to_owned()).chain(at).collect();
        assert_eq!(found, expected, "{ports}");
    }
    // Replies pass at a service that matches new connections only, or that admits every source.
    let wide = POLICY.replacen("[tcp/9091]", "[tcp/10000-19999]", 1);
    let new_connections = wide.replace("match: all", "match: new-connections");
    let roles = "\n      roles: [scheduler, worker]\n      networks: [office]\n";
    let any = wide.replace(roles, " { any: true }\n");
    for text in [new_connections, any] {
        let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &text)]);
        assert!(!found.iter().any(|line| line.contains("TG216")), "{found:?}");
    }
}

/// A service with nothing but ports that ranges leave alone loads, with a warning.
#[test]
fn a_service_without_ports_is_a_warning() {
    let limits = POLICY.find("    limits:").expect("limits");
    let text = POLICY[..limits].replacen("[tcp/9091]", "[udp/67-68, udp/546-547]", 1);
    let bundle = Bundle::new("m.yaml", [("m.yaml", MANIFEST), ("p.yaml", &text)]);
    let loaded = policy::load("m.yaml".as_ref(), &bundle).expect("a policy that loads");
    let found: Vec<(Severity, String)> =
        loaded.report.diagnostics.iter().map(|d| (d.severity, d.code.to_string())).collect();
    let expected = || (Severity::Warning, "TG215".to_owned());
    assert_eq!(found, [expected(), expected()]);
    let message = &loaded.report.diagnostics[0].message;
    assert!(message.contains("guards no port") && message.contains("udp/68 (DHCP)"), "{message}");
}

#[test]
fn services_that_claim_a_port_equally() {
    let second = "  - name: t
    roles: [ROLE]
    ports: [PORTS]
    match: all
    allow: { any: true }
    mode: observe
";
    for (role, ports, expected) in [
        ("scheduler", "tcp/9091", &["p.yaml:18:13 TG207"][..]),
        ("scheduler", "tcp/9000-9100", &["loaded"]),
        ("worker", "tcp/9091", &["loaded"]),
        ("scheduler", "udp/9091", &["loaded"]),
    ] {
        let service = second.replace("ROLE", role).replace("PORTS", ports);
        let text = format!("{POLICY}{service}");
        let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &text)]);
        assert_eq!(found, expected, "{role} {ports}");
    }
    let again = second.replace("name: t", "name: s").replace("ROLE", "worker");
    let text = format!("{POLICY}{}", again.replace("PORTS", "tcp/1"));
    let found = findings(&[("m.yaml", MANIFEST), ("p.yaml", &text)]);
    assert_eq!(found, ["p.yaml:16:11 TG205"]);
}

/// A width of 65,535 zeros is more than Rust's number formatting supports.
#[test]
fn padding_is_bounded() {
    let zeros = "0".repeat(65_535);
    for (from, expected) in
        [("worker-[0-3]", "9:11 TG113"), ("10.0.1.[0-3]", "10:17 TG113"), ("fd00::1", "7:27 TG113")]
    {
        let to = format!("{}[{zeros}0-{zeros}3]", from.trim_end_matches(['[', '0', '-', '3', ']']));
        manifest_case(from, &to, &[expected]);
    }
    let long = format!("{}-[1000000,1,2,3]", "w".repeat(120));
    manifest_case("worker-[0-3]", &long, &["9:11 TG110"]);
}

#[test]
fn cluster() {
    for (from, to, expected) in [
        ("worker-[0-3]", "worker-[0-4]", &["10:17 TG410"][..]),
        ("worker-[0-3]", "worker-[0-3", &["9:11 TG113"]),
        ("worker-[0-3]", "worker-[3-0]", &["9:11 TG113"]),
        ("worker-[0-3]", "worker[0-9999999]", &["9:11 TG502"]),
        ("name: worker-[0-3]", "name: sched", &["10:17 TG410"]),
        ("\"10.0.1.[0-3]\"", "\"10.0.0.[1-4]\"", &["10:17 TG403"]),
        ("\"10.0.1.[0-3]\"", "\"10.0.1.[253-256]\"", &["10:17 TG104"]),
        ("\"fd00::1\"", "10.0.0.1", &["7:27 TG403"]),
        ("\"fd00::1\"", "\"::1\"", &["7:27 TG402"]),
        ("\"fd00::1\"", "224.0.0.1", &["7:27 TG402"]),
        ("\"fd00::1\"", "0.0.0.0", &["7:27 TG402"]),
        ("\"fd00::1\"", "10.0.0.0/24", &["7:27 TG104"]),
        ("[10.0.0.1, \"fd00::1\"]", "[]", &["7:16 TG411"]),
        ("    addresses: [10.0.0.1, \"fd00::1\"]\n", "", &["6:5 TG102"]),
        ("[eth0]", "[eth/0]", &["4:14 TG106"]),
        ("[eth0]", "[an-interface-name-too-long]", &["4:14 TG106"]),
        ("[p.yaml]", "[p.yaml, ./p.yaml]", &["14:20 TG409"]),
        ("[p.yaml]", "[p.yaml, q.yaml]", &["14:20 TG405"]),
        ("[p.yaml]", "[p.yaml, \"q*.yaml\"]", &["14:20 TG405"]),
        ("[10.9.0.0/24]", "{ file: missing.txt }", &["13:19 TG405"]),
        ("[10.9.0.0/24]", "{ fle: missing.txt }", &["13:13 TG101", "13:13 TG102"]),
        ("[10.9.0.0/24]", "", &["13:9 TG007"]),
        ("[10.9.0.0/24]", "[10.9.0.0/24, 10.9.0.1/24]", &["13:25 TG103"]),
        ("kind: Cluster", "kind: cluster", &["2:7 TG107"]),
    ] {
        manifest_case(from, to, expected);
    }
    let twice = MANIFEST.replace(
        "networks:",
        "  - name: worker-2\n    addresses: [10.0.2.1]\n    roles: [worker]\nnetworks:",
    );
    let found = findings(&[("m.yaml", &twice), ("p.yaml", POLICY)]);
    assert_eq!(found, ["m.yaml:12:11 TG401"]);
    let unused = MANIFEST.replace("networks:", "networks:\n  home: [10.8.0.0/24]");
    let found = findings(&[("m.yaml", &unused), ("p.yaml", POLICY)]);
    assert_eq!(found, ["loaded", "m.yaml:13:3 TG208"]);
    assert_eq!(findings(&[]), ["m.yaml:1:1 TG010"]);
    assert_eq!(findings(&[("m.yaml", POLICY)]), ["m.yaml:1:1 TG107"]);
}

#[test]
fn list_files() {
    let manifest = MANIFEST.replace("[10.9.0.0/24]", "{ file: l.txt }");
    let good = "# partners\r\n10.9.0.0/24 # the office\r\n\r\n  fd09::/64\n10.8.0.1";
    let found = findings(&[("m.yaml", &manifest), ("p.yaml", POLICY), ("l.txt", good)]);
    assert_eq!(found, ["loaded"]);
    let bad = "10.9.0.1/24\n# 10.9.0.1/24\n\t10.9\n0.0.0.0/0\nx\u{202e}\n";
    let found = findings(&[("m.yaml", &manifest), ("p.yaml", POLICY), ("l.txt", bad)]);
    assert_eq!(
        found,
        [
            "l.txt:1:1 TG103",
            "l.txt:3:2 TG104",
            "l.txt:4:1 TG201",
            "l.txt:5:1 TG104",
            "l.txt:5:2 TG005"
        ]
    );
    let many = "10.9\n".repeat(250);
    let texts = [("m.yaml", &*manifest), ("p.yaml", POLICY), ("l.txt", &*many)];
    let error = policy::load("m.yaml".as_ref(), &Bundle::new("m.yaml", texts)).unwrap_err();
    assert_eq!(error.report.diagnostics.len(), 100);
    assert_eq!(error.report.hidden(), 150);
    let all = Severity::Error;
    assert_eq!(error.report.count(all), 250);
}

#[test]
fn errors_of_all_files_at_once() {
    let manifest = MANIFEST
        .replace("[eth0]", "[\"\"]")
        .replace("policies: [p.yaml]", "policies: [p.yaml, q.yaml, r.yaml]");
    let p = POLICY.replace("tcp/9091", "tcp/0").replace("enforce", "on");
    let q = POLICY.replace("name: p", "name: q").replace("[scheduler]", "[missing]");
    let r = "name: &r [";
    let found = findings(&[("m.yaml", &manifest), ("p.yaml", &p), ("q.yaml", &q), ("r.yaml", r)]);
    assert_eq!(
        found,
        [
            "m.yaml:4:14 TG106",
            "p.yaml:7:13 TG105",
            "p.yaml:12:11 TG112",
            "q.yaml:6:13 TG407",
            "r.yaml:1:7 TG003",
            "r.yaml:1:10 TG001",
        ]
    );
}
