//! Bucket states in maps, and the clock.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use guard_common::{
    bucket::{self, Limit, TICKS_PER_NS},
    layout::{BucketStates, MemberKey},
    limit::{self, Bucket, Limiter},
    tables::Unit,
};

use crate::{
    atomic,
    maps::{TG_HASHED, TG_MEMBERS, TG_TOTALS, hash_key},
};

/// Attempts to store a new state. Each failure means that another CPU charged the same bucket in
/// between; when all fail, the packet is refused rather than admitted uncounted.
const ATTEMPTS: u32 = 1;

/// The limiter of the kernel.
pub(crate) struct Buckets {
    clock: Option<u64>,
}

impl Buckets {
    /// With the monotonic clock.
    #[inline(always)]
    pub(crate) fn live() -> Self {
        Self { clock: None }
    }

    /// With a clock that stands at `now` ticks, for test runs.
    #[inline(always)]
    pub(crate) fn at(now: u64) -> Self {
        Self { clock: Some(now) }
    }
}

impl Limiter for Buckets {
    #[inline(always)]
    fn now(&self) -> u64 {
        match self.clock {
            Some(now) => now,
            // SAFETY: the helper takes no arguments and only reads the clock.
            None => unsafe { bpf_ktime_get_ns() }.wrapping_mul(TICKS_PER_NS),
        }
    }

    #[inline(always)]
    fn charge(&self, of: &Bucket, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool {
        let states = match *of {
            Bucket::Total { slot } => TG_TOTALS.get_ptr_mut(slot.into()),
            Bucket::PerSource { slot, addr, member } => {
                let own =
                    if member { TG_MEMBERS.get_ptr_mut(MemberKey::new(slot, &addr)) } else { None };
                own.or_else(|| TG_HASHED.get_ptr_mut(limit::hashed_bucket(hash_key(), slot, &addr)))
            }
        };
        match states {
            Some(states) => charge(states, unit, limit, now, cost),
            None => false,
        }
    }
}

#[inline(always)]
fn charge(states: *mut BucketStates, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool {
    // SAFETY: `states` points to the value of a map, three words of which `unit` names one. The
    // kernel keeps map values alive until the program ends. Other CPUs write the word only by
    // compare-and-swap; nobody holds a reference to it.
    let word = unsafe { states.cast::<u64>().add(unit as usize) };
    for _ in 0..ATTEMPTS {
        // SAFETY: as above.
        let state = unsafe { atomic::load(word) };
        let step = bucket::step(limit, state, now, cost);
        // SAFETY: as above.
        if step.state == state || unsafe { atomic::compare_and_swap(word, state, step.state) } {
            return step.admitted;
        }
    }
    false
}
