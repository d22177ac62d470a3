//! trainguard's policies, from YAML to tables: document, resolve, check, compile. Touches files, never
//! the kernel.
//!
//! A crate of its own: a change of the daemon does not compile it again. The tables themselves, and the
//! decision by them, are `guard-tables`.

mod check;
pub mod cluster;
pub mod code;
pub mod compile;
pub mod diagnostic;
pub mod diff;
pub mod document;
pub mod entry;
pub mod files;
pub mod fix;
pub mod hash;
mod hostlist;
pub mod ignore;
pub mod json;
pub mod load;
pub mod outside;
pub mod patch;
pub mod placement;
mod ports;
pub mod probe;
pub mod provenance;
mod resolve;
pub mod scalars;
pub mod signature;
pub mod source;
mod sources;
pub mod suite;
pub mod text;
mod walk;
pub mod yaml;

pub use guard_tables::{compiled, limiter, trie};

pub use self::{
    cluster::{Cluster, Node, NodeChoice, NodeError},
    compile::{CapacityError, compile},
    files::{Bundle, Disk, Files},
    load::{LoadError, Loaded, load},
    placement::Placement,
    walk::nearest,
};
