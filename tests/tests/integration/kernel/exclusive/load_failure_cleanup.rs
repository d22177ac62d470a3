//! A build that fails on the way, at each of its steps in turn: for want of a descriptor, which
//! fails where want of memory would. In a process of its own, whose limits it changes.
#![expect(clippy::print_stdout, reason = "how far the builds got is worth knowing")]

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

/// Steps that a build has at least: each map and the program take a descriptor.
const STEPS: usize = 15;

/// What the kernel has, and what is pinned.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    maps: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    pins: BTreeSet<String>,
}

impl Left {
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

/// Case 106.
#[test]
fn a_build_that_fails_at_any_step_leaves_nothing_behind() {
    if skip::kernel("half_built/steps").is_none() {
        return;
    }
    let bpffs = Bpffs::new().expect("a bpffs");
    let pins = bpffs.path();
    let policy = world::named("limits-both").compile();

    // Nothing is there before: nothing may be there after.
    fails_at_every_step(&policy, pins);
    // With a generation in force, it alone is there after, whole and alive.
    let running = Generation::load(&policy, &options(pins)).expect("it loads");
    fails_at_every_step(&policy, pins);
    let program = running.program_id();
    assert!(Left::now(pins).programs.contains(&program), "the running generation is gone");
}

/// The figures of the verifier are enough here: a build is refused many times.
fn options(pins: &Path) -> Options {
    let options = Options::new(Maps::Pinned(pins.to_owned()), KEY, true);
    Options { verifier_log: VerifierLogLevel::STATS, ..options }
}

/// Builds with ever more descriptors, until one succeeds, and looks after each that does not.
fn fails_at_every_step(policy: &CompiledPolicy, pins: &Path) {
    let before = Left::now(pins);
    let lowest = lowest_free().expect("a descriptor");
    let mut errors = Vec::new();
    for limit in lowest.. {
        let built =
            limited(limit, || Generation::load(policy, &options(pins))).expect("a lower limit");
        match built {
            Ok(_) => break,
            Err(error) => errors.push(error.to_string()),
        }
        // The kernel frees a program, and what it holds, a little later.
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while Left::now(pins) != before && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(Left::now(pins), before, "after {} descriptors: {:?}", limit - lowest, errors);
    }
    println!("failed after {} steps: {:?}", errors.len(), errors.last());
    assert!(errors.len() >= STEPS, "only {} steps failed: {errors:?}", errors.len());
    // What succeeded has pinned its maps, as it should. They are this test's to remove.
    for name in &Left::now(pins).pins {
        if !before.pins.contains(name) {
            fs::remove_file(pins.join(name)).expect("removing a pin");
        }
    }
}
