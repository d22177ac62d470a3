//! Charging the limits of a service, in the order of the contract: per source, then in total.

use crate::{
    bucket::Limit,
    flow::{Addr, Flow},
    observe::{Observer, Step},
    siphash,
    tables::{Limits, Service, Unit},
    verdict::Reason,
};

/// Number of hashed buckets for sources that are no members. A power of two.
pub const HASHED_BUCKETS: u32 = 1 << 16;
const HASHED_MASK: u32 = HASHED_BUCKETS - 1;

/// Which bucket is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    /// The bucket of all sources of a service.
    Total {
        /// Slot of the service.
        slot: u8,
    },
    /// The bucket of one source at a service.
    PerSource {
        /// Slot of the service.
        slot: u8,
        /// The source.
        addr: Addr,
        /// Of a member: the number of the bucket, which it shares with nobody.
        member: Option<u32>,
    },
}

/// Storage of bucket states, and the clock.
pub trait Limiter {
    /// Where the states of one bucket are: one for each [`Unit`].
    type States;

    /// Now, in ticks of a monotonic clock (see [`crate::bucket`]).
    fn now(&self) -> u64;

    /// Finds a bucket. A bucket that cannot be found refuses.
    fn states(&self, of: &Bucket) -> Option<Self::States>;

    /// Charges one state with `cost` ticks by [`crate::bucket::step`]; whether it fitted. A state
    /// that cannot be updated refuses.
    fn charge(&self, of: &Self::States, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool;
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

/// Charges every limit that applies; the reason of the first that refuses. What was charged before
/// the refusal stays charged. `kinds` is [`Settings::limits`](crate::tables::Settings::limits).
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the facts of a packet, each used once")]
pub(crate) fn charge(
    service: &Service,
    kinds: u64,
    slot: u8,
    flow: &Flow,
    member: Option<u32>,
    bytes: u32,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Result<(), Reason> {
    let packet = Charged { now: limiter.now(), opening: flow.opening, bytes: bytes.into() };
    let own = Bucket::PerSource { slot, addr: flow.source, member };
    packet.charge(&service.per_source, kinds, &own, PER_SOURCE, limiter, observer)?;
    let all = Bucket::Total { slot };
    packet.charge(&service.total, kinds >> 3, &all, TOTAL, limiter, observer)
}

const PER_SOURCE: [Reason; 3] =
    [Reason::LimitNewConnections, Reason::LimitPackets, Reason::LimitBytes];
const TOTAL: [Reason; 3] =
    [Reason::LimitTotalNewConnections, Reason::LimitTotalPackets, Reason::LimitTotalBytes];

/// What a packet is charged for.
struct Charged {
    now: u64,
    opening: bool,
    bytes: u64,
}

impl Charged {
    #[inline(always)]
    fn charge<L: Limiter>(
        &self,
        limits: &Limits,
        kinds: u64,
        bucket: &Bucket,
        [on_connections, on_packets, on_bytes]: [Reason; 3],
        limiter: &L,
        observer: &mut impl Observer,
    ) -> Result<(), Reason> {
        let Limits { new_connections, packets, bytes } = limits;
        let some = new_connections.is_some() || packets.is_some() || bytes.is_some();
        if kinds.trailing_zeros() >= 3 || !some {
            return Ok(());
        }
        let states = limiter.states(bucket);
        let mut one = |unit: Unit, limit: &Limit, units, reason| {
            if kinds >> unit as u64 & 1 == 0 || !limit.is_some() {
                return Ok(());
            }
            let admitted = match &states {
                Some(states) => limiter.charge(states, unit, limit, self.now, limit.cost(units)),
                None => false,
            };
            observer.note(Step::Limit { reason, units, admitted });
            if admitted { Ok(()) } else { Err(reason) }
        };
        if self.opening {
            one(Unit::NewConnections, new_connections, 1, on_connections)?;
        }
        one(Unit::Packets, packets, 1, on_packets)?;
        one(Unit::Bytes, bytes, self.bytes, on_bytes)
    }
}
