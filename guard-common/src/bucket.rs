//! A token bucket as a generic cell rate algorithm (ITU-T I.371), with one word of state.
//!
//! The state is the theoretical arrival time: the time at which the bucket will be full again. Time
//! is counted in ticks of 1/16 ns. This keeps rates up to 10^9 units per second accurate to one per
//! cent and lasts for 18 years of uptime.
//!
//! Decision: `docs/decisions/0007-late-clock-refills-no-bucket.md`.

/// Ticks in one nanosecond.
pub const TICKS_PER_NS: u64 = 16;
/// Ticks in one second.
pub const TICKS_PER_SECOND: u64 = 16_000_000_000;

/// Longest timer tick of a kernel in nanoseconds: kernels tick 100 to 1000 times per second. The
/// clock of the limits advances by these ticks, and within one tick a bucket admits at most its
/// burst.
pub const LONGEST_TICK_NS: u64 = 10_000_000;

/// Maximum depth of a bucket and maximum cost of a packet, in ticks: 4.5 years. The bound keeps
/// sums from overflowing.
pub const MAX_TICKS: u64 = 1 << 61;

/// Maximum delay between reading the clock and charging a bucket, in ticks: one second. A program
/// is not preempted in between, but the virtual machine that runs it may be.
pub const MAX_LAG: u64 = TICKS_PER_SECOND;

/// The limit that one bucket enforces. All fields are zero if there is no limit.
///
/// # Examples
///
/// ```
/// use guard_common::bucket::{Limit, TICKS_PER_SECOND, step};
///
/// // One packet per second, at most one at once.
/// let limit = Limit::per_unit(1, 1);
/// let first = step(&limit, 0, 0, limit.cost(1));
/// assert!(first.admitted);
/// assert!(!step(&limit, first.state, 0, limit.cost(1)).admitted);
/// assert!(step(&limit, first.state, TICKS_PER_SECOND, limit.cost(1)).admitted);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Limit {
    /// Units per second; 0 for no limit.
    pub rate: u64,
    /// Cost of one unit in ticks, rounded up.
    pub unit: u64,
    /// Capacity of the bucket in ticks.
    pub depth: u64,
    /// Ticks that a CPU draws at once from a bucket that all CPUs share; 0 to charge each packet
    /// separately.
    pub batch: u64,
}

/// Maximum number of packets that a CPU draws at once from a shared bucket.
pub const BATCH: u64 = 64;
/// A CPU draws at most the burst divided by this number at once, so 64 CPUs together hold at most
/// one burst.
pub const BATCH_PART: u64 = 64;
/// Length of the frames, in bytes, for which a batch of bytes is drawn.
const FULL_FRAME: u64 = 1514;

impl Limit {
    /// Returns a limit of `rate` units per second with bursts of `burst` units, for packets or
    /// connections. In any interval, at most `rate x time + burst` units are admitted. A rate of 0
    /// counts as 1.
    pub fn per_unit(rate: u64, burst: u64) -> Self {
        let rate = rate.max(1);
        let unit = TICKS_PER_SECOND.div_ceil(rate);
        Self { rate, unit, depth: burst.saturating_mul(unit).min(MAX_TICKS), batch: 0 }
    }

    /// Returns a limit of `rate` bytes per second with bursts of `burst` bytes. A rate of 0 counts
    /// as 1.
    ///
    /// The cost of each frame is rounded up to a tick, so the bucket holds 1/4096 more than the
    /// burst: otherwise frames that add up to exactly the burst would not all fit. In any interval,
    /// at most `rate x time + burst x 4097/4096` bytes plus the worth of one tick are admitted.
    pub fn per_byte(rate: u64, burst: u64) -> Self {
        let rate = rate.max(1);
        let depth = u128::from(burst).saturating_mul(TICKS_PER_SECOND.into()).div_ceil(rate.into());
        let depth = u64::try_from(depth).unwrap_or(u64::MAX).min(MAX_TICKS);
        let slack = depth >> 12;
        Self {
            rate,
            unit: TICKS_PER_SECOND.div_ceil(rate),
            depth: depth.saturating_add(slack).min(MAX_TICKS),
            batch: 0,
        }
    }

    /// Returns the same limit on packets or connections, charged in batches of at most [`BATCH`]
    /// units and at most 1/[`BATCH_PART`] of the burst. If the burst is too small for a batch of
    /// two, each unit is charged separately.
    #[must_use]
    pub fn in_batches(self) -> Self {
        let units = (self.depth / BATCH_PART).checked_div(self.unit).unwrap_or(0).min(BATCH);
        Self { batch: if units < 2 { 0 } else { units.saturating_mul(self.unit) }, ..self }
    }

    /// Returns the same limit on bytes, charged in batches of at most [`BATCH`] full frames and at
    /// most 1/[`BATCH_PART`] of the burst. If the burst is too small for a batch of two full
    /// frames, each frame is charged separately.
    #[must_use]
    pub fn in_batches_of_bytes(self) -> Self {
        let batch = (self.depth / BATCH_PART).min(self.cost(BATCH * FULL_FRAME));
        Self { batch: if batch < self.cost(2 * FULL_FRAME) { 0 } else { batch }, ..self }
    }

    /// Returns whether there is a limit.
    pub fn is_some(&self) -> bool {
        self.rate != 0
    }

    /// Returns the cost of `units` in ticks. Rounded up, so that no more than the rate is admitted.
    /// At most [`MAX_TICKS`], which does not fit a bucket that was charged just before.
    #[inline(always)]
    pub fn cost(&self, units: u64) -> u64 {
        if units == 1 {
            return self.unit;
        }
        // The BPF target has no 128-bit multiplication, so a length whose product could overflow is
        // not multiplied. Real frames are far shorter.
        if units > MAX_TICKS / TICKS_PER_SECOND {
            return MAX_TICKS;
        }
        let ticks = units.wrapping_mul(TICKS_PER_SECOND);
        let whole = ticks.checked_div(self.rate).unwrap_or(MAX_TICKS);
        let rest = ticks.wrapping_sub(whole.wrapping_mul(self.rate));
        if rest == 0 { whole } else { whole.wrapping_add(1) }
    }
}

/// The outcome of charging a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The state to store in the bucket.
    pub state: u64,
    /// Whether the charge was admitted.
    pub admitted: bool,
}

/// Charges a bucket in `state` with `cost` ticks at the time `now` (in ticks of a monotonic clock,
/// below 2^63).
///
/// A refused charge leaves the state unchanged, so a flood above the limit only reads. The
/// exception is a state that is ahead of `now` by more than the depth and [`MAX_LAG`], which only a
/// change of the limit can cause. Such a state is reduced to this maximum: a raised limit takes
/// effect within a second, and no change refills a bucket beyond what its new limit allows. A state
/// that is less far ahead is kept, because a CPU that read its clock early and charges late must
/// not return what other CPUs have charged.
#[inline(always)]
pub fn step(limit: &Limit, state: u64, now: u64, cost: u64) -> Step {
    // No sum here can overflow: `MAX_TICKS` bounds depth and cost, and a stored state is ahead of
    // the clock by at most the depth of the bucket.
    let empty = now.wrapping_add(limit.depth);
    let next = state.max(now).saturating_add(cost);
    if next <= empty {
        Step { state: next, admitted: true }
    } else {
        Step { state: state.min(empty.wrapping_add(MAX_LAG)), admitted: false }
    }
}

/// The outcome of charging a bucket that all CPUs share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The state to store for all CPUs.
    pub state: u64,
    /// Ticks that this CPU has drawn and not charged yet, to be stored for this CPU.
    pub credit: u64,
    /// Whether the charge was admitted.
    pub admitted: bool,
}

/// Charges `cost` ticks to a shared bucket from which this CPU has already drawn `credit` ticks.
///
/// The shared state is written only if the credit does not suffice. Then a batch is drawn on top of
/// the cost, or only the cost if the bucket has no room for the batch. In any interval, at most the
/// limit plus the earlier credits of the CPUs is admitted.
#[inline(always)]
pub fn draw(limit: &Limit, state: u64, credit: u64, now: u64, cost: u64) -> Draw {
    if credit >= cost {
        return Draw { state, credit: credit.wrapping_sub(cost), admitted: true };
    }
    if limit.batch != 0 {
        let step = step(limit, state, now, cost.wrapping_add(limit.batch));
        if step.admitted {
            let credit = credit.wrapping_add(limit.batch);
            return Draw { state: step.state, credit, admitted: true };
        }
    }
    let Step { state, admitted } = step(limit, state, now, cost);
    Draw { state, credit, admitted }
}
