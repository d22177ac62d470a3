//! `trainguard init`: generates a first manifest and its policy from a framework and a host list.
//! The files are read and written by [`crate::commands::init`].

mod findings;
mod listing;
mod manifest;
mod members;
pub mod profiles;
mod ray;
mod resolve;
mod runs;

use std::{collections::BTreeMap, path::Path};

use self::{
    findings::Location,
    manifest::{DOCUMENTATION_PREFIXES, GUESSED_INTERFACE, Manifest},
    members::{Choice, Hosts},
    profiles::RoleHolders,
    resolve::Resolver,
};
pub use self::{
    findings::{Findings, Problem},
    listing::HostsFormat,
    members::Member,
    profiles::Profile,
};
use crate::policy::{
    Bundle,
    resolve::{load::Loader, validate},
    syntax::text,
};

/// File name of the manifest.
pub const MANIFEST: &str = "cluster.yaml";

/// A text with the name of its source.
#[derive(Debug, Clone, Copy)]
pub struct Input<'t> {
    /// Name of the file or option.
    pub source: &'t str,
    /// Whether the source is an option, whose lines are not numbered.
    pub is_option: bool,
    /// The text.
    pub text: &'t str,
}

/// The inputs for a manifest.
#[derive(Debug)]
pub struct Request<'r> {
    /// The profile, which has the policy.
    pub profile: &'r Profile,
    /// The host list.
    pub hosts: Input<'r>,
    /// Format of the host list.
    pub format: HostsFormat,
    /// The contents of a hosts(5) file, to resolve names.
    pub resolve: Option<Input<'r>>,
    /// The host for the scheduler, head or controller role.
    pub scheduler: Option<&'r str>,
    /// Number of server processes.
    pub servers: Option<usize>,
    /// Name of the cluster.
    pub name: Option<&'r str>,
    /// Interface patterns.
    pub interfaces: &'r [String],
    /// Networks as `NAME=PREFIX,PREFIX`.
    pub networks: &'r [String],
    /// The command line, for the comment at the top of the manifest.
    pub command: &'r [String],
}

/// A manifest and its policy.
#[derive(Debug)]
pub struct Draft {
    /// The nodes of the manifest.
    pub members: Vec<Member>,
    /// Text of the manifest.
    pub manifest: String,
    /// File name of the policy.
    pub policy_name: String,
    /// Text of the policy.
    pub policy: String,
}

/// Returns the comment that names the schema of a document for editors. `kind` is `cluster` or
/// `policy`; `trainguard schema` writes the schema itself.
pub fn schema_modeline(kind: &str) -> String {
    format!("# yaml-language-server: $schema={kind}.schema.json")
}

/// Generates a manifest and a policy. Returns none if there are problems, which are all added to
/// `out`.
pub fn draft(request: &Request<'_>, out: &mut Findings) -> Option<Draft> {
    let profile = request.profile;
    check_options(request, out);
    let members = members(request, out);
    let (networks, placeholders) = networks(request, out);
    if out.is_bad() {
        return None;
    }
    if request.interfaces.is_empty() {
        out.note(format!(
            "no --interface was given: `interfaces: [{GUESSED_INTERFACE}]` is a guess"
        ));
    }
    let policy_name = format!("{}.yaml", profile.name);
    let manifest = Manifest {
        command: request.command,
        name: request.name.unwrap_or(profile.name),
        interfaces: request.interfaces,
        members: &members,
        networks: &networks,
        placeholders: &placeholders,
        policy: &policy_name,
    };
    let policy = if profile.policy.contains("yaml-language-server") {
        profile.policy.to_owned()
    } else {
        format!("{}\n{}", schema_modeline("policy"), profile.policy)
    };
    let draft = Draft { manifest: manifest.text(), members, policy_name, policy };
    verify(&draft, out).then_some(draft)
}

/// Reports whether the daemon would accept the draft.
fn verify(draft: &Draft, out: &mut Findings) -> bool {
    let texts = [(MANIFEST, &*draft.manifest), (&*draft.policy_name, &*draft.policy)];
    let bundle = Bundle::new(MANIFEST, texts);
    let mut loader = Loader::new(&bundle);
    let path = Path::new(MANIFEST);
    loader.check_manifest(path);
    let (report, ..) = loader.finish(path);
    let loads = !report.has_errors();
    if !loads {
        out.push(format!("the manifest generated from these hosts is invalid:\n{report}"), None);
    }
    loads
}

fn check_options(request: &Request<'_>, out: &mut Findings) {
    let profile = request.profile;
    if request.servers.is_some() && !profile.has(RoleHolders::Servers) {
        out.problem(
            &Location::option("--servers"),
            format_args!("{} has no servers; omit the option", profile.name),
        );
    }
    if request.scheduler.is_some() && !profile.has_first() {
        out.problem(
            &Location::option("--scheduler"),
            format_args!(
                "{} has no scheduler; add the host to the host list instead",
                profile.name
            ),
        );
    }
    if request.scheduler.is_none() && profile.has(RoleHolders::Scheduler) {
        let role = profile.roles.iter().find(|(_, which)| *which == RoleHolders::Scheduler);
        let role = role.map_or("scheduler", |(role, _)| role);
        out.push(
            format!("{} needs the address of its {role}: --scheduler ADDRESS", profile.name),
            Some(format!(
                "the {role} runs on its own host or on the launching machine, which no host list \
                 contains; give all its addresses: --scheduler 10.77.0.10,fd77::10"
            )),
        );
    }
    if let Some(name) = request.name
        && let Err(problem) = validate::name(name)
    {
        out.problem(&Location::option("--name"), problem);
    }
    for interface in request.interfaces {
        if let Err(problem) = validate::interface(interface) {
            out.problem(&Location::option("--interface"), problem);
        }
    }
}

fn members(request: &Request<'_>, out: &mut Findings) -> Vec<Member> {
    let source = request.hosts.source;
    let listing = listing::read(request.hosts, request.format, request.profile, out);
    let mut entries = listing.entries;
    let listed = entries.len();
    if let Some(scheduler) = request.scheduler {
        match listing::named_host(Location::option("--scheduler"), scheduler) {
            Ok(entry) => entries.push(entry),
            Err(problem) => out.problem(&Location::option("--scheduler"), problem),
        }
    }
    let resolver = request.resolve.map(|input| Resolver::new(input, out));
    resolve::resolve(&mut entries, resolver.as_ref(), out);
    let hosts = Hosts::merge(&entries, listed, out);
    if out.is_bad() {
        return Vec::new();
    }
    let of = |entry: usize| hosts.of_entry.get(entry).copied().flatten();
    let named = if entries.len() > listed { of(listed) } else { None };
    let head = listing.head.and_then(of);
    if named.is_some() && head.is_some() && named != head {
        out.note(format!("--scheduler overrides the head that `{source}` names"));
    }
    let first = named.or(head);
    if first.is_none()
        && let Some((role, _)) =
            request.profile.roles.iter().find(|(_, w)| *w == RoleHolders::First)
    {
        out.note(format!(
            "the first host of `{source}` gets the role {role}; choose another with --scheduler"
        ));
    }
    let processes: Vec<usize> = (0..listed).filter_map(of).collect();
    let choice = Choice { first, servers: request.servers, lines: &processes };
    members::members(request.profile, &hosts.all, choice, out)
}

/// Returns the networks of the manifest, and the names of those that have no real prefix yet.
fn networks(
    request: &Request<'_>,
    out: &mut Findings,
) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let place = Location::option("--network");
    let mut networks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for written in request.networks {
        let Some((name, prefixes)) = written.split_once('=') else {
            let shown = text::shown(written);
            out.problem(&place, format_args!("`{shown}`: expected `NAME=PREFIX,PREFIX`"));
            continue;
        };
        if let Err(problem) = validate::name(name) {
            out.problem(&place, problem);
        }
        let known = networks.entry(name.to_owned()).or_default();
        for prefix in prefixes.split(',') {
            match validate::prefix(prefix) {
                Ok(()) => known.push(prefix.to_owned()),
                Err(problem) => out.problem(&place, problem),
            }
        }
    }
    let needs = validate::needs(request.profile.policy).unwrap_or_default();
    let placeholders: Vec<String> =
        needs.networks.into_iter().filter(|name| !networks.contains_key(name)).collect();
    for name in &placeholders {
        networks.insert(name.clone(), DOCUMENTATION_PREFIXES.map(str::to_owned).to_vec());
        out.note(format!(
            "the policy admits the network `{name}`, which has only placeholder prefixes: give \
             --network {name}=PREFIX, or edit {MANIFEST}"
        ));
    }
    (networks, placeholders)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each framework's draft loads with its built-in policy.
    #[test]
    fn every_role_of_a_policy_has_a_host() {
        for profile in profiles::PROFILES {
            let needs = validate::needs(profile.policy).expect("a policy");
            for role in &needs.roles {
                let known = profile.roles.iter().any(|(name, _)| name == role);
                assert!(known, "{}: no host gets the role {role}", profile.name);
            }
            for (role, _) in profile.roles {
                assert!(
                    needs.roles.contains(*role),
                    "{}: the policy has no role {role}",
                    profile.name
                );
            }
        }
    }

    #[test]
    fn profiles_have_the_names_of_their_policies() {
        for profile in profiles::PROFILES {
            let name = format!("\nname: {}\n", profile.name);
            assert!(profile.policy.contains(&name), "{}", profile.name);
        }
        let names: std::collections::BTreeSet<&str> = profiles::names().collect();
        assert_eq!(names.len(), profiles::PROFILES.len());
    }
}
