//! Deadlines that setting the clock does not move, and that outlive the daemon.

use std::{
    fs, io,
    time::{Duration, SystemTime},
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::system_error::SystemError;

/// A time of `CLOCK_BOOTTIME`, which includes suspension. After a reboot the deadline has passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deadline {
    /// Id of the boot in which the deadline was set.
    boot: String,
    /// Time since boot at which the deadline passes.
    #[serde(rename = "deadline")]
    at: Duration,
}

/// Returns the time since boot, including suspension.
fn since_boot() -> Result<Duration, SystemError> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_err(|error| SystemError::of("reading the clock", io::Error::from(error)))?;
    Ok(now.into())
}

/// Returns the id of this boot (random(4)).
fn boot_id() -> Result<String, SystemError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(PATH).map_err(|error| SystemError::of(PATH, error))?;
    Ok(id.trim_end().to_owned())
}

impl Deadline {
    /// Returns a deadline `time` from now.
    ///
    /// # Errors
    /// The clock or the boot id cannot be read.
    pub(super) fn after(time: Duration) -> Result<Self, SystemError> {
        Ok(Self { boot: boot_id()?, at: since_boot()?.saturating_add(time) })
    }

    /// Returns the time left; none if the deadline has passed or is of another boot.
    pub(super) fn left(&self) -> Option<Duration> {
        let same_boot = boot_id().is_ok_and(|id| id == self.boot);
        let now = since_boot().ok().filter(|_| same_boot)?;
        self.at.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Returns the wall clock time at which the deadline passes; now if it has passed.
    pub(super) fn time(&self) -> SystemTime {
        SystemTime::now() + self.left().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case 109: the wall clock, which can be set, does not matter.
    #[test]
    fn a_deadline_passes_with_its_time_and_with_a_reboot() {
        let deadline = Deadline::after(Duration::from_mins(10)).expect("a clock");
        assert!(deadline.left().is_some_and(|left| left > Duration::from_mins(9)));
        let over = Deadline { at: Duration::from_nanos(1), ..deadline.clone() };
        assert_eq!(over.left(), None);
        let elsewhere = Deadline { boot: "another".to_owned(), ..deadline };
        assert_eq!(elsewhere.left(), None);
    }
}
