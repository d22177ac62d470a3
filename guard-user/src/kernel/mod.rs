//! Loading, attaching, pinning, reading counters. Knows no YAML.

pub mod error;
pub mod generation;
pub mod link;
mod members;
pub mod netlink;
pub mod pins;
pub mod shared;
pub mod sys;
