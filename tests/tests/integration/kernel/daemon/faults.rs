//! Lack of resources: disk, memory, descriptors, a writable file system. The guard stays in place, the
//! failure is reported, and the action is done once it is possible.
#![expect(clippy::print_stdout, reason = "prints measurements")]

use std::{fs, io::Write as _, net::Ipv4Addr, process::Command, thread, time::Duration};

use guard_tests::{
    node::{MANIFEST, Node, POLICY, PORT, UNLISTED, enforcing},
    skip,
    system::{
        cgroup::Cgroup,
        mounts::{Mounted, writable},
    },
};
use serde_json::{Value, json};

/// Returns another policy, which makes no difference for the packets in these tests.
fn other_policy() -> String {
    POLICY.replace("udp/9091", "udp/9092")
}

fn at_generation(generation: u64) -> impl Fn(&Value) -> bool {
    move |status| status["generation"] == generation && enforcing(status)
}

/// Case 111: a full disk prevents no policy from coming into force. Only trials are refused, because
/// undoing them needs the disk.
#[test]
fn a_full_disk_stops_trials_and_nothing_else() {
    let Some(mut node) = Node::new("faults/disk") else { return };
    let _state = Mounted::tmpfs(&node.path("state"), 64 << 10).expect("a small disk");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let mut filler = fs::File::create(node.path("state").join("filler")).expect("a file");
    while filler.write_all(&[0; 512]).is_ok() {}

    node.write("policy.yaml", &other_policy());
    let status = node.wait("the next generation", at_generation(2));
    let problems = status["problems"].to_string();
    assert!(problems.contains("No space left on device"), "{problems}");
    assert!(problems.contains("last-good.json"), "{problems}");
    node.assert_guarded();

    node.write("trial.yaml", &MANIFEST.replace("[20-21]", "[20-22]").replace("[0-1]", "[0-2]"));
    let mut apply = node.trainguard(&["apply", "--confirm-within", "1m"]);
    let output = apply.arg(node.path("trial.yaml")).output().expect("apply");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("could not be undone"), "{stderr}");
    assert_eq!(node.generation(), 2);

    drop(filler);
    fs::remove_file(node.path("state").join("filler")).expect("removing");
    node.write("policy.yaml", POLICY);
    node.wait("the third", at_generation(3));
    // The audit record of the failed attempt could not be written; the next command's can.
    let reload = node.trainguard(&["apply", "--reload"]).output().expect("apply");
    assert!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
    let status = node.status().expect("a status");
    assert_eq!(status["problems"], json!([]));
    node.assert_guarded();
}

/// Case 103: pins that cannot be made or opened. A bpf file system has no limit on its entries
/// (`bpf_mkobj_ops`, `kernel/bpf/inode.c`), so a read-only one stands for a full one.
#[test]
fn pins_on_a_read_only_file_system_stay_and_changes_are_refused() {
    let Some(mut node) = Node::new("faults/pins") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let bpf = node.path("bpf");
    writable(&bpf, false).expect("read-only");
    node.write("policy.yaml", &other_policy());
    let status = node.wait("refused", |status| status["up_to_date"] == false);
    let problems = status["problems"].to_string();
    assert!(problems.contains("mounted read-only"), "{problems}");
    assert_eq!((enforcing(&status), &status["generation"]), (true, &json!(1)));
    node.signal("KILL");
    node.assert_guarded();
    let output = node.start_expecting_exit(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("mounted read-only") && stderr.contains("remount,rw"), "{stderr}");
    node.assert_guarded();

    writable(&bpf, true).expect("writable");
    node.start(&[]);
    node.wait("enforcing", |status| status["up_to_date"] == true && enforcing(status));
    node.assert_guarded();
}

/// Case 112, memory: maps that do not fit the memory limit of the unit.
#[test]
fn a_policy_too_large_for_memory_changes_nothing() {
    const TEST: &str = "faults/memory";
    let Some(mut node) = Node::new(TEST) else { return };
    let group = match Cgroup::new("memory") {
        Ok(group) => group,
        Err(error) => return skip::skip(TEST, &format!("{error:#}")),
    };
    node.start(&[]);
    let before = node.wait("enforcing", enforcing);
    group.add(node.daemon_id()).expect("a group of its own");
    node.write("policy.yaml", &other_policy());
    node.wait("the next generation", at_generation(2));
    let room = group.total().expect("the memory of the group") + (4 << 20);
    group.limit(room).expect("a limit");

    let prefixes = (0..400_000_u32).fold(String::new(), |text, number| {
        text + &Ipv4Addr::from(0x0b00_0000 + number * 256).to_string()
            + "
"
    });
    node.write("many.txt", &prefixes);
    let manifest =
        MANIFEST.replace("policies:", "networks: { many: { file: many.txt } }\npolicies:");
    node.write("cluster.yaml", &manifest);
    node.write(
        "policy.yaml",
        &other_policy().replace(
            "roles: [worker]\n    mode",
            "roles: [worker]\n      networks: [many]\n    mode",
        ),
    );
    // The policy is refused, or the kernel kills the daemon; in both cases the old one stays in force.
    let mut was_killed = false;
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(100));
        match node.status() {
            Some(status) if status["up_to_date"] == false => break,
            Some(_) => {}
            None => {
                was_killed = true;
                break;
            }
        }
    }
    node.assert_guarded();
    if was_killed {
        node.signal("KILL");
        node.assert_guarded();
        node.start(&[]);
    } else {
        let status = node.status().expect("a status");
        assert_eq!(status["generation"], 2, "{}", node.log());
        assert_ne!(status["policy_hash"], before["policy_hash"]);
        group.no_limit().expect("no limit");
        node.write("many.txt", &format!("# once more\n{prefixes}"));
    }
    node.wait("the large policy", |status| {
        status["up_to_date"] == true && enforcing(status) && status["tables"]["prefixes4"] != 3
    });
    node.assert_guarded();
    println!("400,000 prefixes in {room} bytes: {}", if was_killed { "killed" } else { "refused" });
}

/// Case 112, descriptors: a lack of them leaves the policy in force.
#[test]
fn a_daemon_without_descriptors_keeps_the_policy_in_force() {
    let Some(mut node) = Node::new("faults/descriptors") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let process = node.daemon_id();
    let open = fs::read_dir(format!("/proc/{process}/fd")).expect("the descriptors").count();
    let limit = |number: usize| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &process.to_string(), &format!("--nofile={number}:")]);
        assert!(prlimit.status().expect("prlimit").success());
    };
    // Enough to answer requests and to read the files, but not to load a generation.
    limit(open + 8);
    node.write("policy.yaml", &other_policy());
    let status = node.wait("refused", |status| status["up_to_date"] == false);
    let problems = status["problems"].to_string();
    assert!(problems.contains("Too many open files"), "{problems}");
    assert_eq!(status["generation"], 1);
    node.assert_guarded();
    limit(4096);
    node.signal("HUP");
    node.wait("the next generation", at_generation(2));
    assert!(!node.answers(UNLISTED[0], PORT));
    node.assert_guarded();
}
