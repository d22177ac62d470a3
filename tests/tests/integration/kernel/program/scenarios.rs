//! The corpus, played to both hooks of the kernel: a test for each world, which loads the program once.

use std::collections::BTreeSet;

use guard_tests::{backend::Kernel, skip, world};
use guard_user::attach_mode::Hook;

use crate::host::scenarios::{in_world, names, play, test_each, worlds_in_use};

/// Passes the names of the corpus's worlds to a macro, with underscores.
macro_rules! worlds {
    ($with:ident!($($more:tt)*)) => {
        $with!($($more)*; any enforce limits_both limits_observed limits_per_source limits_total
            many_services mixed nested new_connections nothing_guarded observe overlap tunnels
            tunnels_any tunnels_observed);
    };
}

worlds!(names!(WORLDS));

fn in_kernel(hook: Hook, world: &str) {
    let name = format!("scenarios_in_kernel_{}_{world}", hook.name());
    let Some(()) = skip::kernel(&name) else { return };
    let world = world.replace('_', "-");
    let policy = world::named(&world).compile();
    let mut kernel = Kernel::at(hook, &policy).unwrap_or_else(|error| panic!("{world}: {error}"));
    let mut scenarios = in_world(&world);
    let all = scenarios.len();
    scenarios.retain(|scenario| scenario.fits(&kernel));
    let played = scenarios.len();
    let enough = match hook {
        Hook::Xdp => played == all,
        // The tc hook takes no very short or long frames; the only scenario of `limits-observed` has a
        // long one.
        Hook::Tc => played * 2 > all || world == "limits-observed",
    };
    assert!(enough, "{world} at the {} hook: {played} of {all} played", hook.name());
    let wrong = play(&scenarios, &policy, &mut kernel);
    assert!(wrong.is_empty(), "{world} at the {} hook:\n  {}", hook.name(), wrong.join("\n  "));
}

mod xdp {
    use super::{Hook, in_kernel, test_each};

    worlds!(test_each!(|world| in_kernel(Hook::Xdp, world)));
}

mod tc {
    use super::{Hook, in_kernel, test_each};

    worlds!(test_each!(|world| in_kernel(Hook::Tc, world)));
}

#[test]
fn every_world_of_the_corpus_is_played() {
    let listed: BTreeSet<String> = WORLDS.iter().map(|world| world.replace('_', "-")).collect();
    assert_eq!(worlds_in_use(), listed);
}
