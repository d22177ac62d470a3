//! Charging the limits of a service, in the order of the contract: per source, then in total.

use crate::{
    bucket::Limit,
    flow::{Addr, Flow},
    observe::{Observer, Step},
    siphash,
    tables::{Limits, Service, Source, Unit},
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
        /// Whether the source is a member, with a bucket that it shares with nobody.
        member: bool,
    },
}

/// Storage of bucket states, and the clock.
pub trait Limiter {
    /// Now, in ticks of a monotonic clock (see [`crate::bucket`]).
    fn now(&self) -> u64;

    /// Charges one bucket with `cost` ticks by [`crate::bucket::step`]; whether it fitted. A
    /// bucket that cannot be found or updated refuses.
    fn charge(&self, bucket: &Bucket, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool;
}

/// The hashed bucket of a source that is no member. An IPv6 source counts as its /64: whoever has
/// one address of it has them all. The hash is keyed by a secret, so no sender can choose whose
/// bucket it shares; a collision only ever makes a limit stricter.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low bits of a hash are as good as any"
)]
pub fn hashed_bucket(key: [u64; 2], slot: u8, addr: &Addr) -> u32 {
    let (family, word) = match *addr {
        Addr::V4(octets) => (4_u64, u64::from(u32::from_be_bytes(octets))),
        Addr::V6([a, b, c, d, e, f, g, h, ..]) => (6, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
    };
    let hash = siphash::hash(key, word, (u64::from(slot) << 8) | family);
    hash as u32 & HASHED_MASK
}

/// Charges every limit that applies; the reason of the first that refuses. What was charged before
/// the refusal stays charged.
#[inline(always)]
pub(crate) fn charge(
    service: &Service,
    slot: u8,
    flow: &Flow,
    source: Source,
    bytes: u32,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Result<(), Reason> {
    let now = limiter.now();
    let per_source = Bucket::PerSource {
        slot,
        addr: flow.source,
        member: source.is_member(),
    };
    let total = Bucket::Total { slot };
    let mut one = |bucket: &Bucket, unit: Unit, limit: &Limit, units: u64, reason: Reason| {
        if !limit.is_some() {
            return Ok(());
        }
        let admitted = limiter.charge(bucket, unit, limit, now, limit.cost(units));
        observer.note(Step::Limit {
            reason,
            units,
            admitted,
        });
        if admitted { Ok(()) } else { Err(reason) }
    };
    let Limits {
        new_connections,
        packets,
        bytes: by_bytes,
    } = &service.per_source;
    if flow.opening {
        one(
            &per_source,
            Unit::NewConnections,
            new_connections,
            1,
            Reason::LimitNewConnections,
        )?;
    }
    one(&per_source, Unit::Packets, packets, 1, Reason::LimitPackets)?;
    one(
        &per_source,
        Unit::Bytes,
        by_bytes,
        bytes.into(),
        Reason::LimitBytes,
    )?;
    let Limits {
        new_connections,
        packets,
        bytes: by_bytes,
    } = &service.total;
    if flow.opening {
        one(
            &total,
            Unit::NewConnections,
            new_connections,
            1,
            Reason::LimitTotalNewConnections,
        )?;
    }
    one(&total, Unit::Packets, packets, 1, Reason::LimitTotalPackets)?;
    one(
        &total,
        Unit::Bytes,
        by_bytes,
        bytes.into(),
        Reason::LimitTotalBytes,
    )
}
