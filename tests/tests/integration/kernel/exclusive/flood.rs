//! A flood of forged sources, as fast as one CPU can send it over a veth: members get in, unlisted
//! sources do not, every frame is counted once, and a source behind one per cent of the flood is
//! reported.
#![expect(clippy::cast_precision_loss, reason = "counts of frames are far below 2^52")]

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use guard_tests::{
    node::{MEMBER, NODE, Node, PORT, UNLISTED, WAIT_TIMEOUT, enforcing},
    skip,
    wire::{
        cpu::Cpus,
        flood::{self, Flood},
        lab,
        policy::Addresses,
    },
};
use serde_json::Value;

/// Duration of the flood.
const DURATION: Duration = Duration::from_secs(12);
/// The heavy hitter sends one frame in this many.
const HEAVY: usize = 100;
/// The member sends one frame in this many.
const MEMBERS: usize = 1000;

/// Returns the sender, loaded at the peer; `None` if it was not built.
fn sender(node: &Node, test: &str) -> Option<Flood> {
    let Some(object) = std::env::var_os("TRAINGUARD_FLOOD").map(PathBuf::from) else {
        skip::skip(test, "the sender of floods is not built, see `cargo xtask test`");
        return None;
    };
    let cpus = Cpus::of_this_machine().expect("two CPUs");
    let index = node.at_peer(|| nix::net::if_::if_nametoindex("eth0").expect("an interface"));
    Some(Flood::load(&object, index, cpus.sender).expect("the sender loads"))
}

fn v4(addresses: [IpAddr; 2]) -> Ipv4Addr {
    match addresses {
        [IpAddr::V4(address), _] => address,
        [IpAddr::V6(_), _] => unreachable!("the IPv4 address is first"),
    }
}

/// Returns a field of the statistics about a reason.
fn count(stats: &Value, reason: &str, of: &str) -> u64 {
    stats["reasons"][reason][of].as_u64().expect("a count")
}

/// Returns the number of all frames with a verdict.
fn evaluated(stats: &Value) -> u64 {
    let reasons = stats["reasons"].as_object().expect("reasons");
    reasons.values().map(|entry| entry["packets"].as_u64().expect("a count")).sum()
}

fn refused(stats: &Value) -> u64 {
    let reasons = stats["reasons"].as_object().expect("reasons");
    reasons.values().map(|entry| entry["dropped"].as_u64().expect("a count")).sum()
}

#[test]
#[expect(clippy::print_stdout, reason = "prints the estimate and the actual count")]
fn a_million_forged_sources_hide_no_attacker_and_open_nothing() {
    let name = "flood/forged";
    let Some(mut node) = Node::new(name) else { return };
    let Some(mut flood) = sender(&node, name) else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.assert_guarded();
    let forged = Addresses::listed_and_not(0, flood::SOURCES).1.v4;
    let heavy = v4(UNLISTED);
    let fixed = [(heavy, HEAVY), (v4(MEMBER), MEMBERS)];
    flood.forge(v4(NODE), PORT, &forged, &fixed).expect("sources");
    let received = || node.at_node(|| lab::received("eth0").expect("a count"));
    let before = (node.stats(), received());

    let (mut answered, mut attempts) = (0, 0);
    thread::scope(|scope| {
        let flooding =
            scope.spawn(|| node.at_peer(|| flood.send(DURATION).expect("sending the flood")));
        // Members get in meanwhile. The cable itself drops frames when it is overrun, so a connection
        // may need several attempts.
        while !flooding.is_finished() {
            attempts += 1;
            answered += u32::from(node.answers(MEMBER[0], PORT));
            assert!(!node.answers(UNLISTED[1], PORT), "an unlisted source gets in during a flood");
        }
    });
    assert!(answered > 0, "none of {attempts} connections of a member got through");

    // Every frame that the device received is counted once.
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let after = loop {
        let after = (node.stats(), received());
        if evaluated(&after.0) - evaluated(&before.0) == after.1 - before.1 {
            break after;
        }
        assert!(
            Instant::now() < deadline,
            "evaluated and received frames differ: {before:?} {after:?}"
        );
        thread::sleep(Duration::from_millis(50));
    };
    let (before, after) = (&before.0, &after.0);
    let moved = |reason, of| count(after, reason, of) - count(before, reason, of);
    let drops = moved("not_allowed", "dropped");
    assert_eq!(refused(after) - refused(before), drops, "no frame is refused for another reason");
    assert_eq!(moved("not_allowed", "packets"), drops, "no refused frame passes");
    let share = drops as f64 / moved("allowed", "packets") as f64 / MEMBERS as f64;
    assert!((0.9..1.1).contains(&share), "one of {MEMBERS} is a member's: {share}");
    assert!(drops > 1_000_000, "too few frames for a flood: {drops}");

    // Each refused frame is emitted as an event, suppressed or lost, and none is counted twice.
    let events = |name: &str| {
        let of = |stats: &Value| stats["events"][name].as_u64().expect("a count");
        of(after) - of(before)
    };
    let (emitted, suppressed, lost) = (events("emitted"), events("suppressed"), events("lost"));
    assert_eq!(emitted + suppressed + lost, drops);
    assert_eq!(lost, 0, "the ring is read in time");
    assert!(emitted * 100 < drops, "a flood is sampled: {emitted} of {drops}");

    // The source of one per cent is listed first, with about the right count.
    let top = after["top_sources"].as_array().expect("top sources");
    let first = top.first().expect("a source");
    assert_eq!(first["address"], heavy.to_string(), "{top:#?}");
    assert_eq!(first["node"], Value::Null);
    assert_eq!(first["service"], "scheduler");
    let estimated = first["packets"].as_f64().expect("an estimate");
    let sent = drops as f64 / HEAVY as f64;
    let samples = first["sampled"].as_f64().expect("a count");
    // Four standard deviations of the sample, and an allowance for the first window.
    let off = (estimated / sent - 1.0).abs();
    assert!(
        off < 4.0 / samples.sqrt() + 0.1,
        "{estimated} estimated, {sent} sent, {samples} samples"
    );
    // No forged source comes close.
    let next = top.get(1).and_then(|entry| entry["packets"].as_f64()).unwrap_or(0.0);
    assert!(next < estimated / 2.0, "{top:#?}");
    println!(
        "{drops} frames dropped in {DURATION:?}, {answered} of {attempts} connections answered; of \
         {emitted} samples {samples} are the heavy hitter's, estimated {estimated} of {sent}"
    );
}
