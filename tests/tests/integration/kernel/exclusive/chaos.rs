//! Failures at the worst moments: a daemon that is killed at any point of a reload or of its start, and
//! endless reloads, under traffic with every frame accounted for.
//!
//! `cargo xtask chaos` runs these for a thousand rounds; an ordinary test run takes fewer.
#![expect(clippy::print_stdout, reason = "prints measurements")]

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use guard_test_support::bundle::{self, Cluster};
use guard_tests::{
    node::{MEMBER, MEMBER_TOO, Node, UNLISTED, WAIT_TIMEOUT, enforcing},
    random::{Random, seed},
    skip,
    system::cgroup::Cgroup,
    traffic::{self, Lane, Traffic},
};
use serde_json::Value;

/// Serialises the tests, because each keeps both CPUs of a small machine busy.
static SERIAL: Mutex<()> = Mutex::new(());

/// Number of rounds, unless the environment sets another.
const ROUNDS: u64 = 25;

fn rounds() -> u64 {
    traffic::rounds(ROUNDS)
}

fn manifest() -> Cluster {
    bundle::cluster("chaos")
        .node("node", "10.77.0.10, fd77::10", "scheduler")
        .node("left", "10.77.0.20, fd77::20", "left")
        .node("right", "10.77.0.21, fd77::21", "right")
        .policies("policy.yaml")
}

const PORTS: [u16; 2] = [9091, 9092];

/// Returns one of two policies that mean the same with swapped names: `left` may reach the first port,
/// `right` the second. The service called `one` in one policy is called `other` in the other, so a port
/// table fits only the source table of its own policy: mixing the two would let `left` in where only
/// `right` may, and vice versa.
fn policy(swapped: bool) -> String {
    let [mut one, mut other] = [(PORTS[0], "left"), (PORTS[1], "right")];
    if swapped {
        std::mem::swap(&mut one, &mut other);
    }
    let service = |name: &str, (port, role): (u16, &str)| {
        bundle::service(name, "scheduler", &format!("udp/{port}"), &format!("roles: [{role}]"))
    };
    bundle::policy("chaos", [service("one", one), service("other", other)])
}

/// Every source to every port, in both families.
fn lanes() -> Vec<Lane> {
    let mut lanes = Vec::new();
    for family in 0..2 {
        for (from, may) in
            [(MEMBER, Some(PORTS[0])), (MEMBER_TOO, Some(PORTS[1])), (UNLISTED, None)]
        {
            for port in PORTS {
                lanes.push(Lane { from: from[family], port, passes: may == Some(port) });
            }
        }
    }
    lanes
}

fn started(test: &str) -> Option<Node> {
    started_with(test, &[])
}

fn started_with(test: &str, more: &[&str]) -> Option<Node> {
    let mut node = Node::new(test)?;
    node.write("cluster.yaml", &manifest().to_string());
    node.write("policy.yaml", &policy(false));
    node.start(more);
    node.wait("enforcing", enforcing);
    Some(node)
}

/// Returns the hash of the policy in force. It differs between the two policies, although they mean the
/// same.
fn hash(status: &Value) -> String {
    status["policy_hash"].as_str().expect("a hash").to_owned()
}

/// Puts the next policy into force and waits for it. Returns how long that took.
fn reload(node: &mut Node, swapped: bool) -> Duration {
    let generation = node.generation();
    node.write("policy.yaml", &policy(swapped));
    let began = Instant::now();
    node.signal("HUP");
    node.wait("the next generation", |status| status["generation"] == generation + 1);
    began.elapsed()
}

/// Case 92: SIGKILL at each of N points of a reload; also covers cases 93 and 94.
#[test]
fn a_daemon_killed_at_any_point_opens_no_port_and_mixes_no_policies() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut node) = started("chaos/kill") else { return };
    let first = hash(&node.status().expect("a status"));
    reload(&mut node, true);
    let hashes = [first, hash(&node.status().expect("a status"))];
    assert_ne!(hashes[0], hashes[1], "the two policies have different hashes");
    let reloads = reload(&mut node, false);
    let seed = seed();
    let mut random = Random::new(seed);
    let mut pause = |upto: Duration| {
        let micros = usize::try_from(upto.as_micros()).expect("a short time");
        thread::sleep(Duration::from_micros(random.below(micros) as u64));
    };
    let traffic = Traffic::start(&node, &lanes());
    let (mut second_kills, mut healthy) = (0, 0);
    for round in 0..rounds() {
        let swapped = round % 2 == 0;
        node.write("policy.yaml", &policy(swapped));
        node.signal("HUP");
        pause(reloads * 3 / 2);
        node.signal("KILL");
        traffic.assert_none_wrongly_admitted();
        // In every third round also the next daemon, while it takes over.
        if round % 3 == 0 {
            node.launch(&[]);
            pause(reloads * 4);
            node.signal("KILL");
            traffic.assert_none_wrongly_admitted();
            second_kills += 1;
        }
        node.launch(&[]);
        let status =
            node.wait("enforcing", |status| enforcing(status) && status["up_to_date"] == true);
        assert_eq!(hash(&status), hashes[usize::from(swapped)], "seed {seed}, round {round}");
        healthy += u64::from(status["problems"] == serde_json::json!([]));
    }
    let sum = traffic.end();
    assert_eq!(healthy, rounds(), "seed {seed}: {}", node.log());
    let pins = entries(&node.own_pins());
    let state = entries(&node.path("state"));
    println!(
        "{} rounds, {} kills: {sum:?}; a reload takes {reloads:?}; left: {pins:?}, {state:?}",
        rounds(),
        rounds() + second_kills,
    );
    assert_eq!(pins.iter().filter(|name| name.starts_with("link-")).count(), 1, "{pins:?}");
    let known = ["audit.jsonl", "hash-key", "last-good.json"];
    assert_eq!(state, known, "no unfinished file is left");
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Resources of a daemon.
#[derive(Debug, Clone, Copy)]
struct Resources {
    descriptors: usize,
    maps: usize,
    threads: usize,
    /// Resident memory, in KiB.
    resident: u64,
    /// Kernel memory, in KiB.
    kernel: u64,
}

fn resources(node: &Node, group: &Cgroup) -> Resources {
    let process = format!("/proc/{}", node.daemon_id());
    let list = || -> Vec<_> {
        let entries = fs::read_dir(format!("{process}/fd")).expect("the descriptors");
        entries.flatten().map(|entry| fs::read_link(entry.path()).unwrap_or_default()).collect()
    };
    // The connection of the last client may still be open for a moment.
    let samples = (0..10).map(|_| {
        thread::sleep(Duration::from_millis(20));
        list()
    });
    let descriptors = samples.min_by_key(Vec::len).expect("ten samples");
    let maps = descriptors.iter().filter(|to| to.to_string_lossy().contains("bpf-map")).count();
    let status = fs::read_to_string(format!("{process}/status")).expect("a status");
    let figure = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a figure");
        line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    };
    Resources {
        descriptors: descriptors.len(),
        maps,
        threads: usize::try_from(figure("Threads:")).expect("a number"),
        resident: figure("VmRSS:"),
        kernel: group.memory().expect("the memory of the group") / 1024,
    }
}

/// After a thousand consecutive reloads the daemon holds no more than after a hundred.
#[test]
fn many_reloads_leak_no_resources() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let test = "chaos/reloads";
    let Some(mut node) = started(test) else { return };
    let group = match Cgroup::new("reloads") {
        Ok(group) => group,
        Err(error) => return skip::skip(test, &format!("{error:#}")),
    };
    group.add(node.daemon_id()).expect("a group of its own");
    let traffic = Traffic::start(&node, &lanes());
    let mut swapped = false;
    let mut times = Vec::new();
    let mut reload_times = |node: &mut Node, count: u64| {
        for _ in 0..count {
            swapped = !swapped;
            times.push(reload(node, swapped));
        }
    };
    reload_times(&mut node, 10);
    let before = resources(&node, &group);
    reload_times(&mut node, rounds());
    let after = resources(&node, &group);
    let sum = traffic.end();
    times.sort();
    println!(
        "{} reloads: {before:?}, then {after:?}; {sum:?}; median {:?}, longest {:?}",
        rounds(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.maps, before.maps);
    assert_eq!(after.threads, before.threads);
    // The journal of events grows to 4 MiB, and the allocator keeps some memory, once. A leak grows with
    // each reload.
    assert!(after.resident < before.resident + (10 << 10), "{before:?}, then {after:?}");
    // Memory of maps is freed after a grace period, so some of it is always pending.
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while resources(&node, &group).kernel > before.kernel + 2048 {
        assert!(Instant::now() < deadline, "{before:?}, then {:?}", resources(&node, &group));
        thread::sleep(Duration::from_millis(100));
    }
}

/// Case 126: the same file, loaded a hundred times a second.
#[test]
fn an_unchanged_file_is_loaded_and_changes_nothing() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut node) = started("chaos/same") else { return };
    let traffic = Traffic::start(&node, &lanes());
    let before = node.status().expect("a status");
    for _ in 0..rounds() * 4 {
        node.write("policy.yaml", &policy(false));
        node.signal("HUP");
        thread::sleep(Duration::from_millis(10));
    }
    let after = node.wait("up to date", |status| status["up_to_date"] == true);
    for fact in ["generation", "policy_hash", "enforcing", "problems"] {
        assert_eq!(after[fact], before[fact], "{fact}");
    }
    assert_eq!(after["interfaces"], before["interfaces"]);
    traffic.end();
}

/// Case 127: half a policy that is a valid policy, and guards one port fewer. The daemon waits for a
/// writer that writes in place and pauses for less than the time that such a file must rest.
#[test]
fn half_a_policy_is_not_loaded_while_it_is_written() {
    const REST: Duration = Duration::from_secs(2);
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let timing = format!("files=50ms,rest={}s", REST.as_secs());
    let Some(node) = started_with("chaos/slow", &["--timing", &timing]) else { return };
    let traffic = Traffic::start(&node, &lanes());
    let loads = || node.log().matches("INFO policy in force generation=").count();
    for swapped in [true, false] {
        let kept = node.status().expect("a status");
        let text = policy(swapped);
        let second = text.rfind("  - name").expect("two services");
        // On a busy machine a piece may rest long enough that the daemon rightly loads it; then try
        // again.
        let waited = (0..5).any(|_| {
            node.write("policy.yaml", &policy(!swapped));
            let is_kept = |status: &Value| hash(status) == hash(&kept);
            node.wait("the policy before", |status| {
                is_kept(status) && status["source"]["changed"] == false
            });
            let before = loads();
            let mut longest = Duration::ZERO;
            let mut last = Instant::now();
            // Up to the end of the first service, then to points in the second, then the whole file.
            for end in [second, second + 1, second + 40, text.len()] {
                let began = Instant::now();
                fs::write(node.path("policy.yaml"), &text[..end]).expect("writing in place");
                if end > second {
                    longest = longest.max(last.elapsed());
                }
                last = began;
                if end < text.len() {
                    thread::sleep(Duration::from_millis(600));
                    let is_kept = loads() == before;
                    assert!(is_kept || last.elapsed() >= REST, "{}", node.log());
                }
            }
            if longest >= REST {
                return false;
            }
            node.wait("the whole policy", |status| hash(status) != hash(&kept));
            assert_eq!(loads(), before + 1, "{}", node.log());
            true
        });
        assert!(waited, "the machine is too busy: {}", node.log());
        assert!(node.status().is_some_and(|status| status["up_to_date"] == true));
    }
    traffic.end();
}

/// Control for the other tests here: they would notice traffic that gets in where it must not.
#[test]
fn traffic_to_an_unguarded_node_is_detected() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(node) = started("chaos/control") else { return };
    let traffic = Traffic::start(&node, &lanes());
    assert_eq!(traffic.wrongly_admitted(), 0);
    let detached = node.trainguard(&["detach"]).arg("--bpf-dir").arg(node.pins()).output();
    assert!(detached.expect("detach").status.success());
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while traffic.wrongly_admitted() < 100 {
        assert!(Instant::now() < deadline, "{} wrongly admitted", traffic.wrongly_admitted());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Case 93: a daemon that is stopped for a while, aborts, or is killed for lack of memory.
#[test]
fn the_guard_stays_when_the_daemon_stops_or_dies() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut node) = started("chaos/dies") else { return };
    let traffic = Traffic::start(&node, &lanes());
    let process = node.daemon_id().to_string();
    for signal in ["STOP", "CONT"] {
        let sent = Command::new("kill").args(["-s", signal, &process]).status().expect("kill");
        assert!(sent.success());
        thread::sleep(Duration::from_secs(3));
        traffic.assert_none_wrongly_admitted();
    }
    node.wait("running again", enforcing);
    node.signal("ABRT");
    thread::sleep(Duration::from_millis(300));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    traffic.end();
}
