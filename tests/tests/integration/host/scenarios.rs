//! The corpus: important frames, each with a description, played to the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use guard_tests::{
    backend::{Backend, Host},
    scenario::{self, Scenario},
    world::{self, data},
};
use guard_user::policy::compiled::CompiledPolicy;

/// Time between the starts of two scenarios, long enough to fill every bucket.
const PAUSE_NS: u64 = 3600 * 1_000_000_000;

/// Returns the worlds that the scenarios use.
pub(crate) fn worlds_in_use() -> BTreeSet<String> {
    FILES.iter().flat_map(|file| in_file(file)).map(|scenario| scenario.world).collect()
}

/// Returns the scenarios of a world.
pub(crate) fn in_world(world: &str) -> Vec<Scenario> {
    let all = FILES.iter().flat_map(|file| in_file(file));
    all.filter(|scenario| scenario.world == world).collect()
}

fn in_file(file: &str) -> Vec<Scenario> {
    scenario::read(&data("corpus").join(file).with_extension("yaml"))
}

/// Returns the scenarios of a file, grouped by world.
fn by_world(file: &str) -> BTreeMap<String, Vec<Scenario>> {
    let mut worlds: BTreeMap<String, Vec<Scenario>> = BTreeMap::new();
    for scenario in in_file(file) {
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

pub(crate) fn play(
    scenarios: &[Scenario],
    policy: &CompiledPolicy,
    backend: &mut impl Backend,
) -> Vec<String> {
    let starts = (1..).map(|nth| nth * PAUSE_NS);
    let played = scenarios.iter().zip(starts);
    played.flat_map(|(scenario, start)| scenario.play(policy, backend, start)).collect()
}

/// Passes the names of the corpus's files to a macro.
macro_rules! corpus {
    ($with:ident!($($more:tt)*)) => {
        $with!($($more)*; ethernet ipv4 ipv6 fragments transport sources tunnels services limits clock);
    };
}

/// Defines a test for each file, which calls a function with the file's name.
macro_rules! test_each {
    ($play:expr; $($file:ident)*) => {
        $(#[test] fn $file() { $play(stringify!($file)); })*
    };
}

/// Defines a constant with the names as strings.
macro_rules! names {
    ($list:ident; $($name:ident)*) => { const $list: &[&str] = &[$(stringify!($name)),*]; };
}
pub(crate) use {names, test_each};

corpus!(names!(FILES));
corpus!(test_each!(on_host));

#[test]
fn every_file_is_played_and_every_name_is_unique() {
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
