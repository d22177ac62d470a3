//! The steps of a decision, in words.

use std::net::IpAddr;

use guard_common::{
    Addr,
    flow::{Flow, Parsed, Transport},
    observe::Step,
    tables::{Service, Source},
    verdict::{Action, Reason, Verdict},
};
use serde::Serialize;

use super::replay::action;
use crate::{cli::Format, policy::compiled::CompiledPolicy, report};

/// `schema` of the JSON form.
const SCHEMA: &str = "trainguard/trace/v1";

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
}

/// Prints the steps and the verdict.
pub fn print(policy: &CompiledPolicy, steps: &[Step], verdict: Verdict, format: Format) {
    let lines: Vec<String> = steps.iter().map(|step| describe(policy, step)).collect();
    match format {
        Format::Text => {
            for line in lines {
                if !report::answer(line) {
                    return;
                }
            }
        }
        Format::Json => report::answer_json(&Document {
            schema: SCHEMA,
            node: &policy.node,
            steps: lines,
            action: if verdict.passes() { "pass" } else { "drop" },
            reason: verdict.reason.name(),
            service: policy.name_of_service(&verdict),
            would_drop: verdict.action == Action::WouldDrop,
        }),
    }
}

fn describe(policy: &CompiledPolicy, step: &Step) -> String {
    match step {
        Step::Ethernet { ethertype, tags: 0 } => {
            format!("Ethernet frame, EtherType {ethertype:#06x}")
        }
        Step::Ethernet { ethertype, tags } => {
            format!("Ethernet frame, {tags} VLAN tags, EtherType {ethertype:#06x}")
        }
        Step::Extension(protocol) => format!("extension header {protocol}: stepped over"),
        Step::Parsed(parsed) => self::parsed(parsed),
        Step::Unparsed(reason) => format!("cannot be read: {}", reason.name()),
        Step::Guarded(slot) => guarded(policy, *slot),
        Step::NotGuarded => "no service of this node guards that".to_owned(),
        Step::Encapsulation => "a tunnel device of this node would unpack it".to_owned(),
        Step::Source { addr, found } => source(policy, addr, found),
        Step::Limit { reason, units, admitted } => {
            let unit = match reason {
                Reason::LimitBytes | Reason::LimitTotalBytes => "bytes",
                Reason::LimitPackets | Reason::LimitTotalPackets => "packets",
                _ => "new connections",
            };
            let whose = match reason {
                Reason::LimitNewConnections | Reason::LimitPackets | Reason::LimitBytes => {
                    "of this source"
                }
                _ => "of all sources together",
            };
            let fits = if *admitted { "within" } else { "beyond" };
            format!("limit on {unit} {whose}: {units} charged, {fits} it (buckets start full)")
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
        Parsed::LaterFragment(source) => {
            format!("later fragment from {}: it has no ports", IpAddr::from(source))
        }
        Parsed::Portless { source, protocol } => {
            format!("IP protocol {protocol} from {}: it has no ports", IpAddr::from(source))
        }
        Parsed::Flow(Flow { source, transport, port, opening, .. }) => {
            let opens = match (transport, opening) {
                (Transport::Tcp, true) => ", opens a connection",
                (Transport::Tcp, false) => ", opens no connection",
                _ => "",
            };
            format!("from {} to {}/{port}{opens}", IpAddr::from(source), transport.name())
        }
    }
}

fn guarded(policy: &CompiledPolicy, slot: u8) -> String {
    let Some(service) = policy.service_in(slot) else {
        return format!("guarded by an empty slot {slot}");
    };
    let flags = &service.service;
    let matching =
        if flags.has(Service::NEW_CONNECTIONS) { "new connections" } else { "every packet" };
    let mode = if flags.has(Service::OBSERVE) { "observes" } else { "enforces" };
    let any = if flags.has(Service::ANY) { ", open to any source" } else { "" };
    format!("guarded by `{}`: matches {matching}, {mode}{any}", service.label)
}

fn source(policy: &CompiledPolicy, addr: &Addr, found: &Source) -> String {
    let shown = IpAddr::from(*addr);
    if found.is_own() {
        return format!("{shown} is this node's own address: nobody else may send from it");
    }
    let who = match policy.name_of(addr) {
        Some(name) => format!("{shown} is `{name}`"),
        None => format!("{shown} is no node of the manifest"),
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
