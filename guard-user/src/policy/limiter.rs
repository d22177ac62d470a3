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
    members: RefCell<BTreeMap<MemberKey, BucketStates>>,
    hashed: RefCell<BTreeMap<u32, BucketStates>>,
    totals: RefCell<BTreeMap<u8, BucketStates>>,
}

impl HostLimiter {
    /// Full buckets. `key` keys the hash of sources that are no members.
    pub fn new(key: [u64; 2]) -> Self {
        Self {
            key,
            now: Cell::new(0),
            members: RefCell::default(),
            hashed: RefCell::default(),
            totals: RefCell::default(),
        }
    }

    /// Sets the clock, in nanoseconds.
    pub fn set_now_ns(&self, ns: u64) {
        self.now.set(ns.saturating_mul(bucket::TICKS_PER_NS));
    }

    /// How many sources have state.
    pub fn states(&self) -> usize {
        self.members.borrow().len() + self.hashed.borrow().len()
    }
}

impl Limiter for HostLimiter {
    fn now(&self) -> u64 {
        self.now.get()
    }

    fn charge(&self, of: &Bucket, unit: Unit, limit: &bucket::Limit, now: u64, cost: u64) -> bool {
        let step = |states: &mut BucketStates| {
            let Some(state) = states.get_mut(unit as usize) else {
                return false;
            };
            let step = bucket::step(limit, *state, now, cost);
            *state = step.state;
            step.admitted
        };
        match *of {
            Bucket::Total { slot } => step(self.totals.borrow_mut().entry(slot).or_default()),
            Bucket::PerSource { slot, addr, member: true } => {
                step(self.members.borrow_mut().entry(MemberKey::new(slot, &addr)).or_default())
            }
            Bucket::PerSource { slot, addr, member: false } => {
                let at = limit::hashed_bucket(self.key, slot, &addr);
                step(self.hashed.borrow_mut().entry(at).or_default())
            }
        }
    }
}
