//! Upgrades from, and downgrades to, a version whose layout does not identify itself, with its original
//! binary. `cargo xtask upgrade` builds it and passes its path in `TRAINGUARD_EARLIER`.

use std::path::PathBuf;

use guard_common::layout::LAYOUT_VERSION;
use guard_tests::{
    node::{Node, enforcing, moved},
    skip,
    traffic::{Traffic, member_and_unlisted},
};
use serde_json::Value;

/// Layout version of that binary.
const EARLIER: u32 = 3;

/// Starts a node with a daemon of that version.
fn guarded_by_earlier_version(test: &str, options: &[&str]) -> Option<(Node, PathBuf)> {
    let Some(earlier) = std::env::var_os("TRAINGUARD_EARLIER").map(PathBuf::from) else {
        skip::skip(test, "no earlier version, see `cargo xtask upgrade`");
        return None;
    };
    let mut node = Node::new(test)?;
    node.set_binary(earlier.clone());
    node.start(options);
    node.wait("enforcing", enforcing);
    Some((node, earlier))
}

fn upgrade_and_downgrade(test: &str, options: &[&str]) {
    let Some((mut node, earlier)) = guarded_by_earlier_version(test, options) else { return };
    assert_eq!(node.layouts(), [format!("v{EARLIER}")]);
    let mode = node.status().expect("a status")["interfaces"][0]["mode"].clone();
    // A failed attempt leaves maps behind; then the earlier version runs again for a while.
    node.signal("TERM");
    node.set_next_layout(false);
    let output = node.start_expecting_exit(&[options, &["--interface", "none0"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    node.set_binary(earlier.clone());
    for _ in 0..3 {
        node.start(options);
        node.wait("enforcing", enforcing);
        node.assert_guarded();
        node.signal("TERM");
    }
    node.start(options);
    node.wait("enforcing", enforcing);
    let first = node.stats();
    let traffic = Traffic::start(&node, &member_and_unlisted());
    node.signal("TERM");
    node.set_next_layout(false);
    node.start(options);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"][0]["mode"], mode, "{}", node.log());
    assert_eq!(status["problems"], Value::Array(Vec::new()), "{}", node.log());
    assert_eq!(node.layouts(), [format!("v{LAYOUT_VERSION}")], "{}", node.log());
    traffic.assert_none_wrongly_admitted();
    let after = node.stats();
    assert!(after["generation"].as_u64() > first["generation"].as_u64(), "{first} {after}");
    traffic.end().assert_counted_once(&moved(&first, &node.stats()));

    // The downgrade: the earlier version refuses, reports that the node would be open in between, and
    // changes nothing.
    node.signal("TERM");
    node.set_binary(earlier);
    let output = node.start_expecting_exit(options);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("`eth0` is guarded by another version"), "{stderr}");
    assert!(stderr.contains("trainguard detach") && stderr.contains("open in between"), "{stderr}");
    // The earlier version creates its directory first.
    std::fs::remove_dir(node.pins().join(format!("v{EARLIER}"))).expect("an empty directory");
    assert_eq!(node.layouts(), [format!("v{LAYOUT_VERSION}")]);
    node.assert_guarded();
    let mut detach = node.trainguard(&["detach"]);
    let output = detach.arg("--bpf-dir").arg(node.pins()).output().expect("detach");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The earlier version can read the state directory that this version wrote.
    std::fs::write(node.path("policy.yaml"), "no policy").expect("writing");
    node.start(options);
    node.wait("the last good policy", |status| status["enforcing"] == true);
    node.assert_guarded();
}

#[test]
fn the_earlier_version_is_taken_over_in_native_mode() {
    upgrade_and_downgrade("earlier/native", &[]);
}

#[test]
fn the_earlier_version_is_taken_over_in_tcx_mode() {
    upgrade_and_downgrade("earlier/tcx", &["--mode", "tcx"]);
}

#[test]
fn the_earlier_version_is_taken_over_in_generic_mode() {
    upgrade_and_downgrade("earlier/generic", &["--mode", "generic"]);
}
