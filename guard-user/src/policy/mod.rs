//! From YAML to tables: document, resolve, check, compile. Touches files, never the kernel.

mod check;
pub mod cluster;
pub mod code;
pub mod compile;
pub mod compiled;
pub mod diagnostic;
pub mod diff;
pub mod document;
pub mod entry;
pub mod files;
pub mod fix;
pub(crate) mod hash;
mod hostlist;
pub mod ignore;
pub mod json;
pub mod limiter;
pub mod load;
pub(crate) mod outside;
pub mod patch;
pub mod placement;
mod ports;
pub mod provenance;
mod resolve;
pub mod scalars;
pub mod signature;
pub mod source;
mod sources;
pub mod suite;
pub mod text;
pub mod trie;
mod walk;
pub(crate) mod yaml;

pub(crate) use self::walk::nearest;
pub use self::{
    cluster::{Cluster, Node, NodeChoice, NodeError},
    compile::{CapacityError, compile},
    files::{Bundle, Disk, Files},
    load::{LoadError, Loaded, load},
    placement::Placement,
};
