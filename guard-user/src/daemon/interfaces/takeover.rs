//! The take-over from guards of other layouts. Their counts are carried over before their links are
//! switched and once more afterwards. Their maps are removed when none of their links is left.

use std::collections::BTreeMap;

use crate::{
    bpf::{pinned_maps::PinnedMaps, pins::Pins, takeover::OtherGuard},
    system_error::SystemError,
};

/// Guards of other layouts whose take-over is not complete.
#[derive(Debug)]
pub(crate) struct Takeover {
    others: Vec<OtherGuard>,
    /// Why the last attempt to complete the take-over failed.
    problem: Option<String>,
}

impl Takeover {
    /// Creates a take-over from these guards, oldest first.
    pub(crate) fn from(others: Vec<OtherGuard>) -> Self {
        Self { others, problem: None }
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
                    "counts of the other guard are lost: its layout is unknown"
                );
            }
            for name in other.missing_maps() {
                tracing::warn!(
                    layout = other.version(),
                    "counts of the other guard are lost: its map {name} is not pinned"
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
    pub(crate) fn advance(&mut self, pins: &Pins, shared: &mut PinnedMaps) {
        if self.others.is_empty() {
            return;
        }
        let mut problem = None;
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
                    problem = Some(format!(
                        "the counts of the guard of layout {version} are not carried over yet: {}",
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
        if let Some(problem) = problem.as_ref().filter(|_| problem != self.problem) {
            tracing::error!("{problem}");
        }
        self.problem = problem;
    }

    /// Returns why the take-over is not complete, for the status.
    pub(crate) fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }
}

/// Carries the counts of one guard over, and removes its maps if it has no links left. Returns whether
/// they were removed.
fn end(other: &OtherGuard, pins: &Pins, shared: &mut PinnedMaps) -> Result<bool, SystemError> {
    other.carry(shared)?;
    let is_over = !pins.has_links(other)?;
    if is_over {
        other.remove_maps()?;
    }
    Ok(is_over)
}
