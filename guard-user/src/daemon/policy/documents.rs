//! The documents that the state directory keeps besides the last known good policy.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    api::{
        control::RequestedMode,
        status::{ModeOverride, TrialStatus},
    },
    daemon::deadline::Deadline,
    policy::{Bundle, resolve::signature::Verified},
    system_error::SystemError,
    text::time,
};

/// A trial, as kept in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// When the trial ends.
    #[serde(flatten)]
    pub(super) deadline: Deadline,
    /// The policy on trial.
    pub(crate) bundle: Bundle,
    /// The signature to record once the trial is confirmed; none if unsigned policies are accepted.
    #[serde(default)]
    pub(super) accepted: Option<Accepted>,
    /// Whether this daemon continues a trial of an earlier one, and has not loaded its files yet.
    #[serde(skip)]
    pub(super) resumed: bool,
}

impl Trial {
    /// Creates a trial that ends after the time `within`.
    ///
    /// # Errors
    /// The clock or the boot id cannot be read.
    pub(super) fn begin(
        bundle: Bundle,
        accepted: Option<Accepted>,
        within: Duration,
    ) -> Result<Self, SystemError> {
        Ok(Self { deadline: Deadline::after(within)?, bundle, accepted, resumed: false })
    }

    /// Returns the serial number with which the policy was signed.
    pub(super) fn serial(&self) -> Option<u64> {
        self.accepted.as_ref().map(|accepted| accepted.serial)
    }

    /// Returns the trial for the status.
    pub(crate) fn status(&self) -> TrialStatus {
        let left = self.deadline.left().unwrap_or_default();
        TrialStatus {
            manifest: self.bundle.manifest.display().to_string(),
            deadline: time(SystemTime::now() + left),
            seconds_left: left.as_secs(),
        }
    }
}

/// A mode override, as kept in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ActiveOverride {
    pub(super) mode: RequestedMode,
    pub(super) services: Vec<String>,
    /// When it was set, in the time format of all documents.
    pub(super) since: String,
    /// The deadline; none if the override lasts until it is changed.
    pub(super) until: Option<Deadline>,
}

impl ActiveOverride {
    /// Returns whether the deadline has passed.
    pub(super) fn is_over(&self) -> bool {
        self.until.as_ref().is_some_and(|until| until.left().is_none())
    }

    /// Returns whether the override applies to a service. An empty list of services means all.
    pub(super) fn applies_to(&self, label: &str, name: &str) -> bool {
        self.services.is_empty()
            || self.services.iter().any(|wanted| wanted == label || wanted == name)
    }

    /// Returns the override for the status.
    pub(crate) fn status(&self) -> ModeOverride {
        let left = self.until.as_ref().map(|until| until.left().unwrap_or_default());
        ModeOverride {
            mode: self.mode.into(),
            services: self.services.clone(),
            since: self.since.clone(),
            until: left.map(|left| time(SystemTime::now() + left)),
            seconds_left: left.map(|left| left.as_secs()),
        }
    }
}

/// The signature that was accepted last. An older one is not accepted again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) serial: u64,
    /// SHA-256 of the signed list of checksums, in hexadecimal.
    pub(super) sums: String,
}

impl From<Verified> for Accepted {
    fn from(verified: Verified) -> Self {
        Self { serial: verified.serial, sums: verified.sums }
    }
}
