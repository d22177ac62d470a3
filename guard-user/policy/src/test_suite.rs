//! Unit tests of policies, with the cluster that they are about.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{
    compile::{CapacityError, for_node},
    compiled::CompiledPolicy,
    probe::Probe,
};
pub use crate::syntax::document::test::ExpectedVerdict;
use crate::{
    compile::slots::Placement,
    resolve::cluster::{Cluster, Node},
    syntax::{
        diagnostic::{Diagnostic, Location, Report},
        document::test::{self, CaseDoc, PacketDoc},
        rules, scalars,
        walk::nearest,
    },
};

/// Whether a file is one of tests by its name: `NAME.test.yaml`. They stand beside the policies,
/// and a pattern for those does not mean them.
pub fn is_test_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(b".test.yaml") || name.ends_with(b".test.yml")
}

/// Tests and the cluster that they are about.
#[derive(Debug)]
pub struct Suite {
    cluster: Cluster,
    /// The tests, in the order of the file.
    pub cases: Vec<Case>,
}

/// A test.
#[derive(Debug)]
pub struct Case {
    /// What must hold, in words.
    pub name: String,
    /// Where it is written.
    pub place: Location,
    /// The node that receives.
    pub node: String,
    /// What it receives.
    pub asked: Query,
}

/// What is asked about.
#[derive(Debug)]
pub enum Query {
    /// Packets; each from another address of one node.
    Packets {
        /// The packets.
        probes: Vec<Probe>,
        /// So many of each are sent before, whose verdict is not asked.
        after: u64,
        /// So many of each must get the answer.
        times: u64,
        /// The verdict.
        answer: ExpectedVerdict,
    },
    /// All frames of a capture.
    Capture {
        /// Its path.
        path: PathBuf,
        /// How many frames get which verdict.
        summary: Vec<(ExpectedVerdict, u64)>,
    },
}

impl Suite {
    /// The policy of a node that a test names.
    ///
    /// # Errors
    /// It does not fit.
    pub fn compile(&self, node: &str) -> Result<Option<CompiledPolicy>, CapacityError> {
        let node = self.cluster.node(node);
        node.map(|node| for_node(&self.cluster, node, &Placement::default())).transpose()
    }
}

/// Looks the names of tests up in their cluster.
pub(super) fn resolve(
    out: &mut Report,
    base: &Path,
    cluster: Cluster,
    cases: Vec<CaseDoc>,
) -> Suite {
    let mut names: BTreeMap<String, Location> = BTreeMap::new();
    let cases = cases
        .into_iter()
        .filter_map(|case| {
            let CaseDoc { name, node, asked } = case;
            if let Some(first) = names.insert(name.value.clone(), name.place) {
                let message = "a test of this name twice";
                out.push(
                    Diagnostic::error(rules::DUPLICATE_NAME, name.place, message)
                        .related(first, "first used here"),
                );
            }
            let Some(receiver) = cluster.node(&node.value) else {
                unknown(out, &cluster, &node.value, node.place, "the manifest has no node");
                return None;
            };
            let asked = match asked {
                test::Query::Packet(packet, answer) => {
                    let probes = probes(out, &cluster, receiver, &packet)?;
                    let PacketDoc { after, times, .. } = packet;
                    Query::Packets { probes, after, times, answer }
                }
                test::Query::Capture(path, summary) => {
                    Query::Capture { path: base.join(path.value), summary }
                }
            };
            Some(Case { name: name.value, place: name.place, node: node.value, asked })
        })
        .collect();
    Suite { cluster, cases }
}

fn unknown(out: &mut Report, cluster: &Cluster, name: &str, place: Location, what: &str) {
    let finding = Diagnostic::error(rules::UNKNOWN_NODE, place, format!("{what} `{name}`"));
    let names = cluster.nodes.iter().map(|node| node.name.as_str());
    out.push(match nearest(name, names) {
        Some(near) => finding.help(format!("did you mean `{near}`?")),
        None => finding,
    });
}

/// The packets from each address of a node, or from an address.
fn probes(
    out: &mut Report,
    cluster: &Cluster,
    receiver: &Node,
    packet: &PacketDoc,
) -> Option<Vec<Probe>> {
    let from = &packet.from;
    let sources = if let Ok(address) = scalars::address(&from.value) {
        vec![address]
    } else if let Some(node) = cluster.node(&from.value) {
        node.addresses.clone()
    } else {
        unknown(out, cluster, &from.value, from.place, "neither an address nor a node:");
        return None;
    };
    let probe = |source: IpAddr| {
        let mut probe = Probe::new(source, packet.to.transport, packet.to.first, packet.flags);
        let own = receiver.addresses.iter().map(|addr| IpAddr::from(*addr));
        // The destination decides nothing; it is the node's where it has one of the family.
        if let Some(own) = own.into_iter().find(|own| own.is_ipv4() == source.is_ipv4()) {
            probe.to.0 = own;
        }
        probe
    };
    Some(sources.into_iter().map(|source| probe(source.into())).collect())
}
