//! What a test takes from the system for itself: memory, descriptors, mounts.

pub mod cgroup;
pub mod descriptors;
pub mod mounts;
