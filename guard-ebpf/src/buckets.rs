//! Bucket states in maps, and the clock.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use guard_common::{
    bucket::{self, Limit, TICKS_PER_NS},
    layout::BucketStates,
    limit::{self, Bucket, Limiter},
    tables::Unit,
};

use crate::{
    atomic,
    maps::{TG_HASHED, TG_MEMBER_SLOTS, TG_MEMBERS, TG_TOTALS, hash_key},
};

/// Attempts to store a new state. Each failure means that another CPU charged the same bucket in
/// between; when all fail, the packet is refused rather than admitted uncounted.
const ATTEMPTS: u32 = 4;

/// The limiter of the kernel.
pub(crate) struct Buckets {
    clock: Option<u64>,
    zero: u64,
}

impl Buckets {
    /// With a clock that stands still at these ticks, or the monotonic one; `zero` is one that the
    /// verifier does not know to be zero.
    #[inline(always)]
    pub(crate) fn new(clock: Option<u64>, zero: u64) -> Self {
        Self { clock, zero }
    }
}

impl Limiter for Buckets {
    type States = *mut BucketStates;

    #[inline(always)]
    fn now(&self) -> u64 {
        match self.clock {
            Some(now) => now,
            // SAFETY: the helper takes no arguments and only reads the clock.
            None => unsafe { bpf_ktime_get_ns() }.wrapping_mul(TICKS_PER_NS),
        }
    }

    #[inline(always)]
    fn states(&self, of: &Bucket) -> Option<*mut BucketStates> {
        match *of {
            Bucket::Total { slot } => TG_TOTALS.get_ptr_mut(slot.into()),
            Bucket::PerSource { slot, addr, member } => {
                if let Some(number) = member {
                    return TG_MEMBERS.get_ptr_mut(*TG_MEMBER_SLOTS.get(number)?);
                }
                TG_HASHED.get_ptr_mut(limit::hashed_bucket(hash_key(), slot, &addr))
            }
        }
    }

    #[inline(always)]
    fn charge(
        &self,
        of: &*mut BucketStates,
        unit: Unit,
        limit: &Limit,
        now: u64,
        cost: u64,
    ) -> bool {
        // One state for the verifier, however the loop ended.
        (u64::from(charge(*of, unit, limit, now, cost)) ^ self.zero) & 1 != 0
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
