//! A token bucket as a generic cell rate algorithm (ITU-T I.371): one word of state.
//!
//! The state is the theoretical arrival time: the moment at which the bucket will be full again.
//! Time is counted in ticks of 1/16 ns, which keeps rates up to 10^9 units per second within one
//! per cent and lasts for 18 years of uptime.

/// Ticks in one nanosecond.
pub const TICKS_PER_NS: u64 = 16;
/// Ticks in one second.
pub const TICKS_PER_SECOND: u64 = 16_000_000_000;

/// Longest timer tick of a kernel, in nanoseconds: kernels tick 100 to 1000 times a second. The
/// clock of limits goes on by these ticks. Within one, no more than a burst passes.
pub const LONGEST_TICK_NS: u64 = 10_000_000;

/// No bucket is deeper and nothing costs more, in ticks: 4.5 years. Keeps sums from overflowing.
pub const MAX_TICKS: u64 = 1 << 61;

/// How late a packet may come to its bucket after its clock was read, in ticks: one second. A
/// program is not preempted in between, but the virtual machine under it may be.
pub const MAX_LAG: u64 = TICKS_PER_SECOND;

/// What one bucket allows. All zero: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Limit {
    /// Units per second; 0 for no limit.
    pub rate: u64,
    /// Ticks that one unit costs, rounded up.
    pub unit: u64,
    /// Ticks that a full bucket holds.
    pub depth: u64,
    /// Ticks that a CPU draws at once from a bucket that all CPUs share; 0 to charge each packet.
    pub batch: u64,
}

/// Packets that a CPU draws at once from a shared bucket, at most.
pub const BATCH: u64 = 64;
/// The part of a bucket that a CPU draws at once, at most: together 64 CPUs hold one burst.
pub const BATCH_PART: u64 = 64;
/// Bytes for which a packet is taken when bytes are drawn.
const FULL_FRAME: u64 = 1514;

impl Limit {
    /// A limit on things that are counted one by one: `rate` per second, bursts of `burst`. Over
    /// any time no more than `rate x time + burst` are admitted. A rate of 0 counts as 1.
    pub fn per_unit(rate: u64, burst: u64) -> Self {
        let rate = rate.max(1);
        let unit = TICKS_PER_SECOND.div_ceil(rate);
        Self { rate, unit, depth: burst.saturating_mul(unit).min(MAX_TICKS), batch: 0 }
    }

    /// A limit on bytes: `rate` per second, bursts of `burst`.
    ///
    /// The price of each frame is rounded up to a tick, so a bucket holds 1/4096 more than the
    /// burst: otherwise frames that add up to exactly the burst would not all fit. Over any time no
    /// more than `rate x time + burst x 4097/4096` and one tick's worth are admitted.
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

    /// The same limit on packets or connections, charged in batches: up to [`BATCH`] of them, and
    /// no more than 1/[`BATCH_PART`] of the burst. A burst too small for that is charged one by
    /// one.
    #[must_use]
    pub fn in_batches(self) -> Self {
        let things = (self.depth / BATCH_PART).checked_div(self.unit).unwrap_or(0).min(BATCH);
        Self { batch: if things < 2 { 0 } else { things.saturating_mul(self.unit) }, ..self }
    }

    /// The same limit on bytes, charged in batches of up to [`BATCH`] full frames, and no more than
    /// 1/[`BATCH_PART`] of the burst.
    #[must_use]
    pub fn in_batches_of_bytes(self) -> Self {
        let batch = (self.depth / BATCH_PART).min(self.cost(BATCH * FULL_FRAME));
        Self { batch: if batch < self.cost(2 * FULL_FRAME) { 0 } else { batch }, ..self }
    }

    /// Whether there is a limit.
    pub fn is_some(&self) -> bool {
        self.rate != 0
    }

    /// The price of `units` in ticks, rounded up: never more is admitted than the rate. At most
    /// [`MAX_TICKS`], which no bucket holds when something else was charged just before.
    #[inline(always)]
    pub fn cost(&self, units: u64) -> u64 {
        if units == 1 {
            return self.unit;
        }
        // The kernel target has no 128-bit product, so a frame too long to multiply is not
        // multiplied. Frames end far below that.
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
    /// The state to store.
    pub state: u64,
    /// Whether the charge fitted.
    pub admitted: bool,
}

/// Charges a bucket in `state` with `cost` ticks at the time `now` (ticks of a monotonic clock,
/// below 2^63).
///
/// A refused charge leaves the state alone, so a flood over the limit only reads. The exception is
/// a state further ahead than the bucket is deep and [`MAX_LAG`] more, which only a changed limit
/// leaves behind: it is cut to that, so that a raised limit helps within a second and no change
/// refills a bucket beyond what its new limit allows. Nothing nearer is cut: a CPU that read its
/// clock early and comes late must not give back what others have charged.
#[inline(always)]
pub fn step(limit: &Limit, state: u64, now: u64, cost: u64) -> Step {
    // No sum here can overflow: MAX_TICKS bounds depth and cost, and a state that was stored is at
    // most as far ahead as a bucket is deep.
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
    /// Ticks that this CPU has drawn and not yet charged, to be kept for it.
    pub credit: u64,
    /// Whether the charge fitted.
    pub admitted: bool,
}

/// Charges `cost` ticks to a shared bucket, of which this CPU has `credit` in hand. The state is
/// only written when the credit does not suffice: then a batch is drawn, or if the bucket has no
/// batch left, what this packet costs.
///
/// Over any time no more is admitted than the limit says, and what the CPUs had in hand before.
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
