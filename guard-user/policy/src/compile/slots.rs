//! Assigns slots to services. A service keeps its slot across generations, so that its counters and
//! limiter state stay valid.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::verdict::MAX_SERVICES;

use crate::compiled::CompiledPolicy;

/// The label in each slot. A removed service keeps its slot until a new service needs one and no other
/// slot is free.
///
/// # Examples
///
/// ```
/// use guard_policy::Placement;
///
/// let slots = [(0, "p/store".to_owned()), (5, "p/scheduler".to_owned())];
/// let placement: Placement = slots.into_iter().collect();
/// assert_eq!(placement.slot_of("p/scheduler"), Some(5));
/// assert_eq!(placement.iter().next(), Some((0, "p/store")));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement(BTreeMap<u8, String>);

impl FromIterator<(u8, String)> for Placement {
    /// Collects slots and labels. Slots from [`MAX_SERVICES`] up are ignored; a label that occurs twice
    /// keeps the lower slot.
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
    /// Iterates over slots and labels, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &str)> {
        self.0.iter().map(|(slot, label)| (*slot, label.as_str()))
    }

    /// Returns the slot of a label.
    pub fn slot_of(&self, label: &str) -> Option<u8> {
        self.iter().find(|(_, known)| *known == label).map(|(slot, _)| slot)
    }

    /// Returns this placement plus the services of a policy: the starting point of the next generation.
    #[must_use]
    pub fn with(&self, policy: &CompiledPolicy) -> Self {
        let mut next = self.clone();
        for service in &policy.services {
            next.0.insert(service.slot, service.label.clone());
        }
        next
    }

    /// Returns the slots of these labels, in their order, for at most [`MAX_SERVICES`] labels, and the
    /// slots taken from removed services, whose counters and state must be cleared.
    pub(crate) fn place(&self, labels: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let current: BTreeSet<&str> = labels.iter().copied().collect();
        let mut free: Vec<u8> = (0..MAX_SERVICES).filter(|s| !self.0.contains_key(s)).collect();
        let retired = self.iter().filter(|(_, label)| !current.contains(label));
        let mut retired: Vec<u8> = retired.map(|(slot, _)| slot).collect();
        // Slots are popped from the end, so the lowest comes last.
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
