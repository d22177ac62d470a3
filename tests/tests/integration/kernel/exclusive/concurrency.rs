//! Limits when several CPUs charge the same bucket at once.

use std::{
    thread,
    time::{Duration, Instant},
};

use aya::{
    TestRun as _,
    programs::{TestRunOptions, Xdp, loaded_programs},
};
use aya_obj::programs::XdpAttachType;
use guard_common::{Action, Reason, names};
use guard_tests::{skip, text, world};
use guard_user::bpf::loader::{Generation, Maps, Options};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

const THREADS: usize = 4;
const FRAMES: usize = 5_000;
/// The burst in the worlds below, see `worlds/`.
const BURST: usize = 2_000;

/// At one moment a bucket admits its burst and not a token more, on any number of CPUs. A CPU that
/// repeatedly loses the race for the state refuses, so the whole burst is admitted only if far more
/// packets arrive.
#[test]
fn several_cpus_get_no_more_than_the_burst() {
    if skip::kernel("concurrency/burst").is_none() {
        return;
    }
    for (name, from, reason) in [
        ("limits-per-source", "10.77.0.20", Reason::LimitNewConnections),
        ("limits-per-source", "10.9.0.7", Reason::LimitNewConnections),
        ("limits-total", "10.77.0.20", Reason::LimitTotalNewConnections),
    ] {
        let policy = world::named(name)
            .compile_edited(|text| text.replace("burst: 5 ", &format!("burst: {BURST} ")));
        let generation = Generation::for_tests(&policy, [1, 2]).expect("the policy loads");
        let frame =
            text::frame(&format!("ipv4 from={from} / tcp to=9091 flags=S")).expect("a frame");
        let admitted: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        let verdicts = (0..FRAMES).map(|_| {
                            generation
                                .evaluate(&frame, 1_000_000_000)
                                .expect("a verdict of the kernel")
                        });
                        verdicts
                            .filter(|verdict| {
                                let admitted = verdict.action == Action::Pass;
                                assert!(admitted || verdict.reason == reason, "{verdict:?}");
                                admitted
                            })
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(admitted, BURST, "{name} from {from}");
    }
}

/// Duration of a flood.
const FLOOD: Duration = Duration::from_millis(600);
/// Maximum length of a tick of the limiter's clock.
const TICK: Duration = Duration::from_millis(10);
/// Packets per second, and the burst, in the two policies below.
const RATE: u64 = 20_000;
const FLOOD_BURST: u64 = 8_000;

/// The attached program, the real clock, and all CPUs flooding at once.
#[test]
fn a_flood_from_all_cpus_stays_within_the_limit() {
    if skip::kernel("concurrency/flood").is_none() {
        return;
    }
    for (name, from, batch) in [
        ("limits-per-source", "10.77.0.20", 0_u128),
        ("limits-per-source", "10.9.0.7", 0),
        // The batch: 1/64 of the burst, at most 64.
        ("limits-total", "10.77.0.20", 64),
    ] {
        let policy = world::named(name).compile_edited(|text| {
            text.replace("rate: 10/s, burst: 5 ", &format!("rate: {RATE}/s, burst: {FLOOD_BURST} "))
        });
        let options = Options::new(Maps::Private, [1, 2], true);
        let mut generation = Generation::load(&policy, &options).expect("the policy loads");
        let mut shared = generation.shared().expect("the shared maps");
        shared.set_interface(1, "lo", true).expect("a row");
        for service in &policy.services {
            shared.set_service(service.slot, &service.label).expect("a slot");
        }
        let frame =
            text::frame(&format!("ipv4 from={from} / tcp to=9091 flags=S")).expect("a frame");
        let began = Instant::now();
        thread::scope(|scope| {
            for cpu in 0..CPUS {
                let (generation, frame) = (&generation, &frame);
                scope.spawn(move || flood(generation, frame, cpu, began));
            }
        });
        let lasted = began.elapsed() + TICK;
        let counted = shared.counters().expect("the counters");
        let admitted: u64 = counted
            .iter()
            .filter(|(_, verdict, _)| verdict.action == Action::Pass)
            .map(|(_, _, counter)| counter.packets)
            .sum();
        let refused: u64 =
            counted.iter().map(|(_, _, counter)| counter.packets).sum::<u64>() - admitted;
        let budget = u128::from(RATE) * lasted.as_micros() / 1_000_000 + u128::from(FLOOD_BURST);
        let max = budget + batch * (CPUS as u128);
        assert!(u128::from(admitted) <= max, "{name} from {from}: {admitted} of {max}");
        assert!(
            u128::from(admitted) >= budget / 2,
            "{name} from {from}: only {admitted} of {budget}"
        );
        assert!(refused > admitted, "{name} from {from}: {refused} refused, too few for a flood");
    }
}

const CPUS: usize = 2;

fn flood(generation: &Generation, frame: &[u8], cpu: usize, began: Instant) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU");
    // On a machine with one CPU, both threads share it.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == generation.program_id())
        .expect("the program is loaded");
    let program = Xdp::from_program_info(program, names::PROGRAM.into(), XdpAttachType::Interface)
        .expect("an XDP program");
    while began.elapsed() < FLOOD {
        let options =
            TestRunOptions { data_in: Some(frame), repeat: 20_000, ..TestRunOptions::default() };
        program.test_run(options).expect("a test run");
    }
}
