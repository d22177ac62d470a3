//! Recent events, in bounded memory: refused packets, policies, interfaces, commands, and the number of
//! samples that were lost. Clients poll with the number of the last event that they have.
//!
//! Similar packets within a second are folded into one record, so a flood from one source adds one
//! record per second. Many sources make many records: beyond a maximum per second they are only
//! counted.
//!
//! Decision: `docs/decisions/0039-event-ring-is-read-on-a-timer.md`.
//! Decision: `docs/decisions/0040-events-are-polled.md`.
//! Decision: `docs/decisions/0041-events-hold-no-payload.md`.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use guard_common::{Addr, layout::event::Event as Sample, parse};

use super::{missing_members::RefusedSources, names::Names};
use crate::{
    api::events::{
        self, Audit, Event, EventKind, Interface, InterfaceChange, Lost, Packet, Page, Policy,
        replies::looks_like_reply,
    },
    bpf::pinned_maps::EventCounts,
    capture::headers,
    policy::compiled::name_of,
    text::time,
};

/// Maximum number of records that are kept.
const MAX_RECORDS: usize = 4096;
/// Maximum size of all records in bytes, approximately.
const MAX_BYTES: usize = 4 << 20;
/// Maximum number of records of packets per second. The same maximum applies separately to records of
/// policies and interfaces.
const RECORDS_PER_SECOND: u32 = 200;
/// Time over which similar packets are folded, and minimum time between two records of losses.
const FOLD_TIME: Duration = Duration::from_secs(1);
/// Maximum number of characters of a text.
const MAX_TEXT: usize = 1000;
/// Maximum number of records on a page.
pub(crate) const PAGE: usize = 1000;
/// Maximum size of a page in bytes, approximately.
const PAGE_BYTES: usize = 1 << 20;
/// Size of a record in bytes without its texts, approximately.
const RECORD_BYTES: usize = 512;

/// The properties that packets of one record have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FoldKey {
    verdict: u32,
    source: Option<Addr>,
    protocol: u8,
    port: u16,
    ifindex: u32,
}

/// Similar packets, folded until a second has passed.
#[derive(Debug)]
struct Fold {
    since: SystemTime,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    latest: Sample,
    count: u64,
    packets: u64,
    first: SystemTime,
    last: SystemTime,
}

/// The number of records in the present second.
#[derive(Debug, Clone, Copy)]
struct Budget {
    since: SystemTime,
    used: u32,
}

impl Budget {
    fn allows(&mut self, now: SystemTime) -> bool {
        if is_over(self.since, now) {
            *self = Self { since: now, used: 0 };
        }
        let allows = self.used < RECORDS_PER_SECOND;
        self.used += u32::from(allows);
        allows
    }
}

/// Returns whether a second has passed; also if the clock was set back.
fn is_over(since: SystemTime, now: SystemTime) -> bool {
    now.duration_since(since).map_or(true, |passed| passed >= FOLD_TIME)
}

/// Recent events, numbered from 1.
#[derive(Debug)]
pub(crate) struct EventRing {
    pub(crate) instance: String,
    pub(crate) refused_sources: RefusedSources,
    records: VecDeque<Event>,
    bytes: usize,
    next: u64,
    folds: HashMap<FoldKey, Fold>,
    packets: Budget,
    others: Budget,
    /// The kernel's counts of events when losses were last checked.
    last_counts: Option<EventCounts>,
    /// Samples and other events without a record, since the last record of losses.
    not_kept: u64,
    losses_since: SystemTime,
    /// Name of this node; empty until it is known.
    pub(crate) node: String,
}

impl EventRing {
    /// Starts without events.
    pub(crate) fn new(now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let budget = Budget { since: now, used: 0 };
        Self {
            instance: format!("{:x}-{:x}", since.as_nanos(), std::process::id()),
            refused_sources: RefusedSources::new(now),
            records: VecDeque::new(),
            bytes: 0,
            next: 1,
            folds: HashMap::new(),
            packets: budget,
            others: budget,
            last_counts: None,
            not_kept: 0,
            losses_since: now,
            node: String::new(),
        }
    }

    /// Adds a refused packet.
    pub(crate) fn packet(&mut self, sample: &Sample, names: Names<'_>, now: SystemTime) {
        let Some(verdict) = sample.verdict() else { return };
        let key = FoldKey {
            verdict: sample.verdict,
            source: sample.source(),
            protocol: sample.protocol,
            port: sample.port,
            ifindex: sample.ifindex,
        };
        if let Some(fold) = self.folds.get_mut(&key) {
            let waiting = fold.waiting.get_or_insert(Waiting {
                latest: *sample,
                count: 0,
                packets: 0,
                first: now,
                last: now,
            });
            waiting.latest = *sample;
            waiting.count += 1;
            waiting.packets = waiting.packets.saturating_add(sample.weight.into());
            waiting.last = now;
        } else if self.packets.allows(now) {
            self.folds.insert(key, Fold { since: now, waiting: None });
            let packets = sample.weight.into();
            let single = Waiting { latest: *sample, count: 1, packets, first: now, last: now };
            self.push(now, EventKind::packet(packet_record(&single, names)));
        } else {
            self.not_kept += 1;
        }
        let headers = headers::of(head(sample), sample.len);
        self.refused_sources.add(sample, verdict, headers.flags, names, now);
    }

    /// Adds the records of folded packets whose second has passed. Must be called before new packets
    /// are added, so that known sources get their records first. `counts`: returns the kernel's counts
    /// of events.
    pub(crate) fn tick(
        &mut self,
        names: Names<'_>,
        now: SystemTime,
        counts: impl FnOnce() -> Option<EventCounts>,
    ) {
        let mut due: Vec<(FoldKey, Fold)> =
            self.folds.extract_if(|_, fold| is_over(fold.since, now)).collect();
        due.sort_by_key(|(_, fold)| fold.since);
        for (key, fold) in due {
            let Some(waiting) = fold.waiting else { continue };
            if self.packets.allows(now) {
                self.push(now, EventKind::packet(packet_record(&waiting, names)));
                self.folds.insert(key, Fold { since: now, waiting: None });
            } else {
                self.not_kept += waiting.count;
            }
        }
        if self.last_counts.is_none() || is_over(self.losses_since, now) {
            self.report_losses(now, counts());
        }
    }

    fn report_losses(&mut self, now: SystemTime, counts: Option<EventCounts>) {
        self.losses_since = now;
        let mut lost = Lost { not_kept: self.not_kept, ..Lost::default() };
        if let Some(counts) = counts {
            // Losses before this daemon's start are not reported.
            let before = self.last_counts.replace(counts).unwrap_or(counts);
            lost.suppressed = counts.suppressed.saturating_sub(before.suppressed);
            lost.lost = counts.lost.saturating_sub(before.lost);
        }
        if lost == Lost::default() {
            return;
        }
        self.not_kept = 0;
        let parts = [
            (lost.suppressed, "refused frames were not sampled"),
            (lost.lost, "samples did not fit into the kernel's ring buffer"),
            (lost.not_kept, "samples exceeded the maximum number of records per second"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, what)| format!("{count} {what}")).collect();
        lost.text = parts.join(", ");
        self.push(now, EventKind::Lost(lost));
    }

    /// Adds an event about a policy.
    pub(crate) fn policy(&mut self, policy: Policy) {
        let text = short(&policy.text);
        self.other(EventKind::Policy(Policy { text, ..policy }));
    }

    /// Adds an event about an interface.
    pub(crate) fn interface(&mut self, what: InterfaceChange, interface: &str, text: &str) {
        self.other(EventKind::Interface(Interface {
            what,
            interface: interface.to_owned(),
            text: short(text),
        }));
    }

    /// Adds the record of a command, and returns it.
    pub(crate) fn audit(&mut self, audit: Audit) -> Event {
        let [text, arguments, command] =
            [&audit.text, &audit.arguments, audit.command.as_ref().unwrap_or(&String::new())]
                .map(|text| short(text));
        let command = audit.command.as_ref().map(|_| command);
        let audit = Audit { arguments, text, command, ..audit };
        // Not limited: they are few and must not be lost because of other records.
        self.push(SystemTime::now(), EventKind::Audit(Box::new(audit)))
    }

    fn other(&mut self, what: EventKind) {
        let now = SystemTime::now();
        if self.others.allows(now) {
            self.push(now, what);
        } else {
            self.not_kept += 1;
        }
    }

    fn push(&mut self, now: SystemTime, what: EventKind) -> Event {
        let event = Event {
            schema: events::SCHEMA.to_owned(),
            time: Some(time(now)),
            seq: Some(self.next),
            node: (!self.node.is_empty()).then(|| self.node.clone()),
            what,
        };
        self.next += 1;
        self.bytes += size(&event);
        self.records.push_back(event.clone());
        while self.records.len() > MAX_RECORDS || self.bytes > MAX_BYTES {
            let Some(gone) = self.records.pop_front() else { break };
            self.bytes -= size(&gone);
        }
        event
    }

    /// Returns a page of at most `limit` events with numbers greater than `after`, without gaps between
    /// them.
    pub(crate) fn page(&self, after: u64, limit: usize) -> Page {
        let first = self.next - self.records.len() as u64;
        let skip = usize::try_from((after.saturating_add(1)).saturating_sub(first));
        let mut room = PAGE_BYTES;
        let wanted = self.records.iter().skip(skip.unwrap_or(usize::MAX)).take(limit.min(PAGE));
        let events = wanted.take_while(|event| {
            let fits = room > 0;
            room = room.saturating_sub(size(event));
            fits
        });
        Page {
            schema: events::PAGE_SCHEMA.to_owned(),
            instance: self.instance.clone(),
            first,
            next: self.next,
            events: events.cloned().collect(),
        }
    }
}

/// Returns the approximate size of a record in bytes.
fn size(event: &Event) -> usize {
    let text = match &event.what {
        EventKind::Packet(packet) => packet.frame.as_ref().map_or(0, String::len),
        EventKind::Policy(policy) => policy.text.len(),
        EventKind::Interface(interface) => interface.text.len(),
        EventKind::Audit(audit) => audit.text.len() + audit.arguments.len(),
        EventKind::Lost(lost) => lost.text.len(),
        EventKind::Unknown => 0,
    };
    RECORD_BYTES + text
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_TEXT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Returns the captured beginning of a sampled frame.
pub(crate) fn head(sample: &Sample) -> &[u8] {
    let len = usize::try_from(sample.head_len).unwrap_or(usize::MAX);
    sample.head.get(..len).unwrap_or(&sample.head)
}

/// Makes the record of folded packets.
fn packet_record(waiting: &Waiting, names: Names<'_>) -> Packet {
    let Waiting { latest, count, packets, first, last } = waiting;
    let headers = headers::of(head(latest), latest.len);
    let verdict = latest.verdict();
    let service = verdict.and_then(|verdict| names.services.get(&verdict.service?));
    let source = latest.source();
    let transport = parse::transport(latest.protocol);
    let device = names.devices.iter().find(|device| device.index == latest.ifindex);
    let several = *count > 1;
    let mut packet = Packet {
        verdict: verdict.map(|verdict| verdict.action.name().to_owned()).unwrap_or_default(),
        reason: verdict.map(|verdict| verdict.reason.name().to_owned()).unwrap_or_default(),
        service: service.map(|service| service.name.clone()),
        source: source.map(IpAddr::from),
        source_node: source.and_then(|addr| name_of(names.nodes, &addr)).map(str::to_owned),
        transport: transport.map(|transport| transport.name().to_owned()),
        port: transport.map(|_| latest.port),
        protocol: (transport.is_none() && latest.protocol != 0).then_some(latest.protocol),
        source_port: headers.source_port,
        destination: headers.destination,
        flags: headers.flags.map(events::letters),
        interface: device.map(|device| device.name.clone()),
        length: Some(latest.len),
        count: *count,
        packets: *packets,
        first: several.then(|| time(*first)),
        last: several.then(|| time(*last)),
        frame: Some(crate::policy::compile::hash::hexadecimal(&headers.bytes)),
        looks_like_reply: false,
    };
    packet.looks_like_reply = looks_like_reply(&packet);
    packet
}

#[cfg(test)]
mod tests;
