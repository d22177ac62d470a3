//! Code shared by several subcommands.

pub(crate) mod backends;
pub(crate) mod inputs;
pub(crate) mod load;
pub(crate) mod outputs;
pub(crate) mod proposal;
pub(crate) mod suggest;
