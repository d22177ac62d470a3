//! Loading, attaching and pinning of programs and maps, and reading counters, with bpf(2). This
//! module does not depend on the YAML syntax of policies.
//!
//! A build without the feature `daemon` has only a replacement for the loader, which reports an
//! error.

#[cfg(feature = "daemon")]
mod attach_error;
#[cfg(feature = "daemon")]
pub mod feature_probe;
#[cfg(feature = "daemon")]
mod layout_description;
#[cfg(feature = "daemon")]
pub mod link;
#[cfg(feature = "daemon")]
pub mod loader;
#[cfg(not(feature = "daemon"))]
#[path = "loader_stub.rs"]
pub mod loader;
#[cfg(feature = "daemon")]
mod member_slots;
#[cfg(feature = "daemon")]
pub mod pinned_maps;
#[cfg(feature = "daemon")]
pub mod pins;
#[cfg(feature = "daemon")]
pub mod program;
#[cfg(feature = "daemon")]
mod self_test;
#[cfg(feature = "daemon")]
pub mod takeover;
#[cfg(feature = "daemon")]
pub mod test_run;
