//! Files that change often, in unusual ways, or by one line among ten thousand.

use std::{
    fs,
    os::unix::fs::symlink,
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{MANIFEST, MEMBER, Node, POLICY, PORT, UNLISTED, enforcing};
use serde_json::Value;

/// Case 126: the identical file written a hundred times a second, and as many signals: no new
/// generation, no lost count, and the daemon still answers.
#[test]
fn rewriting_an_identical_file_makes_no_new_generation() {
    let Some(mut node) = Node::new("reloads/identical") else { return };
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    assert!(!node.answers(UNLISTED[0], PORT));
    let dropped = node.packets("not_allowed");
    let began = Instant::now();
    for round in 0..300_u64 {
        node.write("policy.yaml", POLICY);
        node.signal("HUP");
        if round % 20 == 0 {
            node.status().expect("a status");
        }
        let next = Duration::from_millis(10 * (round + 1));
        thread::sleep(next.saturating_sub(began.elapsed()));
    }
    let status = node.wait("quiet", |status| status["source"]["changed"] == false);
    for fact in ["generation", "program", "policy_hash", "in_force_since", "up_to_date"] {
        assert_eq!(status[fact], before[fact], "{fact}");
    }
    assert!(node.packets("not_allowed") >= dropped);
    node.assert_guarded();
}

/// Case 127: files replaced by renaming, by swapping a link, by truncating and writing slowly, or
/// changed between two checks. One of the two policies is in force, never a third, and the attacker
/// never gets in.
#[test]
fn only_complete_policies_come_into_force() {
    let Some(mut node) = Node::new("reloads/swaps") else { return };
    node.start(&["--timing", "files=50ms,rest=1s"]);
    let one = node.wait("enforcing", enforcing);
    let other = POLICY.replace("udp/9091", "udp/9092");
    node.write("policy.yaml", &other);
    let hash = |status: &Value| status["policy_hash"].as_str().expect("a hash").to_owned();
    let two = node.wait("the other one", |status| status["policy_hash"] != one["policy_hash"]);
    let known = [hash(&one), hash(&two)];
    for (version, text) in [("v1", POLICY), ("v2", &other)] {
        fs::create_dir(node.path(version)).expect("a directory");
        fs::write(node.path(version).join("policy.yaml"), text).expect("a policy");
    }
    let path = node.path("policy.yaml");
    for round in 0..12 {
        let text = if round % 2 == 0 { POLICY } else { &other };
        match round % 3 {
            0 => node.write("policy.yaml", text),
            1 => {
                let data = node.path("data.next");
                symlink(if round % 2 == 0 { "v1" } else { "v2" }, &data).expect("a link");
                fs::rename(data, node.path("data")).expect("the swap");
                symlink("data/policy.yaml", node.path("link.next")).expect("a link");
                fs::rename(node.path("link.next"), &path).expect("the swap");
            }
            _ => {
                // In place, in pieces; after each, the file rests long enough to be checked.
                fs::remove_file(&path).expect("removing");
                for end in [text.len() / 3, 2 * text.len() / 3, text.len()] {
                    fs::write(&path, &text[..end]).expect("writing");
                    thread::sleep(Duration::from_millis(300));
                    let status = node.status().expect("a status");
                    assert!(known.contains(&hash(&status)), "round {round}: {status}");
                }
            }
        }
        assert!(!node.answers(UNLISTED[0], PORT), "round {round}");
        assert!(node.answers(MEMBER[0], PORT), "round {round}");
        let wanted = &known[round % 2];
        let status = node.wait("followed", |status| hash(status) == *wanted);
        assert_eq!(status["enforcing"], true, "round {round}");
    }
}

/// Case 130: a host that is removed from a list of ten thousand is cut off by the next reload, and its
/// bucket is gone.
#[test]
fn a_member_that_is_removed_from_ten_thousand_is_cut_within_one_reload() {
    let Some(mut node) = Node::new("reloads/removed") else { return };
    let many = "  - name: other-[0000-9999]\n    addresses: [\"10.78.[0-39].[0-249]\"]\n    \
                roles: [worker]\npolicies:";
    let with = MANIFEST.replace("policies:", many);
    let without = with
        .replace("member-[0-1]", "member-[1-1]")
        .replace("10.77.0.[20-21]", "10.77.0.[21-21]")
        .replace("fd77::[20-21]", "fd77::[21-21]");
    let limited = format!(
        "{POLICY}    limits: {{ perSource: {{ newConnections: {{ rate: 1/s, burst: 3 }} }} }}\n"
    );
    node.write("cluster.yaml", &with);
    node.write("policy.yaml", &limited);
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    let members = before["tables"]["members"].as_u64().expect("members");
    assert_eq!(members, 10_004, "an IPv4 and an IPv6 address each of two, one of the others");
    assert!(node.answers(MEMBER[0], PORT));
    node.write("cluster.yaml", &without);
    let status = node.wait("followed", |status| status["policy_hash"] != before["policy_hash"]);
    assert_eq!(status["generation"].as_u64(), before["generation"].as_u64().map(|n| n + 1));
    assert_eq!(status["tables"]["members"], members - 2, "no state of it is left");
    for address in MEMBER {
        assert!(!node.answers(address, PORT));
    }
    assert!(node.answers(guard_tests::node::MEMBER_TOO[0], PORT));
}
