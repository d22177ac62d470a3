//! Properties of every token bucket, for any sequence of charges.

use guard_common::bucket::{Draw, Limit, MAX_TICKS, TICKS_PER_SECOND, draw, step};
use proptest::prelude::*;

/// Generates charges: (ticks since the last one, units).
fn charges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    // Bursts, short pauses, and pauses long enough to fill the bucket.
    let pause = prop_oneof![Just(0), 0..1_000_u64, 0..TICKS_PER_SECOND / 100, 0..TICKS_PER_SECOND];
    prop::collection::vec((pause, 1..2_000_u64), 1..60)
}

/// Charges a full bucket. Returns the time and the units of each admitted charge.
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

/// Returns every window of the admitted charges: (ticks, units).
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

    /// In any period, at most `rate x time + burst` units are admitted.
    #[test]
    fn no_window_admits_more_units_than_the_limit(
        rate in 1_u64..2_000_000,
        burst in 1_u64..5_000,
        charges in charges(),
    ) {
        let limit = Limit::per_unit(rate, burst);
        // One unit each, as packets are charged.
        let charges: Vec<(u64, u64)> = charges.iter().map(|(pause, _)| (*pause, 1)).collect();
        for (ticks, units) in windows(&admitted(&limit, &charges)) {
            let allowed = u128::from(rate) * ticks + u128::from(burst) * u128::from(TICKS_PER_SECOND);
            prop_assert!(units * u128::from(TICKS_PER_SECOND) <= allowed, "{units} in {ticks} ticks");
        }
    }

    /// In any period, at most `rate x time + burst x 4097/4096` bytes are admitted, plus what one tick
    /// allows.
    #[test]
    fn no_window_admits_more_bytes_than_the_limit(
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

    /// A sender that empties the bucket and then always sends a tick too early gets no more either,
    /// because the cost is rounded up.
    #[test]
    fn sending_a_tick_too_early_gains_nothing(
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

    /// Charges at no more than the rate are never refused, at any rate and after any burst that fits.
    #[test]
    fn charges_at_the_rate_are_admitted(
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

    /// Frames whose sizes add up to the burst all fit a full bucket. This holds up to 200 MB/s: at
    /// higher rates, rounding each of many short frames up to a tick costs more than the bucket's
    /// reserve.
    #[test]
    fn a_burst_fits_in_pieces(
        rate in 1_u64..200_000_000,
        frames in prop::collection::vec(60_u64..9_000, 1..60),
    ) {
        let limit = Limit::per_byte(rate, frames.iter().sum());
        let charges: Vec<(u64, u64)> = frames.iter().map(|bytes| (0, *bytes)).collect();
        prop_assert_eq!(admitted(&limit, &charges).len(), charges.len());
    }

    /// A refused charge does not write, so a flood over the limit only reads.
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

    /// CPUs read the clock at different times, so a packet with an earlier time may reach the bucket
    /// later. However late, all CPUs together get no more than the period that they span allows.
    #[test]
    fn a_clock_that_goes_back_admits_no_more(
        rate in 100_u64..5_000,
        burst in 1_u64..10,
        times in prop::collection::vec(0..TICKS_PER_SECOND / 100, 1..200),
    ) {
        let limit = Limit::per_unit(rate, burst);
        let (mut state, mut admitted) = (0, 0_u128);
        for time in &times {
            let step = step(&limit, state, TICKS_PER_SECOND + time, limit.cost(1));
            state = step.state;
            admitted += u128::from(step.admitted);
        }
        let span = times.iter().max().unwrap() - times.iter().min().unwrap();
        let second = u128::from(TICKS_PER_SECOND);
        let allowed = u128::from(rate) * u128::from(span) + u128::from(burst) * second;
        prop_assert!(admitted * second <= allowed, "{admitted} admitted in {span} ticks");
    }

    /// In any period, all CPUs together admit no more than the limit, plus the credit that they held at
    /// its start, which is at most a batch per CPU.
    #[test]
    fn each_cpu_adds_at_most_a_batch_to_the_limit(
        rate in 1_u64..=1_000_000_000,
        burst in 1_u64..100_000,
        cpus in 1_usize..5,
        packets in prop::collection::vec((0..TICKS_PER_SECOND / 100, 0_usize..5), 1..400),
    ) {
        let limit = Limit::per_unit(rate, burst).in_batches();
        let mut state = 0;
        let mut credits = vec![0; cpus];
        let mut now = TICKS_PER_SECOND;
        // Time of the packet, and the sum of all credits before it.
        let mut admitted = Vec::new();
        for (pause, cpu) in packets {
            now += pause;
            let held: u64 = credits.iter().sum();
            let credit = &mut credits[cpu % cpus];
            let before = (state, *credit);
            let done = draw(&limit, state, *credit, now, limit.cost(1));
            (state, *credit) = (done.state, done.credit);
            prop_assert!(*credit <= limit.batch);
            if done.admitted {
                admitted.push((now, held));
            } else {
                prop_assert_eq!((state, *credit), before, "a refused charge changes nothing");
            }
        }
        let second = u128::from(TICKS_PER_SECOND);
        for (first, (start, held)) in admitted.iter().enumerate() {
            for (nth, (end, _)) in (1_u128..).zip(&admitted[first..]) {
                let ticks = u128::from(end - start) + u128::from(limit.depth) + u128::from(*held);
                prop_assert!((nth - 1) * u128::from(limit.unit) <= ticks, "{nth} at {rate}/s");
                let max = u128::from(rate) * u128::from(end - start)
                    + (u128::from(burst) + (cpus as u128) * 64) * second;
                prop_assert!(nth * second <= max, "{nth} at {rate}/s");
            }
        }
    }

    /// Credit is not lost: at one moment the whole burst is admitted if enough packets arrive.
    #[test]
    fn the_whole_burst_is_admitted(
        burst in 1_u64..20_000,
        cpus in 1_usize..5,
        order in prop::collection::vec(0_usize..5, 64),
    ) {
        let limit = Limit::per_unit(1_000, burst).in_batches();
        let mut state = 0;
        let mut credits = vec![0; cpus];
        let mut admitted = 0;
        let requests = order.iter().cycle().take(usize::try_from(burst).unwrap() + 400);
        for cpu in requests.copied().chain((0..cpus).flat_map(|cpu| [cpu; 65])) {
            let credit = &mut credits[cpu % cpus];
            let done = draw(&limit, state, *credit, TICKS_PER_SECOND, limit.cost(1));
            (state, *credit) = (done.state, done.credit);
            admitted += u64::from(done.admitted);
        }
        prop_assert_eq!(admitted, burst);
        prop_assert_eq!(credits.iter().sum::<u64>(), 0);
    }

    /// A bucket that is too small for batches is charged packet by packet.
    #[test]
    fn small_bursts_are_charged_one_by_one(rate in 1_u64..2_000_000, burst in 1_u64..128, state: u32, now: u32) {
        let limit = Limit::per_unit(rate, burst).in_batches();
        prop_assert_eq!(limit.batch, 0);
        let step = step(&limit, state.into(), now.into(), limit.cost(1));
        let expected = Draw { state: step.state, credit: 0, admitted: step.admitted };
        prop_assert_eq!(draw(&limit, state.into(), 0, now.into(), limit.cost(1)), expected);
    }

    /// After a year without a packet, and after years of uptime, a bucket is full but holds no more than
    /// its burst.
    #[test]
    fn idle_for_a_year(rate in 1_u64..=1_000_000_000, burst in 1_u64..5_000, years in 1_u64..10) {
        let year = 365 * 24 * 3600 * TICKS_PER_SECOND;
        for limit in [Limit::per_unit(rate, burst), Limit::per_unit(rate, burst).in_batches()] {
            let mut now = years * year;
            prop_assert!(now < 2 * MAX_TICKS);
            let (mut state, mut credit) = (now, 0);
            now += year;
            let mut admitted = 0;
            for _ in 0..burst + 10 {
                let done = draw(&limit, state, credit, now, limit.cost(1));
                (state, credit) = (done.state, done.credit);
                admitted += u64::from(done.admitted);
            }
            prop_assert_eq!(admitted, burst);
        }
    }
}
