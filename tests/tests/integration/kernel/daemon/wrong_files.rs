//! Invalid files of many kinds while a daemon runs: each error is named, and the running generation
//! stays.

use std::{
    fs,
    os::unix::fs::symlink,
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{MANIFEST, MEMBER, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT};
use serde_json::Value;

/// Description, the manifest (or none), the policy (or none), and the expected message.
type Case = (&'static str, Option<String>, Option<String>, &'static str);

/// Returns a policy with `count` services for workers.
fn services(count: usize, limits: &str) -> String {
    let (head, _) = POLICY.split_once("  - name").expect("a service");
    let service = |nth| {
        format!(
            "  - name: s{nth}\n    roles: [scheduler]\n    ports: [tcp/{nth}]\n    match: all\n    \
             allow: {{ roles: [worker] }}\n    mode: enforce\n{limits}"
        )
    };
    head.to_owned() + &(1..=count).map(service).collect::<String>()
}

fn cases() -> Vec<Case> {
    let limits = "    limits: { perSource: { newConnections: { rate: 10/s, burst: 20 } } }\n";
    let workers = "  - name: other-[0000-9999]\n    addresses: [\"10.78.[0-39].[0-249]\"]\n    \
                   roles: [worker]\npolicies:";
    let manifest = |from: &str, to: &str| Some(MANIFEST.replace(from, to));
    let policy = |from: &str, to: &str| Some(POLICY.replace(from, to));
    let again = |address: &str| {
        format!("  - name: node\n    addresses: [{address}]\n    roles: [worker]\npolicies:")
    };
    vec![
        ("unknown field", None, policy("mode: enforce", "mode: enforce\n    modus: x"), "modus"),
        ("no such role", None, policy("[worker]", "[wroker]"), "wroker"),
        ("duplicate node", manifest("policies:", &again("10.77.0.50")), None, "twice"),
        ("duplicate address", manifest("10.77.0.[20-21]", "10.77.0.[10-11]"), None, "10.77.0.10"),
        ("missing policy", manifest("policy.yaml", "absent.yaml"), None, "absent.yaml"),
        ("empty manifest", Some(String::new()), None, "empty"),
        ("empty policy", None, Some(String::new()), "empty"),
        ("too large", Some("#".repeat(100 << 20)), None, "104857600 bytes"),
        ("brackets", Some("[".repeat(10_000)), None, "deep"),
        ("braces", None, Some("{a: ".repeat(10_000)), "deep"),
        ("no YAML", Some("\u{0}\u{1}\u{2}".to_owned()), None, "cluster.yaml:1:1"),
        ("this node is gone", manifest("name: node\n", "name: nodes\n"), None, "no node `node`"),
        ("no interfaces", manifest("interfaces: [eth0]\n", ""), None, "no interfaces"),
        ("null allow", None, policy("allow:\n      roles: [worker]", "allow:"), "allow"),
        ("too many services", None, Some(services(65, "")), "would run 65 services, at most 64"),
        (
            "too many limiter states",
            manifest("policies:", workers),
            Some(services(53, limits)),
            "530212 limiter states",
        ),
        (
            "host bits",
            None,
            policy("roles: [worker]\n    mode", "cidrs: [10.0.0.1/8]\n    mode"),
            "10.0.0.1/8",
        ),
    ]
}

#[test]
fn each_invalid_file_is_named_and_the_running_generation_stays() {
    let Some(mut node) = Node::new("wrong_files/running") else { return };
    node.start(&[]);
    let before = node.wait("enforcing", |status| status["enforcing"] == true);
    for (what, manifest, policy, expected) in cases() {
        for (file, text) in [("cluster.yaml", manifest), ("policy.yaml", policy)] {
            if let Some(text) = text {
                node.write(file, &text);
            }
        }
        let status = node.wait(what, |status| status["up_to_date"] == false);
        let problems = status["problems"].to_string().to_lowercase();
        assert!(
            problems.contains(&expected.to_lowercase()),
            "{what}: `{expected}` not in {problems}"
        );
        assert!(problems.len() < 20_000, "{what}: {} bytes of problems", problems.len());
        for fact in ["generation", "policy_hash", "enforcing", "interfaces"] {
            assert_eq!(status[fact], before[fact], "{what}: {fact}");
        }
        assert!(!node.answers(UNLISTED[0], PORT), "{what}: an unlisted source gets in");
        assert!(node.answers(MEMBER[0], PORT), "{what}: a member does not get in");
        node.write("cluster.yaml", MANIFEST);
        node.write("policy.yaml", POLICY);
        let status = node.wait("up to date again", |status| status["up_to_date"] == true);
        assert_eq!(status["generation"], before["generation"], "{what}: the policy is unchanged");
    }
}

#[test]
fn a_daemon_that_starts_with_an_invalid_file_uses_the_last_known_good_policy() {
    let Some(mut node) = Node::new("wrong_files/start") else { return };
    node.write("cluster.yaml", "not: ours\n");
    let output = node.start_expecting_exit(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("cluster.yaml") && stderr.contains("no policy to put into force"),
        "{stderr}"
    );

    node.write("cluster.yaml", MANIFEST);
    node.start(&[]);
    let before = node.wait("enforcing", |status| status["enforcing"] == true);
    for wrong in [Some("not: ours\n"), Some(""), None] {
        node.signal("TERM");
        // As after a reboot: the pins are gone, the state directory is not.
        let mut detach = node.trainguard(&["detach"]);
        let output = detach.arg("--bpf-dir").arg(node.pins()).output().expect("detach");
        assert!(output.status.success());
        match wrong {
            Some(text) => node.write("cluster.yaml", text),
            None => fs::remove_file(node.path("cluster.yaml")).expect("removing"),
        }
        node.start(&[]);
        let status = node.wait("enforcing", |status| status["enforcing"] == true);
        assert_eq!(status["up_to_date"], false, "{wrong:?}");
        assert_eq!(status["policy_hash"], before["policy_hash"], "{wrong:?}");
        assert!(!node.answers(UNLISTED[0], PORT), "{wrong:?}");
        assert!(node.answers(MEMBER[0], PORT), "{wrong:?}");
    }
}

#[test]
fn files_are_followed_after_any_kind_of_replacement() {
    let Some(mut node) = Node::new("wrong_files/follow") else { return };
    // A ConfigMap: the file is a link into a directory that is itself a link.
    for (version, role) in [("one", "worker"), ("two", "scheduler")] {
        fs::create_dir(node.path(version)).expect("a directory");
        let policy = POLICY.replace("[worker]", &format!("[{role}]"));
        fs::write(node.path(version).join("policy.yaml"), policy).expect("a policy");
    }
    symlink("one", node.path("data")).expect("a link");
    fs::remove_file(node.path("policy.yaml")).expect("removing");
    symlink("data/policy.yaml", node.path("policy.yaml")).expect("a link");
    node.start(&[]);
    let is = |generation: u64| move |status: &Value| status["generation"] == generation;
    node.wait("the first", is(1));
    assert!(node.answers(MEMBER[0], PORT));

    symlink("two", node.path("data.next")).expect("a link");
    fs::rename(node.path("data.next"), node.path("data")).expect("the swap");
    node.wait("the swapped one", is(2));
    assert!(!node.answers(MEMBER[0], PORT), "workers are no longer admitted");

    let policy = node.path("two").join("policy.yaml");
    fs::write(&policy, POLICY).expect("writing in place");
    node.wait("the one rewritten in place", is(3));
    assert!(node.answers(MEMBER[0], PORT));

    // A slow writer: half a policy is at worst an invalid file, never a new policy.
    let text = POLICY.replace("[worker]", "[scheduler]");
    let (first, second) = text.split_at(text.len() / 2);
    fs::write(&policy, first).expect("writing the first half");
    thread::sleep(Duration::from_millis(700));
    assert_eq!(node.generation(), 3, "half a policy");
    assert!(node.answers(MEMBER[0], PORT));
    fs::write(&policy, [first, second].concat()).expect("writing the rest");
    node.wait("the finished one", is(4));
    assert!(!node.answers(MEMBER[0], PORT));

    // Reload on request, without a change.
    let loads = |node: &Node| node.log().matches("policy unchanged").count();
    let before = loads(&node);
    node.signal("HUP");
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while loads(&node) == before {
        assert!(Instant::now() < deadline, "not loaded again: {}", node.log());
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(node.generation(), 4);
}
