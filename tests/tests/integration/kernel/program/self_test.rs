//! The self-test: a generation must decide correctly about known packets before it comes into force.

use guard_tests::{backend::KEY, skip, world};
use guard_user::bpf::loader::{Generation, Maps, Options};

/// Case 115: a generation that decides differently from its policy is not created. Here its tables are
/// those of another policy, as if they had been filled wrongly.
#[test]
fn a_generation_with_other_tables_is_refused_with_the_frame() {
    if skip::kernel("self_test").is_none() {
        return;
    }
    let options = Options::new(Maps::Private, KEY, true);
    let names = ["enforce", "observe", "mixed", "nested", "new-connections", "limits-both", "any"];
    for name in names {
        let policy = world::named(name).compile();
        let mut generation = Generation::load(&policy, &options).expect("the policy loads");
        generation.self_test(&policy).expect("once more");
        for other in names.into_iter().filter(|other| *other != name) {
            let wrong = world::named(other).compile();
            let error = generation.self_test(&wrong).expect_err("other verdicts").to_string();
            assert!(error.contains("for the frame 0200"), "{name} as {other}: {error}");
        }
        let counted = generation.shared().expect("the maps").counters().expect("the counters");
        let counted: u64 = counted.iter().map(|(_, _, counter)| counter.packets).sum();
        assert_eq!(counted, 0, "{name}: a self-test changes no counter");
    }
}
