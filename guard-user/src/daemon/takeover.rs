//! What becomes of guards of other layouts: they are carried on from before their links are switched, and
//! removed once none of their links is left.

use std::collections::BTreeMap;

use crate::kernel::{error::KernelError, pins::Pins, shared::Shared, takeover::Other};

/// Guards of other layouts that are not yet taken over from as a whole.
#[derive(Debug)]
pub(super) struct Takeover {
    others: Vec<Other>,
    /// Why that did not end yet.
    trouble: Option<String>,
}

impl Takeover {
    /// From these, the oldest first.
    pub(super) fn from(others: Vec<Other>) -> Self {
        Self { others, trouble: None }
    }

    /// Which service has which slot under the newest of them that says so.
    pub(super) fn service_labels(&self) -> Result<BTreeMap<u8, String>, KernelError> {
        for other in self.others.iter().rev() {
            let labels = other.service_labels()?;
            if !labels.is_empty() {
                return Ok(labels);
            }
        }
        Ok(BTreeMap::new())
    }

    /// Before the first generation is switched to: carries counts, labels and bucket states into its maps.
    pub(super) fn begin(&self, shared: &mut Shared) -> Result<(), KernelError> {
        for other in &self.others {
            if !other.is_known() {
                tracing::warn!(
                    layout = other.version(),
                    "what a guard of that layout has counted is lost: nothing says what it means"
                );
            }
            other.carry(shared)?;
            other.carry_buckets(shared)?;
        }
        if self.others.is_empty() {
            // Left by a daemon that was killed at the end of a take-over.
            shared.settle()?;
        }
        Ok(())
    }

    /// Behind a switch: carries on what was counted until then, and removes the maps in which no program
    /// counts any more.
    pub(super) fn go_on(&mut self, pins: &Pins, shared: &mut Shared) {
        if self.others.is_empty() {
            return;
        }
        let mut trouble = None;
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
            // At the next start, then.
            tracing::warn!(hint = error.hint_text(), "{error}");
        }
        if let Some(trouble) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::error!("{trouble}");
        }
        self.trouble = trouble;
    }

    /// For status.
    pub(super) fn trouble(&self) -> Option<&String> {
        self.trouble.as_ref()
    }
}

/// Whether it is over.
fn end(other: &Other, pins: &Pins, shared: &mut Shared) -> Result<bool, KernelError> {
    other.carry(shared)?;
    let is_over = !pins.has_links(other)?;
    if is_over {
        other.remove_maps()?;
    }
    Ok(is_over)
}
