//! Bucket states on the host, for evaluating packets without kernel maps: `replay`, `trace` and the
//! tests.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use guard_common::{
    bucket::{self, Limit},
    layout::{BucketStates, MemberKey},
    limit::{self, Bucket, Limiter},
    tables::Unit,
};

/// Bucket states with a clock that advances only by [`HostLimiter::set_now_ns`].
///
/// # Examples
///
/// ```
/// use guard_common::{Limiter, bucket::Limit, tables::Unit};
/// use guard_tables::limiter::HostLimiter;
///
/// let limiter = HostLimiter::new([0; 2]);
/// let limit = Limit::per_unit(1, 1);
/// let packet = || limiter.charge_total(0, Unit::Packets, &limit, limiter.now(), limit.cost(1));
/// assert!(packet());
/// assert!(!packet(), "the burst is one packet");
/// limiter.set_now_ns(1_000_000_000);
/// assert!(packet(), "the rate is one packet per second");
/// ```
#[derive(Debug)]
pub struct HostLimiter {
    key: [u64; 2],
    now: Cell<u64>,
    sources: RefCell<BTreeMap<Key, BucketStates>>,
    totals: RefCell<BTreeMap<u8, Total>>,
}

/// State of the bucket that all sources of a service share. Models one CPU, so there is one credit.
#[derive(Debug, Default)]
struct Total {
    states: BucketStates,
    credits: BucketStates,
}

impl HostLimiter {
    /// Creates a limiter with full buckets at time 0. `key` is the key of the hash that assigns buckets
    /// to sources that are not members.
    pub fn new(key: [u64; 2]) -> Self {
        Self { key, now: Cell::new(0), sources: RefCell::default(), totals: RefCell::default() }
    }

    /// Sets the clock, in nanoseconds.
    pub fn set_now_ns(&self, ns: u64) {
        self.now.set(ns.saturating_mul(bucket::TICKS_PER_NS));
    }

    /// Returns the number of buckets in use. Sources that share a hash count once.
    pub fn sources(&self) -> usize {
        self.sources.borrow().len()
    }
}

impl Limiter for HostLimiter {
    type States = Key;

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn states(&self, of: &Bucket) -> Option<Key> {
        let Bucket { slot, addr, number } = *of;
        Some(match number {
            Bucket::SHARED => Key::Hashed(limit::hashed_bucket(self.key, slot, &addr)),
            _ => Key::Member(MemberKey::new(slot, &addr)),
        })
    }

    fn charge(&self, of: &Key, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool {
        let mut states = self.sources.borrow_mut();
        let Some(state) = states.entry(*of).or_default().get_mut(unit as usize) else {
            return false;
        };
        let step = bucket::step(limit, *state, now, cost);
        *state = step.state;
        step.admitted
    }

    fn charge_total(&self, slot: u8, unit: Unit, limit: &Limit, now: u64, cost: u64) -> bool {
        let mut totals = self.totals.borrow_mut();
        let Total { states, credits } = totals.entry(slot).or_default();
        let (Some(state), Some(credit)) =
            (states.get_mut(unit as usize), credits.get_mut(unit as usize))
        else {
            return false;
        };
        let draw = bucket::draw(limit, *state, *credit, now, cost);
        (*state, *credit) = (draw.state, draw.credit);
        draw.admitted
    }
}

/// Identifies the bucket of a source at a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The bucket of one address of a member.
    Member(MemberKey),
    /// The bucket of all sources with this hash.
    Hashed(u32),
}
