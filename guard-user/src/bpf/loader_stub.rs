//! Replacement for the loader in a build without the feature `daemon`, which cannot use the kernel.

use guard_common::Verdict;

use crate::{policy::compiled::CompiledPolicy, system_error::SystemError};

/// Minimum length of a frame for a test run, in bytes.
pub const MIN_FRAME_LEN: usize = 14;

/// A loaded generation, of which no value exists in this build.
#[derive(Debug)]
pub enum Generation {}

impl Generation {
    /// Always fails, because this build cannot load programs.
    pub fn for_tests(_: &CompiledPolicy, _: [u64; 2]) -> Result<Self, SystemError> {
        Err(SystemError::new("this build of trainguard cannot load programs into the kernel")
            .hint("omit `--kernel`, or build trainguard with the feature `daemon`"))
    }

    /// Cannot be called, because no value of this type exists.
    pub fn evaluate(&self, _: &[u8], _: u64) -> Result<Verdict, SystemError> {
        match *self {}
    }
}
