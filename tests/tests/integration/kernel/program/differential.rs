//! Host against kernel: the same frames, in the same order, at the same times, must get the same
//! verdicts: action, reason and service. The seed reproduces a failure.
#![expect(clippy::print_stdout, reason = "the printed seed reproduces a failure")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use guard_common::{Action, Reason, Verdict};
use guard_tests::{
    backend::{Backend as _, Host, Kernel, describe, hex},
    generate::Generator,
    random, skip, world,
};
use guard_user::{attach_mode::Hook, bpf::loader::MIN_FRAME_LEN, policy::compiled::CompiledPolicy};

/// Number of frames for each world.
const FRAMES: usize = 60_000;
/// Number of frames for each world whose headers are split between two buffers.
const SPLIT: usize = 10_000;
/// Number of frames for each world that are cut at every length.
const CUT: usize = 12;
/// Minimum number of frames over all worlds.
const AT_LEAST: usize = 500_000;

/// Time of the first frame in nanoseconds. Buckets start full at time 0.
const START_NS: u64 = 1_000_000_000;

/// Results that occurred, over all worlds.
#[derive(Default)]
struct Tally {
    compared: usize,
    reasons: BTreeMap<Reason, usize>,
    actions: BTreeSet<Action>,
}

#[test]
fn host_and_kernel_agree() {
    agree("host_and_kernel_agree", Hook::Xdp);
}

/// The program for the tc hook makes the same decision.
#[test]
fn host_and_tc_agree() {
    agree("host_and_tc_agree", Hook::Tc);
}

fn agree(name: &str, hook: Hook) {
    let Some(()) = skip::kernel(name) else { return };
    let seed = random::seed();
    println!("TRAINGUARD_SEED={seed}");
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut worlds = 0;
    for (nth, world) in (0..).zip(world::all()) {
        let policy = world.compile();
        let place = format!("TRAINGUARD_SEED={seed}, world `{}`", world.name);
        // Long frames have several buffers, whatever the program's flag says.
        let kernel = kernel(hook, &policy, nth % 2 == 0, &place);
        compare(&policy, kernel, seed.wrapping_add(nth), &place, &mut tally);
        worlds += 1;
    }
    println!(
        "{} frames in {worlds} worlds, {:.1} s, {:?}",
        tally.compared,
        started.elapsed().as_secs_f32(),
        tally.reasons,
    );
    assert!(tally.compared >= AT_LEAST, "only {} frames", tally.compared);
    let missing: Vec<&str> = Reason::ALL
        .into_iter()
        // A test run has no network stack that forwards: `kernel/traffic` has packets that are.
        .filter(|reason| *reason != Reason::Forwarded && !tally.reasons.contains_key(reason))
        .map(Reason::name)
        .collect();
    assert!(missing.is_empty(), "TRAINGUARD_SEED={seed}: no frame gave {missing:?}");
    assert_eq!(tally.actions, Action::ALL.into(), "TRAINGUARD_SEED={seed}");
}

/// Loads a policy into the kernel, with or without the flag that each frame lies in one buffer.
fn kernel<'p>(hook: Hook, policy: &'p CompiledPolicy, one_buffer: bool, place: &str) -> Kernel<'p> {
    let kernel = Kernel::at(hook, policy)
        .and_then(|kernel| if one_buffer { kernel.set_one_buffer() } else { Ok(kernel) });
    kernel.unwrap_or_else(|error| panic!("{place}: {error}"))
}

fn compare(
    policy: &CompiledPolicy,
    mut kernel: Kernel<'_>,
    seed: u64,
    place: &str,
    tally: &mut Tally,
) {
    let mut generator = Generator::new(policy, seed);
    let mut host = Host::new(policy);
    let mut now_ns = START_NS;
    let mut index = 0;
    let mut one = |frame: &[u8], now_ns: u64| {
        index += 1;
        // The kernel accepts no shorter frames for test runs.
        if frame.len() < MIN_FRAME_LEN {
            let verdict = Host::new(policy).evaluate(frame, now_ns);
            assert_eq!(verdict.reason, Reason::Undecodable, "{place}: {}", hex(frame));
            return None;
        }
        if !kernel.takes(frame) {
            return None;
        }
        let (of_host, of_kernel) = (host.evaluate(frame, now_ns), kernel.evaluate(frame, now_ns));
        assert!(
            of_host == of_kernel,
            "{place}, frame {index} at {now_ns} ns:\n  host   {}\n  kernel {}\n  {}",
            describe(policy, of_host),
            describe(policy, of_kernel),
            hex(frame),
        );
        Some(of_host)
    };
    let mut note = |verdict: Option<Verdict>| {
        if let Some(verdict) = verdict {
            tally.compared += 1;
            *tally.reasons.entry(verdict.reason).or_default() += 1;
            tally.actions.insert(verdict.action);
        }
    };
    for _ in 0..FRAMES {
        let frame = generator.any();
        now_ns = later(now_ns, generator.random());
        note(one(&frame, now_ns));
    }
    for _ in 0..CUT {
        let mut frame = generator.structured();
        // Beyond the headers, the length makes no difference.
        frame.truncate(300);
        for len in 0..=frame.len() {
            now_ns = later(now_ns, generator.random());
            note(one(&frame[..len], now_ns));
        }
    }
    assert_eq!(host.counts(), kernel.counts(), "{place}: counters");
}

/// Drivers choose where the first buffer ends. Wherever that is, also in the middle of an address or of
/// a port, the verdict is the same.
#[test]
fn buffers_change_nothing() {
    spread("buffers_change_nothing", false);
}

/// A program that takes the first buffer for the whole frame, because it does not know of a larger MTU
/// yet, gives the same verdicts: it can only miss bytes after the packet.
#[test]
fn unannounced_buffers_change_no_verdict() {
    spread("unannounced_buffers_change_no_verdict", true);
}

fn spread(name: &str, one_buffer: bool) {
    let Some(()) = skip::kernel(name) else { return };
    let seed = random::seed();
    println!("TRAINGUARD_SEED={seed}");
    let mut compared = 0;
    for (nth, world) in (0..).zip(world::all()) {
        let policy = world.compile();
        let mut generator = Generator::new(&policy, seed.wrapping_add(nth));
        let mut host = Host::new(&policy);
        let kernel = kernel(Hook::Xdp, &policy, one_buffer, &world.name);
        let split = kernel.split();
        for now_ns in (START_NS..).step_by(1_000_000).take(SPLIT) {
            let frame = generator.any();
            // Nearly all headers end within the first hundred bytes.
            let longest = frame.len().min(100);
            if longest <= MIN_FRAME_LEN {
                continue;
            }
            let first = MIN_FRAME_LEN + generator.random().below(longest - MIN_FRAME_LEN);
            let Some(of_kernel) = split.evaluate(&frame, first, now_ns) else {
                return skip::skip(name, "kernels before 6.18 choose the first buffer themselves");
            };
            let of_host = host.evaluate(&frame, now_ns);
            assert!(
                of_host == of_kernel,
                "TRAINGUARD_SEED={seed}, world `{}`, cut at {first}:\n  host   {}\n  kernel {}\n  {}",
                world.name,
                describe(&policy, of_host),
                describe(&policy, of_kernel),
                hex(&frame),
            );
            compared += 1;
        }
        let (mut of_host, mut of_kernel) = (host.counts(), kernel.counts());
        if one_buffer {
            for (_, bytes) in of_host.values_mut().chain(of_kernel.values_mut()) {
                *bytes = 0;
            }
        }
        assert_eq!(of_host, of_kernel, "TRAINGUARD_SEED={seed}: {}", world.name);
    }
    assert!(compared > AT_LEAST / 10, "only {compared} frames");
}

/// Advances a clock: mostly a little, sometimes a lot, and sometimes back, as between two CPUs.
fn later(now_ns: u64, random: &mut random::Random) -> u64 {
    let step = random.word();
    match random.below(100) {
        0 => now_ns + step % 2_000_000_000,
        1..4 => now_ns.saturating_sub(step % 1_000_000).max(START_NS),
        4..50 => now_ns,
        _ => now_ns + step % 2_000_000,
    }
}
