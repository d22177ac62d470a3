//! From YAML to tables: document, resolve, check, compile. Touches files, never the kernel.

mod check;
pub mod cluster;
pub mod code;
pub mod compile;
pub mod compiled;
pub mod diagnostic;
pub mod document;
pub mod files;
mod hash;
mod hostlist;
pub mod limiter;
pub mod load;
pub mod placement;
mod ports;
pub mod provenance;
mod resolve;
pub mod scalars;
pub mod source;
mod sources;
pub mod text;
pub mod trie;
mod walk;
mod yaml;

pub use self::{
    cluster::{Cluster, Node, NodeChoice, NodeError},
    compile::{CapacityError, compile},
    files::{Bundle, Disk, Files},
    load::{LoadError, Loaded, load},
    placement::Placement,
};
