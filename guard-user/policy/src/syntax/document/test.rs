//! Reads unit tests of policies from their tree.

use guard_common::verdict::{Action, Reason};

use super::{ClusterDoc, cluster::in_place};
use crate::{
    probe,
    syntax::{
        diagnostic::{At, Location},
        rules,
        scalars::{self, PortRange},
        text,
        walk::{Fault, Fields, Walk},
        yaml::Node,
    },
};

/// Fields of a test document.
pub(crate) const FIELDS: [&str; 7] =
    ["apiVersion", "kind", "manifest", "nodes", "networks", "policies", "tests"];
/// Maximum number of packets of one test, for `after` and for `times`.
const MAX_TIMES: u64 = 1_000_000;

/// A file of unit tests.
#[derive(Debug)]
pub(crate) struct TestDoc {
    pub(crate) cluster: TestCluster,
    pub(crate) cases: Vec<CaseDoc>,
}

/// The cluster that is tested.
#[derive(Debug)]
pub(crate) enum TestCluster {
    /// The cluster of a manifest, by the path of the manifest.
    Manifest(At<String>),
    /// A cluster written in the test file.
    InPlace(Box<ClusterDoc>),
    /// Invalid; already reported.
    Unknown,
}

/// A test.
#[derive(Debug)]
pub(crate) struct CaseDoc {
    pub(crate) name: At<String>,
    pub(crate) node: At<String>,
    /// Whether the node would only forward the packets.
    pub(crate) forwarded: bool,
    pub(crate) asked: Query,
}

/// What is evaluated, and the expected verdict.
#[derive(Debug)]
pub(crate) enum Query {
    /// A packet and its expected verdict.
    Packet(PacketDoc, ExpectedVerdict),
    /// All frames of a capture: the path, and the expected number of frames for each verdict.
    Capture(At<String>, Vec<(ExpectedVerdict, u64)>),
}

/// A packet that is sent a number of times at one instant.
#[derive(Debug)]
pub(crate) struct PacketDoc {
    /// The source: an address, or a node, each of whose addresses is tried.
    pub(crate) from: At<String>,
    pub(crate) to: PortRange,
    pub(crate) flags: u8,
    /// Number of packets sent first, whose verdicts are not checked.
    pub(crate) after: u64,
    /// Number of packets that must get the expected verdict.
    pub(crate) times: u64,
}

/// An expected verdict, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedVerdict {
    /// Where the verdict is written.
    pub place: Location,
    /// The expected action.
    pub action: Action,
    /// The expected reason.
    pub reason: Reason,
    /// The service that must decide; none if the service is not checked.
    pub service: Option<String>,
}

pub(crate) fn test(walk: &mut Walk<'_>, fields: &Fields<'_, '_>) -> TestDoc {
    let cluster = match (fields.get("manifest"), fields.get("nodes")) {
        (Some(manifest), _) => {
            for field in ["nodes", "networks", "policies"] {
                if let Some(other) = fields.get(field) {
                    let message = format!("`{field}` beside `manifest`, which defines it already");
                    let fault = Fault::new(rules::CONTRADICTION, message)
                        .help("keep `manifest`, or the cluster in this file");
                    walk.fault(other.span, fault);
                }
            }
            let path = walk.parsed(manifest, "`manifest`", "the path of a manifest", scalars::path);
            path.map_or(TestCluster::Unknown, TestCluster::Manifest)
        }
        (None, Some(_)) => {
            let mut cluster = in_place(walk, fields, "test".to_owned());
            // A test attaches nothing, so no interfaces are needed.
            cluster.interfaces.get_or_insert_default();
            TestCluster::InPlace(Box::new(cluster))
        }
        (None, None) => {
            let hint = "`manifest:` with a path, or `nodes` and `policies` instead";
            fields.need(walk, "manifest", hint);
            TestCluster::Unknown
        }
    };
    let tests = fields.need(walk, "tests", "`tests:` with at least one test");
    let tests = tests.and_then(|node| walk.some(node, "`tests`", "tests"));
    let cases: Vec<CaseDoc> =
        tests.unwrap_or_default().iter().filter_map(|item| case(walk, item)).collect();
    TestDoc { cluster, cases }
}

fn case(walk: &mut Walk<'_>, node: &Node<'_>) -> Option<CaseDoc> {
    let known = ["name", "node", "forwarded", "packet", "capture", "expect"];
    let fields = walk.fields(node, "a test", &known)?;
    let name = fields.need(walk, "name", "`name:` with a sentence that says what is tested");
    let name = name.and_then(|node| {
        walk.parsed(node, "`name`", "a text", |text, plain| {
            if text.is_empty() {
                return Err(Fault::new(rules::NAME, "the name is empty"));
            }
            scalars::string(text, plain)
        })
    });
    let receiver = fields.need(walk, "node", "`node:` with the name of the receiving node");
    let receiver =
        receiver.and_then(|node| walk.parsed(node, "`node`", "the name of a node", scalars::name));
    let forwarded = match fields.get("forwarded") {
        Some(node) => {
            let what = "`true` or `false`";
            walk.parsed(node, "`forwarded`", what, scalars::boolean).map(|found| found.value)
        }
        None => Some(false),
    };
    let expected = fields.need(walk, "expect", "`expect:` with the verdict");
    let asked = match (fields.get("packet"), fields.get("capture")) {
        (Some(_), Some(second)) => {
            let message = "a packet and a capture in one test";
            walk.fault(
                second.span,
                Fault::new(rules::CONTRADICTION, message).help("split it into two tests"),
            );
            None
        }
        (Some(node), None) => {
            let packet = packet(walk, node);
            let answer = expected.and_then(|node| answer(walk, node));
            packet.zip(answer).map(|(packet, answer)| Query::Packet(packet, answer))
        }
        (None, Some(node)) => {
            let path = walk.parsed(node, "`capture`", "the path of a capture", scalars::path);
            let summary = expected.and_then(|node| summary(walk, node));
            path.zip(summary).map(|(path, summary)| Query::Capture(path, summary))
        }
        (None, None) => {
            fields.need(walk, "packet", "`packet: { from: worker-0, to: tcp/9091 }`");
            None
        }
    };
    Some(CaseDoc { name: name?, node: receiver?, forwarded: forwarded?, asked: asked? })
}

fn packet(walk: &mut Walk<'_>, node: &Node<'_>) -> Option<PacketDoc> {
    let fields = walk.fields(node, "`packet`", &["from", "to", "flags", "after", "times"])?;
    let from = fields.need(walk, "from", "`from:` with a node or an address");
    let from = from.and_then(|node| {
        walk.parsed(node, "`from`", "a node or an address", |text, plain| {
            scalars::address(text).map(|_| text.to_owned()).or_else(|fault| {
                // A text that looks like an address gets the error about the address.
                if text.contains([':', '/']) { Err(fault) } else { scalars::name(text, plain) }
            })
        })
    });
    let to = fields.need(walk, "to", "`to:` with a port such as `tcp/9091`");
    let to = to.and_then(|node| {
        walk.parsed(node, "`to`", "a port such as `tcp/9091`", |text, _| {
            let range = scalars::ports(text)?;
            if range.first == range.last {
                return Ok(range);
            }
            let message = format!("`{}` is several ports, expected one", text::shown(text));
            Err(Fault::new(rules::PORT, message).help("a packet goes to one port: `tcp/9091`"))
        })
    });
    let flags = match fields.get("flags") {
        Some(node) => {
            let parsed = walk.parsed(node, "`flags`", "letters of S, A, F, R, P, U", |text, _| {
                probe::flags(text).map_err(|problem| {
                    Fault::new(rules::CHOICE, format!("no TCP flags: {}", text::shown(&problem)))
                })
            });
            parsed.map(|flags| flags.value)
        }
        None => Some(probe::FLAGS_OPENING),
    };
    let mut count = |field: &str, least: u64| {
        let Some(node) = fields.get(field) else { return Some(least) };
        let what = format!("`{field}`");
        let parsed = walk.parsed(node, &what, "a number", |text, plain| {
            let number = number(text, plain)?;
            if (least..=MAX_TIMES).contains(&number) {
                return Ok(number);
            }
            let message = format!("`{field}` is {number}, expected {least} to {MAX_TIMES}");
            Err(Fault::new(rules::AMOUNT, message))
        });
        parsed.map(|number| number.value)
    };
    let (after, times) = (count("after", 0), count("times", 1));
    Some(PacketDoc { from: from?, to: to?.value, flags: flags?, after: after?, times: times? })
}

/// Parses a number without a unit.
fn number(text: &str, plain: bool) -> Result<u64, Fault> {
    let number = scalars::amount(text, plain, scalars::Counted::Units)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(number);
    }
    let message = format!("`{}` is not a number without a unit", text::shown(text));
    Err(Fault::new(rules::AMOUNT, message).help(format!("write {number}")))
}

fn answer(walk: &mut Walk<'_>, node: &Node<'_>) -> Option<ExpectedVerdict> {
    let fields = walk.fields(node, "`expect`", &["verdict", "reason", "service"])?;
    answer_of(walk, &fields, walk.place(node.span))
}

fn answer_of(
    walk: &mut Walk<'_>,
    fields: &Fields<'_, '_>,
    place: Location,
) -> Option<ExpectedVerdict> {
    let action = fields.need(walk, "verdict", "`verdict: pass`, `drop` or `would-drop`");
    let action = action.and_then(|node| {
        let words = Action::ALL.map(|action| (action.name(), action));
        let expected = "`pass`, `drop` or `would-drop`";
        walk.parsed(node, "`verdict`", expected, |text, _| scalars::choice(text, &words))
    });
    let reason = fields.need(walk, "reason", "`reason:` such as `allowed` or `not_allowed`");
    let reason = reason.and_then(|node| {
        let words = Reason::ALL.map(|reason| (reason.name(), reason));
        walk.parsed(node, "`reason`", "a reason", |text, _| scalars::choice(text, &words))
    });
    let service = match fields.get("service") {
        Some(node) => {
            let parsed = walk.parsed(node, "`service`", "the name of a service", |text, plain| {
                let (policy, service) = text.split_once('/').unwrap_or((text, text));
                scalars::name(policy, plain)?;
                scalars::name(service, plain)?;
                Ok(text.to_owned())
            });
            Some(parsed?.value)
        }
        None => None,
    };
    Some(ExpectedVerdict { place, action: action?.value, reason: reason?.value, service })
}

fn summary(walk: &mut Walk<'_>, node: &Node<'_>) -> Option<Vec<(ExpectedVerdict, u64)>> {
    let fields = walk.fields(node, "`expect`", &["summary"])?;
    let hint = "`summary:` with a line for each verdict of the capture";
    let list = fields.need(walk, "summary", hint)?;
    let items = walk.some(list, "`summary`", "verdicts with their numbers of frames")?;
    let mut whole = true;
    let mut all = Vec::new();
    for item in items {
        let one = group(walk, item);
        whole &= one.is_some();
        all.extend(one);
    }
    whole.then_some(all)
}

fn group(walk: &mut Walk<'_>, node: &Node<'_>) -> Option<(ExpectedVerdict, u64)> {
    let known = ["verdict", "reason", "service", "frames"];
    let fields = walk.fields(node, "a line of `summary`", &known)?;
    let answer = answer_of(walk, &fields, walk.place(node.span));
    let frames = fields.need(walk, "frames", "`frames:` with the number of frames");
    let frames = frames.and_then(|node| walk.parsed(node, "`frames`", "a number", number));
    Some((answer?, frames?.value))
}
