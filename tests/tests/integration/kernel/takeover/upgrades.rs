//! Taking over from a guard of another layout: upgrades, and downgrades by command.
#![expect(clippy::print_stdout, reason = "prints measurements")]

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use super::without_the_first_service;
use aya::maps::{Map, MapData, PerCpuArray};
use guard_common::{
    Reason,
    layout::{
        Counter, LAYOUT_VERSION,
        counters::{COUNTERS, counter_meaning},
    },
    names,
    verdict::MAX_SERVICES,
};
use guard_tests::{
    node::{Node, WAIT_TIMEOUT, enforcing, moved},
    random::{Random, seed},
    traffic::{Traffic, member_and_unlisted, rounds},
};
use serde_json::Value;

fn layout(is_next: bool) -> String {
    format!("v{}", LAYOUT_VERSION + u32::from(is_next))
}

/// Upgrades and downgrades under traffic: no frame gets in, none is lost, and no counter decreases.
fn upgrade_and_downgrade(test: &str, options: &[&str]) {
    let Some(mut node) = Node::new(test) else { return };
    node.start(options);
    let began = node.wait("enforcing", enforcing);
    let mode = &began["interfaces"][0]["mode"];
    let first = node.stats();
    let traffic = Traffic::start(&node, &member_and_unlisted());
    let mut before = node.stats();
    // A round is a change of layout in one of the three modes; each iteration of this loop has two.
    for _ in 0..rounds(18).div_ceil(6) {
        node.signal("TERM");
        node.set_next_layout(true);
        node.start(options);
        let status = node.wait("enforcing", enforcing);
        assert_eq!(&status["interfaces"][0]["mode"], mode, "{}", node.log());
        assert_eq!(node.layouts(), [layout(true)], "{}", node.log());
        let after = node.stats();
        assert_no_counter_fell(&before, &after);
        traffic.assert_none_wrongly_admitted();

        // An older daemon changes nothing, and reports the command to use.
        node.signal("TERM");
        node.set_next_layout(false);
        let (without_daemon, _) = node.status_and_code().expect("a status without a daemon");
        assert_eq!(without_daemon["interfaces"][0]["state"], "guarded", "{without_daemon}");
        let problems = without_daemon["problems"].to_string();
        let other = format!("the guard has layout {},", LAYOUT_VERSION + 1);
        assert!(problems.contains(&other), "{problems}");
        let refused = node.start_expecting_exit(options);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{stderr}");
        let hint =
            stderr.lines().find(|line| line.contains("trainguard downgrade ")).expect(&stderr);
        assert!(stderr.contains("`eth0` is guarded by a newer trainguard"), "{stderr}");
        assert_eq!(node.layouts(), [layout(true)], "the refused daemon changed nothing");
        traffic.assert_none_wrongly_admitted();
        // Run the command from the hint.
        let command = hint.split('`').nth(1).expect("a command");
        let (program, args) = command.split_once(' ').expect("a command");
        let args: Vec<&str> = args.split(' ').collect();
        let mut downgrade = node.command_at_node(program.as_ref());
        let output = downgrade.args(args).output().expect("starting the command");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert_eq!(node.layouts(), [layout(false)], "{stderr}");
        traffic.assert_none_wrongly_admitted();
        node.start(options);
        let status = node.wait("enforcing", enforcing);
        assert_eq!(&status["interfaces"][0]["mode"], mode, "{}", node.log());
        let back = node.stats();
        assert_no_counter_fell(&after, &back);
        before = back;
    }
    traffic.end().assert_counted_once(&moved(&first, &node.stats()));
}

/// SIGKILL at random points of upgrades and downgrades, in random directions: one of the two guards is
/// always attached, and the one that remains has counted each frame once.
#[test]
fn a_takeover_killed_at_any_point_leaves_a_guard() {
    /// Number of attempts that are killed between two that complete.
    const ATTEMPTS: u64 = 10;
    /// Maximum time before an attempt is killed, however slow the machine is.
    const LONGEST: Duration = Duration::from_millis(700);

    let Some(mut node) = Node::new("takeover/kill") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let first = node.stats();
    let traffic = Traffic::start(&node, &member_and_unlisted());
    let seed = seed();
    let mut random = Random::new(seed);
    let mut longest = Duration::from_millis(300);
    let mut before = node.stats();
    let rounds = rounds(200);
    for round in 0..rounds.div_ceil(ATTEMPTS) {
        node.signal("KILL");
        for attempt in 0..ATTEMPTS {
            let is_next = random.below(2) == 0;
            node.set_next_layout(is_next);
            // The older layout takes over by the downgrade command, the newer one at each start.
            let mut command =
                if is_next { node.daemon_command(&[]) } else { node.downgrade_command(&[]) };
            let mut killed = command.stderr(Stdio::null()).spawn().expect("starting the command");
            let micros = usize::try_from(longest.as_micros()).expect("a short time");
            thread::sleep(Duration::from_micros(random.below(micros) as u64));
            killed.kill().expect("SIGKILL");
            killed.wait().expect("waiting for the process");
            println!(
                "seed {seed}, round {round}, attempt {attempt}, next {is_next}: {:?}",
                node.layouts()
            );
            traffic.assert_none_wrongly_admitted();
        }
        let is_next = random.below(2) == 0;
        node.set_next_layout(is_next);
        let began = Instant::now();
        if !is_next {
            let output = node.downgrade_command(&[]).output().expect("starting the command");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "seed {seed}, round {round}: {stderr}");
        }
        node.start(&[]);
        node.wait("enforcing", enforcing);
        // Allow a bit more than the measured time, so that some attempts complete before they are
        // killed.
        longest = longest.max(began.elapsed()).min(LONGEST);
        assert_eq!(node.layouts(), [layout(is_next)], "seed {seed}, round {round}: {}", node.log());
        let after = node.stats();
        assert_no_counter_fell(&before, &after);
        before = after;
    }
    let sum = traffic.end();
    println!("{rounds} attempts of up to {longest:?}: {sum:?}");
    sum.assert_counted_once(&moved(&first, &node.stats()));
}

/// A removed service keeps its slot occupied, so other services have slots that a fresh compile would
/// not give them. An attempt that created its maps and was killed before it wrote labels must not lose
/// that, or each service would be counted in two slots.
#[test]
fn an_attempt_without_labels_changes_no_slots() {
    let Some(mut node) = without_the_first_service("takeover/slots") else { return };
    node.signal("TERM");
    let before = node.stats();
    node.set_next_layout(true);
    let mut attempt =
        node.daemon_command(&[]).stderr(Stdio::null()).spawn().expect("starting the command");
    let directory = node.pins().join(layout(true));
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !names::SHARED_MAPS.iter().all(|name| directory.join(name).exists()) {
        assert!(Instant::now() < deadline, "no maps");
        thread::sleep(Duration::from_millis(1));
    }
    attempt.kill().expect("SIGKILL");
    attempt.wait().expect("waiting for the process");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let after = node.stats();
    assert!(moved(&before, &after).is_empty(), "{before} {after}");
    assert_no_counter_fell(&before, &after);
    node.assert_guarded();
}

/// Asserts that no number of the statistics has decreased, except in the list of top sources, which
/// starts anew with each daemon.
fn assert_no_counter_fell(before: &Value, after: &Value) {
    fn compare(path: &str, before: &Value, after: &Value) {
        match (before, after) {
            (Value::Object(fields), after) => {
                for (name, value) in fields.iter().filter(|(name, _)| *name != "top_sources") {
                    compare(&format!("{path}/{name}"), value, &after[name]);
                }
            }
            (Value::Array(entries), after) => {
                for (nth, entry) in entries.iter().enumerate() {
                    compare(&format!("{path}/{nth}"), entry, &after[nth]);
                }
            }
            (Value::Number(number), after) => {
                let (before, now) = (number.as_f64(), after.as_f64());
                assert!(now >= before, "{path} fell from {before:?} to {now:?}");
            }
            _ => {}
        }
    }
    for part in ["reasons", "interfaces", "services", "events", "generation"] {
        compare(part, &before[part], &after[part]);
    }
}

#[test]
fn in_native_mode_nothing_opens_and_no_counter_falls() {
    upgrade_and_downgrade("takeover/native", &[]);
}

#[test]
fn in_tcx_mode_nothing_opens_and_no_counter_falls() {
    upgrade_and_downgrade("takeover/tcx", &["--mode", "tcx"]);
}

#[test]
fn in_generic_mode_nothing_opens_and_no_counter_falls() {
    upgrade_and_downgrade("takeover/generic", &["--mode", "generic"]);
}

/// Moves the counters of a pinned map to where layout 3 has them: it has no reason `forwarded`.
fn number_as_layout_3(pin: &std::path::Path) {
    const NODE: u32 = 3 * 8;
    const SERVICE: u32 = 2 * 10;
    let map = MapData::from_pin(pin).and_then(Map::from_map_data).expect("a map");
    let mut counters: PerCpuArray<_, Counter> = PerCpuArray::try_from(map).expect("counters");
    let none = || vec![Counter::default(); aya::util::nr_cpus().expect("the number of CPUs")];
    // Each counter moves down, to a place that was already read.
    for index in 0..COUNTERS {
        let Some((row, verdict)) = counter_meaning(index) else { continue };
        let values = counters.get(&index, 0).expect("a counter");
        if verdict.reason == Reason::Forwarded || values.iter().all(|of_cpu| of_cpu.packets == 0) {
            continue;
        }
        let (reason, action) = (verdict.reason as u32, verdict.action as u32);
        let within = match verdict.service {
            None => 3 * reason + action,
            Some(slot) => NODE + u32::from(slot) * SERVICE + 2 * (reason - 9) + action / 2,
        };
        counters.set(index, none().try_into().expect("values"), 0).expect("a counter");
        let old = row * (NODE + SERVICE * u32::from(MAX_SERVICES)) + within;
        counters.set(old, values, 0).expect("a counter");
    }
}

/// Layout 3 does not identify itself, but is known. The meaning of layout 1's counters is not known.
#[test]
fn a_layout_without_a_description_is_taken_over() {
    let Some(mut node) = Node::new("takeover/silent") else { return };
    for (version, is_known) in [("v3", true), ("v1", false)] {
        node.start(&[]);
        node.wait("enforcing", enforcing);
        node.assert_guarded();
        let before = node.stats();
        node.signal("TERM");
        let older = node.pins().join(version);
        std::fs::rename(node.own_pins(), &older).expect("renaming the pins");
        number_as_layout_3(&older.join(names::MAP_COUNTERS));
        for map in [names::MAP_ABOUT, names::MAP_CARRIED] {
            std::fs::remove_file(older.join(map)).expect("a map that this layout does not have");
        }
        node.start(&[]);
        node.wait("enforcing", enforcing);
        assert_eq!(node.layouts(), [layout(false)], "{}", node.log());
        let after = node.stats();
        if is_known {
            assert_no_counter_fell(&before, &after);
            assert!(moved(&before, &after).is_empty(), "nothing is counted twice");
        } else {
            assert!(
                node.log().contains("counts of the other guard are lost: its layout is unknown"),
                "{}",
                node.log()
            );
        }
        node.assert_guarded();
        node.signal("TERM");
    }
}
