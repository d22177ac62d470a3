//! Refused sources that behave like members, as text and as JSON.

use serde::Serialize;

use crate::{
    api::events::missing::UnlistedSource, output, policy::syntax::text::visible, text::counted,
};

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
    pub source: UnlistedSource,
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
            format!("; {sources} connected repeatedly from networks outside the cluster")
        } else {
            String::new()
        };
        return format!(
            "no refused source on `{node}` has behaved like a missing member since {}{far}",
            visible(&found.since)
        );
    }
    let mut lines = Vec::new();
    for member in &found.members {
        lines.extend(facts(&member.source));
        lines.extend(remedy(&member.remedy, &found.manifest));
        lines.push(String::new());
    }
    let behave =
        if found.members.len() == 1 { "behaves like a member" } else { "behave like members" };
    lines.push(format!(
        "Since {}, `{node}` refused {} that {behave} missing from the manifest. Nothing was changed.",
        visible(&found.since),
        counted(found.members.len(), "source")
    ));
    lines.push(
        "An attacker inside the cluster's networks looks the same: before you add an address, find \
         out which host has it."
            .to_owned(),
    );
    if found.members.len() > 1 {
        lines.push("If several addresses belong to one host, put them into one entry.".to_owned());
    }
    lines.join("\n")
}

fn facts(source: &UnlistedSource) -> Vec<String> {
    let mut packets = Vec::new();
    if source.attempts > 0 {
        packets.push(counted(source.attempts, "connection attempt"));
    }
    if source.datagrams > 0 {
        packets.push(counted(source.datagrams, "datagram"));
    }
    let mut lines = vec![format!(
        "{}: {} (sampled) from {} to {}",
        source.address,
        packets.join(" and "),
        visible(&source.first_seen),
        visible(&source.last_seen)
    )];
    let tried: Vec<String> = source
        .tried
        .iter()
        .map(|tried| format!("{} at {}", visible(&tried.service), visible(&tried.port)))
        .collect();
    let more = if source.tried_more { ", and more" } else { "" };
    lines.push(format!("  tried {}{more}", tried.join(", ")));
    if !source.neighbours.is_empty() {
        let names: Vec<String> = source.neighbours.iter().map(|name| visible(name)).collect();
        let more = source.neighbour_count.saturating_sub(names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let network = if source.address.is_ipv4() { "/24" } else { "/64" };
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
            lines.push(format!("  they also open: {}", also.join(", ")));
        }
    }
    lines.extend(remedy.findings.iter().map(|finding| format!("  lint: {}", visible(finding))));
    if let Some(why) = &remedy.why {
        lines.push(format!("  no lines are proposed: {}", visible(why)));
    }
    if !remedy.ways.is_empty() {
        lines.push("  one of these changes would admit it:".to_owned());
        lines.extend(remedy.ways.iter().map(|way| format!("  - {}", visible(way))));
    }
    lines
}
