//! Failures during a takeover: one of the two guards stays attached, and the reason is reported.

use std::{
    fs,
    io::Write as _,
    net::UdpSocket,
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, chown, symlink},
    },
    process::{Output, Stdio},
    thread,
    time::Duration,
};

use super::without_the_first_service;
use guard_common::{
    layout::{
        Carried, Counter, LAYOUT_VERSION, ORIGINS, TALLY_ORIGINS,
        counters::{InterfaceRow, counter},
    },
    names,
    verdict::{Action, MAX_SERVICES, Reason, Verdict},
};
use guard_tests::{
    node::{MANIFEST, MEMBER, NODE, Node, POLICY, PORT, enforcing, moved, pinned_array},
    random::{Random, seed},
    skip,
    system::cgroup::Cgroup,
    system::mounts::{Mounted, writable},
};
use guard_user::sys;
use serde_json::{Value, json};

/// Creates a node that also guards all interfaces whose names begin with `x`.
fn node_of(test: &str) -> Option<Node> {
    let node = Node::new(test)?;
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, \"x*\"]"));
    Some(node)
}

/// Kills the daemon and selects the binary of the next layout. Returns the statistics.
fn kill_before_upgrade(node: &mut Node) -> Value {
    node.assert_guarded();
    let counted = node.stats();
    node.signal("KILL");
    node.set_next_layout(true);
    counted
}

/// Asserts that only the next layout remains, with the counts of the earlier one. Only the reasons in
/// `checked`, counted by checks that the node is guarded, may have increased.
fn assert_taken_over(node: &Node, before: &Value, checked: &[&str]) {
    assert_eq!(node.layouts(), [format!("v{}", LAYOUT_VERSION + 1)], "{}", node.log());
    for (reason, count) in moved(before, &node.stats()) {
        assert!(checked.contains(&reason.as_str()), "{reason}: {count}: {}", node.log());
    }
    node.assert_guarded();
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn interface<'a>(status: &'a Value, name: &str) -> &'a Value {
    let interfaces = status["interfaces"].as_array().expect("interfaces");
    interfaces.iter().find(|interface| interface["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn on_a_read_only_file_system_the_earlier_guard_stays() {
    let Some(mut node) = node_of("takeover/read-only") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let before = kill_before_upgrade(&mut node);
    writable(&node.path("bpf"), false).expect("read-only");
    let output = node.start_expecting_exit(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("mounted read-only"), "{}", stderr(&output));
    writable(&node.path("bpf"), true).expect("writable");
    assert_eq!(node.layouts(), [format!("v{LAYOUT_VERSION}")]);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_taken_over(&node, &before, &[]);
}

#[test]
fn a_full_disk_does_not_prevent_a_takeover() {
    let Some(mut node) = node_of("takeover/disk") else { return };
    let _state = Mounted::tmpfs(&node.path("state"), 64 << 10).expect("a small disk");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let before = kill_before_upgrade(&mut node);
    let mut filler = fs::File::create(node.path("state").join("filler")).expect("a file");
    while filler.write_all(&[0; 512]).is_ok() {}
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let problems = status["problems"].to_string();
    assert!(problems.contains("No space left on device"), "{problems}");
    assert_taken_over(&node, &before, &[]);
}

/// During a takeover the maps of both layouts exist for a moment.
#[test]
fn without_memory_for_the_second_maps_the_earlier_guard_stays() {
    const TEST: &str = "takeover/memory";
    let Some(mut node) = node_of(TEST) else { return };
    let group = match Cgroup::new("takeover") {
        Ok(group) => group,
        Err(error) => return skip::skip(TEST, &format!("{error:#}")),
    };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let before = kill_before_upgrade(&mut node);
    // From far too little to nearly enough. The kernel determines at which map the allocation fails.
    for megabytes in [4, 8, 12, 16, 20, 24, 28, 32] {
        group.limit(megabytes << 20).expect("a limit");
        let mut command = group.command(&node.daemon_command(&[]));
        let mut child = command.stderr(Stdio::piped()).spawn().expect("starting the command");
        thread::sleep(Duration::from_millis(600));
        child.kill().expect("SIGKILL");
        let output = child.wait_with_output().expect("waiting for the daemon");
        match output.status.code() {
            Some(2) => {
                assert!(stderr(&output).contains("memory"), "{}", stderr(&output));
            }
            Some(code) => panic!("exit code {code}: {}", stderr(&output)),
            // Killed by the kernel, or not finished within this time.
            None => {}
        }
        node.assert_guarded();
    }
    group.no_limit().expect("no limit");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_taken_over(&node, &before, &["allowed", "not_allowed"]);
}

/// Whenever one of two interfaces disappears, the other is taken over, and nothing of the earlier guard
/// remains.
#[test]
fn an_interface_that_vanishes_during_a_takeover_does_not_affect_others() {
    let Some(mut node) = node_of("takeover/vanish") else { return };
    let mut random = Random::new(seed());
    for _ in 0..8 {
        node.set_next_layout(false);
        node.add_link("x0");
        node.start(&[]);
        node.wait("both", |status| {
            enforcing(status) && interface(status, "x0")["state"] == "guarded"
        });
        let before = kill_before_upgrade(&mut node);
        node.launch(&[]);
        thread::sleep(Duration::from_millis(random.below(300) as u64));
        node.ip(&["link", "del", "x0"]);
        node.wait("the other", |status| {
            enforcing(status) && *interface(status, "x0") == Value::Null
        });
        assert_taken_over(&node, &before, &[]);
        node.signal("TERM");
        node.set_next_layout(false);
        let output = node.downgrade_command(&[]).output().expect("starting the command");
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

/// A program that replaced the earlier guard's stays attached and is reported, and the other interfaces
/// are taken over.
#[test]
fn a_foreign_program_on_one_of_several_is_named_and_the_others_are_taken_over() {
    let Some(mut node) = node_of("takeover/foreign") else { return };
    node.add_link("x0");
    node.start(&[]);
    node.wait("both", |status| interface(status, "x0")["state"] == "guarded");
    let mut other = Node::new("takeover/other").expect("as above");
    other.start(&[]);
    let foreign = other.wait("enforcing", enforcing)["program"]["id"].as_u64().expect("an id");
    let before = kill_before_upgrade(&mut node);
    // The dead link stays pinned.
    let link = sys::open_pinned(&node.own_pins().join("link-x0")).expect("the link");
    sys::link_detach(link.as_fd()).expect("detaching");
    node.attach_foreign("x0", foreign);
    node.start(&[]);
    let status = node.wait("one", |status| interface(status, "x0")["state"] == "failed");
    assert_eq!(interface(&status, "eth0")["state"], "guarded");
    let problem = interface(&status, "x0").to_string();
    assert!(problem.contains(&format!("id {foreign}")), "{problem}");
    assert!(status["problems"].to_string().contains("x0: "), "{status}");
    assert_eq!(status["enforcing"], json!(false), "x0 is not guarded");
    assert_taken_over(&node, &before, &[]);
}

/// A link whose device is gone, or that was detached: only its pin remains.
#[test]
fn a_dead_link_is_removed() {
    let Some(mut node) = node_of("takeover/dead") else { return };
    for name in ["x0", "x1"] {
        node.add_link(name);
    }
    node.start(&[]);
    node.wait("all", |status| interface(status, "x1")["state"] == "guarded");
    let before = kill_before_upgrade(&mut node);
    node.ip(&["link", "del", "x0"]);
    let link = sys::open_pinned(&node.own_pins().join("link-x1")).expect("the link");
    sys::link_detach(link.as_fd()).expect("detaching");
    node.start(&[]);
    let status = node.wait("both", |status| interface(status, "x1")["state"] == "guarded");
    assert!(enforcing(&status), "{status}");
    assert_taken_over(&node, &before, &[]);
}

/// Two interfaces swap names, and a downgrade is killed while it moves pins.
#[test]
fn a_link_that_is_pinned_twice_does_not_prevent_a_takeover() {
    let Some(mut node) = node_of("takeover/twice") else { return };
    node.add_link("x0");
    node.set_next_layout(true);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let first = node.stats();
    node.signal("KILL");
    let next = node.pins().join(format!("v{}", LAYOUT_VERSION + 1));
    fs::create_dir_all(node.own_pins()).expect("a directory for the pins of the older one");
    for (name, other) in [("link-eth0", "link-x0"), ("link-x0", "link-eth0")] {
        let link = sys::open_pinned(&next.join(name)).expect("a link");
        sys::pin(link.as_fd(), &node.own_pins().join(other)).expect("a second pin");
    }
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_taken_over(&node, &first, &[]);
}

/// Frames of devices without a row are counted in the last row, which then has no label.
#[test]
fn counts_of_devices_without_a_row_are_carried_over() {
    let Some(mut node) = Node::new("takeover/no-row") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let mut rows = pinned_array::<InterfaceRow>(&node.own_pins().join(names::MAP_INTERFACES));
    for row in 0..rows.len() {
        rows.set(row, InterfaceRow::default(), 0).expect("a row is removed");
    }
    let first = node.stats();
    let before = kill_before_upgrade(&mut node);
    assert!(!moved(&first, &before).is_empty(), "{before}");
    assert_eq!(
        interface(&before, "others")["dropped"],
        before["reasons"]["not_allowed"]["packets"]
    );
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let after = node.stats();
    assert!(moved(&before, &after).is_empty(), "{before} {after}");
    assert_taken_over(&node, &before, &[]);
}

/// As many takeovers as there are slots were killed after the maps of the other guard had been removed.
#[test]
fn counts_of_more_guards_than_there_are_slots_are_carried_over() {
    let Some(mut node) = Node::new("takeover/slots-full") else { return };
    node.set_next_layout(true);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.assert_guarded();
    node.signal("KILL");
    let pins = node.pins().join(format!("v{}", LAYOUT_VERSION + 1));
    let mut tallies = pinned_array::<u64>(&pins.join(names::MAP_TALLIES));
    let mut carried = pinned_array::<Carried>(&pins.join(names::MAP_CARRIED));
    for nth in 0..ORIGINS {
        // Ids that belong to no map.
        tallies.set(TALLY_ORIGINS + nth, u64::from(u32::MAX - nth), 0).expect("an id");
    }
    let index = counter(Verdict::of_node(Action::Drop, Reason::MalformedIp));
    let of = [Counter { packets: 10, bytes: 1000 }; ORIGINS as usize];
    carried.set(index, Carried { of, ..Carried::default() }, 0).expect("counts");
    let before = node.stats();
    assert_eq!(before["reasons"]["malformed_ip"]["packets"], 10 * ORIGINS, "{before}");
    node.set_next_layout(false);
    let output = node.downgrade_command(&[]).output().expect("starting the command");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let after = node.stats();
    assert!(moved(&before, &after).is_empty(), "{before} {after}");
    node.assert_guarded();
}

/// When all slots are taken, a service that gets the slot of another starts with full buckets. After a
/// restart it continues with its own.
#[test]
fn a_service_in_the_slot_of_another_has_buckets_of_its_own() {
    let limited = |first: &str| {
        let (head, _) = POLICY.split_once("  - name").expect("services");
        (0..MAX_SERVICES).fold(head.to_owned(), |text, number| {
            let name = if number == 0 { first.to_owned() } else { format!("service-{number}") };
            let service = format!(
                "  - name: {name}\n    roles: [scheduler]\n    ports: [udp/{}]\n    match: all\n    \
                 allow:\n      roles: [worker]\n    limits:\n      perSource:\n        \
                 packets: {{ rate: 1/s, burst: 200 }}\n    mode: enforce\n",
                PORT + u16::from(number)
            );
            text + &service
        })
    };
    let passed = |node: &Node| {
        let before = node.packets("allowed");
        node.at_peer(|| {
            let socket = UdpSocket::bind((MEMBER[0], 0)).expect("an address of the peer");
            for _ in 0..250 {
                socket.send_to(&[0], (NODE[0], PORT)).expect("sending");
            }
        });
        thread::sleep(Duration::from_millis(200));
        node.packets("allowed") - before
    };
    let Some(mut node) = Node::new("takeover/reclaimed") else { return };
    node.write("policy.yaml", &limited("first"));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    // One datagram per second refills: half a bucket takes longer than this test runs.
    let (full, half) = (200, 100);
    assert!(passed(&node) >= full);
    assert!(passed(&node) < half);
    node.signal("KILL");
    node.set_next_layout(true);
    node.write("policy.yaml", &limited("another"));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert!(passed(&node) >= full, "{}", node.log());
    node.signal("KILL");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert!(passed(&node) < half, "{}", node.log());
}

/// One pin was removed while no daemon ran. Each service keeps its slot.
#[test]
fn a_map_that_is_missing_changes_no_slots() {
    let Some(mut node) = without_the_first_service("takeover/missing-map") else { return };
    let before = node.stats();
    node.signal("KILL");
    fs::remove_file(node.own_pins().join(names::MAP_LISTENER)).expect("a pin");
    for is_next in [false, true] {
        node.set_next_layout(is_next);
        node.start(&[]);
        node.wait("enforcing", enforcing);
        assert_eq!(node.stats()["services"], before["services"], "{}", node.log());
        node.signal("KILL");
    }
}

/// Root's command is refused or killed. The files that it has created belong to the service's user.
#[test]
fn pins_that_root_creates_belong_to_the_owner_of_the_directory() {
    const USER: u32 = 65534;
    let Some(mut node) = node_of("takeover/owner") else { return };
    node.set_next_layout(true);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("KILL");
    node.set_next_layout(false);
    chown(node.pins(), Some(USER), Some(USER)).expect("another owner");
    let mut command = node.downgrade_command(&[]);
    let mut attempt = command.stderr(Stdio::null()).spawn().expect("starting the command");
    let links = || fs::read_dir(node.own_pins()).map_or(0, Iterator::count);
    // Wait until it creates maps, or ends.
    while links() == 0 && attempt.try_wait().expect("polling the command").is_none() {
        thread::sleep(Duration::from_micros(100));
    }
    attempt.kill().expect("SIGKILL");
    attempt.wait().expect("waiting for the process");
    assert_eq!(fs::metadata(node.own_pins()).expect("the directory").uid(), USER);
    let output = node.downgrade_command(&[]).output().expect("starting the command");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for entry in fs::read_dir(node.own_pins()).expect("the pins") {
        let entry = entry.expect("an entry");
        assert_eq!(entry.metadata().expect("the owner").uid(), USER, "{entry:?}");
    }
    node.assert_guarded();
}

/// The command reports the interfaces that it could not take over.
#[test]
fn a_downgrade_that_leaves_an_interface_to_the_newer_layout_fails() {
    let Some(mut node) = Node::new("takeover/left") else { return };
    node.set_next_layout(true);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("KILL");
    node.set_next_layout(false);
    // The daemon has no access to the interface there.
    node.ip(&["link", "set", "eth0", "netns", node.peer(), "name", "away"]);
    let output = node.downgrade_command(&["--wait", "30s"]).output().expect("starting the command");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("`eth0` is not taken over"), "{}", stderr(&output));
    assert!(stderr(&output).contains("run the command again"), "{}", stderr(&output));
}

#[test]
fn a_symbolic_link_in_the_place_of_a_layout_is_refused() {
    let Some(mut node) = Node::new("takeover/symlink") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let before = kill_before_upgrade(&mut node);
    let link = node.pins().join(format!("v{}", LAYOUT_VERSION + 1));
    symlink(node.own_pins(), &link).expect("a symbolic link");
    let output = node.start_expecting_exit(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("is a symbolic link"), "{}", stderr(&output));
    fs::remove_file(link).expect("removing it");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_taken_over(&node, &before, &[]);
}
