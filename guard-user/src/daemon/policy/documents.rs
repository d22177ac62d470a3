//! What the state directory keeps besides the last good policy.

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

/// A trial, as the state directory keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// When it ends.
    #[serde(flatten)]
    pub(super) deadline: Deadline,
    /// What is tried.
    pub(crate) bundle: Bundle,
    /// What is to be remembered of its signature once it is confirmed.
    #[serde(default)]
    pub(super) accepted: Option<Accepted>,
    /// This daemon goes on with what an earlier one has begun, and has not loaded its files yet.
    #[serde(skip)]
    pub(super) resumed: bool,
}

impl Trial {
    /// A trial that ends after a time.
    ///
    /// # Errors
    /// The clock cannot be read.
    pub(super) fn begin(
        bundle: Bundle,
        accepted: Option<Accepted>,
        within: Duration,
    ) -> Result<Self, SystemError> {
        Ok(Self { deadline: Deadline::after(within)?, bundle, accepted, resumed: false })
    }

    /// The serial number that it was signed with.
    pub(super) fn serial(&self) -> Option<u64> {
        self.accepted.as_ref().map(|accepted| accepted.serial)
    }

    /// For the status.
    pub(crate) fn status(&self) -> TrialStatus {
        let left = self.deadline.left().unwrap_or_default();
        TrialStatus {
            manifest: self.bundle.manifest.display().to_string(),
            deadline: time(SystemTime::now() + left),
            seconds_left: left.as_secs(),
        }
    }
}

/// Modes that are not those of the policy, as the state directory keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ActiveOverride {
    pub(super) mode: RequestedMode,
    pub(super) services: Vec<String>,
    /// Since when, as all documents write it.
    pub(super) since: String,
    /// Until when; until it is changed if there is none.
    pub(super) until: Option<Deadline>,
}

impl ActiveOverride {
    /// Whether its time is over.
    pub(super) fn is_over(&self) -> bool {
        self.until.as_ref().is_some_and(|until| until.left().is_none())
    }

    /// Whether it is about a service.
    pub(super) fn means(&self, label: &str, name: &str) -> bool {
        self.services.is_empty()
            || self.services.iter().any(|wanted| wanted == label || wanted == name)
    }

    /// For the status.
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

/// What was accepted last: nothing older is again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) serial: u64,
    /// SHA-256 of the list, in hexadecimal.
    pub(super) sums: String,
}

impl From<Verified> for Accepted {
    fn from(verified: Verified) -> Self {
        Self { serial: verified.serial, sums: verified.sums }
    }
}
