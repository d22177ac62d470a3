//! `trainguard init`: writes a first manifest and its policy. It never starts enforcement.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::{
    cli::InitArgs,
    exit::Exit,
    init::{self, Draft, Findings, HostsFormat, Input, MANIFEST, Request, profiles},
    output,
    policy::{Disk, Files as _, resolve::files::MAX_BYTES},
    text::shown_path,
};

/// Stands for standard input as a path, and for standard output as a directory.
const STANDARD: &str = "-";

/// Runs `trainguard init`.
pub fn run(args: &InitArgs) -> Exit {
    let Some(profile) = profiles::find(&args.framework) else {
        output::error(format_args!("there is no framework `{}`", args.framework));
        return Exit::NoAnswer;
    };
    let Some((source, hosts)) = hosts(args) else { return Exit::NoAnswer };
    let resolve = match &args.resolve {
        None => None,
        Some(path) => match text(path) {
            Some(text) => Some((shown_path(path), text)),
            None => return Exit::NoAnswer,
        },
    };
    let request = Request {
        profile,
        hosts: Input { source: &source, is_option: args.nodelist.is_some(), text: &hosts },
        format: if args.nodelist.is_some() { HostsFormat::Slurm } else { args.hosts_format },
        resolve: resolve.as_ref().map(|(source, text)| Input { source, is_option: false, text }),
        scheduler: args.scheduler.as_deref(),
        servers: args.servers,
        name: args.name.as_deref(),
        interfaces: &args.interfaces,
        networks: &args.networks,
        command: &command(args),
    };
    let mut findings = Findings::default();
    let draft = init::draft(&request, &mut findings);
    for note in &findings.notes {
        output::message(format_args!("note: {note}"));
    }
    for problem in &findings.problems {
        output::error(&problem.message);
        if let Some(hint) = &problem.hint {
            output::hint(hint);
        }
    }
    if findings.more > 0 {
        output::error(format_args!("and {} more", findings.more));
    }
    match draft {
        Some(draft) => deliver(args, &draft),
        None => Exit::NoAnswer,
    }
}

/// Returns the name of the host list and its text.
fn hosts(args: &InitArgs) -> Option<(String, String)> {
    if let Some(list) = &args.nodelist {
        return Some(("--nodelist".to_owned(), list.clone()));
    }
    let path = args.hosts.as_deref().unwrap_or(Path::new(STANDARD));
    Some((
        if path == Path::new(STANDARD) { "standard input".to_owned() } else { shown_path(path) },
        text(path)?,
    ))
}

/// Returns the text of a file. Prints the error and returns none if it cannot be read.
fn text(path: &Path) -> Option<String> {
    let read = if path == Path::new(STANDARD) {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.and_then(|_| {
            if bytes.len() as u64 > MAX_BYTES {
                let message = format!("more than {MAX_BYTES} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
            Ok(bytes)
        })
    } else {
        Disk.read(path)
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) => {
            output::error(format_args!("cannot read `{}`: {error}", shown_path(path)));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let good = error.as_bytes().get(..at).unwrap_or_default();
            let line = good.split(|byte| *byte == b'\n').count();
            output::error(format_args!(
                "{}:{line}: not UTF-8; save the file as UTF-8",
                shown_path(path)
            ));
            None
        }
    }
}

/// Returns the command line as the user could type it again.
fn command(args: &InitArgs) -> Vec<String> {
    let mut words = vec!["trainguard".to_owned(), "init".to_owned()];
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([name.to_owned(), value]);
        }
    };
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    option("--framework", Some(args.framework.clone()));
    option("--hosts", args.hosts.as_ref().map(path));
    if args.hosts.is_some() {
        option("--hosts-format", args.hosts_format.as_written());
    }
    option("--nodelist", args.nodelist.clone());
    option("--resolve", args.resolve.as_ref().map(path));
    option("--servers", args.servers.map(|servers| servers.to_string()));
    option("--scheduler", args.scheduler.clone());
    for interface in &args.interfaces {
        option("--interface", Some(interface.clone()));
    }
    for network in &args.networks {
        option("--network", Some(network.clone()));
    }
    option("--name", args.name.clone());
    words
}

fn deliver(args: &InitArgs, draft: &Draft) -> Exit {
    if args.output == Path::new(STANDARD) {
        let policy = &draft.policy_name;
        output::answer(format_args!(
            "# ==== {MANIFEST} ====\n{}---\n# ==== {policy} ====\n{}",
            draft.manifest,
            draft.policy.trim_end()
        ));
        output::message(format_args!(
            "save the two documents as `DIR/{MANIFEST}` and `DIR/{policy}`"
        ));
        next(Path::new("DIR"), draft);
        return Exit::Yes;
    }
    let manifest = args.output.join(MANIFEST);
    let policy = args.output.join(&draft.policy_name);
    // The manifest is written last, so that its policy exists when the manifest appears.
    let files = [(&policy, &draft.policy), (&manifest, &draft.manifest)];
    if !args.force {
        let existing = files.iter().filter(|(path, _)| fs::symlink_metadata(path).is_ok());
        let existing: Vec<String> =
            existing.map(|(path, _)| format!("`{}`", shown_path(path))).collect();
        if !existing.is_empty() {
            output::error(format_args!("already exists: {}", existing.join(" and ")));
            output::hint("overwrite with --force, or choose another directory with --output DIR");
            return Exit::NoAnswer;
        }
    }
    if let Err(error) = fs::create_dir_all(&args.output) {
        output::error(format_args!("cannot create `{}`: {error}", shown_path(&args.output)));
        return Exit::NoAnswer;
    }
    for (path, text) in files {
        if let Err(error) = write(&args.output, path, text, args.force) {
            output::error(format_args!("cannot write `{}`: {error}", shown_path(path)));
            return Exit::NoAnswer;
        }
    }
    output::message(format_args!(
        "wrote `{}` with {} nodes, and `{}`",
        shown_path(&manifest),
        draft.members.len(),
        shown_path(&policy),
    ));
    next(&args.output, draft);
    Exit::Yes
}

/// Prints the next steps for the written files.
fn next(directory: &Path, draft: &Draft) {
    let manifest = shown_path(&directory.join(MANIFEST));
    let policy = shown_path(&directory.join(&draft.policy_name));
    output::message(format_args!(
        "next:\n  1. check addresses, roles and interfaces in `{manifest}`\n  2. trainguard lint \
         {}\n  3. observe first: write `mode: observe` for every service in `{policy}`, start\n     \
         `trainguard daemon --manifest {manifest}` on the nodes, run a job, and see in\n     \
         `trainguard stats --once` what would be dropped\n  4. write `mode: enforce` once no \
         packets of the cluster are counted there\nfor an editor that validates the files: \
         `trainguard schema cluster > {}`,\nand the same for policy",
        shown_path(directory),
        shown_path(&directory.join("cluster.schema.json"))
    ));
}

/// Writes a file atomically: completely or not at all.
fn write(directory: &Path, path: &Path, text: &str, replace: bool) -> io::Result<()> {
    // The umask applies, as for any new file.
    let permissions = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new()
        .prefix(".trainguard-init-")
        .permissions(permissions)
        .tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    let kept = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    kept.map(|_| ()).map_err(|error| error.error)
}
