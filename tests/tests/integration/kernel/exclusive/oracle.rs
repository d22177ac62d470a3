//! The kernel as oracle: generated odd frames to real sockets, without a guard, with one that allows
//! their sources, and with one that does not. See `guard_tests::oracle`.
//!
//! `cargo xtask oracle` runs these for an hour; an ordinary test run takes a minute.
#![expect(clippy::print_stdout, reason = "prints counts")]

use std::time::Duration;

use guard_tests::{
    oracle::{comparison::Comparison, lab::Allow},
    random,
};

/// Time for each mode, unless `TRAINGUARD_ORACLE_SECONDS` sets another.
const TIME: Duration = Duration::from_secs(18);

fn time() -> Duration {
    std::env::var("TRAINGUARD_ORACLE_SECONDS")
        .map_or(TIME, |text| Duration::from_secs(text.parse().expect("a number of seconds")))
}

/// Asserts that a guard in this mode lets nothing in from sources that are not allowed, and nothing be
/// lost of what the kernel delivers from allowed ones.
fn agree(mode: &str) {
    let test = format!("oracle/{mode}");
    let policies = [Allow::Members, Allow::Senders];
    let Some(comparison) = Comparison::new(&test, mode, policies, random::seed()) else { return };
    let report = comparison.run(time());
    println!("{report}");
    report.assert_no_fault();
    // Otherwise the cases would prove nothing.
    assert!(report.delivered > report.cases / 5, "{report}");
    assert!(report.cookies > 0, "{report}");
    assert!(report.forwarded > 0, "{report}");
}

#[test]
fn the_native_guard_refuses_and_loses_what_it_must() {
    agree("native");
}

#[test]
fn the_generic_guard_refuses_and_loses_what_it_must() {
    agree("generic");
}

#[test]
fn the_guard_at_the_tc_hook_refuses_and_loses_what_it_must() {
    agree("tcx");
}

/// Control for the other tests here: they would notice frames that get in where they must not, and
/// frames that are lost.
#[test]
fn guards_with_the_wrong_policies_are_detected() {
    let policies = [Allow::Senders, Allow::Members];
    let Some(comparison) = Comparison::new("oracle/control", "native", policies, 1) else { return };
    let report = comparison.run(Duration::from_secs(1));
    for node in ["closed: Delivered", "open: Nothing, bare: Delivered"] {
        assert!(report.faults.keys().any(|what| what.starts_with(node)), "{node}: {report}");
    }
}
