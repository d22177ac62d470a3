//! Refused sources that behave like members, as text and as JSON.

use serde::Serialize;

use crate::{api::events::missing::Stranger, output, policy::syntax::text::visible, text::counted};

/// The output of `events --missing-members`.
#[derive(Debug, Serialize)]
pub struct MissingMembers {
    /// Value of the daemon's field `schema`.
    pub schema: String,
    /// Name of the node that refused the sources.
    pub node: String,
    /// Start of the daemon's observation.
    pub since: String,
    /// Path of the manifest.
    pub manifest: String,
    /// Sources that behave like members.
    pub members: Vec<Member>,
    /// Number of sources that connect as often, but from networks outside the cluster.
    pub not_near: usize,
}

/// A source that behaves like a member.
#[derive(Debug, Serialize)]
pub struct Member {
    /// The daemon's facts about the source.
    #[serde(flatten)]
    pub stranger: Stranger,
    /// Changes that would admit it.
    #[serde(flatten)]
    pub remedy: Remedy,
}

/// Changes that would admit a source.
#[derive(Debug, Default, Serialize)]
pub struct Remedy {
    /// Lines for the manifest, under `nodes`; null if no entry would admit the source.
    pub lines: Option<String>,
    /// Line number of the manifest that the lines belong under.
    pub under: Option<usize>,
    /// Roles in the lines.
    pub roles: Vec<String>,
    /// Services of this node that the roles also open, besides those that the source tried.
    pub admits_also: Vec<String>,
    /// Lint findings that the lines add.
    pub findings: Vec<String>,
    /// The reason why there are no lines.
    pub why: Option<String>,
    /// Other changes that would admit the source.
    pub ways: Vec<String>,
}

/// Prints the sources as text.
pub fn print(found: &MissingMembers) {
    output::answer(text(found));
}

fn text(found: &MissingMembers) -> String {
    let node = visible(&found.node);
    if found.members.is_empty() {
        let far = if found.not_near > 0 {
            let sources = counted(found.not_near, "source");
            format!("; {sources} came again and again from networks that are not the cluster's")
        } else {
            String::new()
        };
        return format!(
            "no refused source behaves like a missing member, on `{node}` since {}{far}",
            visible(&found.since)
        );
    }
    let mut lines = Vec::new();
    for member in &found.members {
        lines.extend(facts(&member.stranger));
        lines.extend(remedy(&member.remedy, &found.manifest));
        lines.push(String::new());
    }
    lines.push(format!(
        "{} refused by `{node}` since {} like members that the manifest lacks. Nothing was changed.",
        counted(found.members.len(), "source"),
        visible(&found.since)
    ));
    lines.push(
        "An attacker inside the cluster's networks looks the same: before you add an address, find \
         out whose it is."
            .to_owned(),
    );
    if found.members.len() > 1 {
        lines.push("Addresses that are one host's belong into one entry.".to_owned());
    }
    lines.join("\n")
}

fn facts(stranger: &Stranger) -> Vec<String> {
    let mut packets = Vec::new();
    if stranger.attempts > 0 {
        packets.push(counted(stranger.attempts, "connection attempt"));
    }
    if stranger.datagrams > 0 {
        packets.push(counted(stranger.datagrams, "datagram"));
    }
    let mut lines = vec![format!(
        "{}: {} (sampled) from {} to {}",
        stranger.address,
        packets.join(" and "),
        visible(&stranger.first_seen),
        visible(&stranger.last_seen)
    )];
    let tried: Vec<String> = stranger
        .tried
        .iter()
        .map(|tried| format!("{} at {}", visible(&tried.service), visible(&tried.port)))
        .collect();
    let more = if stranger.tried_more { ", and more" } else { "" };
    lines.push(format!("  tried {}{more}", tried.join(", ")));
    if !stranger.neighbours.is_empty() {
        let names: Vec<String> = stranger.neighbours.iter().map(|name| visible(name)).collect();
        let more = stranger.neighbour_count.saturating_sub(names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let network = if stranger.address.is_ipv4() { "/24" } else { "/64" };
        lines.push(format!("  shares its {network} with {}{more}", names.join(", ")));
    }
    lines
}

fn remedy(remedy: &Remedy, manifest: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(text), Some(under)) = (&remedy.lines, remedy.under) {
        lines.push(format!(
            "  would be admitted by these lines under `nodes` ({}:{under}):",
            visible(manifest)
        ));
        // Printed as they must be written, so that they can be copied.
        lines.extend(text.lines().map(visible));
        if !remedy.admits_also.is_empty() {
            let also: Vec<String> = remedy.admits_also.iter().map(|name| visible(name)).collect();
            lines.push(format!("  they open also: {}", also.join(", ")));
        }
    }
    lines.extend(remedy.findings.iter().map(|finding| format!("  lint: {}", visible(finding))));
    if let Some(why) = &remedy.why {
        lines.push(format!("  no lines: {}", visible(why)));
    }
    if !remedy.ways.is_empty() {
        lines.push("  it would take one of these:".to_owned());
        lines.extend(remedy.ways.iter().map(|way| format!("  - {}", visible(way))));
    }
    lines
}
