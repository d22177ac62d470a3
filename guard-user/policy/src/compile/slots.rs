//! Which slot a service has: the same in every generation, so that counters and limiter state
//! stay with their service.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::verdict::MAX_SERVICES;

use crate::compiled::CompiledPolicy;

/// Which label holds which slot. A label keeps its slot when it is retired, until nobody else has
/// one free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement(BTreeMap<u8, String>);

impl FromIterator<(u8, String)> for Placement {
    /// From slots and labels; slots that do not exist are left out, of labels that are twice the
    /// lower slot counts.
    fn from_iter<I: IntoIterator<Item = (u8, String)>>(slots: I) -> Self {
        let mut placement = Self::default();
        let sorted: BTreeMap<u8, String> = slots.into_iter().collect();
        for (slot, label) in sorted {
            if slot < MAX_SERVICES && placement.slot_of(&label).is_none() {
                placement.0.insert(slot, label);
            }
        }
        placement
    }
}

impl Placement {
    /// Slots and labels, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &str)> {
        self.0.iter().map(|(slot, label)| (*slot, label.as_str()))
    }

    /// The slot of a label.
    pub fn slot_of(&self, label: &str) -> Option<u8> {
        self.iter().find(|(_, known)| *known == label).map(|(slot, _)| slot)
    }

    /// This placement with the services of a policy in it: what the next generation starts from.
    #[must_use]
    pub fn with(&self, policy: &CompiledPolicy) -> Self {
        let mut next = self.clone();
        for service in &policy.services {
            next.0.insert(service.slot, service.label.clone());
        }
        next
    }

    /// The slots of some labels, at most [`MAX_SERVICES`] of them, in their order; and the slots
    /// that are taken from a retired label, whose counters and state must be cleared.
    pub(crate) fn place(&self, labels: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let current: BTreeSet<&str> = labels.iter().copied().collect();
        let mut free: Vec<u8> = (0..MAX_SERVICES).filter(|s| !self.0.contains_key(s)).collect();
        let retired = self.iter().filter(|(_, label)| !current.contains(label));
        let mut retired: Vec<u8> = retired.map(|(slot, _)| slot).collect();
        // Taken from the end: lowest first.
        free.reverse();
        retired.reverse();
        let mut reclaimed = Vec::new();
        let slots = labels.iter().filter_map(|label| {
            self.slot_of(label).or_else(|| free.pop()).or_else(|| {
                let slot = retired.pop()?;
                reclaimed.push(slot);
                Some(slot)
            })
        });
        (slots.collect(), reclaimed)
    }
}
