//! trainguard's policies, from YAML to tables: document, resolve, check, compile. Touches files, never
//! the kernel.
//!
//! A crate of its own: a change of the daemon does not compile it again. The tables themselves, and the
//! decision by them, are `guard-tables`.

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
