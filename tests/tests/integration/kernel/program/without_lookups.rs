//! The program without lookups in the network stack, as on a kernel that refuses them: segments of
//! sources that are not allowed are refused, because a listening socket is assumed for each.

use std::net::SocketAddr;

use guard_common::{Action, Reason, Verdict};
use guard_test_support::packet::{ACK, SYN, segment};
use guard_tests::{
    backend::{Backend as _, Kernel},
    skip, world,
};
use guard_user::attach_mode::Hook;

#[test]
fn without_lookups_segments_of_strangers_are_refused() {
    if skip::kernel("without_lookups").is_none() {
        return;
    }
    let policy = world::named("new-connections").compile();
    let at = |hook| Kernel::at(hook, &policy).expect("the policy loads");
    let without = |hook| Kernel::without_lookups(hook, &policy).expect("the policy loads");
    let service = |action, reason| Verdict::of_service(action, reason, 0);
    let refused = service(Action::Drop, Reason::NotAllowed);
    let established = service(Action::Pass, Reason::Established);
    let allowed = service(Action::Pass, Reason::Allowed);
    let unguarded = Verdict::of_node(Action::Pass, Reason::Unguarded);
    // Source, destination port, flags, verdicts with and without lookups.
    let cases = [
        ("192.0.2.7", 9091, SYN, refused, refused),
        ("192.0.2.7", 9091, ACK, established, refused),
        ("192.0.2.7", 9091, SYN | ACK, established, refused),
        ("192.0.2.7", 22, ACK, unguarded, unguarded),
        ("10.77.0.30", 9091, SYN, allowed, allowed),
        ("10.77.0.30", 9091, ACK, established, established),
        ("2001:db8::7", 9091, ACK, established, refused),
        ("fd77::30", 9091, ACK, established, established),
    ];
    for hook in [Hook::Xdp, Hook::Tc] {
        let (mut usual, mut without) = (at(hook), without(hook));
        for (source, port, flags, with_lookups, without_lookups) in cases {
            let to = if source.contains(':') { "fd77::10" } else { "10.77.0.10" };
            let [from, to] = [(source, 40_000), (to, port)]
                .map(|(address, port)| SocketAddr::new(address.parse().expect("an address"), port));
            let frame = segment(from, to, flags, 0);
            let told = format!("{hook:?}: {from} to {to}, flags {flags:#x}");
            assert_eq!(usual.evaluate(&frame, 1), with_lookups, "{told}");
            assert_eq!(without.evaluate(&frame, 1), without_lookups, "{told}, without lookups");
        }
    }
}
