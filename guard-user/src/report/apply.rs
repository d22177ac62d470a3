//! The result of a change of policy, as text and as JSON.

use serde::Serialize;

use std::path::Path;

use super::diff;
use crate::{
    api::{
        client::ClientError,
        connections::{Affected, Connections},
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
        output::answer(format_args!("it would cut none of {count}"));
    }
    list_cut("this would cut", cut);
    note_other_effects(&applied.connections);
}

fn refused(error: &ClientError) {
    output::error(error);
    let Some(connections) = error.connections() else { return };
    for line in connections.cut.lines(MAX_SHOWN) {
        output::message(format_args!("  {}", shown_text(&line)));
    }
    note_other_effects(connections);
    let Affected { connections: all, sessions, .. } = connections.cut;
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
