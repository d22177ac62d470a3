//! A cluster that was loaded without an error.

use std::path::PathBuf;

use super::{
    cluster::{Cluster, Node, NodeChoice, NodeError},
    files::Bundle,
};
use crate::syntax::diagnostic::Report;

/// A cluster that is ready to be compiled.
#[derive(Debug)]
pub struct Loaded {
    /// The cluster.
    pub cluster: Cluster,
    /// Warnings, and the texts that they point into.
    pub report: Report,
    /// Every path and glob pattern that was asked for, sorted: what to watch.
    pub sources: Vec<PathBuf>,
    /// What was read.
    pub bundle: Bundle,
}

impl Loaded {
    /// Finds the node that this machine is.
    pub fn find_node(&self, choice: &NodeChoice) -> Result<&Node, NodeError> {
        self.cluster.find_node(choice)
    }

    /// Where the service with a label was written: `FILE:LINE:COLUMN`.
    pub fn origin(&self, label: &str) -> Option<String> {
        Some(self.report.sources.describe(self.cluster.service(label)?.place))
    }
}
