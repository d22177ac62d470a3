//! Rules about policies that are probably mistakes: for each, documents that break it and documents
//! that nearly do; and the effect of comments and fixes on findings.

use std::path::Path;

use guard_user::policy::{
    Bundle,
    lint::fix,
    resolve::load::Loader,
    syntax::{
        diagnostic::{self, Report},
        rules,
    },
};

/// Every role has both address families, so lint finds nothing.
const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: demo
interfaces: [eth0]
nodes:
  - { name: sched-0, addresses: [10.0.0.1, \"fd00::1\"], roles: [scheduler] }
  - { name: \"server-[0-1]\", addresses: [\"10.0.1.[0-1]\", \"fd00::1:[0-1]\"], roles: [server] }
  - { name: \"worker-[0-3]\", addresses: [\"10.0.2.[0-3]\", \"fd00::2:[0-3]\"], roles: [worker] }
networks:
  management: [10.9.0.0/24, \"fd00:9::/64\"]
policies: [p.yaml]
";

const POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: p
services:
  - name: scheduler
    roles: [scheduler]
    ports: [tcp/9091]
    match: all
    allow:
      roles: [scheduler, server, worker]
      networks: [management]
    mode: enforce
    limits:
      perSource:
        newConnections: { rate: 200/s, burst: 1000 }
      total:
        newConnections: { rate: 200/s, burst: 1000 }
  - name: members
    roles: [scheduler, server, worker]
    ports: [tcp/any]
    except: [tcp/22]
    match: new-connections
    allow: { roles: [scheduler, server, worker] }
    mode: enforce
";

fn lint(manifest: &str, policy: &str) -> Report {
    let texts = [("m.yaml", manifest), ("p.yaml", policy)];
    let bundle = Bundle::new("m.yaml", texts);
    let mut loader = Loader::new(&bundle);
    loader.check_manifest("m.yaml".as_ref());
    loader.check_ignores();
    let (report, ..) = loader.finish("m.yaml".as_ref());
    report
}

/// Returns `file:line:column CODE` for each finding, in order.
fn found(report: &Report) -> Vec<String> {
    let place = |d: &diagnostic::Diagnostic| report.sources.describe(d.place);
    report.diagnostics.iter().map(|d| format!("{} {}", place(d), d.code)).collect()
}

/// Applies replacements in order, each in the manifest if it contains the text, else in the policy.
fn change(changes: &[(&str, &str)]) -> (String, String) {
    let (mut manifest, mut policy) = (MANIFEST.to_owned(), POLICY.to_owned());
    for (from, to) in changes {
        if manifest.contains(from) {
            manifest = manifest.replacen(from, to, 1);
        } else {
            assert!(policy.contains(from), "{from:?} is in neither document");
            policy = policy.replacen(from, to, 1);
        }
    }
    (manifest, policy)
}

#[track_caller]
fn case(changes: &[(&str, &str)], expected: &[&str]) {
    let (manifest, policy) = change(changes);
    let report = lint(&manifest, &policy);
    assert_eq!(found(&report), expected, "{changes:?}\n{report}");
}

#[test]
fn the_base_of_all_cases_is_clean() {
    case(&[], &[]);
}

#[test]
fn one_family_of_two() {
    // A network is reported once although two services admit it.
    case(
        &[
            (", \"fd00:9::/64\"]", "]"),
            (
                "allow: { roles: [scheduler, server, worker] }",
                "allow: { roles: [scheduler, server, worker], networks: [management] }",
            ),
        ],
        &["m.yaml:10:3 TG202"],
    );
    case(&[("[10.9.0.0/24, \"fd00:9::/64\"]", "[\"fd00:9::/64\"]")], &["m.yaml:10:3 TG202"]);
    // Prefixes in the policy itself.
    case(
        &[("networks: [management]\n", "cidrs: [10.8.0.0/16]\n")],
        &["m.yaml:10:3 TG208", "p.yaml:11:15 TG202"],
    );
    case(
        &[("networks: [management]\n", "cidrs: [10.8.0.0/16, \"fd00:8::/32\"]\n")],
        &["m.yaml:10:3 TG208"],
    );
    // Each has one family; together they have both.
    case(
        &[
            (", \"fd00:9::/64\"]", "]"),
            (
                "networks: [management]\n",
                "networks: [management]\n      cidrs: [\"fd00:8::/32\"]\n",
            ),
        ],
        &[],
    );
    // A single node that lacks a family.
    case(&[("[10.0.0.1, \"fd00::1\"]", "[10.0.0.1]")], &["m.yaml:6:13 TG202"]);
    case(&[("[10.0.0.1, \"fd00::1\"]", "[\"fd00::1\"]")], &["m.yaml:6:13 TG202"]);
    // A cluster that has only one family is intentional.
    let four = [
        ("[10.0.0.1, \"fd00::1\"]", "[10.0.0.1]"),
        (", \"fd00::1:[0-1]\"", ""),
        (", \"fd00::2:[0-3]\"", ""),
        (", \"fd00:9::/64\"]", "]"),
    ];
    case(&four, &[]);
    case(&four[..2], &[]);
}

#[test]
fn services_that_never_match() {
    let narrow = "  - name: pinned
    roles: [scheduler, server, worker]
    ports: [tcp/9091]
    match: all
    allow: { roles: [scheduler, server, worker] }
    mode: enforce
";
    // Narrower services take all ports on every node where the service runs.
    case(
        &[
            ("ports: [tcp/9091]", "ports: [tcp/9090-9091]"),
            (
                "  - name: members\n",
                &format!(
                    "{narrow}{}  - name: members\n",
                    narrow.replace("pinned", "other").replace("9091", "9090")
                ),
            ),
        ],
        &["p.yaml:5:11 TG204"],
    );
    // One port remains.
    case(
        &[
            ("ports: [tcp/9091]", "ports: [tcp/9090-9091]"),
            ("  - name: members\n", &format!("{narrow}  - name: members\n")),
        ],
        &[],
    );
    // The narrower service runs on the servers only, so the port remains on other nodes.
    let elsewhere = narrow
        .replace("roles: [scheduler, server, worker]\n    ports", "roles: [server]\n    ports");
    case(
        &[
            ("ports: [tcp/9091]", "ports: [tcp/9091-9092]"),
            ("  - name: members\n", &format!("{elsewhere}  - name: members\n")),
        ],
        &[],
    );
}

#[test]
fn allow_lists_that_admit_nearly_all_addresses() {
    let any = ("allow: { roles: [scheduler, server, worker] }", "allow: { any: true }");
    case(&[any], &["p.yaml:23:19 TG212"]);
    let limited = "allow: { any: true }\n    limits: { total: { newConnections: { rate: 10/s, burst: 100 } } }";
    case(&[(any.0, limited)], &[]);
    case(
        &[
            (any.0, "allow: { any: true }"),
            (
                "match: new-connections\n    allow: { any: true }\n    mode: enforce",
                "match: new-connections\n    allow: { any: true }\n    mode: observe",
            ),
        ],
        &[],
    );
    let admit = |cidrs: &str| format!("allow: {{ cidrs: [{cidrs}] }}");
    let six = "\"fd00:8::/32\"";
    for (cidrs, expected) in [
        (format!("0.0.0.0/1, 128.0.0.0/1, {six}"), &["p.yaml:23:22 TG213"][..]),
        (format!("128.0.0.0/1, {six}"), &["p.yaml:23:22 TG213"]),
        (format!("0.0.0.0/2, 64.0.0.0/2, {six}"), &["p.yaml:23:22 TG213"]),
        (format!("0.0.0.0/2, 64.0.0.0/3, {six}"), &[]),
        ("10.0.0.0/8, \"2000::/4\"".to_owned(), &["p.yaml:23:22 TG213"]),
        ("10.0.0.0/8, \"2000::/5\"".to_owned(), &[]),
        ("10.0.0.0/8, \"8000::/1\", \"4000::/2\"".to_owned(), &[]),
        ("10.0.0.0/8, \"8000::/1\", \"::/1\"".to_owned(), &["p.yaml:23:22 TG213"]),
    ] {
        case(&[(any.0, &admit(&cidrs))], expected);
    }
    // Prefixes of a network count as well.
    case(
        &[("[10.9.0.0/24, \"fd00:9::/64\"]", "[0.0.0.0/1, 128.0.0.0/1, \"fd00:9::/64\"]")],
        &["p.yaml:11:18 TG213"],
    );
}

#[test]
fn limits_that_the_start_of_a_job_exceeds() {
    let total = ("      total:\n        newConnections: { rate: 200/s, burst: 1000 }", "");
    // With 2 servers and 4 workers, the scheduler gets 12 connections.
    for (burst, expected) in [(12, &[][..]), (11, &["p.yaml:17:27 TG214"])] {
        let to = format!("      total:\n        newConnections: {{ rate: 200/s, burst: {burst} }}");
        case(&[(total.0, &to)], expected);
    }
    // With the pinned port, the scheduler gets none on other ports; a server gets 5, a worker 3.
    for (burst, expected) in [(5, &[][..]), (4, &["p.yaml:25:42 TG214"])] {
        let limit = format!("{{ total: {{ newConnections: {{ rate: 10/s, burst: {burst} }} }} }}");
        let to = format!("worker] }}\n    mode: enforce\n    limits: {limit}");
        case(&[("worker] }\n    mode: enforce", &to)], expected);
    }
    // A process that waits for the scheduler retries every 100 to 200 ms, so the rate must allow that.
    let each = "      perSource:\n        newConnections: { rate: 200/s, burst: 1000 }";
    for (limit, expected) in [
        ("{ rate: 9/s, burst: 2 }", &[][..]),
        ("{ rate: 8/s, burst: 100 }", &["p.yaml:15:27 TG214"]),
        ("{ rate: 20/s, burst: 1 }", &["p.yaml:15:27 TG214"]),
    ] {
        case(&[(each, &format!("      perSource:\n        newConnections: {limit}"))], expected);
    }
    // Without servers the job is not a parameter server.
    case(
        &[
            ("roles: [server] }", "roles: [worker] }"),
            (
                "roles: [scheduler, server, worker]\n      networks",
                "roles: [scheduler, worker]\n      networks",
            ),
            (
                "roles: [scheduler, server, worker]\n    ports",
                "roles: [scheduler, worker]\n    ports",
            ),
            (
                "allow: { roles: [scheduler, server, worker] }",
                "allow: { roles: [scheduler, worker] }",
            ),
            (total.0, "      total:\n        newConnections: { rate: 200/s, burst: 3 }"),
        ],
        &[],
    );
}

#[test]
fn operators_who_lose_ssh_access() {
    // The members-only service covers ssh and admits members only.
    case(&[("    except: [tcp/22]\n", "")], &["p.yaml:20:13 TG301", "p.yaml:20:13 TG302"]);
    let manage = |roles: &str| format!("allow: {{ {roles}networks: [management] }}");
    let members = "allow: { roles: [scheduler, server, worker] }";
    case(
        &[
            ("    except: [tcp/22]\n", ""),
            (members, &manage("roles: [scheduler, server, worker], ")),
        ],
        &[],
    );
    case(
        &[
            ("    except: [tcp/22]\n", ""),
            (
                members,
                "allow: { roles: [scheduler, server, worker], cidrs: [10.7.0.0/16, \"fd00:7::/32\"] }",
            ),
        ],
        &["p.yaml:20:13 TG302"],
    );
    // A narrower service for ssh admits operators.
    let ssh = "  - name: ssh
    roles: [scheduler, server, worker]
    ports: [tcp/22]
    match: all
    allow: { networks: [management] }
    mode: enforce
";
    case(
        &[
            ("    except: [tcp/22]\n", ""),
            ("  - name: members\n", &format!("{ssh}  - name: members\n")),
        ],
        &[],
    );
    // A narrower service for ssh that does not.
    case(
        &[(
            "  - name: members\n",
            &format!(
                "{}  - name: members\n",
                ssh.replace("networks: [management]", "roles: [worker]")
            ),
        )],
        &["p.yaml:20:13 TG301", "p.yaml:20:13 TG302"],
    );
}

#[test]
fn members_missing_in_allow_lists() {
    let all = "roles: [scheduler, server, worker]\n      networks";
    case(&[(all, "roles: [scheduler, server]\n      networks")], &["p.yaml:10:15 TG303"]);
    // The scheduler is a single host and need not reach itself.
    case(&[(all, "roles: [server, worker]\n      networks")], &[]);
    // Only one of several roles is admitted: that is a choice.
    case(&[(all, "roles: [server]\n      networks")], &[]);
    // A node that also has an admitted role is admitted.
    case(
        &[
            (all, "roles: [scheduler, server]\n      networks"),
            ("roles: [worker] }", "roles: [worker, server] }"),
        ],
        &[],
    );
    case(
        &[(
            "addresses: [10.0.0.1, \"fd00::1\"], roles: [scheduler] }",
            "addresses: [10.0.0.1, \"fd00::1\"], roles: [scheduler] }\n  - { name: idle, addresses: [10.0.0.2, \"fd00::f\"], roles: [] }",
        )],
        &["m.yaml:7:13 TG303"],
    );
}

#[test]
fn ports_of_a_framework_that_no_service_covers() {
    let ray = [
        ("ports: [tcp/9091]", "ports: [tcp/6379]"),
        ("except: [tcp/22]", "except: [tcp/22, tcp/8265, tcp/10001]"),
    ];
    case(&ray, &["p.yaml:7:13 TG404", "p.yaml:7:13 TG404"]);
    case(&ray[..1], &[]);
    case(&[("ports: [tcp/9091]", "ports: [tcp/6379, tcp/8265]"), ray[1]], &["p.yaml:7:13 TG404"]);
    // A wide range does not refer to any particular port.
    case(&[("ports: [tcp/9091]", "ports: [tcp/5000-7000]"), ray[1]], &["p.yaml:7:13 TG216"]);
}

#[test]
fn addresses_outside_the_networks_of_the_cluster() {
    case(&[("10.0.2.[0-3]", "10.1.2.[0-3]")], &[]);
    case(&[("[10.0.0.1,", "[10.1.0.1,")], &["m.yaml:6:34 TG412"]);
    case(&[("\"fd00::1\"]", "\"fd01::1\"]")], &["m.yaml:6:34 TG412"]);
    let own = |prefixes: &str| format!("networks:\n  cluster: [{prefixes}]");
    case(&[("networks:", &own("10.0.0.0/16, \"fd00::/64\""))], &["m.yaml:10:3 TG208"]);
    case(
        &[("networks:", &own("10.0.1.0/24, 10.0.2.0/24, \"fd00::/64\""))],
        &["m.yaml:6:34 TG412", "m.yaml:10:3 TG208"],
    );
    case(
        &[
            ("networks:", &own("10.0.0.0/16, \"fd00::/112\"")),
            ("fd00::1:[0-1]", "fd00::[a-b]"),
            ("fd00::2:[0-3]", "fd00::[0-3]:2"),
        ],
        &["m.yaml:8:41 TG412", "m.yaml:8:41 TG412", "m.yaml:8:41 TG412", "m.yaml:10:3 TG208"],
    );
}

#[test]
fn prefixes_that_are_listed_twice() {
    let allow = "allow: { roles: [scheduler, server, worker] }";
    case(
        &[(
            allow,
            "allow: { cidrs: [10.8.0.0/16, 10.0.0.0/8, 10.8.0.0/16, \"fd00::/16\", \"fd00:1::/32\"] }",
        )],
        &["p.yaml:23:22 TG413", "p.yaml:23:47 TG413", "p.yaml:23:73 TG413"],
    );
    case(&[(allow, "allow: { cidrs: [10.8.0.0/16, 10.9.0.0/16, \"fd00::/16\"] }")], &[]);
}

#[test]
fn comments_silence_findings_of_their_line() {
    let any = "allow: { roles: [scheduler, server, worker] }";
    let behind = "allow: { any: true }  # trainguard: ignore[TG212] public by decision 12";
    let (manifest, policy) = change(&[(any, behind)]);
    let report = lint(&manifest, &policy);
    assert_eq!((found(&report), report.ignored()), (vec![], 1));

    case(
        &[(
            any,
            "# trainguard: ignore[TG212] public\n    # by decision 12\n    allow: { any: true }",
        )],
        &[],
    );
    case(
        &[
            (
                "apiVersion: trainguard/v1\nkind: Policy",
                "# trainguard: ignore-file[TG212] public\napiVersion: trainguard/v1\nkind: Policy",
            ),
            (any, "allow: { any: true }"),
        ],
        &[],
    );
    // The comment is on another line, names another rule, lacks a reason, or is part of a string.
    case(
        &[(any, "allow: { any: true }\n    # trainguard: ignore[TG212] late")],
        &["p.yaml:23:19 TG212", "p.yaml:24:5 TG901"],
    );
    case(
        &[(any, "allow: { any: true }  # trainguard: ignore[TG213] x")],
        &["p.yaml:23:19 TG212", "p.yaml:23:27 TG901"],
    );
    case(&[(any, "allow: { any: true }  # trainguard: ignore[TG212]")], &["p.yaml:23:27 TG902"]);
    case(
        &[
            (
                "name: p\n",
                "name: p\ndescription: \"x # trainguard: ignore-file[TG212] no comment\"\n",
            ),
            (any, "allow: { any: true }"),
        ],
        &["p.yaml:24:19 TG212"],
    );
    // Unused, misplaced, with an unknown code, or for a rule that cannot be silenced.
    case(
        &[("mode: enforce", "mode: enforce # trainguard: ignore[TG212, TG204] x")],
        &["p.yaml:12:19 TG901", "p.yaml:12:19 TG901"],
    );
    case(&[("name: p\n", "name: p # trainguard: ignore-file[TG212] x\n")], &["p.yaml:3:9 TG903"]);
    for wrong in [
        "ignore[TG301] x",
        "ignore[TG002] x",
        "ignore[TG999] x",
        "ignore[] x",
        "ignore TG212",
        "silence",
        "ignore[TG901] x",
        "ignore[TG212",
    ] {
        case(
            &[("mode: enforce", &format!("mode: enforce # trainguard: {wrong}"))],
            &["p.yaml:12:19 TG903"],
        );
    }
    // A comment does not silence an error.
    case(
        &[("mode: enforce", "# trainguard: ignore[TG112] x\n    mode: enforced")],
        &["p.yaml:12:5 TG901", "p.yaml:13:11 TG112"],
    );
}

#[test]
fn rules_that_the_caller_allows() {
    let (manifest, policy) = change(&[("    except: [tcp/22]\n", "")]);
    let texts = [("m.yaml", manifest), ("p.yaml", policy)];
    let bundle = Bundle::new("m.yaml", texts);
    let mut loader = Loader::new(&bundle);
    loader.allow([rules::SSH]);
    loader.check_manifest("m.yaml".as_ref());
    let (report, ..) = loader.finish("m.yaml".as_ref());
    assert_eq!((found(&report), report.ignored()), (vec!["p.yaml:20:13 TG302".to_owned()], 1));
}

/// Applies all fixes, compares the documents, and compares the findings that remain.
#[track_caller]
fn fixed(changes: &[(&str, &str)], expected: &[(&str, &str)], left: &[&str]) {
    let (mut manifest, mut policy) = change(changes);
    loop {
        let fixes = fix::apply(&lint(&manifest, &policy));
        for fixed in &fixes {
            let manifests = fixed.path == Path::new("m.yaml");
            let text = if manifests { &mut manifest } else { &mut policy };
            assert_eq!(*text, fixed.before);
            text.clone_from(&fixed.after);
        }
        if fixes.is_empty() {
            break;
        }
    }
    assert_eq!((manifest.clone(), policy.clone()), change(expected));
    assert_eq!(found(&lint(&manifest, &policy)), left);
}

#[test]
fn fixes_are_safe_and_leave_nothing_behind() {
    let allow = "allow: { roles: [scheduler, server, worker] }";
    fixed(&[("burst: 1000", "burst: \"1000\"")], &[], &[]);
    fixed(&[("name: demo", "name: on")], &[("name: demo", "name: \"on\"")], &[]);
    fixed(&[("[10.0.0.1,", "[\"::ffff:10.0.0.1\",")], &[], &[]);
    // No fix for a prefix or a host list, because the fix would be incomplete.
    let prefix = [("10.9.0.0/24", "\"::ffff:10.9.0.0/120\"")];
    fixed(&prefix, &prefix, &["m.yaml:10:16 TG104"]);
    let list = [("10.0.1.[0-1]", "::ffff:10.0.1.[0-1]")];
    fixed(&list, &list, &["m.yaml:7:41 TG104", "m.yaml:7:41 TG104"]);
    fixed(&[("apiVersion", "\u{feff}apiVersion")], &[], &[]);
    fixed(&[("except: [tcp/22]", "except: [tcp/22, udp/5]")], &[], &[]);
    fixed(&[("except: [tcp/22]", "except: [udp/5, tcp/22]")], &[], &[]);
    fixed(
        &[("except: [tcp/22]", "except:\n      - tcp/22\n      - udp/5")],
        &[("except: [tcp/22]", "except:\n      - tcp/22")],
        &[],
    );
    // No fix if a comment follows, because it may belong to something else, or for the last entry.
    fixed(
        &[("except: [tcp/22]", "except:\n      - tcp/22\n      - udp/5 # why")],
        &[("except: [tcp/22]", "except:\n      - tcp/22\n      - udp/5 # why")],
        &["p.yaml:23:9 TG204"],
    );
    fixed(
        &[("except: [tcp/22]", "except: [udp/5]")],
        &[("except: [tcp/22]", "except: [udp/5]")],
        &["p.yaml:20:13 TG301", "p.yaml:20:13 TG302", "p.yaml:21:14 TG204"],
    );
    let six = "\"fd00::/16\"";
    fixed(
        &[(allow, &format!("allow: {{ cidrs: [10.8.0.0/16, {six}, 10.8.0.0/16, 10.8.1.0/24] }}"))],
        &[(allow, &format!("allow: {{ cidrs: [10.8.0.0/16, {six}] }}"))],
        &[],
    );
    fixed(&[("mode: enforce", "mode: enforce  # trainguard: ignore[TG212] x")], &[], &[]);
    fixed(
        &[("    mode: enforce", "    # trainguard: ignore[TG212] x\n    mode: enforce")],
        &[],
        &[],
    );
    // No fix if the intention is unknown: either the address or the prefix length may be wrong.
    fixed(
        &[("10.9.0.0/24", "10.9.0.5/24")],
        &[("10.9.0.0/24", "10.9.0.5/24")],
        &["m.yaml:10:16 TG103"],
    );
}
