//! `trainguard events --missing-members`: lists refused sources that behave like members.

use std::path::{Path, PathBuf};

use crate::{
    api::events::missing::{Missing, UnlistedSource},
    cli::EventsArgs,
    commands::shared::suggest::{Manifest, Suggestion},
    exit::Exit,
    output,
    policy::syntax::scalars::PortRange,
    report::{
        self,
        events::EventsFormat,
        missing::{Member, MissingMembers, Remedy},
    },
    text::shown_path,
};

/// Maximum number of sources that get proposed lines: each needs at least one load of the manifest.
const MAX_WITH_LINES: usize = 32;

pub(super) fn run(args: &EventsArgs) -> Exit {
    let missing = match args.daemon.client().missing_members() {
        Ok(missing) => missing,
        Err(error) => return super::refuse(&error),
    };
    let path = args.manifest.clone().unwrap_or_else(|| PathBuf::from(&missing.manifest));
    let mut manifest = match Manifest::load(&path, &missing.node) {
        Ok(manifest) => Some(manifest),
        Err(problem) => {
            let shown = shown_path(&path);
            output::message(format_args!(
                "note: no manifest lines are proposed, because `{shown}` cannot be used: {problem}"
            ));
            output::hint("use --manifest with a manifest that you may read");
            // An unusable manifest is an error only if it was given with `--manifest`: the daemon's
            // own may be readable by root only.
            if args.manifest.is_some() {
                return Exit::NoAnswer;
            }
            None
        }
    };
    let found = find(missing, &path, manifest.as_mut());
    let any = !found.members.is_empty();
    match args.format {
        Some(EventsFormat::Ndjson) => output::answer_json(&found),
        _ => report::missing::print(&found),
    }
    if any { Exit::No } else { Exit::Yes }
}

fn find(missing: Missing, path: &Path, mut manifest: Option<&mut Manifest>) -> MissingMembers {
    let Missing { schema, node, since, sources, .. } = missing;
    let is_near = |source: &UnlistedSource, manifest: Option<&Manifest>| {
        source.near || manifest.is_some_and(|manifest| manifest.is_near(source.address))
    };
    let (near, far): (Vec<UnlistedSource>, Vec<UnlistedSource>) =
        sources.into_iter().partition(|source| is_near(source, manifest.as_deref()));
    let mut found = MissingMembers {
        schema,
        node,
        since,
        manifest: path.display().to_string(),
        members: Vec::new(),
        not_near: far.len(),
    };
    for (number, source) in near.into_iter().enumerate() {
        let remedy = match manifest.as_deref_mut() {
            Some(manifest) if number < MAX_WITH_LINES => {
                match manifest.admit(source.address, ports(&source)) {
                    // The manifest already has this member.
                    Suggestion::Known(name) => {
                        note(
                            &source,
                            &format!("the manifest already has this address, as `{name}`"),
                        );
                        continue;
                    }
                    Suggestion::Open => {
                        note(&source, "the manifest already admits it to the ports that it tried");
                        continue;
                    }
                    Suggestion::Lines(lines) => Remedy {
                        lines: Some(lines.text),
                        under: Some(lines.under),
                        roles: lines.roles,
                        admits_also: lines.admits_also,
                        findings: lines.findings,
                        ..Remedy::default()
                    },
                    Suggestion::No(why, ways) => {
                        Remedy { why: Some(why), ways, ..Remedy::default() }
                    }
                }
            }
            Some(_) => {
                let why = format!("lines are proposed only for the first {MAX_WITH_LINES} sources");
                Remedy { why: Some(why), ..Remedy::default() }
            }
            None => Remedy::default(),
        };
        found.members.push(Member { source, remedy });
    }
    found
}

fn note(source: &UnlistedSource, what: &str) {
    output::message(format_args!(
        "note: {}: {}; the policy in force may be older, see `trainguard status`",
        source.address,
        crate::policy::syntax::text::visible(what)
    ));
}

/// Returns the ports that the source tried.
fn ports(source: &UnlistedSource) -> Vec<PortRange> {
    source.tried.iter().filter_map(|tried| tried.port.parse().ok()).collect()
}
