//! The output of `learn`, as text and as JSON.

use std::{fmt::Write as _, net::IpAddr, path::Path};

use serde::Serialize;

use crate::{
    learn::{
        SCHEMA,
        classify::{Classified, Disposition, KeptContact},
        connection_tracker::ConnectionTracker,
        draft::{self, Service},
    },
    output,
    policy::{Cluster, Node},
    text::{counted, shown_text},
};

/// Maximum number of lines of a kind in the text; JSON has all.
const MAX_SHOWN: usize = 40;

/// The output of `learn`.
#[derive(Debug, Serialize)]
pub struct Learned {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Name of the node.
    pub node: String,
    /// Path of the manifest.
    pub manifest: String,
    /// The amount of observed traffic, in words.
    pub watched: String,
    /// Number of frames in the capture.
    pub frames: u64,
    /// Number of frames to or from the node.
    pub node_frames: u64,
    /// Times of the first and the last frame: RFC 3339, UTC; null if unknown.
    pub span: Option<[String; 2]>,
    /// Limitations of the evidence.
    pub notes: Vec<String>,
    /// Contacts that count as evidence, with the proposal for each.
    pub contacts: Vec<Contact>,
    /// New manifest entries.
    pub entries: Vec<Admitted>,
    /// Contacts that were left out.
    pub left_out: Vec<LeftOutContact>,
    /// The proposed documents; null if nothing is proposed.
    pub documents: Option<Documents>,
}

/// A contact that counts as evidence.
#[derive(Debug, Serialize)]
pub struct Contact {
    /// Address of the source.
    pub source: IpAddr,
    /// Name of the source's node in the manifest; null if it is not a node.
    pub node: Option<String>,
    /// Port as written in policies: `tcp/9091`.
    pub port: String,
    /// Number of connections with data in both directions.
    pub connections: u64,
    /// Number of frames received from the source.
    pub packets: u64,
    /// Maximum number of openings within one second.
    pub peak_per_second: u64,
    /// Number of the first frame, from 1; for events, the number of the first event.
    pub first_frame: u64,
    /// Time of the first frame; null if unknown.
    pub first_seen: Option<String>,
    /// Time of the last frame; null if unknown.
    pub last_seen: Option<String>,
    /// How the source is admitted: `allowed` by the current policy, by a proposed `service`, or by
    /// an `entry` of the manifest.
    pub by: &'static str,
    /// Name of the proposed service; null if none is needed.
    pub service: Option<String>,
}

/// A manifest entry that admits a source.
#[derive(Debug, Serialize)]
pub struct Admitted {
    /// Address of the source.
    pub source: IpAddr,
    /// The entry as written in the manifest.
    pub lines: String,
    /// Roles of the entry.
    pub roles: Vec<String>,
    /// Services of this node that the entry also opens, besides the observed ones.
    pub admits_also: Vec<String>,
    /// Lint findings about the entry.
    pub findings: Vec<String>,
}

/// A contact that was left out.
#[derive(Debug, Serialize)]
pub struct LeftOutContact {
    /// Address of the source.
    pub source: IpAddr,
    /// The port; null if the whole source was left out.
    pub port: Option<String>,
    /// Number of frames received from the source.
    pub packets: u64,
    /// The reason.
    pub why: String,
    /// Effect of the proposal on the source at that port. `refused`; `open`, because no service
    /// guards the port; or `allowed`, by a role that other sources were observed with, or because
    /// the source counts at another ephemeral port. Null if the whole source was left out.
    pub then: Option<&'static str>,
}

/// The proposed documents.
#[derive(Debug, Serialize)]
pub struct Documents {
    /// Text of the manifest.
    pub manifest: String,
    /// Changes of the manifest, as a unified diff.
    pub manifest_diff: String,
    /// File name of the policy, beside the manifest; null if there is no new policy.
    pub policy_file: Option<String>,
    /// Text of the policy; null if there is no new policy.
    pub policy: Option<String>,
}

impl Learned {
    /// Summarizes the observed traffic of a node, without a proposal.
    pub fn of(watch: &ConnectionTracker, node: &Node, manifest: &Path) -> Self {
        let span = watch.span_ns.map(|(first, last)| [first, last].map(draft::time_of));
        let during = watch.span_ns.map_or_else(String::new, |(first, last)| {
            let seconds = std::time::Duration::from_secs((last - first) / 1_000_000_000);
            let seconds = humantime::format_duration(seconds);
            format!(" in {seconds}, starting at {}", draft::time_of(first))
        });
        let frames = counted(watch.of_node, "frame");
        let watched = if watch.from_events {
            format!("events of `{}` that represent {frames}{during}", node.name)
        } else {
            format!("{frames} of `{}`, {} of them sent by it{during}", node.name, watch.sent)
        };
        Self {
            schema: SCHEMA,
            node: node.name.clone(),
            manifest: manifest.display().to_string(),
            watched,
            frames: watch.frames,
            node_frames: watch.of_node,
            span,
            notes: notes(watch),
            contacts: Vec::new(),
            entries: Vec::new(),
            left_out: Vec::new(),
            documents: None,
        }
    }

    /// Adds the contacts that count as evidence.
    pub fn add(&mut self, classified: &Classified, services: &[Service], cluster: &Cluster) {
        self.contacts =
            classified.kept.iter().map(|kept| contact(kept, services, cluster)).collect();
    }
}

fn notes(watch: &ConnectionTracker) -> Vec<String> {
    let mut notes = vec![draft::CAUTION.to_owned()];
    if watch.from_events {
        notes.push(
            "Events are samples of the packets that enforcing would refuse, without the answers of \
             the node. A source counts if two of its events are from within a connection; such \
             packets can be forged. A capture is better evidence."
                .to_owned(),
        );
    }
    if watch.dropped > 0 {
        notes.push(format!(
            "{} dropped, not only counted, so they are no evidence that their sources belong to the \
             cluster. `trainguard events --missing-members` lists sources that behave like members.",
            match watch.dropped {
                1 => "1 frame was".to_owned(),
                count => format!("{count} frames were"),
            }
        ));
    }
    if watch.sent == 0 && !watch.from_events {
        notes.push(
            "The capture has no frame that the node sent, so it does not show whether the node \
             answered, and no contact counts. Capture both directions."
                .to_owned(),
        );
    }
    if watch.preexisting() > 0 {
        notes.push(format!(
            "{} already open when the capture began. The capture does not show which end opened \
             such connections, so they do not count. Start the capture before the job.",
            match watch.preexisting() {
                1 => "1 connection was".to_owned(),
                count => format!("{count} connections were"),
            }
        ));
    }
    if watch.without_ports > 0 {
        notes.push(format!(
            "Ignored: {} without readable ports (fragments, other protocols, truncated frames).",
            counted(watch.without_ports, "frame")
        ));
    }
    if watch.untracked > 0 {
        notes.push(format!(
            "Ignored: {} of connections beyond the first million. The list is incomplete.",
            counted(watch.untracked, "frame")
        ));
    }
    notes.push(
        "Traffic that did not occur in this time (a restart, a new worker, a backup, monitoring) is \
         missing."
            .to_owned(),
    );
    notes
}

fn contact(kept: &KeptContact, services: &[Service], cluster: &Cluster) -> Contact {
    let seen = &kept.contact;
    let has = |service: &&Service| {
        service.evidence.iter().any(|other| (other.source, other.port) == (kept.source, kept.port))
    };
    let service = services.iter().find(has).filter(|_| kept.disposition == Disposition::Service);
    Contact {
        source: kept.source.into(),
        node: cluster.node_at(&kept.source).map(|node| node.name.clone()),
        port: format!("{}/{}", kept.port.0.name(), kept.port.1),
        connections: seen.completed,
        packets: seen.packets,
        peak_per_second: seen.peak,
        first_frame: seen.first_frame,
        first_seen: seen.first_ns.map(draft::time_of),
        last_seen: seen.last_ns.map(draft::time_of),
        by: match kept.disposition {
            Disposition::Allowed => "allowed",
            Disposition::Service => "service",
            Disposition::Entry => "entry",
        },
        service: service.map(|service| service.name.clone()),
    }
}

/// Prints the output as text.
pub fn print(learned: &Learned) {
    output::answer(text(learned).trim_end());
}

fn text(learned: &Learned) -> String {
    let mut text = String::new();
    let mut add = |line: &str| {
        let _ = writeln!(text, "{}", shown_text(line));
    };
    add(&format!("learned from {}", learned.watched));
    for note in &learned.notes {
        add(&format!("note: {note}"));
    }
    for (by, heading) in [
        ("allowed", "allowed by the policy already:"),
        ("service", "no service guards the port; a service is proposed:"),
        ("entry", "refused by the policy; an entry for the manifest is proposed:"),
    ] {
        let contacts: Vec<&Contact> = learned.contacts.iter().filter(|it| it.by == by).collect();
        if contacts.is_empty() {
            continue;
        }
        add("");
        add(heading);
        for contact in contacts.iter().take(MAX_SHOWN) {
            let node = contact.node.as_deref().unwrap_or("not in the manifest");
            add(&format!(
                "  {} ({node}) to {}: {}, {}, first in frame {}",
                contact.source,
                contact.port,
                counted(contact.connections, "connection"),
                counted(contact.packets, "packet"),
                contact.first_frame
            ));
        }
        note_rest(&mut add, contacts.len());
    }
    for entry in learned
        .entries
        .iter()
        .filter(|entry| !entry.admits_also.is_empty() || !entry.findings.is_empty())
    {
        for service in &entry.admits_also {
            add(&format!("  the entry of {} also opens `{service}`", entry.source));
        }
        for finding in &entry.findings {
            add(&format!("  lint finding about the entry of {}: {finding}", entry.source));
        }
    }
    if !learned.left_out.is_empty() {
        add("");
        add("left out:");
        for left in learned.left_out.iter().take(MAX_SHOWN) {
            let port = left.port.as_deref().map_or_else(String::new, |port| format!(" to {port}"));
            let then = left.then.map_or_else(String::new, |then| format!(" [{then}]"));
            add(&format!(
                "  {}{port}, {}: {}{then}",
                left.source,
                counted(left.packets, "packet"),
                left.why
            ));
        }
        note_rest(&mut add, learned.left_out.len());
    }
    add("");
    let Some(documents) = &learned.documents else {
        add("nothing is proposed");
        return text;
    };
    add(&format!("# ==== {} (changes) ====", learned.manifest));
    documents.manifest_diff.lines().for_each(&mut add);
    if let (Some(file), Some(policy)) = (&documents.policy_file, &documents.policy) {
        add(&format!("# ==== {file} (new, beside the manifest) ===="));
        policy.lines().for_each(&mut add);
    }
    text
}

fn note_rest(add: &mut impl FnMut(&str), count: usize) {
    if count > MAX_SHOWN {
        add(&format!("  and {} more; --format json lists all", count - MAX_SHOWN));
    }
}
