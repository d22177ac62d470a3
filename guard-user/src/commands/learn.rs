//! `trainguard learn`: proposes a policy that admits exactly the sources that were seen.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    ops::ControlFlow,
    path::{Component, Path, PathBuf},
};

use super::shared::{load, proposal};
use crate::{
    capture::{self, events},
    cli::LearnArgs,
    exit::Exit,
    host,
    learn::connection_tracker::ConnectionTracker,
    output::{self, Format},
    policy::{self, Disk, Files as _, Loaded, Node, Placement},
    report::{
        self,
        learn::{Documents, Learned},
    },
    text::shown_path,
};

/// Runs `trainguard learn`.
pub fn run(args: &LearnArgs) -> Exit {
    let Some(loaded) = load::load(&args.manifest, &Disk) else { return Exit::NoAnswer };
    let node = match loaded.find_node(&host::node_choice(args.node.as_deref())) {
        Ok(node) => node,
        Err(error) => {
            output::error(error);
            return Exit::NoAnswer;
        }
    };
    let tracker = match observe(args, node) {
        Ok(tracker) => tracker,
        Err(exit) => return exit,
    };
    match learn(args, &loaded, node, &tracker) {
        Ok(learned) => {
            match args.format {
                Format::Json => output::answer_json(&learned),
                Format::Text => report::learn::print(&learned),
            }
            deliver(args, &loaded, learned.documents.as_ref())
        }
        Err(problem) => {
            output::error(problem);
            Exit::NoAnswer
        }
    }
}

/// Returns the observed connections of the node. Prints an error if there are none.
fn observe(args: &LearnArgs, node: &Node) -> Result<ConnectionTracker, Exit> {
    let mut tracker = ConnectionTracker::new(&node.addresses);
    let read = match args.capture() {
        Some(path) => read(path, &mut tracker),
        None => return from_daemon(args, node, tracker),
    };
    let read = read.and_then(|()| {
        if tracker.of_node > 0 {
            return Ok(());
        }
        Err(format!(
            "no frame of the capture is from or to `{}`; capture at this node, or select another \
             one with --node",
            node.name
        ))
    });
    match read {
        Ok(()) => Ok(tracker),
        Err(problem) => {
            output::error(problem);
            Err(Exit::NoAnswer)
        }
    }
}

fn read(path: &Path, tracker: &mut ConnectionTracker) -> Result<(), String> {
    let shown = shown_path(path);
    let mut input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path);
        Box::new(file.map_err(|error| format!("cannot open `{shown}`: {error}"))?)
    };
    let start = events::beginning(&mut input).map_err(|error| format!("`{shown}`: {error}"))?;
    let are_events = events::begins_like_events(&start);
    let input = start.chain(input);
    let next = ControlFlow::Continue(());
    let read = if are_events {
        events::events(input, |event| tracker.add_event(event).map(|()| next))
    } else {
        capture::read(input, |frame| {
            tracker.add(&frame);
            next
        })
        .map(drop)
    };
    read.map_err(|error| format!("`{shown}`: {error}"))
}

/// Reads the events that the daemon keeps.
#[cfg(feature = "daemon")]
fn from_daemon(
    args: &LearnArgs,
    node: &Node,
    mut tracker: ConnectionTracker,
) -> Result<ConnectionTracker, Exit> {
    use super::events::{self, Reader};

    let past = Reader::new(args.daemon.client()).past();
    let past = past.map_err(|error| events::refuse(&error))?;
    let wanted =
        past.iter().filter(|event| args.since.is_none_or(|since| events::is_since(event, since)));
    for event in wanted {
        // Events of a daemon that guards another node say nothing about this node.
        if let Some(other) = event.node.as_deref().filter(|other| *other != node.name) {
            output::error(format_args!(
                "the daemon guards `{}`, not `{}`",
                policy::syntax::text::shown(other),
                node.name
            ));
            return Err(Exit::NoAnswer);
        }
        if let Err(problem) = tracker.add_event(event) {
            output::error(problem);
            return Err(Exit::NoAnswer);
        }
    }
    if tracker.of_node == 0 {
        output::message("note: the daemon has no events about refused packets");
    }
    tracker.from_events = true;
    Ok(tracker)
}

#[cfg(not(feature = "daemon"))]
fn from_daemon(
    _args: &LearnArgs,
    _node: &Node,
    _tracker: ConnectionTracker,
) -> Result<ConnectionTracker, Exit> {
    Err(Exit::NoAnswer)
}

fn learn(
    args: &LearnArgs,
    loaded: &Loaded,
    node: &Node,
    tracker: &ConnectionTracker,
) -> Result<Learned, String> {
    let compiled =
        policy::compile(loaded, node, &Placement::default()).map_err(|error| error.to_string())?;
    let mut learned = Learned::of(tracker, node, &args.manifest);
    let made = proposal::make(
        &args.manifest,
        loaded,
        node,
        &compiled,
        tracker,
        (args.aggregate(), &learned.watched),
    )?;
    learned.add(&made.classified, &made.services, &loaded.cluster);
    learned.entries = made.admitted;
    learned.left_out = made.left_out;
    learned.documents = made.documents;
    Ok(learned)
}

/// Writes the documents to the directory of `--output`, if there is one.
fn deliver(args: &LearnArgs, loaded: &Loaded, documents: Option<&Documents>) -> Exit {
    let Some(directory) = &args.output else { return Exit::Yes };
    let Some(documents) = documents else {
        output::message("there is nothing to propose; no file was written");
        return Exit::Yes;
    };
    match write(directory, &args.manifest, loaded, documents) {
        Ok(manifest) => {
            let manifest = shown_path(&manifest);
            output::message(format_args!(
                "wrote the proposal; compare and check it:\n  trainguard diff {} {manifest}\n  \
                 trainguard lint {manifest}",
                shown_path(&args.manifest)
            ));
            Exit::Yes
        }
        Err(problem) => {
            output::error(problem);
            Exit::NoAnswer
        }
    }
}

/// Creates `directory`, and writes into it the manifest, the new policy, and the files below the
/// manifest's directory that the manifest names. Returns the path of the written manifest.
fn write(
    directory: &Path,
    manifest: &Path,
    loaded: &Loaded,
    documents: &Documents,
) -> Result<PathBuf, String> {
    let base = manifest.parent().unwrap_or(Path::new(""));
    let name = manifest.file_name().ok_or("the manifest has no name")?;
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for path in loaded.bundle.paths().filter(|path| *path != manifest) {
        let below = path
            .strip_prefix(base)
            .ok()
            .filter(|below| below.components().all(|part| matches!(part, Component::Normal(_))));
        let below = below.ok_or_else(|| {
            format!(
                "`{}` is not below the manifest's directory, so --output cannot copy it; apply the \
                 printed diff instead",
                shown_path(path)
            )
        })?;
        let bytes = Disk.read(path).map_err(|error| format!("`{}`: {error}", shown_path(path)))?;
        files.push((below.to_owned(), bytes));
    }
    if let (Some(file), Some(text)) = (&documents.policy_file, &documents.policy) {
        files.push((file.into(), text.clone().into_bytes()));
    }
    // The manifest is written last, so that the files that it names exist when it appears.
    files.push((name.into(), documents.manifest.clone().into_bytes()));
    let failed =
        |path: &Path, error: io::Error| format!("cannot write `{}`: {error}", shown_path(path));
    fs::create_dir(directory).map_err(|error| failed(directory, error))?;
    for (below, bytes) in files {
        let path = directory.join(below);
        let parent = path.parent().unwrap_or(directory);
        fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        let mut file = File::create_new(&path).map_err(|error| failed(&path, error))?;
        file.write_all(&bytes).map_err(|error| failed(&path, error))?;
    }
    Ok(directory.join(name))
}
