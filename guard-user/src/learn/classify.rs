//! Decides which contacts count as evidence, and what to do about each.

use std::collections::BTreeMap;

use guard_common::{Addr, Reason, packet::Frame, port_table::Transport};

use super::connection_tracker::{ConnectionTracker, Contact, Port};
use crate::{
    policy::{Cluster, compiled::CompiledPolicy, limiter::HostLimiter},
    probe::{FLAGS_OPENING, Probe},
    text::counted,
};

/// Maximum number of ports that a source may try without success before it is considered a scanner.
const SCAN_PORTS: usize = 8;
/// The ssh port, which no proposal guards: the operator may be connected through it.
const SSH: Port = (Transport::Tcp, 22);
/// Default range of the ports that the kernel assigns to sockets without a fixed port
/// (`ip_local_port_range`).
pub const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// What to do about a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing: the policy already allows it.
    Allowed,
    /// Propose a service, because none guards the port.
    Service,
    /// Find a manifest entry, because a service refuses the source.
    Entry,
}

/// A contact that counts as evidence.
#[derive(Debug, Clone)]
pub struct KeptContact {
    /// Address of the source.
    pub source: Addr,
    /// The port of the node that it contacted.
    pub port: Port,
    /// The observed traffic.
    pub contact: Contact,
    /// What to do about the contact.
    pub disposition: Disposition,
}

/// A contact that is not proposed.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// Address of the source.
    pub source: Addr,
    /// The port; none if the whole source was left out.
    pub port: Option<Port>,
    /// Number of frames received from it.
    pub packets: u64,
    /// The reason.
    pub why: String,
}

/// The contacts of a node, classified.
#[derive(Debug, Default)]
pub struct Classified {
    /// Contacts that count as evidence.
    pub kept: Vec<KeptContact>,
    /// Contacts that do not, with the reason.
    pub left_out: Vec<LeftOut>,
}

/// Classifies the observed contacts, given the current policy.
pub fn classify(
    tracker: &ConnectionTracker,
    cluster: &Cluster,
    policy: &CompiledPolicy,
) -> Classified {
    let mut classified = Classified::default();
    for (source, packets) in &tracker.forged {
        classified.left_out.push(LeftOut {
            source: *source,
            port: None,
            packets: *packets,
            why: "the address is forged: it is martian, or the node's own".to_owned(),
        });
    }
    for (source, ports) in &tracker.contacts {
        if let Some(why) = scan_reason(ports).filter(|_| cluster.node_at(source).is_none()) {
            let packets = ports.values().map(|contact| contact.packets).sum();
            classified.left_out.push(LeftOut { source: *source, port: None, packets, why });
            continue;
        }
        for (port, contact) in ports {
            let left_out = |why: String| LeftOut {
                source: *source,
                port: Some(*port),
                packets: contact.packets,
                why,
            };
            match disposition(policy, *source, *port, contact, tracker.from_events) {
                Ok(disposition) => classified.kept.push(KeptContact {
                    source: *source,
                    port: *port,
                    contact: contact.clone(),
                    disposition,
                }),
                Err(why) => classified.left_out.push(left_out(why)),
            }
        }
    }
    classified
}

/// Returns the reason why a source is considered a scanner; none if it is not.
fn scan_reason(ports: &BTreeMap<Port, Contact>) -> Option<String> {
    let failed = ports.values().filter(|contact| contact.completed == 0).count();
    (failed > SCAN_PORTS && failed * 2 > ports.len())
        .then(|| format!("port scan: it tried {} without success", counted(failed, "port")))
}

fn disposition(
    policy: &CompiledPolicy,
    source: Addr,
    port: Port,
    contact: &Contact,
    from_events: bool,
) -> Result<Disposition, String> {
    if contact.completed == 0 && from_events {
        return Err("fewer than two events are from the middle of a connection; a capture shows \
                    whether the node answered"
            .to_owned());
    }
    if contact.completed == 0 {
        let tries = counted(contact.openings, "time");
        return Err(match contact.answered {
            0 => format!("it tried {tries} and was never answered"),
            _ => format!("the node answered, but no data went both ways (tried {tries})"),
        });
    }
    let reason = reason(policy, source, port);
    if !reason.is_refusal() && reason != Reason::Unguarded {
        return Ok(Disposition::Allowed);
    }
    if reason != Reason::Unguarded {
        return Ok(Disposition::Entry);
    }
    if port == SSH {
        return Err(
            "no service is proposed for ssh, because you may be connected through it; the port stays \
             unchanged"
                .to_owned(),
        );
    }
    if port.0 != Transport::Tcp && EPHEMERAL.contains(&port.1) {
        return Err(
            "an ephemeral port of a protocol without connections: client and server cannot be \
                    distinguished; the port stays unchanged"
                .to_owned(),
        );
    }
    Ok(Disposition::Service)
}

/// Evaluates a packet of the source that opens a connection, and returns the reason of the verdict.
pub fn reason(policy: &CompiledPolicy, source: Addr, (transport, port): Port) -> Reason {
    let frame = Probe::new(source.into(), transport, port, FLAGS_OPENING).frame();
    let limiter = HostLimiter::new([0; 2]);
    policy.host().verdict(&Frame::new(&frame), &limiter).reason
}
