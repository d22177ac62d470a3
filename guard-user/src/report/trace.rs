//! The steps of a decision, as text and as JSON.

use std::net::IpAddr;

use guard_common::{
    Addr,
    flow::{Flow, Parsed},
    observe::Step,
    port_table::Transport,
    stack::Socket,
    tables::{self, Service},
    verdict::{Action, Reason, Verdict},
};
use serde::Serialize;

use super::replay::action;
use crate::{
    output::{self, Format},
    policy::{
        Loaded,
        compiled::CompiledPolicy,
        resolve::{cluster, provenance},
        syntax::diagnostic::Location,
    },
};

/// `schema` of the JSON form.
const SCHEMA: &str = "trainguard/trace/v1";

/// The JSON form.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    node: &'a str,
    steps: Vec<String>,
    action: &'static str,
    reason: &'static str,
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    would_drop: bool,
    /// Position of the service that guards the port; none if no service does.
    rule: Option<Written>,
    /// The entries that admit the source to this service.
    admitted_by: Vec<Admitting>,
    /// Changes that would admit a source that this service refused.
    ways_in: Vec<String>,
}

/// A position in a file.
#[derive(Serialize)]
struct Written {
    file: String,
    line: usize,
    column: usize,
}

/// An entry that admits a source.
#[derive(Serialize)]
struct Admitting {
    kind: &'static str,
    name: Option<String>,
    entry: Option<String>,
    #[serde(flatten)]
    place: Written,
}

/// A traced decision.
#[derive(Debug, Clone, Copy)]
pub struct Trace<'a> {
    /// The manifest and policies, with the source positions.
    pub loaded: &'a Loaded,
    /// The policy that was evaluated.
    pub policy: &'a CompiledPolicy,
    /// The steps of the decision.
    pub steps: &'a [Step],
    /// The verdict.
    pub verdict: Verdict,
}

impl Trace<'_> {
    /// Prints the steps and the verdict.
    pub fn print(&self, format: Format) {
        let source = self.source();
        let mut lines = Vec::new();
        for step in self.steps {
            lines.push(self.describe(step));
            if matches!(step, Step::NotGuarded) {
                lines.extend(self.left_alone());
            }
            if let (Step::Source { .. }, Some(source)) = (step, &source) {
                lines.extend(source.lines.iter().cloned());
            }
        }
        match format {
            Format::Text => {
                for line in lines {
                    if !output::answer(line) {
                        return;
                    }
                }
            }
            Format::Json => {
                let rule = self.service().map(|service| self.written(service.place));
                let (admitted_by, ways_in) =
                    source.map(|source| (source.entries, source.ways_in)).unwrap_or_default();
                output::answer_json(&Document {
                    schema: SCHEMA,
                    node: &self.policy.node,
                    steps: lines,
                    action: if self.verdict.passes() { "pass" } else { "drop" },
                    reason: self.verdict.reason.name(),
                    service: self.policy.name_of_service(&self.verdict),
                    would_drop: self.verdict.action == Action::WouldDrop,
                    rule,
                    admitted_by,
                    ways_in,
                });
            }
        }
    }

    /// Returns the service that guards the port, from the policy files.
    fn service(&self) -> Option<&cluster::Service> {
        let slot = self.steps.iter().find_map(|step| match step {
            Step::Guarded(slot) => Some(*slot),
            _ => None,
        })?;
        self.loaded.cluster.service(&self.policy.service_in(slot)?.label)
    }

    /// Explains that the port is a UDP port which the ranges of services leave alone, if it is one.
    fn left_alone(&self) -> Vec<String> {
        let flow = self.steps.iter().find_map(|step| match step {
            Step::Parsed(Parsed::Flow(flow)) => Some(flow),
            _ => None,
        });
        let Some(Flow { transport, port, .. }) = flow else { return Vec::new() };
        let services = self.policy.services.iter();
        let services = services.filter_map(|known| self.loaded.cluster.service(&known.label));
        let lines = services.filter_map(|service| {
            let range = service.range_beside(*transport, *port)?;
            let place = self.loaded.report.sources.describe(service.place);
            let port = format!("{}/{port}", transport.name());
            Some(format!(
                "`{range}` of `{}` ({place}) contains {port}, but a range leaves this port alone; \
                 name `{port}` by itself to guard it",
                service.label
            ))
        });
        lines.collect()
    }

    /// Says what a socket of the node would change in the verdict. Offline there are none.
    fn on_the_node(&self) -> &'static str {
        let is_tcp = self.steps.iter().any(|step| {
            matches!(step, Step::Parsed(Parsed::Flow(flow)) if flow.transport == Transport::Tcp)
        });
        match self.verdict.reason {
            Reason::Established => {
                "no socket is known here; on the node a listening socket would not get the segment \
                 (not_allowed)"
            }
            Reason::NotAllowed if is_tcp => {
                "no socket is known here; on the node the segment passes (established) if it belongs \
                 to a connection that the node opened"
            }
            Reason::NotAllowed => {
                "no socket is known here; on the node the packet passes (established) if a UDP socket \
                 is connected to the sender"
            }
            _ => "no socket is known here",
        }
    }

    fn written(&self, place: Location) -> Written {
        let (file, at) = provenance::position(&self.loaded.report.sources, place);
        Written { file, line: at.line, column: at.column }
    }

    /// Describes how the source is admitted to the service, if the service was evaluated.
    fn source(&self) -> Option<Source> {
        let service = self.service()?;
        let addr = self.steps.iter().find_map(|step| match step {
            // The node's own address is refused, even if an entry lists it.
            Step::Source { addr, found } if !found.is_own() => Some(addr),
            _ => None,
        })?;
        let sources = &self.loaded.report.sources;
        let admissions = provenance::admissions(&self.loaded.cluster, service, addr);
        let label = &service.label;
        let mut lines: Vec<String> = admissions
            .iter()
            .map(|entry| format!("admitted to `{label}` by {}", entry.describe(sources)))
            .collect();
        let mut ways_in = Vec::new();
        if admissions.is_empty() {
            if self.verdict.reason == Reason::NotAllowed {
                ways_in = provenance::ways_in(self.loaded, service, addr);
            }
            let any = if ways_in.is_empty() { "" } else { "; any of these would:" };
            lines.push(format!("no entry admits the source to `{label}`{any}"));
            lines.extend(ways_in.iter().map(|way| format!("  {way}")));
        }
        let entries = admissions
            .iter()
            .map(|entry| Admitting {
                kind: entry.kind(),
                name: entry.name(),
                entry: entry.entry(sources).map(str::to_owned),
                place: self.written(entry.place()),
            })
            .collect();
        Some(Source { lines, entries, ways_in })
    }

    fn describe(&self, step: &Step) -> String {
        let policy = self.policy;
        match step {
            Step::Guarded(slot) => {
                let origin = self.service().map(|service| {
                    format!(" ({})", self.loaded.report.sources.describe(service.place))
                });
                guarded(policy, *slot, &origin.unwrap_or_default())
            }
            Step::Socket(Socket::None) => self.on_the_node().to_owned(),
            Step::Forwarded => match self.verdict.service {
                Some(_) => "the node only forwards it, and the service passes forwarded packets",
                None => {
                    "the node only forwards it, and no service treats forwarded packets as its own"
                }
            }
            .to_owned(),
            step => describe(policy, step),
        }
    }
}

/// The entries that concern the source of a packet to a service.
struct Source {
    lines: Vec<String>,
    entries: Vec<Admitting>,
    ways_in: Vec<String>,
}

fn describe(policy: &CompiledPolicy, step: &Step) -> String {
    match step {
        Step::Ethernet { ethertype, tags: 0 } => {
            format!("Ethernet frame, EtherType {ethertype:#06x}")
        }
        Step::Ethernet { ethertype, tags } => {
            format!("Ethernet frame, {tags} VLAN tags, EtherType {ethertype:#06x}")
        }
        Step::Extension(protocol) => format!("extension header {protocol}: skipped"),
        Step::Parsed(parsed) => self::parsed(parsed),
        Step::Unparsed(reason) => format!("cannot be read: {}", reason.name()),
        Step::Guarded(slot) => guarded(policy, *slot, ""),
        Step::NotGuarded => "no service of this node guards this traffic".to_owned(),
        Step::Encapsulation => "a tunnel device of this node would decapsulate it".to_owned(),
        Step::Source { addr, found } => source(policy, addr, found),
        Step::Forwarded => "the node only forwards it".to_owned(),
        Step::Socket(socket) => match socket {
            Socket::None => "no socket of the node would receive it".to_owned(),
            Socket::Listening => "a listening socket would receive it".to_owned(),
            Socket::Connected => "a connection would receive it".to_owned(),
            Socket::Opened => "a connection that the node opened would receive it".to_owned(),
        },
        Step::Limit { reason, units, admitted } => {
            let unit = match reason {
                Reason::LimitBytes | Reason::LimitTotalBytes => "bytes",
                Reason::LimitPackets | Reason::LimitTotalPackets => "packets",
                _ => "new connections",
            };
            let scope = match reason {
                Reason::LimitNewConnections | Reason::LimitPackets | Reason::LimitBytes => {
                    "of this source"
                }
                _ => "of all sources together",
            };
            let fits = if *admitted { "within" } else { "beyond" };
            format!("limit on {unit} {scope}: {units} charged, {fits} it (buckets start full)")
        }
        Step::Verdict(verdict) => {
            let service = policy.name_of_service(verdict);
            let by = service.map(|name| format!(" by {name}")).unwrap_or_default();
            format!("verdict: {}, {}{by}", action(verdict.action), verdict.reason.name())
        }
    }
}

fn parsed(parsed: &Parsed) -> String {
    match *parsed {
        Parsed::NotIp => "neither IPv4 nor IPv6".to_owned(),
        Parsed::LaterFragment { source, protocol } => {
            let source = IpAddr::from(source);
            format!("later fragment of IP protocol {protocol} from {source}: it has no ports")
        }
        Parsed::Portless { source, protocol } => {
            format!("IP protocol {protocol} from {}: it has no ports", IpAddr::from(source))
        }
        Parsed::Flow(Flow { source, transport, port, opening, .. }) => {
            let opens = match (transport, opening) {
                (Transport::Tcp, true) => ", opens a connection",
                (Transport::Tcp, false) => ", does not open a connection",
                _ => "",
            };
            format!("from {} to {}/{port}{opens}", IpAddr::from(source), transport.name())
        }
    }
}

fn guarded(policy: &CompiledPolicy, slot: u8, origin: &str) -> String {
    let Some(service) = policy.service_in(slot) else {
        return format!("guarded by an empty slot {slot}");
    };
    let flags = &service.service;
    let matching =
        if flags.has(Service::NEW_CONNECTIONS) { "new connections" } else { "every packet" };
    let mode = if flags.has(Service::OBSERVE) { "observes" } else { "enforces" };
    let any = if flags.has(Service::ANY) { ", open to any source" } else { "" };
    let forwarded =
        if flags.has(Service::GUARDS_FORWARDED) { ", forwarded packets as well" } else { "" };
    format!("guarded by `{}`{origin}: matches {matching}, {mode}{any}{forwarded}", service.label)
}

fn source(policy: &CompiledPolicy, addr: &Addr, found: &tables::Source) -> String {
    let shown = IpAddr::from(*addr);
    if found.is_own() {
        return format!(
            "{shown} is an address of this node: no other host may send from it, unless the address \
             is that of a container"
        );
    }
    let who = match policy.name_of(addr) {
        Some(name) => format!("{shown} is `{name}`"),
        None => format!("{shown} is not a node of the manifest"),
    };
    let services: Vec<&str> = policy
        .services
        .iter()
        .filter(|service| found.services >> service.slot & 1 != 0)
        .map(|service| service.label.as_str())
        .collect();
    if services.is_empty() {
        format!("{who}, listed by no service of this node")
    } else {
        format!("{who}, listed by {}", services.join(", "))
    }
}
