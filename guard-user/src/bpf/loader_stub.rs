//! In place of generations, in a build that knows no kernel.

use guard_common::Verdict;

use crate::{policy::compiled::CompiledPolicy, system_error::SystemError};

/// The shortest frame that a kernel would take.
pub const SHORTEST_FRAME: usize = 14;

/// There is none.
#[derive(Debug)]
pub enum Generation {}

impl Generation {
    /// Always refused.
    pub fn for_tests(_: &CompiledPolicy, _: [u64; 2]) -> Result<Self, SystemError> {
        Err(SystemError::new("this build of trainguard cannot ask the kernel")
            .hint("leave `--kernel` out, or build it with the feature `daemon`"))
    }

    /// Nobody can ask.
    pub fn evaluate(&self, _: &[u8], _: u64) -> Result<Verdict, SystemError> {
        match *self {}
    }
}
