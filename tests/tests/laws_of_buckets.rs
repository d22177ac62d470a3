//! What holds for every token bucket, whatever is charged and when.

use guard_common::bucket::{Limit, TICKS_PER_SECOND, step};
use proptest::prelude::*;

/// A charge: (ticks since the last one, units).
fn charges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    // Much at once, little now and then, and pauses that fill the bucket.
    let pause = prop_oneof![Just(0), 0..1_000_u64, 0..TICKS_PER_SECOND / 100, 0..TICKS_PER_SECOND];
    prop::collection::vec((pause, 1..2_000_u64), 1..60)
}

/// Charges a full bucket; the time and the units of what was admitted.
fn admitted(limit: &Limit, charges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut now = TICKS_PER_SECOND;
    let mut state = 0;
    let mut all = Vec::new();
    for &(pause, units) in charges {
        now += pause;
        let step = step(limit, state, now, limit.cost(units));
        state = step.state;
        if step.admitted {
            all.push((now, units));
        }
    }
    all
}

/// Every window of what was admitted: (ticks, units).
fn windows(admitted: &[(u64, u64)]) -> Vec<(u128, u128)> {
    let mut windows = Vec::new();
    for (first, (start, _)) in admitted.iter().enumerate() {
        let mut sum = 0;
        for (end, units) in &admitted[first..] {
            sum += u128::from(*units);
            windows.push((u128::from(end - start), sum));
        }
    }
    windows
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// Over any time no more than `rate x time + burst` things.
    #[test]
    fn no_window_has_more_things(
        rate in 1_u64..2_000_000,
        burst in 1_u64..5_000,
        charges in charges(),
    ) {
        let limit = Limit::per_unit(rate, burst);
        // One by one, as packets are charged.
        let charges: Vec<(u64, u64)> = charges.iter().map(|(pause, _)| (*pause, 1)).collect();
        for (ticks, units) in windows(&admitted(&limit, &charges)) {
            let allowed = u128::from(rate) * ticks + u128::from(burst) * u128::from(TICKS_PER_SECOND);
            prop_assert!(units * u128::from(TICKS_PER_SECOND) <= allowed, "{units} in {ticks} ticks");
        }
    }

    /// Over any time no more than `rate x time + burst x 4097/4096` bytes and a tick's worth.
    #[test]
    fn no_window_has_more_bytes(
        rate in 1_u64..2_000_000_000,
        burst in 1_u64..200_000,
        charges in charges(),
    ) {
        let limit = Limit::per_byte(rate, burst);
        for (ticks, bytes) in windows(&admitted(&limit, &charges)) {
            let second = u128::from(TICKS_PER_SECOND);
            let depth = u128::from(burst) * second + u128::from(rate);
            let allowed = u128::from(rate) * ticks * 4096 + depth * 4097;
            prop_assert!(bytes * second * 4096 <= allowed, "{bytes} bytes in {ticks} ticks");
        }
    }

    /// Who takes all that fits, and then sends a tick too early every time, gets no more either:
    /// the price is rounded up.
    #[test]
    fn no_fraction_of_a_tick_is_given_away(
        rate in 1_u64..2_000_000_000,
        burst in 1_u64..20_000,
        size in 1_u64..2_000,
    ) {
        let second = u128::from(TICKS_PER_SECOND);
        let early = |units: u64| {
            u64::try_from(u128::from(units) * second / u128::from(rate)).unwrap()
        };
        for (limit, size) in [(Limit::per_unit(rate, burst), 1), (Limit::per_byte(rate, burst), size)] {
            let drain = (0..=burst / size).map(|_| (0, size)).chain((0..=size).map(|_| (0, 1)));
            let early = std::iter::repeat_n((early(size), size), 100);
            let admitted = admitted(&limit, &drain.chain(early).collect::<Vec<_>>());
            let units: u128 = admitted.iter().map(|(_, units)| u128::from(*units)).sum();
            let (first, last) = (admitted.first().map_or(0, |a| a.0), admitted.last().map_or(0, |a| a.0));
            let ticks = u128::from(last - first) + u128::from(limit.depth);
            prop_assert!(units * second <= u128::from(rate) * ticks, "{units} in {ticks} ticks");
        }
    }

    /// What keeps to the rate is never refused, at any rate and after any burst that fits.
    #[test]
    fn who_keeps_to_the_rate_is_admitted(
        rate in 1_u64..2_000_000,
        burst in 1_u64..5_000,
        late in prop::collection::vec(0..1_000_u64, 1..60),
    ) {
        let limit = Limit::per_unit(rate, burst);
        let unit = TICKS_PER_SECOND.div_ceil(rate);
        let all_at_once = std::iter::repeat_n((0, 1), usize::try_from(burst).unwrap());
        let then = late.iter().map(|late| (unit + late, 1));
        let charges: Vec<(u64, u64)> = all_at_once.chain(then).collect();
        prop_assert_eq!(admitted(&limit, &charges).len(), charges.len());
    }

    /// Frames that add up to the burst all fit a full bucket. Up to 200 MB/s: beyond, rounding
    /// each of many short frames up to a tick costs more than the bucket has in reserve.
    #[test]
    fn a_burst_fits_in_pieces(
        rate in 1_u64..200_000_000,
        frames in prop::collection::vec(60_u64..9_000, 1..60),
    ) {
        let limit = Limit::per_byte(rate, frames.iter().sum());
        let charges: Vec<(u64, u64)> = frames.iter().map(|bytes| (0, *bytes)).collect();
        prop_assert_eq!(admitted(&limit, &charges).len(), charges.len());
    }

    /// A flood over the limit only reads.
    #[test]
    fn a_refused_charge_leaves_the_state_alone(
        rate in 1_u64..2_000_000_000,
        burst in 1_u64..200_000,
        charges in charges(),
    ) {
        let limit = Limit::per_byte(rate, burst);
        let mut now = TICKS_PER_SECOND;
        let mut state = 0;
        for (pause, bytes) in charges {
            now += pause;
            let step = step(&limit, state, now, limit.cost(bytes));
            if !step.admitted {
                prop_assert_eq!(step.state, state);
            }
            state = step.state;
        }
    }

    /// CPUs read the clock at different moments, and a packet that read it early may come late to
    /// the bucket. However late, all of them together get no more than the time they span gives.
    #[test]
    fn a_clock_that_goes_back_admits_no_more(
        rate in 100_u64..5_000,
        burst in 1_u64..10,
        moments in prop::collection::vec(0..TICKS_PER_SECOND / 100, 1..200),
    ) {
        let limit = Limit::per_unit(rate, burst);
        let (mut state, mut admitted) = (0, 0_u128);
        for moment in &moments {
            let step = step(&limit, state, TICKS_PER_SECOND + moment, limit.cost(1));
            state = step.state;
            admitted += u128::from(step.admitted);
        }
        let span = moments.iter().max().unwrap() - moments.iter().min().unwrap();
        let second = u128::from(TICKS_PER_SECOND);
        let allowed = u128::from(rate) * u128::from(span) + u128::from(burst) * second;
        prop_assert!(admitted * second <= allowed, "{admitted} admitted in {span} ticks");
    }
}
