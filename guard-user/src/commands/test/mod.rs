//! `trainguard test`: runs the unit tests of policies.

mod record;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    ops::ControlFlow,
    path::{Path, PathBuf},
    rc::Rc,
};

use guard_common::{
    Verdict, bucket,
    verdict::{Action, Reason},
};

use super::shared::{
    backends::{self, Backends, Clock, LAST_NS},
    inputs::{Inputs, Overlay},
    load,
};
use crate::{
    bpf::loader::Generation,
    capture::{self, Captured},
    cli::TestArgs,
    exit::Exit,
    output,
    policy::{
        compiled::{CompiledPolicy, HostTables},
        test_suite::{Case, ExpectedVerdict, Query, Suite, is_test_file},
    },
    probe::Probe,
    report::{
        replay::Evaluated,
        test::{Outcome, Results},
    },
    system_error::SystemError,
    text::{counted, shown_path},
};

/// Runs `trainguard test`.
pub fn run(args: &TestArgs) -> Exit {
    if args.record {
        return record::run(args);
    }
    let here = [PathBuf::from(".")];
    let paths: &[PathBuf] = if args.paths.is_empty() { &here } else { &args.paths };
    let files = Overlay::default();
    let inputs = Inputs::find(paths, is_test_file, &files);
    let mut whole = inputs.problems.is_empty();
    for (path, problem) in &inputs.problems {
        output::error(format_args!("cannot read `{}`: {problem}", shown_path(path)));
    }
    let mut results = Results::default();
    for path in inputs.named.iter().chain(&inputs.found) {
        let Some((suite, findings)) = load::load_tests(path, &files) else {
            whole = false;
            continue;
        };
        let mut runner = Runner { suite: &suite, kernel: args.kernel, loaded: BTreeMap::new() };
        let wanted = |case: &&Case| {
            args.filter.as_ref().is_none_or(|filter| case.name.contains(filter.as_str()))
        };
        for case in suite.cases.iter().filter(wanted) {
            let failures = match runner.run(case) {
                Ok(failures) => failures,
                Err(Problem::Kernel(error)) => {
                    output::system_error(&error);
                    return Exit::NoAnswer;
                }
                Err(Problem::Other(error)) => {
                    let place = findings.sources.describe(case.place);
                    output::error(format_args!("{place}: {error}"));
                    whole = false;
                    continue;
                }
            };
            results.add(Outcome {
                file: path.clone(),
                line: findings.sources.position(case.place).line,
                name: case.name.clone(),
                failures,
            });
        }
    }
    if results.is_empty() {
        if whole {
            output::error("there are no tests to run");
            output::hint("name a file of `kind: Test`, or a directory with *.test.yaml files");
        }
        return Exit::NoAnswer;
    }
    results.print(args.format);
    if let Some(path) = &args.junit
        && let Err(error) = fs::write(path, results.junit())
    {
        output::error(format_args!("cannot write `{}`: {error}", shown_path(path)));
        whole = false;
    }
    match (whole, results.failed()) {
        (false, _) => Exit::NoAnswer,
        (true, 0) => Exit::Yes,
        (true, _) => Exit::No,
    }
}

/// The reason why a test cannot be run.
enum Problem {
    Kernel(SystemError),
    Other(String),
}

impl From<SystemError> for Problem {
    fn from(error: SystemError) -> Self {
        Self::Kernel(error)
    }
}

/// Runs the tests of a file. Each node's policy is compiled once, and loaded into the kernel once
/// if possible.
struct Runner<'s> {
    suite: &'s Suite,
    kernel: bool,
    loaded: BTreeMap<String, Node>,
}

/// The compiled policy of a node, and the kernel program that has it.
struct Node {
    policy: CompiledPolicy,
    kernel: Option<Rc<Generation>>,
    /// Time of the next packet, in nanoseconds; every bucket is full again by then.
    now_ns: u64,
}

impl Node {
    fn of(suite: &Suite, name: &str, kernel: bool) -> Result<Self, Problem> {
        let policy = suite.compile(name).map_err(|error| Problem::Other(error.to_string()))?;
        let policy = policy.ok_or_else(|| Problem::Other(format!("no node `{name}`")))?;
        let kernel = kernel.then(|| backends::in_kernel(&policy)).transpose()?;
        Ok(Self { policy, kernel, now_ns: 0 })
    }

    /// Returns the time in nanoseconds that the slowest bucket takes to refill.
    fn refill_ns(&self) -> u64 {
        let limits = self.policy.services.iter().flat_map(|service| {
            let service = &service.service;
            [service.per_source, service.total]
        });
        let depths = limits.flat_map(|limits| {
            [limits.new_connections.depth, limits.packets.depth, limits.bytes.depth]
        });
        depths.max().unwrap_or(0) / bucket::TICKS_PER_NS + 1
    }
}

impl Runner<'_> {
    /// Returns the policy of a node. With `fresh`, a kernel program is loaded anew, so that no
    /// bucket has credit left from earlier packets.
    fn node(&mut self, name: &str, fresh: bool) -> Result<&mut Node, Problem> {
        let known = self.loaded.get(name).is_some_and(|node| {
            let next = node.now_ns.saturating_add(node.refill_ns());
            node.kernel.is_none() || (!fresh && next < LAST_NS)
        });
        if !known {
            let node = Node::of(self.suite, name, self.kernel)?;
            self.loaded.insert(name.to_owned(), node);
        }
        let node = self.loaded.get_mut(name);
        node.ok_or_else(|| Problem::Other(format!("no node `{name}`")))
    }

    /// Runs a test. Returns its failures; none if it passes.
    fn run(&mut self, case: &Case) -> Result<Vec<String>, Problem> {
        match &case.asked {
            Query::Packets { probes, after, times, answer } => {
                let mut failures = Vec::new();
                for probe in probes {
                    let node = self.node(&case.node, *after > 0)?;
                    let refill = node.refill_ns();
                    failures.extend(packets(node, case, probe, [*after, *times], answer)?);
                    node.now_ns = node.now_ns.saturating_add(refill);
                }
                Ok(failures)
            }
            Query::Capture { path, summary } => {
                let node = self.node(&case.node, true)?;
                // The duration of a capture is unknown, so the clock goes to its maximum, and the
                // next test loads the program anew.
                let found = frames(node, case, path, summary);
                node.now_ns = LAST_NS;
                found
            }
        }
    }
}

/// Formats a verdict as it is written in tests.
fn words(action: Action, reason: Reason, service: Option<&str>) -> String {
    let verdict = action.name();
    match service {
        Some(service) => format!("{verdict}, {} by {service}", reason.name()),
        None => format!("{verdict}, {}", reason.name()),
    }
}

/// Reports whether a verdict is the expected one. The expected service may be written with its
/// policy.
fn is_met(policy: &CompiledPolicy, verdict: Verdict, answer: &ExpectedVerdict) -> bool {
    let service = verdict.service.and_then(|slot| policy.service_in(slot));
    let named = match (&answer.service, service) {
        (None, None) => true,
        (Some(name), Some(service)) => {
            // If two services have the same name, the policy distinguishes them.
            policy.name_of_service(&verdict) == Some(name) || service.label == *name
        }
        _ => false,
    };
    verdict.action == answer.action && verdict.reason == answer.reason && named
}

fn backends_of<'t>(node: &Node, case: &Case, tables: &'t HostTables<'t>) -> Backends<'t> {
    if case.forwarded {
        Backends::forwarded(tables)
    } else {
        Backends::new(tables, node.kernel.clone())
    }
}

fn packets(
    node: &Node,
    case: &Case,
    probe: &Probe,
    [after, times]: [u64; 2],
    answer: &ExpectedVerdict,
) -> Result<Option<String>, Problem> {
    let bytes = probe.frame();
    let wire_len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let frame = Captured { number: 1, time_ns: Some(0), bytes: &bytes, wire_len };
    let Node { policy, now_ns, .. } = node;
    let tables = policy.host();
    // Every address starts with full buckets.
    let backends = backends_of(node, case, &tables);
    for _ in 0..after {
        backends.evaluate(&frame, *now_ns)?;
    }
    for nth in 1..=times {
        let verdict = backends.evaluate(&frame, *now_ns)?.verdict;
        if is_met(policy, verdict, answer) {
            continue;
        }
        let expected = words(answer.action, answer.reason, answer.service.as_deref());
        let found = words(verdict.action, verdict.reason, policy.name_of_service(&verdict));
        let which = if times > 1 { format!(", packet {nth} of {times}") } else { String::new() };
        let Probe { from: (from, _), to: (to, port), .. } = probe;
        let to = std::net::SocketAddr::new(*to, *port);
        return Ok(Some(format!(
            "from {from} to {to} on {}{which}: expected {expected}; found {found}",
            case.node
        )));
    }
    Ok(None)
}

/// Number of frames of a capture per verdict; the service is given by name.
type Counts = BTreeMap<(Action, Reason, Option<String>), u64>;

fn frames(
    node: &Node,
    case: &Case,
    path: &Path,
    summary: &[(ExpectedVerdict, u64)],
) -> Result<Vec<String>, Problem> {
    let shown = shown_path(path);
    let file = File::open(path)
        .map_err(|error| Problem::Other(format!("cannot open `{shown}`: {error}")))?;
    let policy = &node.policy;
    let tables = policy.host();
    let backends = backends_of(node, case, &tables);
    let mut clock = Clock::default();
    let mut found = Counts::new();
    let mut truncated = 0_u64;
    let mut failed = None;
    let read =
        capture::read(file, |frame| match backends.evaluate(&frame, clock.at(frame.time_ns)) {
            Ok(Evaluated { verdict, truncated: is_short, .. }) => {
                truncated += u64::from(is_short);
                let service = verdict.service.and_then(|slot| policy.service_in(slot));
                let service = service.map(|service| service.label.clone());
                *found.entry((verdict.action, verdict.reason, service)).or_default() += 1;
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        });
    if let Some(error) = failed {
        return Err(error.into());
    }
    read.map_err(|error| Problem::Other(format!("`{shown}`: {error}")))?;
    if truncated > 0 {
        let message = format!(
            "`{shown}`: the capture cut {truncated} frames too short to be evaluated; raise its snap \
             length (tcpdump -s 0)"
        );
        return Err(Problem::Other(message));
    }
    let mut failures = Vec::new();
    for (answer, frames) in summary {
        let alike: Vec<_> = found
            .keys()
            .filter(|(action, reason, label)| {
                let name = label
                    .as_deref()
                    .map(|label| label.split_once('/').map_or(label, |(_, name)| name));
                let named = answer.service.as_deref() == name || answer.service == *label;
                *action == answer.action && *reason == answer.reason && named
            })
            .cloned()
            .collect();
        let got: u64 = alike.iter().filter_map(|key| found.remove(key)).sum();
        if got != *frames {
            let what = words(answer.action, answer.reason, answer.service.as_deref());
            failures.push(format!(
                "`{shown}`: expected {} {what}; found {got}",
                counted(*frames, "frame")
            ));
        }
    }
    // Verdicts that `summary` does not name must not occur.
    for ((action, reason, label), frames) in found {
        let what = words(action, reason, label.as_deref());
        failures.push(format!(
            "`{shown}`: {} {what}, which `summary` does not name",
            counted(frames, "frame")
        ));
    }
    Ok(failures)
}
