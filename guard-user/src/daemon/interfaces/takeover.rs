//! The take-over from guards of other layouts. Their counts are carried over before their links are
//! switched and once more afterwards. Their maps are removed when none of their links is left.

use std::collections::BTreeMap;

use crate::{
    bpf::{pinned_maps::PinnedMaps, pins::Pins, takeover::Other},
    system_error::SystemError,
};

/// Guards of other layouts whose take-over is not complete.
#[derive(Debug)]
pub(crate) struct Takeover {
    others: Vec<Other>,
    /// Why the last attempt to complete the take-over failed.
    trouble: Option<String>,
}

impl Takeover {
    /// Creates a take-over from these guards, oldest first.
    pub(crate) fn from(others: Vec<Other>) -> Self {
        Self { others, trouble: None }
    }

    /// Adds the services of these guards to `labels`, by slot. A policy must be compiled for the slots
    /// that [`Self::begin`] assigns to services.
    pub(crate) fn claim_slots(&self, labels: &mut BTreeMap<u8, String>) -> Result<(), SystemError> {
        self.others.iter().try_for_each(|other| other.claim_slots(labels))
    }

    /// Carries counts, labels and bucket states into this guard's maps, before the first switch.
    pub(crate) fn begin(&self, shared: &mut PinnedMaps) -> Result<(), SystemError> {
        for other in &self.others {
            if !other.is_known() {
                tracing::warn!(
                    layout = other.version(),
                    "what a guard of that layout has counted is lost: nothing says what it means"
                );
            }
            for name in other.missing_maps() {
                tracing::warn!(
                    layout = other.version(),
                    "the map {name} of that layout is not pinned: what was counted is lost"
                );
            }
            other.carry(shared)?;
            other.carry_buckets(shared)?;
        }
        if self.others.is_empty() {
            // The previous daemon may have been killed at the end of a take-over.
            shared.settle()?;
        }
        Ok(())
    }

    /// Carries over the counts up to the switch, and removes maps in which no program counts any more.
    /// Called after each switch, until every other guard is gone.
    pub(crate) fn go_on(&mut self, pins: &Pins, shared: &mut PinnedMaps) {
        if self.others.is_empty() {
            return;
        }
        let mut trouble = None;
        if let Err(error) = pins.remove_duplicates() {
            tracing::warn!(hint = error.hint_text(), "{error}");
        }
        self.others.retain(|other| {
            let version = other.version();
            match end(other, pins, shared) {
                Ok(true) => {
                    tracing::info!(layout = version, "taken over from a guard of another layout");
                    false
                }
                Ok(false) => true,
                Err(error) => {
                    trouble = Some(format!(
                        "what a guard of layout {version} has counted is not carried on yet: {}",
                        error.with_hint()
                    ));
                    true
                }
            }
        });
        if self.others.is_empty()
            && let Err(error) = shared.settle()
        {
            // The next start tries again.
            tracing::warn!(hint = error.hint_text(), "{error}");
        }
        if let Some(trouble) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::error!("{trouble}");
        }
        self.trouble = trouble;
    }

    /// Returns why the take-over is not complete, for the status.
    pub(crate) fn trouble(&self) -> Option<&String> {
        self.trouble.as_ref()
    }
}

/// Carries the counts of one guard over, and removes its maps if it has no links left. Returns whether
/// they were removed.
fn end(other: &Other, pins: &Pins, shared: &mut PinnedMaps) -> Result<bool, SystemError> {
    other.carry(shared)?;
    let is_over = !pins.has_links(other)?;
    if is_over {
        other.remove_maps()?;
    }
    Ok(is_over)
}
