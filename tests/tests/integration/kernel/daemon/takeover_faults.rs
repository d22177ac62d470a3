//! Bad luck at a take-over: one of the two guards goes on, and says why.

use std::{
    fs,
    io::Write as _,
    os::fd::AsFd as _,
    process::{Output, Stdio},
    thread,
    time::Duration,
};

use guard_common::layout::LAYOUT_VERSION;
use guard_tests::{
    cgroup::Cgroup,
    mounts::{Mounted, writable},
    node::{MANIFEST, Node, enforcing, moved},
    random::{Random, seed},
    skip,
};
use guard_user::sys;
use serde_json::{Value, json};

/// A node of which all interfaces whose names begin with `x` are to be guarded, too.
fn node_of(test: &str) -> Option<Node> {
    let node = Node::new(test)?;
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, \"x*\"]"));
    Some(node)
}

/// Ends the daemon, whose successor is of the next layout.
fn end(node: &mut Node) -> Value {
    node.assert_guarded();
    let counted = node.stats();
    node.signal("KILL");
    node.set_next_layout(true);
    counted
}

/// Of the next layout alone, with what the earlier one had counted. `checked`: the reasons that were counted
/// meanwhile, by checks that the node is guarded.
fn assert_taken_over(node: &Node, before: &Value, checked: &[&str]) {
    assert_eq!(node.layouts(), [format!("v{}", LAYOUT_VERSION + 1)], "{}", node.log());
    for (reason, count) in moved(before, &node.stats()) {
        assert!(checked.contains(&reason.as_str()), "{reason}: {count}: {}", node.log());
    }
    node.assert_guarded();
}

fn said(output: &Output) -> String {
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
    let before = end(&mut node);
    writable(&node.path("bpf"), false).expect("read-only");
    let output = node.start_in_vain(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("mounted read-only"), "{}", said(&output));
    writable(&node.path("bpf"), true).expect("writable");
    assert_eq!(node.layouts(), [format!("v{LAYOUT_VERSION}")]);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_taken_over(&node, &before, &[]);
}

#[test]
fn a_full_disk_does_not_hold_it_up() {
    let Some(mut node) = node_of("takeover/disk") else { return };
    let _state = Mounted::tmpfs(&node.path("state"), 64 << 10).expect("a small disk");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let before = end(&mut node);
    let mut filler = fs::File::create(node.path("state").join("filler")).expect("a file");
    while filler.write_all(&[0; 512]).is_ok() {}
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let problems = status["problems"].to_string();
    assert!(problems.contains("No space left on device"), "{problems}");
    assert_taken_over(&node, &before, &[]);
}

/// The maps of both layouts are there for a moment.
#[test]
fn without_memory_for_the_second_maps_the_earlier_guard_stays() {
    const TEST: &str = "takeover/memory";
    let Some(mut node) = node_of(TEST) else { return };
    let group = match Cgroup::new("takeover") {
        Ok(group) => group,
        Err(why) => return skip::skip(TEST, &format!("{why:#}")),
    };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let before = end(&mut node);
    // From too little to begin with to nearly enough: at which of the maps it ends is the kernel's choice.
    for megabytes in [4, 8, 12, 16, 20, 24, 28, 32] {
        group.limit(megabytes << 20).expect("a limit");
        let mut command = group.command(&node.daemon_command(&[]));
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        thread::sleep(Duration::from_millis(600));
        child.kill().expect("SIGKILL");
        let output = child.wait_with_output().expect("its end");
        match output.status.code() {
            Some(2) => {
                assert!(said(&output).contains("memory"), "{}", said(&output));
            }
            Some(code) => panic!("exit code {code}: {}", said(&output)),
            // By the kernel, or it was not done within this time.
            None => {}
        }
        node.assert_guarded();
    }
    group.no_limit().expect("no limit");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_taken_over(&node, &before, &["allowed", "not_allowed"]);
}

/// Whenever one of two interfaces goes: the other one is taken over, and nothing is left of the earlier.
#[test]
fn an_interface_that_vanishes_in_the_middle_does_not_matter_to_others() {
    let Some(mut node) = node_of("takeover/vanish") else { return };
    let mut random = Random::new(seed());
    for _ in 0..8 {
        node.set_next_layout(false);
        node.add_link("x0");
        node.start(&[]);
        node.wait("both", |status| {
            enforcing(status) && interface(status, "x0")["state"] == "guarded"
        });
        let before = end(&mut node);
        node.launch(&[]);
        thread::sleep(Duration::from_millis(random.below(300) as u64));
        node.ip(&["link", "del", "x0"]);
        node.wait("the other", |status| {
            enforcing(status) && *interface(status, "x0") == Value::Null
        });
        assert_taken_over(&node, &before, &[]);
        node.signal("TERM");
        node.set_next_layout(false);
        let output = node.downgrade_command(&[]).output().expect("it starts");
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// What somebody forced into the place of the earlier program stays, is named, and the rest is taken over.
#[test]
fn a_foreign_program_on_one_of_several_is_named_and_the_others_are_taken_over() {
    let Some(mut node) = node_of("takeover/foreign") else { return };
    node.add_link("x0");
    node.start(&[]);
    node.wait("both", |status| interface(status, "x0")["state"] == "guarded");
    let mut other = Node::new("takeover/other").expect("as above");
    other.start(&[]);
    let foreign = other.wait("enforcing", enforcing)["program"]["id"].as_u64().expect("an id");
    let before = end(&mut node);
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
    assert_eq!(status["enforcing"], json!(false), "not on all that it should be");
    assert_taken_over(&node, &before, &[]);
}

/// Its device is gone, or somebody detached it: the pin is all that is left.
#[test]
fn a_link_that_is_dead_is_forgotten() {
    let Some(mut node) = node_of("takeover/dead") else { return };
    for name in ["x0", "x1"] {
        node.add_link(name);
    }
    node.start(&[]);
    node.wait("all", |status| interface(status, "x1")["state"] == "guarded");
    let before = end(&mut node);
    node.ip(&["link", "del", "x0"]);
    let link = sys::open_pinned(&node.own_pins().join("link-x1")).expect("the link");
    sys::link_detach(link.as_fd()).expect("detaching");
    node.start(&[]);
    let status = node.wait("both", |status| interface(status, "x1")["state"] == "guarded");
    assert!(enforcing(&status), "{status}");
    assert_taken_over(&node, &before, &[]);
}
