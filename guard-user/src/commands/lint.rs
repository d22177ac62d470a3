//! `trainguard lint`: checks manifests and policies, without privileges, network or daemon.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

use super::shared::{
    inputs::{self, Inputs, Overlay},
    outputs::Outputs,
};
use crate::{
    cli::{FailOn, LintArgs},
    exit::Exit,
    output,
    policy::{
        Disk, Files,
        lint::fix,
        resolve::{
            load::{FileKind, Loader},
            signature::Key,
        },
        syntax::diagnostic::{Report, Severity},
    },
    report::{
        self,
        lint::{Findings, github},
    },
    text::{counted, shown_path},
};

/// Runs `trainguard lint`.
pub fn run(args: &LintArgs) -> Exit {
    let mut outputs = match Outputs::open(args) {
        Ok(outputs) => outputs,
        Err(problem) => {
            output::error(problem);
            return Exit::NoAnswer;
        }
    };
    let key = match args.policy_key.as_deref().map(policy_key).transpose() {
        Ok(key) => key,
        Err(problem) => {
            output::error(problem);
            return Exit::NoAnswer;
        }
    };
    let here = [PathBuf::from(".")];
    let paths: &[PathBuf] = if args.paths.is_empty() { &here } else { &args.paths };
    let files = Overlay::default();
    let inputs = Inputs::find(paths, is_yaml, &files);
    if args.fix || args.diff {
        return fix_all(args, &inputs, &files);
    }
    let mut outcome = check(args, &inputs, &files, key.as_ref());
    for (path, problem) in &inputs.problems {
        output::error(format_args!("cannot read `{}`: {problem}", shown_path(path)));
    }
    for path in &outcome.foreign {
        output::message(format_args!(
            "note: `{}` is not a trainguard file (no `apiVersion: trainguard/...`), not checked",
            shown_path(path)
        ));
    }
    if outcome.checked == 0 && inputs.problems.is_empty() {
        output::error("there is no manifest and no policy to check");
        output::hint(
            "name a file, or a directory with *.yaml files of `apiVersion: trainguard/v1`",
        );
        return Exit::NoAnswer;
    }
    if key.is_some() && outcome.manifests == 0 {
        output::error("--policy-key needs a manifest, and none was given");
        output::hint(
            "a signature covers a manifest and the files that it names: give the manifest",
        );
        return Exit::NoAnswer;
    }
    outcome.report.unreadable |= !inputs.problems.is_empty();
    let root = env::current_dir().unwrap_or_default();
    let findings = Findings {
        report: &outcome.report,
        files: outcome.checked,
        foreign: &outcome.foreign,
        threshold: threshold(args.fail_on),
        root: &root,
    };
    report::lint::print(&findings, outputs.format);
    let written = outputs.write(&findings);
    if let Err(problem) = github::append_summary(&outcome.report, outcome.checked) {
        output::error(format_args!(
            "cannot write the step summary (GITHUB_STEP_SUMMARY): {problem}"
        ));
    }
    if let Err(problem) = &written {
        output::error(problem);
    }
    if written.is_err() || outcome.report.unreadable {
        return Exit::NoAnswer;
    }
    if findings.fail() { Exit::No } else { Exit::Yes }
}

fn threshold(fail_on: FailOn) -> Option<Severity> {
    match fail_on {
        FailOn::Error => Some(Severity::Error),
        FailOn::Warning => Some(Severity::Warning),
        FailOn::Info => Some(Severity::Info),
        FailOn::Never => None,
    }
}

/// Reads the public key for signed policies.
fn policy_key(path: &Path) -> Result<Key, String> {
    let shown = shown_path(path);
    let text = Disk.read(path).map_err(|error| format!("cannot read `{shown}`: {error}"))?;
    Key::parse(&text).map_err(|why| format!("`{shown}`: {why}"))
}

struct Outcome {
    report: Report,
    checked: usize,
    manifests: usize,
    foreign: Vec<PathBuf>,
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn check(args: &LintArgs, inputs: &Inputs, files: &dyn Files, key: Option<&Key>) -> Outcome {
    let mut loader = Loader::new(files);
    loader.allow(args.allow.iter().copied());
    if args.no_ignores {
        loader.without_ignores();
    }
    let mut foreign = Vec::new();
    let mut checked = BTreeSet::new();
    let mut policies = Vec::new();
    let mut manifests = 0;
    let named = inputs.named.iter().map(|path| (path, true));
    let found = inputs.found.iter().map(|path| (path, false));
    // Manifests first: a manifest checks its policies, with more context than a policy alone has.
    for (path, named) in named.chain(found) {
        if !checked.insert(path.clone()) {
            continue;
        }
        match loader.kind(path) {
            FileKind::Cluster => {
                manifests += 1;
                loader.check_manifest(path);
                if let Some(key) = key {
                    loader.check_signature(path, files, key);
                }
            }
            FileKind::Policy => policies.push(path),
            FileKind::Test => {
                loader.test(path);
            }
            FileKind::Foreign if !named => {
                checked.remove(path);
                foreign.push(path.clone());
            }
            FileKind::Foreign | FileKind::Broken => loader.broken(path),
        }
    }
    for path in policies {
        if !loader.has_policy(path) {
            loader.policy(path);
        }
    }
    loader.check_ignores();
    let (report, ..) = loader.finish(Path::new(""));
    let checked = report.sources.iter().count().saturating_sub(foreign.len());
    Outcome { report, checked, manifests, foreign }
}

/// Applies the safe fixes until none is left, or shows them with `--diff`; then reports the
/// remaining findings.
fn fix_all(args: &LintArgs, inputs: &Inputs, files: &Overlay) -> Exit {
    // A fix may enable another one. Each fix removes a finding, so the loop ends.
    let mut originals: Vec<(PathBuf, String)> = Vec::new();
    let mut done = 0;
    let outcome = loop {
        let outcome = check(args, inputs, files, None);
        let fixed = fix::apply(&outcome.report);
        if fixed.is_empty() {
            break outcome;
        }
        for fix::Fixed { path, before, after, fixes } in fixed {
            done += fixes;
            files.put(path.clone(), Ok(after.into_bytes()));
            if !originals.iter().any(|(known, _)| *known == path) {
                originals.push((path, before));
            }
        }
    };
    let mut exit = Exit::Yes;
    for (path, before) in &originals {
        let Ok(after) = files.read(path) else { continue };
        let after = String::from_utf8_lossy(&after);
        if args.diff {
            report::lint::fixes::print(path, before, &after);
        } else if path == Path::new(inputs::STDIN) {
            output::answer(after.trim_end_matches('\n'));
        } else if let Err(error) = fix::write(path, after.as_bytes()) {
            let shown = shown_path(path);
            output::error(format_args!("cannot write `{shown}`: {error}"));
            exit = Exit::NoAnswer;
        }
    }
    let done_or_not = if args.diff { "would be fixed" } else { "fixed" };
    output::message(format_args!(
        "{} in {} {done_or_not}; {} not fixable automatically",
        counted(done, "finding"),
        counted(originals.len(), "file"),
        outcome.report.diagnostics.len() + outcome.report.hidden()
    ));
    if outcome.report.unreadable || !inputs.problems.is_empty() || outcome.checked == 0 {
        return Exit::NoAnswer;
    }
    // As in a check, something to fix is a "no".
    if args.diff && done > 0 { Exit::No } else { exit }
}
