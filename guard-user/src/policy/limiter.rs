//! Bucket states on the host: what `replay` and the tests charge instead of kernel maps.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use guard_common::{
    bucket,
    layout::{BucketStates, MemberKey},
    limit::{self, Bucket, Limiter},
    tables::Unit,
};

/// Bucket states, and a clock that stands still until it is set.
#[derive(Debug)]
pub struct HostLimiter {
    key: [u64; 2],
    now: Cell<u64>,
    states: RefCell<BTreeMap<Key, BucketStates>>,
}

impl HostLimiter {
    /// Full buckets. `key` keys the hash of sources that are no members.
    pub fn new(key: [u64; 2]) -> Self {
        Self { key, now: Cell::new(0), states: RefCell::default() }
    }

    /// Sets the clock, in nanoseconds.
    pub fn set_now_ns(&self, ns: u64) {
        self.now.set(ns.saturating_mul(bucket::TICKS_PER_NS));
    }

    /// How many sources have state.
    pub fn sources(&self) -> usize {
        let states = self.states.borrow();
        states.keys().filter(|key| !matches!(key, Key::Total(_))).count()
    }
}

impl Limiter for HostLimiter {
    type States = Key;

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn states(&self, of: &Bucket) -> Option<Key> {
        Some(match *of {
            Bucket::Total { slot } => Key::Total(slot),
            Bucket::PerSource { slot, addr, member: Some(_) } => {
                Key::Member(MemberKey::new(slot, &addr))
            }
            Bucket::PerSource { slot, addr, member: None } => {
                Key::Hashed(limit::hashed_bucket(self.key, slot, &addr))
            }
        })
    }

    fn charge(&self, of: &Key, unit: Unit, limit: &bucket::Limit, now: u64, cost: u64) -> bool {
        let mut states = self.states.borrow_mut();
        let Some(state) = states.entry(*of).or_default().get_mut(unit as usize) else {
            return false;
        };
        let step = bucket::step(limit, *state, now, cost);
        *state = step.state;
        step.admitted
    }
}

/// Names a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Of all sources of the service in this slot.
    Total(u8),
    /// Of one member.
    Member(MemberKey),
    /// Of the sources that share a hash.
    Hashed(u32),
}
