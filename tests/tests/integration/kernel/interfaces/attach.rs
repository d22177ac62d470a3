//! Attaching: which sources get in, the mode, and when the daemon refuses to start.

use std::{fs, os::unix::fs::chown, process::Command};

use guard_tests::node::{
    FREE_PORT, MANIFEST, MEMBER, Node, POLICY, PORT, UNLISTED, enforcing, moved,
};
use serde_json::Value;

#[test]
fn members_get_in_and_unlisted_sources_do_not_at_mtu_9000_in_native_mode() {
    let Some(mut node) = Node::new("attach/native") else { return };
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let [interface] = status["interfaces"].as_array().expect("interfaces").as_slice() else {
        panic!("one interface: {status}");
    };
    assert_eq!(interface["mode"], "native");
    assert_eq!(interface["name"], "eth0");
    let before = node.stats();
    for family in 0..2 {
        assert!(node.answers(MEMBER[family], PORT));
        assert!(node.answers(UNLISTED[family], FREE_PORT), "an unguarded port is closed");
    }
    assert_eq!(moved(&before, &node.stats()), [("allowed".to_owned(), 2)]);

    let after = node.assert_evaluates_long_frames();
    let sources = after["top_sources"].as_array().expect("top sources");
    assert!(
        sources.iter().any(|source| source["address"] == "10.77.0.99"
            && source["node"] == Value::Null
            && source["service"] == "scheduler"),
        "{sources:?}"
    );
}

#[test]
fn observing_counts_and_drops_nothing() {
    let Some(mut node) = Node::new("attach/observe") else { return };
    node.write("policy.yaml", &POLICY.replace("mode: enforce", "mode: observe"));
    node.start(&[]);
    let status = node.wait("in force", |status| status["generation"] == 1);
    assert_eq!(status["enforcing"], false, "observe mode is not enforcing");
    assert!(node.answers(UNLISTED[0], PORT));
    let counted = node.stats();
    assert_eq!(counted["services"][0]["would_drop"], 1);
    assert_eq!(counted["services"][0]["dropped"], 0);
    let code = node.trainguard(&["status"]).output().expect("status").status.code();
    assert_eq!(code, Some(1), "status reports that the node is not enforcing");
}

#[test]
fn a_foreign_program_stays_and_is_named_by_its_id() {
    let Some(mut node) = Node::new("attach/foreign") else { return };
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let id = status["interfaces"][0]["program_id"].as_u64().expect("an id");
    // Another guard, with its own pins, counts as a foreign program.
    let own = ["bpf/other", "other-state", "other-run"].map(|name| node.path(name));
    let [bpf, state, run] = own.each_ref().map(|path| path.to_str().expect("UTF-8"));
    let output =
        node.start_expecting_exit(&["--bpf-dir", bpf, "--state-dir", state, "--run-dir", run]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(&format!("id {id}")) && stderr.contains("eth0"), "{stderr}");
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"][0]["program_id"], id);
}

/// Case 104: two daemons with the same pin directory.
#[test]
fn two_daemons_do_not_share_pins() {
    let Some(mut node) = Node::new("attach/two") else { return };
    node.start(&[]);
    let output = node.start_expecting_exit(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("another trainguard daemon uses"), "{stderr}");
    node.assert_guarded();
}

/// Case 105: pins of another layout.
#[test]
fn pins_of_another_layout_are_refused_with_every_difference() {
    let Some(mut node) = Node::new("attach/layout") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("TERM");
    // As pins of an older version might be.
    let pins = node.own_pins();
    fs::rename(pins.join("TG_TOTALS"), pins.join("swap")).expect("renaming a pin");
    fs::rename(pins.join("TG_LABELS"), pins.join("TG_TOTALS")).expect("renaming a pin");
    fs::rename(pins.join("swap"), pins.join("TG_LABELS")).expect("renaming a pin");
    let output = node.start_expecting_exit(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for difference in ["TG_LABELS: value size 24, expected 128", "TG_TOTALS: value size 128"] {
        assert!(stderr.contains(difference), "{stderr}");
    }
    node.assert_guarded();
}

/// The directory shows which layout was in use before.
#[test]
fn a_guard_of_an_older_layout_is_taken_over_and_one_of_a_newer_layout_is_not() {
    let Some(mut node) = Node::new("attach/version") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.assert_guarded();
    let refused = node.packets("not_allowed");
    node.signal("TERM");
    let newer = node.pins().join("v99");
    fs::rename(node.own_pins(), &newer).expect("renaming the pins");
    let output = node.start_expecting_exit(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("guarded by a newer trainguard with layout 99"), "{stderr}");
    assert!(!node.own_pins().exists(), "the refused daemon changed nothing");
    node.assert_guarded();
    let older = node.pins().join("v0");
    fs::rename(newer, &older).expect("renaming the pins");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert!(!older.exists(), "{}", node.log());
    assert_eq!(node.packets("not_allowed"), refused + 2, "{}", node.log());
    node.assert_guarded();
}

#[test]
fn a_daemon_without_sockets_attaches_nothing() {
    let Some(node) = Node::new("attach/sockets") else { return };
    fs::write(node.path("run"), "no directory").expect("writing");
    let output = node.start_expecting_exit(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("opening the sockets"), "{stderr}");
    assert!(node.answers(UNLISTED[0], PORT), "nothing was attached");
}

#[test]
fn without_a_state_directory_the_node_is_guarded_and_the_problem_reported() {
    let Some(mut node) = Node::new("attach/state") else { return };
    node.start(&["--state-dir", "/dev/null/state"]);
    let status = node.wait("enforcing", enforcing);
    assert!(status["problems"].to_string().contains("/dev/null/state"), "{status}");
    node.assert_guarded();
}

#[test]
fn missing_prerequisites_are_named_with_a_remedy() {
    let Some(node) = Node::new("attach/rights") else { return };
    let plain_directory = node.path("no-bpffs");
    let output =
        node.start_expecting_exit(&["--bpf-dir", plain_directory.to_str().expect("UTF-8")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("not on a bpf file system") && stderr.contains("mount -t bpf"),
        "{stderr}"
    );

    let state = node.path("foreign-state");
    fs::create_dir(&state).expect("a directory");
    chown(&state, Some(65534), Some(65534)).expect("changing the owner");
    let run = state.join("run");
    let [state, run] = [&state, &run].map(|path| path.to_str().expect("UTF-8"));
    let full_command = node.daemon_command(&["--state-dir", state, "--run-dir", run]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    // Without `ip netns exec`, which itself needs privileges.
    let args: Vec<_> = full_command.get_args().collect();
    let output = command.args(&args[3..]).output().expect("setpriv");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("CAP_BPF"), "{stderr}");
}

#[test]
fn an_unsupported_mode_keeps_the_previous_one() {
    let Some(mut node) = Node::new("attach/mode") else { return };
    // A bridge has no native XDP.
    node.ip(&["link", "add", "br9", "type", "bridge"]);
    node.ip(&["link", "set", "br9", "up"]);
    let output = node.start_expecting_exit(&["--interface", "br9"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--mode generic"), "{stderr}");
    let generic = |status: &Value| status["interfaces"][0]["mode"] == "generic";
    node.start(&["--interface", "br9", "--mode", "generic"]);
    node.wait("in generic mode", generic);
    node.signal("TERM");
    node.start(&["--interface", "br9"]);
    let status = node.wait("in generic mode", generic);
    assert_eq!(status["enforcing"], true);
    assert!(node.log().contains("still in generic mode"), "{}", node.log());
    // Where the driver supports it, the mode changes.
    node.signal("TERM");
    node.start(&["--mode", "generic"]);
    node.wait("in generic mode", generic);
    node.assert_guarded();
    node.signal("TERM");
    node.start(&[]);
    node.wait("in native mode", |status| status["interfaces"][0]["mode"] == "native");
    node.assert_guarded();
}

#[test]
fn foreign_pins_are_not_removed() {
    let Some(node) = Node::new("attach/others") else { return };
    let bpf = node.path("bpf");
    fs::create_dir_all(bpf.join("v1-of-others")).expect("a directory");
    fs::create_dir_all(bpf.join("v7")).expect("a directory");
    fs::create_dir_all(bpf.join("v7/deeper")).expect("a directory");
    let mut detach = node.trainguard(&["detach"]);
    let output = detach.arg("--bpf-dir").arg(&bpf).output().expect("detach");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(bpf.join("v1-of-others").is_dir() && bpf.join("v7/deeper").is_dir());
    let output = node.start_expecting_exit(&["--bpf-dir", bpf.to_str().expect("UTF-8")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("is the root of a bpf file system"), "{stderr}");
}

/// The bound of the design: 32 MiB of resident memory at rest, for ten thousand nodes. 8 MiB of it are
/// reserved for the program's code, which is several times larger in a debug build; so the test counts
/// anonymous memory only.
#[test]
fn ten_thousand_nodes_fit_a_small_daemon() {
    let Some(mut node) = Node::new("attach/many") else { return };
    let workers = "  - name: other-[0000-9999]\n    addresses: [\"10.78.[0-39].[0-249]\"]\n    \
                   roles: [worker]\npolicies:";
    node.write("cluster.yaml", &MANIFEST.replace("policies:", workers));
    let limits = "    limits: { perSource: { newConnections: { rate: 10/s, burst: 20 } } }\n";
    node.write("policy.yaml", &format!("{POLICY}{limits}"));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.assert_guarded();
    let status = fs::read_to_string(format!("/proc/{}/status", node.daemon_id())).expect("proc");
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let resident = resident.and_then(|line| line.trim().strip_suffix(" kB"));
    let resident: u64 = resident.and_then(|kib| kib.parse().ok()).expect("a size in kB");
    assert!(resident < 24 * 1024, "{resident} KiB");
}
