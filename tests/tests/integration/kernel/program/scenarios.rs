//! The corpus, played to both hooks of the kernel.

use guard_tests::{backend::Kernel, skip, world};
use guard_user::kernel::mode::Hook;

use crate::host::scenarios::{by_world, corpus, play, test_each};

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

mod xdp {
    use super::{Hook, corpus, in_kernel, test_each};

    corpus!(test_each!(|file| in_kernel(Hook::Xdp, file)));
}

mod tc {
    use super::{Hook, corpus, in_kernel, test_each};

    corpus!(test_each!(|file| in_kernel(Hook::Tc, file)));
}
