//! A real training job, replayed to the guard of each of its hosts in the kernel.

use guard_tests::{backend::Kernel, skip};

use crate::host::captures::{nodes, other_ports, replay, replay_unguarded};

#[test]
fn the_job_runs_and_an_unlisted_host_is_refused_in_the_kernel() {
    let name = "the_job_runs_and_an_unlisted_host_is_refused_in_the_kernel";
    let Some(()) = skip::kernel(name) else { return };
    for (policy, address) in nodes() {
        replay(&policy, address, |policy| Kernel::new(policy).unwrap());
    }
}

#[test]
fn a_policy_for_other_ports_affects_no_frame_in_the_kernel() {
    let name = "a_policy_for_other_ports_affects_no_frame_in_the_kernel";
    let Some(()) = skip::kernel(name) else { return };
    let policy = other_ports();
    let mut kernel = Kernel::new(&policy).unwrap();
    for (_, address) in nodes() {
        replay_unguarded(address, &mut kernel);
    }
}
