//! Interfaces renamed to a name that no pattern matches: a new name is no reason to open a port,
//! whichever daemon comes next.

use guard_common::layout::LAYOUT_VERSION;
use guard_tests::{
    node::{MANIFEST, Node, PORT, UNLISTED, enforcing, moved, names_in},
    traffic::{Traffic, member_and_unlisted},
};
use serde_json::json;

/// The daemon that follows the one of this layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Restart,
    Upgrade,
    Downgrade,
}

/// Creates a node whose manifest guards `eth0` and `eth1`.
fn node_of(test: &str) -> Option<Node> {
    let node = Node::new(test)?;
    node.add_link("eth1");
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, eth1]"));
    Some(node)
}

fn start_next(node: &mut Node, next: Next, options: &[&str]) {
    if next == Next::Downgrade {
        node.set_next_layout(false);
        let output = node.downgrade_command(options).output().expect("starting the command");
        assert!(output.status.success(), "{next:?}: {}", String::from_utf8_lossy(&output.stderr));
    } else if next == Next::Upgrade {
        node.set_next_layout(true);
    }
    node.start(options);
}

/// Returns the names of the link pins.
fn link_pins(node: &Node, next: Next) -> Vec<String> {
    let version = LAYOUT_VERSION + u32::from(next == Next::Upgrade);
    let mut names = names_in(&node.pins().join(format!("v{version}")));
    names.retain(|name| name.starts_with("link-"));
    names
}

fn stays_guarded(test: &str, next: Next, options: &[&str]) {
    for with_daemon in [true, false] {
        let Some(mut node) = node_of(test) else { return };
        node.set_next_layout(next == Next::Downgrade);
        node.start(options);
        node.wait("enforcing", enforcing);
        let first = node.stats();
        let traffic = Traffic::start(&node, &member_and_unlisted());
        if with_daemon {
            node.rename("eth0", "lan0");
            node.wait("aware of the name", |status| status["interfaces"][2]["name"] == "lan0");
        }
        node.signal("TERM");
        if !with_daemon {
            node.rename("eth0", "lan0");
        }
        start_next(&mut node, next, options);
        let status = node.wait("enforcing", enforcing);
        let context = format!("{next:?}, {with_daemon}: {status} {}", node.log());
        assert_eq!(node.layouts().len(), 1, "{context}");
        assert_eq!(status["interfaces"][0]["state"], "missing", "{context}");
        assert_eq!(status["interfaces"][2]["name"], "lan0", "{context}");
        assert_eq!(status["interfaces"][2]["state"], "guarded", "{context}");
        assert_eq!(status["unguarded"], json!([]), "{context}");
        let problems = status["problems"].to_string();
        assert!(problems.contains("lan0: renamed from `eth0`; still guarded"), "{context}");
        let hook = if options.is_empty() { "" } else { ":tcx" };
        let pins = [format!("link-eth1{hook}"), format!("link-lan0:from:eth0{hook}")];
        assert_eq!(link_pins(&node, next), pins, "{context}");
        traffic.end().assert_counted_once(&moved(&first, &node.stats()));

        // Another start, with the original name.
        node.signal("TERM");
        node.rename("lan0", "eth0");
        node.start(options);
        node.wait("no problem", |status| enforcing(status) && status["problems"] == json!([]));
        let pins = ["eth0", "eth1"].map(|name| format!("link-{name}{hook}"));
        assert_eq!(link_pins(&node, next), pins, "{}", node.log());
        node.assert_guarded();
    }
}

#[test]
fn a_restart_keeps_a_renamed_interface_guarded() {
    stays_guarded("renames/restart", Next::Restart, &[]);
}

#[test]
fn an_upgrade_keeps_a_renamed_interface_guarded() {
    stays_guarded("renames/upgrade", Next::Upgrade, &[]);
}

#[test]
fn a_downgrade_keeps_a_renamed_interface_guarded() {
    stays_guarded("renames/downgrade", Next::Downgrade, &[]);
}

#[test]
fn an_upgrade_keeps_a_renamed_interface_guarded_at_the_tc_hook() {
    stays_guarded("renames/tcx", Next::Upgrade, &["--mode", "tcx"]);
}

/// Another guarded interface gets the name. Both stay guarded.
#[test]
fn a_renamed_interface_whose_old_name_is_reused_stays_guarded() {
    let Some(mut node) = node_of("renames/reused") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("KILL");
    node.rename("eth0", "lan0");
    node.rename("eth1", "eth0");
    for next in [Next::Upgrade, Next::Downgrade, Next::Restart] {
        start_next(&mut node, next, &[]);
        let status = node.wait("enforcing", enforcing);
        let pins = ["link-eth0", "link-lan0:from:eth0"];
        assert_eq!(link_pins(&node, next), pins, "{status} {}", node.log());
        node.assert_guarded();
        node.signal("KILL");
    }
}

/// The only configured interface: a daemon with `--wait` does not wait for it.
#[test]
fn the_only_interface_is_taken_over_without_waiting() {
    let Some(mut node) = Node::new("renames/only") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("KILL");
    node.rename("eth0", "lan0");
    node.set_next_layout(true);
    node.start(&["--wait", "60s"]);
    node.wait("enforcing", |status| {
        enforcing(status) && status["interfaces"][1]["state"] == "guarded"
    });
    assert_eq!(node.layouts(), [format!("v{}", LAYOUT_VERSION + 1)], "{}", node.log());
    node.assert_guarded();
}

/// An interface whose name is removed from the manifest is released, by a reload or at a start.
#[test]
fn an_interface_whose_name_left_the_manifest_is_released() {
    for with_daemon in [true, false] {
        let Some(mut node) = node_of("renames/released") else { return };
        node.start(&[]);
        node.wait("enforcing", enforcing);
        node.rename("eth0", "lan0");
        node.wait("aware of the name", |status| status["interfaces"][2]["name"] == "lan0");
        if !with_daemon {
            node.signal("TERM");
        }
        node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth1]"));
        if !with_daemon {
            node.start(&[]);
        }
        let status = node.wait("eth1 alone", |status| {
            enforcing(status) && status["interfaces"].as_array().is_some_and(|all| all.len() == 1)
        });
        assert_eq!(status["unguarded"], json!(["lan0"]), "{status} {}", node.log());
    }
}

/// Without a daemon as well, an interface is addressed by its current name.
#[test]
fn an_interface_is_detached_by_its_current_name() {
    let detach = |node: &Node, name: &str| {
        let mut command = node.trainguard(&["detach", "--interface", name]);
        command.arg("--bpf-dir").arg(node.pins()).output().expect("starting the command")
    };
    for with_daemon in [true, false] {
        let Some(mut node) = node_of("renames/detach") else { return };
        node.start(&[]);
        node.wait("enforcing", enforcing);
        node.signal("KILL");
        node.rename("eth0", "lan0");
        if with_daemon {
            node.start(&[]);
            node.wait("enforcing", enforcing);
        }
        let unknown = detach(&node, "eth0");
        assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
        let detached = detach(&node, "lan0");
        assert_eq!(detached.status.code(), Some(0), "{detached:?}");
        let stderr = String::from_utf8_lossy(&detached.stderr).into_owned();
        assert!(stderr.contains("detached from `lan0`"), "{stderr}");
        assert_eq!(link_pins(&node, Next::Restart), ["link-eth1"]);
        assert!(node.answers(UNLISTED[0], PORT), "a detached interface is open");
    }
}
