//! Pins that cannot be made, or that are removed while the daemon runs: the guard stays, the lost
//! persistence is reported, and it is restored once that is possible.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use guard_common::names;
use guard_tests::{
    node::{FREE_PORT, MANIFEST, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT, enforcing},
    system::mounts::writable,
};
use guard_user::{bpf::link::Link, sys};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

/// Pins are checked at each check of the interfaces.
const FREQUENT_CHECKS: [&str; 2] = ["--timing", "look=100ms,files=50ms"];
const UNPINNED: &str = "link not pinned: the guard on this interface ends with the daemon";

fn events(node: &Node) -> String {
    let output = node.trainguard(&["events", "--format", "json"]).output().expect("events");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn has_problem(what: &str) -> impl Fn(&Value) -> bool + '_ {
    move |status| status["problems"].to_string().contains(what)
}

fn healthy(status: &Value) -> bool {
    enforcing(status) && status["problems"] == json!([])
}

/// Waits for a condition that the status does not show.
fn until(node: &Node, what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < WAIT_TIMEOUT, "not {what}: {}", node.log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Case 77, where nothing can be pinned: an interface that appears is guarded as long as the daemon
/// runs, which is reported; once a pin can be made, it is.
#[test]
fn an_interface_that_cannot_be_pinned_is_guarded_and_reported() {
    for mode in ["native", "tcx"] {
        let Some(mut node) = Node::new("pins/new") else { return };
        node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[\"eth*\", keep0]"));
        node.add_link("keep0");
        node.start(&[&["--mode", mode], &FREQUENT_CHECKS[..]].concat());
        node.wait("enforcing", healthy);
        let bpf = node.path("bpf");
        writable(&bpf, false).expect("read-only");
        // Recreated: a pin with this name exists, for a dead link, and cannot be removed.
        node.ip(&["link", "del", "eth0"]);
        node.add_link("eth0");
        node.add_link("eth1");
        let two = |status: &Value| status["problems"].to_string().matches(UNPINNED).count() == 2;
        let status = node.wait("reported", two);
        assert_eq!(status["enforcing"], true, "{status}");
        for name in ["eth0", "eth1"] {
            let interfaces = status["interfaces"].as_array().expect("interfaces");
            let interface = interfaces.iter().find(|interface| interface["name"] == name);
            let interface = interface.expect("the interface");
            assert_eq!(interface["state"], "guarded", "{status}");
            let problem = interface["problem"].as_str().expect("a problem");
            assert!(problem.starts_with(UNPINNED) && problem.contains("Read-only"), "{problem}");
        }
        assert!(has_problem("remount,rw")(&status), "{status}");
        node.add_addresses();
        node.assert_guarded();
        assert!(node.answers(UNLISTED[0], FREE_PORT));
        assert!(events(&node).contains(UNPINNED), "{}", events(&node));

        // An interface that was renamed meanwhile is pinned under its new name.
        node.rename("eth1", "eth9");
        node.wait("aware of the name", has_problem("eth9"));
        writable(&bpf, true).expect("writable");
        let suffix = if mode == "tcx" { ":tcx" } else { "" };
        let pins = node.own_pins();
        let pin = |name: &str| pins.join(format!("link-{name}{suffix}"));
        until(&node, "pinned", || pin("eth9").exists());
        let status = node.wait("healthy again", healthy);
        assert_eq!(status["generation"], 1);
        assert!(!pin("eth1").exists());
        assert!(
            events(&node).contains("link pinned: the guard now outlives the daemon"),
            "{}",
            events(&node)
        );
        node.signal("KILL");
        node.assert_guarded();
        for name in ["eth0", "eth9", "keep0"] {
            assert!(Link::open(&pin(name)).expect("a pin").is_alive(), "{name}");
        }
    }
}

/// Runs a mount command in the daemon's mount namespace, which is its own (`ip netns exec`).
fn run_in_mount_namespace(node: &Node, program: &str, args: &[&str]) {
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--mount", "--target", &node.daemon_id().to_string(), program]).args(args);
    let output = nsenter.arg(node.path("bpf")).output().expect("nsenter");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Case 101: another bpf file system replaces the one with the pins, as after `umount` and `mount`.
/// Everything is pinned there again; when that file system is unmounted, the old pins are valid again.
#[test]
fn a_new_bpf_file_system_gets_the_pins() {
    for mode in ["native", "tcx"] {
        let Some(mut node) = Node::new("pins/mounted") else { return };
        node.start(&[&["--mode", mode], &FREQUENT_CHECKS[..]].concat());
        node.wait("enforcing", healthy);
        node.assert_guarded();
        let counted = node.packets("not_allowed");
        let suffix = if mode == "tcx" { ":tcx" } else { "" };
        let pin = node.own_pins().join(format!("link-eth0{suffix}"));
        // The path as the daemon sees it.
        let root = PathBuf::from(format!("/proc/{}/root", node.daemon_id()));
        let pin = root.join(pin.strip_prefix("/").expect("an absolute path"));

        run_in_mount_namespace(&node, "umount", &["-l"]);
        let status = node.wait("reported", has_problem("is not on a bpf file system"));
        assert_eq!(status["enforcing"], true, "{status}");
        assert!(has_problem(UNPINNED)(&status), "{status}");
        node.assert_guarded();
        // A policy that would not outlive the daemon does not come into force.
        node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
        let status = node.wait("refused", |status| status["up_to_date"] == false);
        assert_eq!((&status["generation"], enforcing(&status)), (&json!(1), true));
        node.assert_guarded();

        run_in_mount_namespace(&node, "mount", &["-t", "bpf", "bpf"]);
        until(&node, "pinned", || pin.exists());
        node.signal("HUP");
        node.wait("the next generation", |status| status["generation"] == 2);
        node.wait("healthy", healthy);
        node.assert_guarded();
        assert!(node.packets("not_allowed") > counted, "the counters continue");

        // Another bpf file system is mounted over the first, then unmounted.
        run_in_mount_namespace(&node, "mount", &["-t", "bpf", "bpf"]);
        until(&node, "pinned there, too", || pin.exists());
        node.wait("healthy", healthy);
        run_in_mount_namespace(&node, "umount", &["-l"]);
        // Long enough for several checks of the pins.
        thread::sleep(Duration::from_secs(1));
        node.wait("healthy", healthy);
        assert!(Link::open(&pin).expect("the pin").is_alive());
        node.assert_guarded();
        let recorded = events(&node);
        for what in
            [&maps_removed(), "link pinned again: its pin was removed", "is not on a bpf file"]
        {
            assert!(recorded.contains(what), "no {what}: {recorded}");
        }
    }
}

/// Returns the message about the removal of all maps' pins.
fn maps_removed() -> String {
    format!("pins of {} maps were removed", names::SHARED_MAPS.len())
}

/// Case 101: an administrator removes the pins and detaches the link.
#[test]
fn pins_and_link_removed_together_are_restored_with_an_alarm() {
    let Some(mut node) = Node::new("pins/taken") else { return };
    node.start(&FREQUENT_CHECKS);
    node.wait("enforcing", healthy);
    let pin = node.own_pins().join("link-eth0");
    let link = Link::open(&pin).expect("the pinned link");
    fs::remove_dir_all(node.pins()).expect("removing the pins");
    sys::link_detach(link.fd()).expect("detaching");
    until(&node, "pinned", || pin.exists());
    node.wait("healthy", healthy);
    node.assert_guarded();
    let recorded = events(&node);
    assert!(recorded.contains(&maps_removed()) && recorded.contains("\"lost\""), "{recorded}");
}

/// Case 104: the pin directory is replaced by one that another daemon has created and uses.
#[test]
fn pins_of_another_daemon_are_not_used() {
    let Some(mut node) = Node::new("pins/other") else { return };
    node.start(&FREQUENT_CHECKS);
    node.wait("enforcing", healthy);
    // As another daemon would, started right after the removal.
    fs::rename(node.pins(), node.path("bpf").join("old")).expect("moving the pins away");
    fs::create_dir(node.pins()).expect("a directory");
    let theirs = fs::File::open(node.pins()).expect("the directory");
    let lock = Flock::lock(theirs, FlockArg::LockExclusiveNonblock).expect("a lock");
    let status = node.wait("reported", has_problem("another trainguard daemon uses"));
    assert_eq!(status["enforcing"], true, "{status}");
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let status = node.wait("refused", |status| status["up_to_date"] == false);
    assert_eq!(status["generation"], 1);
    assert!(
        !node.own_pins().join("TG_COUNTERS").exists(),
        "a map is pinned in the directory of another daemon"
    );
    assert!(!node.answers(UNLISTED[0], PORT));
    drop(lock);
    node.wait("pinned there", |status| {
        status["problems"].as_array().is_some_and(|all| all.len() == 1)
    });
    node.signal("HUP");
    node.wait("the next generation", |status| status["generation"] == 2);
    node.wait("healthy", healthy);
    node.assert_guarded();
}

/// Two interfaces swap names, and the daemon is killed after it has moved one of the pins. A link
/// without a pin would be gone then.
#[test]
fn moving_a_pin_to_a_taken_name_ends_no_link() {
    let Some(mut node) = Node::new("pins/swapped") else { return };
    node.add_link("x0");
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, x0]"));
    node.start(&[]);
    node.wait("both", |status| {
        enforcing(status) && status["interfaces"].as_array().is_some_and(|all| all.len() == 2)
    });
    node.signal("KILL");
    let [first, second] = ["link-eth0", "link-x0"].map(|name| node.own_pins().join(name));
    let id = |pin: &Path| {
        let link = sys::open_pinned(pin).expect("a link");
        sys::link_info(link.as_fd()).expect("the facts of the link").id
    };
    let before = [id(&first), id(&second)];
    let mut link = Link::open(&first).expect("a link");
    link.move_to(&second).expect("moved");
    drop(link);
    assert_eq!([id(&second), id(&first)], before);
    node.assert_guarded();
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_eq!([id(&first), id(&second)], before, "each has its own name again");
    node.assert_guarded();
}
