//! Case 107: switches of the generation under load: a thousand a second at the tc hook; in a driver as
//! fast as the kernel, which waits for running programs. Every packet is decided by exactly one of the
//! two generations.

#![expect(clippy::print_stdout, reason = "prints the rate of switches")]

use std::{
    collections::BTreeMap,
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use guard_common::Verdict;
use guard_tests::{
    backend::KEY,
    node::{MANIFEST, NODE, Node, POLICY, PORT, UNLISTED, inside},
    world,
};
use guard_user::{
    attach_mode::{Hook, Mode},
    bpf::{
        link::Link,
        loader::{Generation, Maps, Options},
        pinned_maps::PinnedMaps,
    },
    policy::Bundle,
};
use nix::net::if_::if_nametoindex;

/// Duration of the load.
const LOAD: Duration = Duration::from_secs(2);

/// Loads a generation with maps of its own, so that the counts show which generation decided.
fn generation(hook: Hook, index: u32, edit: impl Fn(&str) -> String) -> (Generation, PinnedMaps) {
    let texts = [("cluster.yaml", MANIFEST.to_owned()), ("policy.yaml", edit(POLICY))];
    let policy = world::compile(&world::load(&Bundle::new("cluster.yaml", texts)), "node");
    let options = Options::new(Maps::Private, KEY, false);
    let mut generation =
        Generation::load_for(hook, &policy, &options).expect("loading the generation");
    let mut shared = generation.shared().expect("maps");
    shared.set_interface(index, "eth0", false).expect("a row");
    for service in &policy.services {
        shared.set_service(service.slot, &service.label).expect("a label");
    }
    (generation, shared)
}

/// Returns the packets by verdict, without `not_ip`.
fn counted(shared: &PinnedMaps) -> BTreeMap<String, u64> {
    let counters = shared.counters().expect("counters");
    let named = counters.into_iter().map(|(_, verdict, counter)| {
        let Verdict { action, reason, .. } = verdict;
        (format!("{action:?} {}", reason.name()), counter.packets)
    });
    named.filter(|(name, count)| *count > 0 && !name.ends_with("not_ip")).collect()
}

/// Returns the number of packets that the peer's side of the wire could not deliver.
fn lost() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/dev").expect("the devices");
    let line = text.lines().find(|line| line.trim_start().starts_with("eth0:"));
    let fields = line.and_then(|line| line.split(':').nth(1)).expect("eth0");
    // Twelfth field: transmit drops.
    fields.split_whitespace().nth(11).and_then(|field| field.parse().ok()).expect("drops")
}

#[test]
fn each_packet_is_decided_by_exactly_one_generation() {
    for (mode, min_switches) in [(Mode::Native, 10), (Mode::Tcx, 1_000 * LOAD.as_secs())] {
        let Some(node) = Node::new("generation_switch") else { return };
        let hook = mode.hook();
        let index = node.at_node(|| if_nametoindex("eth0").expect("an index"));
        // One generation refuses the unlisted host; the other counts that it would.
        let (one, ones) = generation(hook, index, str::to_owned);
        let (other, others) = generation(hook, index, |policy| {
            policy.replace("mode: enforce", "mode: observe").replace("tcp/9091, ", "")
        });
        let pin = node.path("bpf").join("link");
        let link = node.at_node(|| {
            Link::attach(one.program(hook).expect("loaded"), "eth0", index, mode, &pin)
        });
        let link = link.expect("attaching");
        let stop = AtomicBool::new(false);
        let peer = node.peer().to_owned();
        let (sent, switches, took) = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                inside(&peer, || {
                    let socket = UdpSocket::bind((UNLISTED[0], 0)).expect("an address");
                    let before = lost();
                    let mut sent = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        sent += u64::from(socket.send_to(b"probe", (NODE[0], PORT)).is_ok());
                    }
                    thread::sleep(Duration::from_millis(200));
                    sent - (lost() - before)
                })
            });
            let started = Instant::now();
            let mut switches = 0_u64;
            while started.elapsed() < LOAD {
                for next in [&other, &one] {
                    link.switch(next.program(hook).expect("loaded")).expect("switching");
                    switches += 1;
                }
            }
            let took = started.elapsed();
            stop.store(true, Ordering::Relaxed);
            (sending.join().expect("sending"), switches, took)
        });
        println!("{mode:?}: {switches} switches in {:.1} s, {sent} packets", took.as_secs_f32());
        assert!(switches >= min_switches, "{mode:?}: {switches} switches");
        let (ones, others) = (counted(&ones), counted(&others));
        let dropped = ones.get("Drop not_allowed").copied().unwrap_or(0);
        let observed = others.get("WouldDrop not_allowed").copied().unwrap_or(0);
        assert!(
            dropped > 100 && observed > 100,
            "{mode:?}: both generations decide: {ones:?} {others:?}"
        );
        assert_eq!(dropped + observed, sent, "{mode:?}, {switches} switches: {ones:?} {others:?}");
        assert!(!ones.contains_key("WouldDrop not_allowed"), "{ones:?}");
        assert!(!others.contains_key("Drop not_allowed"), "{others:?}");
        link.detach().expect("detaching");
    }
}
