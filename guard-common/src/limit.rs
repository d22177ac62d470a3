//! Charging the limits of a service, in the order of the contract: per source, then in total.

use crate::{
    bucket::Limit,
    flow::{Addr, Headers},
    observe::{Observer, Step},
    siphash,
    tables::{Limits, Service, Unit},
    verdict::Reason,
};

/// Number of hashed buckets for sources that are no members. A power of two.
pub const HASHED_BUCKETS: u32 = 1 << 16;
const HASHED_MASK: u32 = HASHED_BUCKETS - 1;

/// The bucket of one source at a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// Slot of the service.
    pub slot: u8,
    /// The source.
    pub addr: Addr,
    /// Of a member: the number of the bucket, which it shares with nobody. [`Bucket::SHARED`] for
    /// others. Not an option, whose number would be undefined where there is none: the compiler
    /// copies it all the same, and the verifier refuses that.
    pub number: u32,
}

impl Bucket {
    /// The number of a bucket that belongs to no member.
    pub const SHARED: u32 = u32::MAX;
}

/// Storage of bucket states, and the clock.
pub trait Limiter {
    /// Where the states of a source's bucket are: one for each [`Unit`].
    type States;

    /// Now, in ticks of a monotonic clock (see [`crate::bucket`]).
    fn now(&self) -> u64;

    /// Finds the bucket of a source. A bucket that cannot be found refuses.
    fn states(&self, of: &Bucket) -> Option<Self::States>;

    /// Charges one state with `cost` ticks by [`crate::bucket::step`]; whether it fitted. A state
    /// that cannot be updated refuses.
    fn charge(&self, of: &Self::States, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool;

    /// Charges the bucket of all sources of the service in a slot by [`crate::bucket::draw`];
    /// whether it fitted.
    fn charge_total(&self, slot: u8, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool;
}

/// The hashed bucket of a source that is no member. An IPv6 source counts as its /64: whoever has
/// one address of it has them all. The hash is keyed by a secret, so no sender can choose whose
/// bucket it shares; a collision only ever makes a limit stricter.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low bits of a hash are as good as any")]
pub fn hashed_bucket(key: [u64; 2], slot: u8, addr: &Addr) -> u32 {
    let (family, word) = match *addr {
        Addr::V4(addr) => (4, u64::from(addr)),
        Addr::V6([prefix, _]) => (6, prefix),
    };
    let hash = siphash::hash(key, word, (u64::from(slot) << 8) | family);
    hash as u32 & HASHED_MASK
}

/// How much is charged for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Its length in bytes.
    pub bytes: u32,
    /// Packets that it was on the wire: more than one if the kernel has merged some.
    pub packets: u32,
}

impl Size {
    /// A frame of this many bytes, as it came.
    #[inline(always)]
    pub fn of_one(bytes: u32) -> Self {
        Self { bytes, packets: 1 }
    }
}

/// Charges every limit that applies; the reason of the first that refuses. What was charged before
/// the refusal stays charged. `kinds` is [`Setting::Kinds`](crate::tables::Setting::Kinds).
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the facts of a packet, each used once")]
pub(crate) fn charge(
    service: &Service,
    kinds: u64,
    headers: &Headers,
    slot: u8,
    number: u32,
    size: Size,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Result<(), Reason> {
    let packet = Charged { now: limiter.now(), kinds, opening: headers.is_opening(), size };
    if kinds & PER_SOURCE_KINDS != 0 && service.per_source.is_some() {
        let states = limiter.states(&Bucket { slot, addr: headers.source(), number });
        let one = |unit, limit: &Limit, cost| {
            states.as_ref().is_some_and(|at| limiter.charge(at, unit, limit, packet.now, cost))
        };
        packet.charge(&service.per_source, 0, PER_SOURCE, one, observer)?;
    }
    let one = |unit, limit: &Limit, cost| limiter.charge_total(slot, unit, limit, packet.now, cost);
    packet.charge(&service.total, TOTAL_KINDS_BIT, TOTAL, one, observer)
}

/// The kinds of limit per source, in [`Setting::Kinds`](crate::tables::Setting::Kinds).
const PER_SOURCE_KINDS: u64 = 0b111;
/// Where the kinds in total begin, likewise.
pub const TOTAL_KINDS_BIT: u32 = 3;

const PER_SOURCE: [Reason; 3] =
    [Reason::LimitNewConnections, Reason::LimitPackets, Reason::LimitBytes];
const TOTAL: [Reason; 3] =
    [Reason::LimitTotalNewConnections, Reason::LimitTotalPackets, Reason::LimitTotalBytes];

/// What a packet is charged for.
struct Charged {
    now: u64,
    kinds: u64,
    opening: bool,
    size: Size,
}

impl Charged {
    /// Charges the limits that there are, in their order, by `one`.
    #[inline(always)]
    fn charge(
        &self,
        limits: &Limits,
        first_kind: u32,
        [on_connections, on_packets, on_bytes]: [Reason; 3],
        mut one: impl FnMut(Unit, &Limit, u64) -> bool,
        observer: &mut impl Observer,
    ) -> Result<(), Reason> {
        let mut charge = |unit: Unit, limit: &Limit, units, reason| {
            // A kind that no service uses is a constant, and the verifier removes what follows.
            if self.kinds >> first_kind >> unit as u64 & 1 == 0 || !limit.is_some() {
                return Ok(());
            }
            let admitted = one(unit, limit, self.cost(limit, units));
            observer.note(Step::Limit { reason, units, admitted });
            if admitted { Ok(()) } else { Err(reason) }
        };
        if self.opening {
            charge(Unit::NewConnections, &limits.new_connections, 1, on_connections)?;
        }
        charge(Unit::Packets, &limits.packets, self.size.packets.into(), on_packets)?;
        charge(Unit::Bytes, &limits.bytes, self.size.bytes.into(), on_bytes)
    }

    /// What `units` cost. Merged packets never cost more than a whole burst: one by one, as they
    /// came, some of them would have been admitted, and a sender cannot choose what is merged.
    #[inline(always)]
    fn cost(&self, limit: &Limit, units: u64) -> u64 {
        let cost = limit.cost(units);
        if self.size.packets > 1 { cost.min(limit.depth) } else { cost }
    }
}
