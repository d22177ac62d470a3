//! Unit tests of policies, with the cluster that they test.

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

/// Reports whether a file name is that of a test file: `NAME.test.yaml` or `NAME.test.yml`. Test files
/// are kept beside the policies; a pattern of policy files does not match them.
pub fn is_test_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(b".test.yaml") || name.ends_with(b".test.yml")
}

/// The tests of a file and the cluster that they test.
#[derive(Debug)]
pub struct Suite {
    cluster: Cluster,
    /// The tests, in the order of the file.
    pub cases: Vec<Case>,
}

/// A test.
#[derive(Debug)]
pub struct Case {
    /// The name of the test: what must hold, in words.
    pub name: String,
    /// Where the name is written.
    pub place: Location,
    /// Name of the receiving node.
    pub node: String,
    /// Whether the node would only forward the packets, instead of being their destination.
    pub forwarded: bool,
    /// The packets that the node receives, and the expected verdicts.
    pub asked: Query,
}

/// What a test evaluates.
#[derive(Debug)]
pub enum Query {
    /// Packets, each from another address of one node.
    Packets {
        /// The packets.
        probes: Vec<Probe>,
        /// Number of each packet sent first, whose verdicts are not checked.
        after: u64,
        /// Number of each packet that must get the expected verdict.
        times: u64,
        /// The expected verdict.
        answer: ExpectedVerdict,
    },
    /// All frames of a capture.
    Capture {
        /// Path of the capture.
        path: PathBuf,
        /// The expected number of frames for each verdict.
        summary: Vec<(ExpectedVerdict, u64)>,
    },
}

impl Suite {
    /// Compiles the policy of a node; none if the cluster has no such node.
    ///
    /// # Errors
    /// The policy exceeds a capacity of the node.
    pub fn compile(&self, node: &str) -> Result<Option<CompiledPolicy>, CapacityError> {
        let node = self.cluster.node(node);
        node.map(|node| for_node(&self.cluster, node, &Placement::default())).transpose()
    }
}

/// Looks up the names that tests use in their cluster, and reports unknown ones.
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
            let CaseDoc { name, node, forwarded, asked } = case;
            if let Some(first) = names.insert(name.value.clone(), name.place) {
                let message = "two tests have this name";
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
            let (name, place) = (name.value, name.place);
            Some(Case { name, place, node: node.value, forwarded, asked })
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

/// Makes the packets of a test: one from each address of the node, or one from the address.
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
        // The destination address has no effect on the verdict. It is the receiver's, if it has one of
        // the family.
        if let Some(own) = own.into_iter().find(|own| own.is_ipv4() == source.is_ipv4()) {
            probe.to.0 = own;
        }
        probe
    };
    Some(sources.into_iter().map(|source| probe(source.into())).collect())
}
