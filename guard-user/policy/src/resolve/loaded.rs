//! A cluster that was loaded without errors.

use std::path::PathBuf;

use super::{
    cluster::{Cluster, Node, NodeChoice, NodeError},
    files::Bundle,
};
use crate::syntax::diagnostic::Report;

/// A cluster loaded without errors, ready to be compiled, with the files it was loaded from.
///
/// Returned by `load`. `compile` makes the tables of one node from it.
#[derive(Debug)]
pub struct Loaded {
    /// The resolved cluster.
    pub cluster: Cluster,
    /// Findings that are not errors, and the texts that they refer to.
    pub report: Report,
    /// Every path and glob pattern that was requested, sorted. A caller watches these for changes.
    pub sources: Vec<PathBuf>,
    /// The files and glob results that the load read.
    pub bundle: Bundle,
}

impl Loaded {
    /// Finds the node of this machine; see [`Cluster::find_node`].
    ///
    /// # Errors
    /// As of [`Cluster::find_node`].
    pub fn find_node(&self, choice: &NodeChoice) -> Result<&Node, NodeError> {
        self.cluster.find_node(choice)
    }

    /// Returns where the service with a label is defined: `FILE:LINE:COLUMN`.
    pub fn origin(&self, label: &str) -> Option<String> {
        Some(self.report.sources.describe(self.cluster.service(label)?.place))
    }
}
