//! trainguard's policies, from YAML to tables: read documents, resolve names, check, compile. Accesses
//! files, never the kernel.
//!
//! A separate crate, so that a change of the daemon does not recompile it. The tables, and the
//! evaluation of packets with them, are in `guard-tables`.

pub mod compile;
pub mod diff;
pub mod edit;
pub mod lint;
pub mod probe;
pub mod resolve;
pub mod syntax;
pub mod test_suite;

pub use guard_tables::{compiled, limiter, trie};

pub use self::{
    compile::{CapacityError, compile, slots::Placement},
    resolve::{
        cluster::{Cluster, Node, NodeChoice, NodeError},
        files::{Bundle, Disk, Files},
        load::{LoadError, load},
        loaded::Loaded,
    },
    syntax::walk::nearest,
};
