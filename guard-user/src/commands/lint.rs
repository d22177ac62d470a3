//! `trainguard lint`: checks manifests and policies, without privileges, network or daemon.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::outputs::Outputs;
use crate::{
    cli::{FailOn, LintArgs},
    exit::Exit,
    policy::{
        Disk, Files,
        diagnostic::{Report, Severity},
        files::MAX_BYTES,
        load::{FileKind, Loader},
    },
    report::{
        self,
        lint::{Findings, github},
    },
};

/// Name of standard input among the paths.
const STDIN: &str = "-";
/// Depth to which directories are searched.
const MAX_DEPTH: usize = 32;

/// Runs the verb.
pub fn run(args: &LintArgs) -> Exit {
    let mut outputs = match Outputs::open(args) {
        Ok(outputs) => outputs,
        Err(problem) => {
            report::error(problem);
            return Exit::NoAnswer;
        }
    };
    let here = [PathBuf::from(".")];
    let paths: &[PathBuf] = if args.paths.is_empty() { &here } else { &args.paths };
    let mut inputs = Inputs::default();
    for path in paths {
        inputs.add(path);
    }
    let files = WithStdin { stdin: inputs.stdin.take() };
    let mut outcome = check(&inputs, &files);
    for (path, problem) in &inputs.problems {
        report::error(format_args!("cannot read `{}`: {problem}", report::lint::shown_path(path)));
    }
    for path in &outcome.foreign {
        report::talk(format_args!(
            "note: `{}` is no trainguard file (no `apiVersion: trainguard/...`), not checked",
            report::lint::shown_path(path)
        ));
    }
    if outcome.checked == 0 && inputs.problems.is_empty() {
        report::error("no manifest and no policy to check");
        report::hint(
            "name a file, or a directory with *.yaml files of `apiVersion: trainguard/v1`",
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
        report::error(format_args!("cannot write the summary of the step: {problem}"));
    }
    if let Err(problem) = &written {
        report::error(problem);
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

/// What there is to check.
#[derive(Default)]
struct Inputs {
    /// Files that were named.
    named: Vec<PathBuf>,
    /// Files that were found in directories.
    found: Vec<PathBuf>,
    stdin: Option<io::Result<Vec<u8>>>,
    problems: Vec<(PathBuf, String)>,
}

impl Inputs {
    fn add(&mut self, path: &Path) {
        if path == Path::new(STDIN) {
            if self.stdin.is_none() {
                let mut bytes = Vec::new();
                let read = io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes);
                self.stdin = Some(read.map(|_| bytes));
                self.named.push(path.to_owned());
            }
        } else if path.is_dir() {
            self.search(path, 0);
        } else {
            self.named.push(path.to_owned());
        }
    }

    fn search(&mut self, directory: &Path, depth: usize) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                self.problems.push((directory.to_owned(), error.to_string()));
                return;
            }
        };
        let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            // Links to directories are not followed: they may lead in circles.
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            if is_directory && !hidden && depth < MAX_DEPTH {
                self.search(&path, depth + 1);
            } else if !hidden && path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
                let plain = path.strip_prefix(".").unwrap_or(&path).to_owned();
                self.found.push(plain);
            }
        }
    }
}

/// The disk, and standard input under its name.
struct WithStdin {
    stdin: Option<io::Result<Vec<u8>>>,
}

impl Files for WithStdin {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match &self.stdin {
            Some(Ok(bytes)) if path == Path::new(STDIN) => {
                if bytes.len() as u64 > MAX_BYTES {
                    let message = format!("is longer than {MAX_BYTES} bytes");
                    return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
                }
                Ok(bytes.clone())
            }
            Some(Err(error)) if path == Path::new(STDIN) => {
                Err(io::Error::new(error.kind(), error.to_string()))
            }
            _ => Disk.read(path),
        }
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        Disk.glob(pattern)
    }
}

struct Outcome {
    report: Report,
    checked: usize,
    foreign: Vec<PathBuf>,
}

fn check(inputs: &Inputs, files: &dyn Files) -> Outcome {
    let mut loader = Loader::new(files);
    let mut foreign = Vec::new();
    let mut checked = BTreeSet::new();
    let mut policies = Vec::new();
    let named = inputs.named.iter().map(|path| (path, true));
    let found = inputs.found.iter().map(|path| (path, false));
    // Manifests first: they check their policies, knowing more than a policy by itself says.
    for (path, named) in named.chain(found) {
        if !checked.insert(path.clone()) {
            continue;
        }
        match loader.kind(path) {
            FileKind::Cluster => loader.check_manifest(path),
            FileKind::Policy => policies.push(path),
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
    Outcome { report, checked, foreign }
}
