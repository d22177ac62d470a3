//! The corpus: frames that matter, each with its story, played to the host and to both hooks of
//! the kernel.

use std::{collections::BTreeMap, fs};

use guard_tests::{
    backend::{Backend, Host, Kernel},
    scenario::{self, Scenario},
    skip,
    world::{self, data},
};
use guard_user::{kernel::mode::Hook, policy::compiled::CompiledPolicy};

/// Between the starts of two scenarios: long enough that every bucket is full again.
const PAUSE_NS: u64 = 3600 * 1_000_000_000;

/// The scenarios of a file, by world.
fn by_world(file: &str) -> BTreeMap<String, Vec<Scenario>> {
    let mut worlds: BTreeMap<String, Vec<Scenario>> = BTreeMap::new();
    for scenario in scenario::read(&data("corpus").join(file).with_extension("yaml")) {
        worlds.entry(scenario.world.clone()).or_default().push(scenario);
    }
    worlds
}

fn on_host(file: &str) {
    let mut wrong = Vec::new();
    for (world, scenarios) in by_world(file) {
        let policy = world::named(&world).compile();
        let mut host = Host::new(&policy);
        wrong.extend(play(&scenarios, &policy, &mut host));
    }
    assert!(wrong.is_empty(), "{file} on the host:\n  {}", wrong.join("\n  "));
}

fn in_kernel(hook: Hook, file: &str) {
    let name = format!("scenarios_in_kernel_{}_{file}", hook.name());
    let Some(()) = skip::kernel(&name) else { return };
    let (mut all, mut played) = (0, 0);
    let mut wrong = Vec::new();
    for (world, mut scenarios) in by_world(file) {
        let policy = world::named(&world).compile();
        let kernel = Kernel::at(hook, &policy);
        let mut kernel = kernel.unwrap_or_else(|error| panic!("{world}: {error}"));
        all += scenarios.len();
        scenarios.retain(|scenario| scenario.fits(&kernel));
        played += scenarios.len();
        wrong.extend(play(&scenarios, &policy, &mut kernel));
    }
    assert!(played * 2 > all, "{file} at the {} hook: {played} of {all} played", hook.name());
    assert!(wrong.is_empty(), "{file} at the {} hook:\n  {}", hook.name(), wrong.join("\n  "));
}

fn play(
    scenarios: &[Scenario],
    policy: &CompiledPolicy,
    backend: &mut impl Backend,
) -> Vec<String> {
    let starts = (1..).map(|nth| nth * PAUSE_NS);
    let played = scenarios.iter().zip(starts);
    played.flat_map(|(scenario, start)| scenario.play(policy, backend, start)).collect()
}

macro_rules! corpus {
    ($($file:ident),* $(,)?) => {
        const FILES: &[&str] = &[$(stringify!($file)),*];

        mod host {
            $(#[test] fn $file() { super::on_host(stringify!($file)); })*
        }

        mod kernel {
            $(#[test] fn $file() { super::in_kernel(super::Hook::Xdp, stringify!($file)); })*
        }

        mod tc {
            $(#[test] fn $file() { super::in_kernel(super::Hook::Tc, stringify!($file)); })*
        }
    };
}

corpus!(ethernet, ipv4, ipv6, fragments, transport, sources, tunnels, services, limits, clock);

#[test]
fn every_file_is_played_and_every_name_given_once() {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(data("corpus")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(FILES.contains(&stem.as_str()), "{stem}.yaml is not in the list");
            names.extend(scenario::read(&path).into_iter().map(|scenario| scenario.name));
        }
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "two scenarios have the same name");
}
