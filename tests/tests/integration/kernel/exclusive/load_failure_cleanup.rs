//! Loading a generation fails at each of its steps in turn, for lack of a descriptor, which fails at the
//! same steps as lack of memory. Runs in a process of its own, because it changes the limits of the
//! process.
#![expect(clippy::print_stdout, reason = "prints the number of failed steps")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::{VerifierLogLevel, maps::loaded_maps, programs::loaded_programs};
use guard_tests::{
    backend::KEY,
    node::WAIT_TIMEOUT,
    skip,
    system::{
        descriptors::{limited, lowest_free},
        mounts::Bpffs,
    },
    world,
};
use guard_user::{
    bpf::loader::{Generation, Maps, Options},
    policy::compiled::CompiledPolicy,
};

/// Minimum number of steps: each map and the program take a descriptor.
const STEPS: usize = 15;

/// Maps and programs in the kernel, and pins.
#[derive(Debug, PartialEq, Eq)]
struct KernelObjects {
    maps: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    pins: BTreeSet<String>,
}

impl KernelObjects {
    fn now(pins: &Path) -> Self {
        let pins = fs::read_dir(pins).expect("the pins").map(|entry| {
            entry.expect("an entry").file_name().into_string().expect("a name in UTF-8")
        });
        Self {
            maps: loaded_maps().map(|map| map.expect("a map").id()).collect(),
            programs: loaded_programs().map(|program| program.expect("a program").id()).collect(),
            pins: pins.collect(),
        }
    }
}

/// Case 106: nothing is left behind by a failed attempt.
#[test]
fn a_build_that_fails_at_any_step_leaves_nothing_behind() {
    if skip::kernel("load_failure_cleanup/steps").is_none() {
        return;
    }
    let bpffs = Bpffs::new().expect("a bpffs");
    let pins = bpffs.path();
    let policy = world::named("limits-both").compile();

    // Without a generation in force, nothing may remain.
    fails_at_every_step(&policy, pins);
    // With a generation in force, only that generation remains, complete and working.
    let running = Generation::load(&policy, &options(pins)).expect("loading the generation");
    fails_at_every_step(&policy, pins);
    let program = running.program_id();
    assert!(KernelObjects::now(pins).programs.contains(&program), "the running generation is gone");
}

/// The verifier's log is limited to statistics, because loading fails many times.
fn options(pins: &Path) -> Options {
    let options = Options::new(Maps::Pinned(pins.to_owned()), KEY, true);
    Options { verifier_log: VerifierLogLevel::STATS, ..options }
}

/// Loads with more and more descriptors until it succeeds, and checks after each failure.
fn fails_at_every_step(policy: &CompiledPolicy, pins: &Path) {
    let before = KernelObjects::now(pins);
    let lowest = lowest_free().expect("a descriptor");
    let mut errors = Vec::new();
    for limit in lowest.. {
        let built =
            limited(limit, || Generation::load(policy, &options(pins))).expect("a lower limit");
        match built {
            Ok(_) => break,
            Err(error) => errors.push(error.to_string()),
        }
        // The kernel frees a program and its resources with a delay.
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while KernelObjects::now(pins) != before && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(
            KernelObjects::now(pins),
            before,
            "after {} descriptors: {:?}",
            limit - lowest,
            errors
        );
    }
    println!("failed after {} steps: {:?}", errors.len(), errors.last());
    assert!(errors.len() >= STEPS, "only {} steps failed: {errors:?}", errors.len());
    // The successful attempt has pinned its maps, which this test must remove.
    for name in &KernelObjects::now(pins).pins {
        if !before.pins.contains(name) {
            fs::remove_file(pins.join(name)).expect("removing a pin");
        }
    }
}
