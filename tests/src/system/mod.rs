//! System resources of a test: memory, descriptors, mounts.

pub mod cgroup;
pub mod descriptors;
pub mod mounts;
