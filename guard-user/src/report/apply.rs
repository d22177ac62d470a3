//! The result of a change of policy, as text and as JSON.

use serde::Serialize;

use std::path::Path;

use super::diff;
use crate::{
    api::{
        client::ClientError,
        connections::{Affected, Connections, ForwardedConnections},
        control::Applied,
        status::TrialStatus,
    },
    output::{self, Format},
    policy::{diff as comparison, resolve::cluster::Cluster},
    text::{counted, shown_text},
};

/// `schema` of the JSON form.
const SCHEMA: &str = "trainguard/apply/v1";
/// Maximum number of groups of connections in the text.
const MAX_SHOWN: usize = 20;

/// The changes of a policy in both formats. Already formatted, because the clusters may be large.
#[derive(Debug)]
pub struct Difference {
    text: String,
    document: serde_json::Value,
}

impl Difference {
    /// Formats a difference between an old and a new cluster as text and as JSON. `manifest` is the
    /// new one, for commands that the text suggests.
    pub fn new(
        difference: &comparison::Difference,
        clusters: [&Cluster; 2],
        manifest: &Path,
    ) -> Self {
        Self {
            text: diff::text(difference, clusters, manifest),
            // Serialization of maps with string keys does not fail.
            document: serde_json::to_value(diff::document(difference, clusters))
                .unwrap_or_default(),
        }
    }
}

/// The result of a change of policy.
#[derive(Debug)]
pub enum ApplyOutcome<'a> {
    /// The change is made.
    Done {
        /// The daemon's response.
        applied: Applied,
        /// The result in words, for the text.
        what: &'a str,
    },
    /// A dry run: the change would be accepted.
    Planned {
        /// The daemon's response.
        applied: Applied,
        /// What would change; none if the policy in force is unknown.
        difference: Option<Difference>,
    },
    /// The change is refused, or failed.
    Not(ClientError),
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    /// `done`, `dry_run`, `refused` or `failed`.
    result: &'static str,
    /// The reason of a refusal or failure.
    error: Option<String>,
    generation: Option<u64>,
    policy_hash: Option<&'a str>,
    changed: Option<bool>,
    trial: Option<&'a TrialStatus>,
    connections: Option<&'a Connections>,
    /// For a dry run: the document of `diff --format json`; null if the policy in force is unknown.
    difference: Option<&'a serde_json::Value>,
    problems: &'a [String],
}

/// Prints the result.
pub fn print(answer: &ApplyOutcome<'_>, format: Format) {
    match (format, answer) {
        (Format::Json, _) => output::answer_json(&document(answer)),
        (Format::Text, ApplyOutcome::Done { applied, what }) => done(applied, what),
        (Format::Text, ApplyOutcome::Planned { applied, difference }) => {
            planned(applied, difference.as_ref());
        }
        (Format::Text, ApplyOutcome::Not(error)) => refused(error),
    }
}

fn document<'a>(answer: &'a ApplyOutcome<'_>) -> Document<'a> {
    let none = Document {
        schema: SCHEMA,
        result: "failed",
        error: None,
        generation: None,
        policy_hash: None,
        changed: None,
        trial: None,
        connections: None,
        difference: None,
        problems: &[],
    };
    let of = |applied: &'a Applied, result, difference| Document {
        result,
        generation: Some(applied.generation),
        policy_hash: Some(&applied.policy_hash),
        changed: Some(applied.changed),
        trial: applied.trial.as_ref(),
        connections: Some(&applied.connections),
        difference,
        problems: &applied.problems,
        ..none
    };
    match answer {
        ApplyOutcome::Done { applied, .. } => of(applied, "done", None),
        ApplyOutcome::Planned { applied, difference } => {
            of(applied, "dry_run", difference.as_ref().map(|difference| &difference.document))
        }
        ApplyOutcome::Not(error) => Document {
            error: Some(error.to_string()),
            result: match error {
                ClientError::Refused(_) | ClientError::WouldCut { .. } => "refused",
                _ => "failed",
            },
            connections: error.connections(),
            ..none
        },
    }
}

fn done(applied: &Applied, what: &str) {
    let hash = short(applied);
    output::answer(format_args!("{what}: generation {}, policy {hash}", applied.generation));
    for problem in &applied.problems {
        output::message(format_args!("note: {}", shown_text(problem)));
    }
    list_cut("this cut", &applied.connections.cut);
    through(applied.connections.forwarded.as_ref(), false);
    note_other_effects(&applied.connections);
    if let Some(trial) = &applied.trial {
        output::message(format_args!(
            "on trial: undone at {} unless `trainguard confirm` keeps it; `trainguard rollback` \
             undoes it now",
            trial.deadline
        ));
        output::hint(
            "confirm from a new connection: an open one may go through although new ones are refused",
        );
    }
}

fn planned(applied: &Applied, difference: Option<&Difference>) {
    let hash = short(applied);
    let is = if applied.changed { "would be in force" } else { "is in force already" };
    output::answer(format_args!("policy {hash} {is}; nothing is changed"));
    match difference {
        Some(difference) => {
            output::answer(difference.text.trim_end());
        }
        None => output::message(
            "note: the daemon has no copy of the policy in force, so the policies are not compared",
        ),
    }
    let Connections { looked_at, cut, .. } = &applied.connections;
    if cut.connections == 0 && applied.changed {
        let count = counted(*looked_at, "open connection");
        output::answer(format_args!("it would cut none of {count} of this node"));
    }
    list_cut("this would cut", cut);
    if applied.changed {
        through(applied.connections.forwarded.as_ref(), true);
    }
    note_other_effects(&applied.connections);
}

/// Prints the effect on connections of others through this node. `all`: also if there is none.
fn through(forwarded: Option<&ForwardedConnections>, all: bool) {
    let Some(forwarded) = forwarded else { return };
    for line in through_lines(forwarded, all) {
        output::message(format_args!("{}", shown_text(&line)));
    }
}

/// Returns lines about the effect on connections of others through this node.
fn through_lines(forwarded: &ForwardedConnections, all: bool) -> Vec<String> {
    let ForwardedConnections { forwards, looked_at, not_counted, guarded_by, cut } = forwarded;
    let mut lines = Vec::new();
    if cut.connections > 0 {
        let verb = if all { "would cut" } else { "cut" };
        let count = counted(cut.connections, "connection");
        lines.push(format!("this {verb} {count} of others through this node:"));
        lines.extend(cut.lines(MAX_SHOWN).into_iter().map(|line| format!("  {line}")));
    }
    if !all || !forwards {
        return lines;
    }
    if guarded_by.is_empty() {
        lines.push(
            "note: connections that this node forwards are not touched: no service guards forwarded \
             packets"
                .to_owned(),
        );
    } else {
        let names = guarded_by.join(", ");
        lines.push(format!("note: these services judge forwarded packets, too: {names}"));
    }
    match not_counted {
        Some(why) => lines.push(format!(
            "note: connections through this node were not counted, or not all of them: {why}"
        )),
        None if cut.connections == 0 => {
            let count = counted(*looked_at, "connection");
            lines.push(format!("note: it would cut none of {count} of others through this node"));
        }
        None => {}
    }
    lines
}

fn refused(error: &ClientError) {
    output::error(error);
    let Some(connections) = error.connections() else { return };
    for line in connections.cut.lines(MAX_SHOWN) {
        output::message(format_args!("  {}", shown_text(&line)));
    }
    let others = connections.forwarded.iter().flat_map(|forwarded| forwarded.cut.lines(MAX_SHOWN));
    for line in others {
        output::message(format_args!("  {}", shown_text(&line)));
    }
    note_other_effects(connections);
    let (all, sessions) = (connections.all_cut(), connections.cut.sessions);
    if sessions > 0 {
        output::hint("if you have another way to log in, such as a console: add --cut-own-session");
    }
    if all > sessions {
        output::hint("if these connections may be cut: add --cut-connections");
    }
}

fn list_cut(what: &str, cut: &Affected) {
    if cut.connections > 0 {
        output::message(format_args!("{what} {}:", counted(cut.connections, "connection")));
        for line in cut.lines(MAX_SHOWN) {
            output::message(format_args!("  {}", shown_text(&line)));
        }
    }
}

/// Prints notes about connections that could not be reopened, and about an incomplete list.
fn note_other_effects(connections: &Connections) {
    let not_reopened = &connections.not_reopened;
    if not_reopened.connections > 0 {
        output::message(format_args!(
            "note: {} stay open, but could not be opened again:",
            counted(not_reopened.connections, "connection")
        ));
        for line in not_reopened.lines(MAX_SHOWN) {
            output::message(format_args!("  {}", shown_text(&line)));
        }
    }
    if let Some(why) = &connections.incomplete {
        output::message(format_args!(
            "note: not all connections were checked: {}",
            shown_text(why)
        ));
    }
}

fn short(applied: &Applied) -> String {
    applied.policy_hash.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::connections::{Direction, Group};

    #[test]
    fn connections_of_others_are_told_on_nodes_that_forward() {
        let mut forwarded =
            ForwardedConnections { not_counted: Some("no".to_owned()), ..Default::default() };
        assert_eq!(through_lines(&forwarded, true), [""; 0], "a node that does not forward");
        forwarded.forwards = true;
        assert_eq!(through_lines(&forwarded, false), [""; 0], "after the change");
        let lines = through_lines(&forwarded, true);
        assert!(lines[0].contains("not touched: no service guards forwarded packets"), "{lines:?}");
        assert!(lines[1].contains("not counted, or not all of them: no"), "{lines:?}");

        forwarded.guarded_by = vec!["store".to_owned()];
        forwarded.not_counted = None;
        forwarded.looked_at = 3;
        let lines = through_lines(&forwarded, true);
        assert!(lines[0].contains("judge forwarded packets, too: store"), "{lines:?}");
        assert!(lines[1].contains("cut none of 3 connections of others"), "{lines:?}");

        let group = Group {
            connections: 2,
            peer: "10.77.9.9".to_owned(),
            direction: Direction::Through,
            port: 29500,
            service: "store".to_owned(),
            ..Group::default()
        };
        forwarded.cut = Affected { connections: 2, sessions: 0, groups: vec![group] };
        assert_eq!(
            through_lines(&forwarded, false),
            [
                "this cut 2 connections of others through this node:",
                "  2 connections of 10.77.9.9 (not in the manifest) through this node to tcp/29500 \
                 (store)",
            ]
        );
    }
}
