//! The limiter of the kernel programs: bucket states in maps, and the clock.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use guard_common::{
    bucket::{self, Limit},
    layout::BucketStates,
    limit::{self, Bucket, Limiter},
    tables::Unit,
};

use crate::{
    atomic,
    maps::{
        TG_CREDITS, TG_HASHED, TG_MEMBER_SLOTS, TG_MEMBERS, TG_TOTALS, hash_key, ticks_in_a_jiffy,
    },
};

/// Maximum number of attempts to store a new state. An attempt fails if another CPU charged the
/// same bucket in the meantime. If all fail, the packet is refused and not admitted uncounted.
const ATTEMPTS: u32 = 4;

/// The source of the current time.
pub(crate) trait Clock {
    /// Returns the current time in ticks.
    fn ticks(&self) -> u64;
}

/// The clock of the kernel: its count of timer ticks, each of 1 to 10 ms. The policy compiler
/// rejects bursts that are shorter.
///
/// The verifier turns this helper into one load (`do_misc_fixups`, kernel/bpf/verifier.c).
/// `bpf_ktime_get_coarse_ns` advances by the same ticks, but is a call three functions deep, which
/// costs some 30 ns on CPUs with mitigations for returns.
pub(crate) struct Jiffies;

impl Clock for Jiffies {
    #[inline(always)]
    fn ticks(&self) -> u64 {
        // SAFETY: the helper takes no arguments and only reads a counter.
        unsafe { bpf_jiffies64() }.wrapping_mul(ticks_in_a_jiffy())
    }
}

/// A clock that always returns this number of ticks.
pub(crate) struct FixedClock(pub(crate) u64);

impl Clock for FixedClock {
    #[inline(always)]
    fn ticks(&self) -> u64 {
        self.0
    }
}

/// The limiter of the kernel programs, over the maps of this generation.
pub(crate) struct Buckets<C> {
    clock: C,
    zero: u64,
}

impl<C> Buckets<C> {
    /// Returns the limiter. `zero` is a zero whose value the verifier does not know.
    #[inline(always)]
    pub(crate) fn new(clock: C, zero: u64) -> Self {
        Self { clock, zero }
    }
}

impl<C> Buckets<C> {
    /// Returns the same answer, but the verifier forgets how the loop that computed it ended.
    #[inline(always)]
    fn masked(&self, answer: bool) -> bool {
        (u64::from(answer) ^ self.zero) & 1 != 0
    }
}

impl<C: Clock> Limiter for Buckets<C> {
    type States = *mut BucketStates;

    #[inline(always)]
    fn now(&self) -> u64 {
        self.clock.ticks()
    }

    #[inline(always)]
    fn states(&self, of: &Bucket) -> Option<*mut BucketStates> {
        let Bucket { slot, addr, number } = *of;
        match number {
            Bucket::SHARED => TG_HASHED.get_ptr_mut(limit::hashed_bucket(hash_key(), slot, &addr)),
            _ => TG_MEMBERS.get_ptr_mut(*TG_MEMBER_SLOTS.get(number)?),
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
        // SAFETY: `of` points to a map value of three words, and `unit` selects one of them.
        let word = unsafe { of.cast::<u64>().add(unit as usize) };
        let charged = charge(word, |state| {
            let step = bucket::step(limit, state, now, cost);
            (step.state, step.admitted)
        });
        self.masked(charged)
    }

    #[inline(always)]
    fn charge_total(&self, slot: u8, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool {
        let (Some(states), Some(credits)) =
            (TG_TOTALS.get_ptr_mut(slot.into()), TG_CREDITS.get_ptr_mut(slot.into()))
        else {
            return false;
        };
        // SAFETY: as in `charge`.
        let word = unsafe { states.cast::<u64>().add(unit as usize) };
        // SAFETY: as above, in the value of this CPU, which no other program writes while this one
        // runs. Both pointers are valid until the program ends.
        let credit = unsafe { &mut *credits.cast::<u64>().add(unit as usize) };
        let mut left = *credit;
        let charged = charge(word, |state| {
            let draw = bucket::draw(limit, state, *credit, now, cost);
            left = draw.credit;
            (draw.state, draw.admitted)
        });
        let charged = self.masked(charged);
        if charged {
            *credit = left;
        }
        charged
    }
}

/// Replaces the state in a word by the one that `step` computes from it. Returns the answer of
/// `step`, or false if other CPUs changed the word during every attempt.
#[inline(always)]
fn charge(word: *mut u64, mut step: impl FnMut(u64) -> (u64, bool)) -> bool {
    for _ in 0..ATTEMPTS {
        // SAFETY: the word of a map value is aligned and valid until the program ends. Other CPUs
        // write it only by compare-and-swap, and no reference to it exists.
        let state = unsafe { atomic::load(word) };
        let (next, admitted) = step(state);
        // SAFETY: as above.
        if next == state || unsafe { atomic::compare_and_swap(word, state, next) } {
            return admitted;
        }
    }
    false
}
