//! Bucket states on the host: what `replay` and the tests charge instead of kernel maps.

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

/// Bucket states, and a clock that stands still until it is set.
#[derive(Debug)]
pub struct HostLimiter {
    key: [u64; 2],
    now: Cell<u64>,
    sources: RefCell<BTreeMap<Key, BucketStates>>,
    totals: RefCell<BTreeMap<u8, Total>>,
}

/// The bucket of all sources of a service, on a machine with one CPU.
#[derive(Debug, Default)]
struct Total {
    states: BucketStates,
    credits: BucketStates,
}

impl HostLimiter {
    /// Full buckets. `key` keys the hash of sources that are no members.
    pub fn new(key: [u64; 2]) -> Self {
        Self { key, now: Cell::new(0), sources: RefCell::default(), totals: RefCell::default() }
    }

    /// Sets the clock, in nanoseconds.
    pub fn set_now_ns(&self, ns: u64) {
        self.now.set(ns.saturating_mul(bucket::TICKS_PER_NS));
    }

    /// How many sources have state.
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

/// Names the bucket of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Of one member.
    Member(MemberKey),
    /// Of the sources that share a hash.
    Hashed(u32),
}
