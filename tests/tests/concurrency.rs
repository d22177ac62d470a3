//! Limits when several CPUs charge one bucket at once.

use std::thread;

use guard_common::{Action, Reason};
use guard_tests::{skip, text, world};
use guard_user::kernel::generation::Generation;

const THREADS: usize = 4;
const FRAMES: usize = 5_000;
/// See `worlds/`.
const BURST: usize = 2_000;

/// At one moment a bucket gives out its burst, not a token more, whoever asks on however many CPUs.
/// A CPU that loses the race for the state too often refuses; so the burst is given out only when
/// far more was asked for.
#[test]
fn several_cpus_get_no_more_than_the_burst() {
    if skip::kernel("concurrency/burst").is_none() {
        return;
    }
    for (name, from, reason) in [
        ("limits-per-source", "10.77.0.20", Reason::LimitNewConnections),
        ("limits-per-source", "10.9.0.7", Reason::LimitNewConnections),
        ("limits-total", "10.77.0.20", Reason::LimitTotalNewConnections),
    ] {
        let policy = world::named(name)
            .compile_edited(|text| text.replace("burst: 5 ", &format!("burst: {BURST} ")));
        let generation = Generation::for_tests(&policy, [1, 2]).expect("the policy loads");
        let frame =
            text::frame(&format!("ipv4 from={from} / tcp to=9091 flags=S")).expect("a frame");
        let admitted: usize = thread::scope(|scope| {
            let judging: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        let verdicts = (0..FRAMES).map(|_| {
                            generation.judge(&frame, 1_000_000_000).expect("the kernel judges")
                        });
                        verdicts
                            .filter(|verdict| {
                                let admitted = verdict.action == Action::Pass;
                                assert!(admitted || verdict.reason == reason, "{verdict:?}");
                                admitted
                            })
                            .count()
                    })
                })
                .collect();
            judging.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(admitted, BURST, "{name} from {from}");
    }
}
