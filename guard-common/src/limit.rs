//! Charges the limits of a service in the order of the contract: per source, then in total.
//!
//! Decision: `docs/decisions/0006-unlisted-sources-leave-no-state.md`.

use crate::{
    bucket::Limit,
    flow::{Addr, Headers},
    observe::{Observer, Step},
    siphash,
    tables::{Limits, Service, Unit},
    verdict::{MAX_SERVICES, Reason},
};

/// Number of hashed buckets of each service, for sources that are not members. A power of two.
pub const HASHED_OF_SERVICE: u32 = 1 << 14;
/// Number of hashed buckets of all services.
pub const HASHED_BUCKETS: u32 = HASHED_OF_SERVICE * MAX_SERVICES as u32;

/// Identifies the bucket of one source at one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// Slot of the service.
    pub slot: u8,
    /// Address of the source.
    pub addr: Addr,
    /// Number of a member's bucket, which no other source uses; [`Bucket::SHARED`] for sources that
    /// are not members. Not an `Option`: its number would be undefined for `None`, and the verifier
    /// refuses the copy of it that the compiler makes all the same.
    pub number: u32,
}

impl Bucket {
    /// The number for a source that is not a member. Its bucket is a hashed one.
    pub const SHARED: u32 = u32::MAX;
}

/// The states of all token buckets, and their clock.
///
/// The kernel programs implement it over maps, the host in memory. Times and costs are in ticks
/// (see [`crate::bucket`]). There are no errors: a bucket that cannot be found or updated refuses
/// the packet.
///
/// # Examples
///
/// ```
/// use guard_common::bucket::{self, Limit};
/// use guard_common::{Limiter, limit::Bucket, tables::Unit};
/// use std::cell::Cell;
///
/// /// One bucket for all sources and services, with a clock that does not advance.
/// #[derive(Default)]
/// struct OneBucket(Cell<u64>);
///
/// impl Limiter for OneBucket {
///     type States = ();
///
///     fn now(&self) -> u64 {
///         0
///     }
///     fn states(&self, _of: &Bucket) -> Option<()> {
///         Some(())
///     }
///     fn charge(&self, _of: &(), _unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool {
///         let step = bucket::step(limit, self.0.get(), now, cost);
///         self.0.set(step.state);
///         step.admitted
///     }
///     fn charge_total(&self, _slot: u8, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool {
///         self.charge(&(), unit, limit, now, cost)
///     }
/// }
///
/// let limiter = OneBucket::default();
/// let limit = Limit::per_unit(1, 2);
/// let packet = || limiter.charge_total(0, Unit::Packets, &limit, 0, limit.cost(1));
/// assert_eq!([packet(), packet(), packet()], [true, true, false], "a burst of two packets");
/// ```
pub trait Limiter {
    /// Refers to the states of one source's bucket, one for each [`Unit`].
    type States;

    /// Returns the current time in ticks of a monotonic clock, below 2^63.
    fn now(&self) -> u64;

    /// Finds the bucket of a source. `None` refuses the packet.
    fn states(&self, of: &Bucket) -> Option<Self::States>;

    /// Charges one state of a bucket with `cost` ticks by [`crate::bucket::step`]. Returns whether
    /// the charge was admitted; false also if the state cannot be updated.
    fn charge(&self, of: &Self::States, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool;

    /// Charges the bucket that all sources of the service in `slot` share, by
    /// [`crate::bucket::draw`]. Returns whether the charge was admitted; false also if the state
    /// cannot be updated.
    fn charge_total(&self, slot: u8, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool;
}

/// Returns the number of the hashed bucket of a source that is not a member, below
/// [`HASHED_BUCKETS`].
///
/// An IPv6 source counts as its /64, because a host with one address of it can use them all. The
/// hash is keyed with a secret, so no sender can choose whose bucket it shares. Sources share a bucket
/// only at the same service, so all charges of a bucket are by the same limits, and a collision can
/// only make a limit stricter.
///
/// Decision: `docs/decisions/0059-hashed-buckets-are-per-service.md`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low bits of a hash are as good as any")]
pub fn hashed_bucket(key: [u64; 2], slot: u8, addr: &Addr) -> u32 {
    let (family, word) = match *addr {
        Addr::V4(addr) => (4, u64::from(addr)),
        Addr::V6([prefix, _]) => (6, prefix),
    };
    let hash = siphash::hash(key, word, (u64::from(slot) << 8) | family);
    let first = u32::from(slot).wrapping_mul(HASHED_OF_SERVICE);
    first.wrapping_add(hash as u32 & (HASHED_OF_SERVICE - 1)) & (HASHED_BUCKETS - 1)
}

/// A limiter for a packet that the kernel has merged from several (GRO).
#[derive(Debug, Clone, Copy)]
pub struct Merged<L> {
    limiter: L,
    packets: u32,
}

impl<L> Merged<L> {
    /// Wraps the limiter for a packet that was `packets` packets on the wire; 1 if nothing was
    /// merged.
    #[inline(always)]
    pub fn new(limiter: L, packets: u32) -> Self {
        Self { limiter, packets }
    }

    /// Returns the cost of all merged packets, at most a whole burst: arriving one by one, some of
    /// them would have been admitted, and no sender controls what is merged.
    #[inline(always)]
    fn cost(&self, unit: Unit, limit: &Limit, cost: u64) -> u64 {
        if self.packets <= 1 {
            return cost;
        }
        let times = if unit == Unit::Packets { u64::from(self.packets) } else { 1 };
        // The BPF target has no multiplication that reports an overflow.
        if cost >> 47 != 0 || times >> 16 != 0 {
            return limit.depth;
        }
        cost.wrapping_mul(times).min(limit.depth)
    }
}

impl<L: Limiter> Limiter for Merged<L> {
    type States = L::States;

    #[inline(always)]
    fn now(&self) -> u64 {
        self.limiter.now()
    }

    #[inline(always)]
    fn states(&self, of: &Bucket) -> Option<Self::States> {
        self.limiter.states(of)
    }

    #[inline(always)]
    fn charge(&self, of: &Self::States, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool {
        self.limiter.charge(of, unit, limit, now, self.cost(unit, limit, cost))
    }

    #[inline(always)]
    fn charge_total(&self, slot: u8, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool {
        self.limiter.charge_total(slot, unit, limit, now, self.cost(unit, limit, cost))
    }
}

/// Charges every limit of a service that applies to a packet. `bytes` is the length of its frame,
/// `kinds` is [`Setting::Kinds`](crate::tables::Setting::Kinds), and `number` is
/// [`Bucket::number`].
///
/// # Errors
///
/// The reason of the first limit that refuses. Limits charged before it stay charged.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the facts of a packet, each used once")]
pub(crate) fn charge(
    service: &Service,
    kinds: u64,
    headers: &Headers,
    slot: u8,
    number: u32,
    bytes: u32,
    limiter: &impl Limiter,
    observer: &mut impl Observer,
) -> Result<(), Reason> {
    let packet =
        Charged { now: limiter.now(), kinds, opening: headers.is_opening(), bytes: bytes.into() };
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

/// The bits for limits per source in [`Setting::Kinds`](crate::tables::Setting::Kinds).
const PER_SOURCE_KINDS: u64 = 0b111;
/// The first bit for limits in total in [`Setting::Kinds`](crate::tables::Setting::Kinds).
pub const TOTAL_KINDS_BIT: u32 = 3;

const PER_SOURCE: [Reason; 3] =
    [Reason::LimitNewConnections, Reason::LimitPackets, Reason::LimitBytes];
const TOTAL: [Reason; 3] =
    [Reason::LimitTotalNewConnections, Reason::LimitTotalPackets, Reason::LimitTotalBytes];

/// The facts of a packet that its cost depends on.
struct Charged {
    now: u64,
    kinds: u64,
    opening: bool,
    bytes: u64,
}

impl Charged {
    /// Charges the limits that are set, in the order of [`Unit::ALL`]. `one` charges a single
    /// limit, and `first_kind` is the first bit of these limits in `kinds`.
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
            // `kinds` is a constant of the program, so the verifier removes the code for kinds that
            // no service uses.
            if self.kinds >> first_kind >> unit as u64 & 1 == 0 || !limit.is_some() {
                return Ok(());
            }
            let admitted = one(unit, limit, limit.cost(units));
            observer.note(Step::Limit { reason, units, admitted });
            if admitted { Ok(()) } else { Err(reason) }
        };
        if self.opening {
            charge(Unit::NewConnections, &limits.new_connections, 1, on_connections)?;
        }
        charge(Unit::Packets, &limits.packets, 1, on_packets)?;
        charge(Unit::Bytes, &limits.bytes, self.bytes, on_bytes)
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    /// Records the last cost that was charged.
    #[derive(Default)]
    struct Charged(Cell<u64>);

    impl Limiter for Charged {
        type States = ();

        fn now(&self) -> u64 {
            0
        }

        fn states(&self, _: &Bucket) -> Option<()> {
            Some(())
        }

        fn charge(&self, (): &(), _: Unit, _: &Limit, _: u64, cost: u64) -> bool {
            self.0.set(cost);
            true
        }

        fn charge_total(&self, _: u8, _: Unit, _: &Limit, _: u64, cost: u64) -> bool {
            self.0.set(cost);
            true
        }
    }

    fn charged(packets: u32, unit: Unit, limit: &Limit, cost: u64) -> u64 {
        let merged = Merged::new(Charged::default(), packets);
        assert!(merged.charge(&(), unit, limit, 0, cost));
        let of_source = merged.limiter.0.take();
        assert!(merged.charge_total(0, unit, limit, 0, cost));
        assert_eq!(merged.limiter.0.take(), of_source);
        of_source
    }

    #[test]
    fn a_merged_packet_costs_its_segments_and_at_most_a_burst() {
        let limit = Limit::per_unit(1_000, 100);
        assert_eq!(charged(1, Unit::Packets, &limit, limit.unit), limit.unit);
        assert_eq!(charged(45, Unit::Packets, &limit, limit.unit), 45 * limit.unit);
        assert_eq!(charged(101, Unit::Packets, &limit, limit.unit), limit.depth);
        assert_eq!(charged(u32::MAX, Unit::Packets, &limit, limit.unit), limit.depth);
        assert_eq!(charged(45, Unit::Packets, &limit, u64::MAX), limit.depth);
        // The bytes already include those of all merged packets.
        assert_eq!(charged(45, Unit::Bytes, &limit, limit.unit), limit.unit);
        assert_eq!(charged(45, Unit::Bytes, &limit, 2 * limit.depth), limit.depth);
        assert_eq!(charged(1, Unit::Bytes, &limit, 2 * limit.depth), 2 * limit.depth);
    }
}
