//! `trainguard learn`: what would let exactly those in who were seen?

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    ops::ControlFlow,
    path::{Component, Path, PathBuf},
};

use super::{offline, proposal};
use crate::{
    capture,
    cli::{Format, LearnArgs},
    exit::Exit,
    learn::watch::Watch,
    machine,
    policy::{self, Disk, Files as _, Loaded, Placement},
    report::{
        self,
        learn::{Documents, Learned},
        lint::shown_path,
    },
};

/// Runs the verb.
pub fn run(args: &LearnArgs) -> Exit {
    let Some(loaded) = offline::load(&args.manifest, &Disk) else { return Exit::NoAnswer };
    match learn(args, &loaded) {
        Ok(learned) => {
            match args.format {
                Format::Json => report::answer_json(&learned),
                Format::Text => report::learn::print(&learned),
            }
            deliver(args, &loaded, learned.documents.as_ref())
        }
        Err(problem) => {
            report::error(problem);
            Exit::NoAnswer
        }
    }
}

fn learn(args: &LearnArgs, loaded: &Loaded) -> Result<Learned, String> {
    let node = loaded
        .find_node(&machine::node_choice(args.node.as_deref()))
        .map_err(|error| error.to_string())?;
    let compiled =
        policy::compile(loaded, node, &Placement::default()).map_err(|error| error.to_string())?;
    let shown = shown_path(&args.capture);
    let input: Box<dyn Read> = if args.capture == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&args.capture);
        Box::new(file.map_err(|error| format!("cannot open `{shown}`: {error}"))?)
    };
    let mut watch = Watch::new(&node.addresses);
    capture::read(input, |frame| {
        watch.add(&frame);
        ControlFlow::Continue(())
    })
    .map_err(|error| format!("`{shown}`: {error}"))?;
    if watch.of_node == 0 {
        return Err(format!(
            "no frame of the capture is from or to `{}`; capture at the node, or name another with \
             --node",
            node.name
        ));
    }
    let mut learned = Learned::of(&watch, node, &args.manifest);
    let made = proposal::make(
        &args.manifest,
        loaded,
        node,
        &compiled,
        &watch,
        (args.aggregate(), &learned.watched),
    )?;
    learned.add(&made.judged, &made.services, &loaded.cluster);
    learned.entries = made.admitted;
    learned.left_out = made.left_out;
    learned.documents = made.documents;
    Ok(learned)
}

/// Writes the documents where that is wished.
fn deliver(args: &LearnArgs, loaded: &Loaded, documents: Option<&Documents>) -> Exit {
    let Some(directory) = &args.output else { return Exit::Yes };
    let Some(documents) = documents else {
        report::talk("nothing is proposed, nothing was written");
        return Exit::Yes;
    };
    match write(directory, &args.manifest, loaded, documents) {
        Ok(manifest) => {
            let manifest = shown_path(&manifest);
            report::talk(format_args!(
                "wrote the proposal; compare and check it:\n  trainguard diff {} {manifest}\n  \
                 trainguard lint {manifest}",
                shown_path(&args.manifest)
            ));
            Exit::Yes
        }
        Err(problem) => {
            report::error(problem);
            Exit::NoAnswer
        }
    }
}

/// Writes the manifest, the new policy, and what the manifest names beside it, into a directory that
/// is made for it. The path of the manifest there.
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
                "`{}` is not beside the manifest, so no copy of both would hold together; take the \
                 printed diff instead of --output",
                shown_path(path)
            )
        })?;
        let bytes = Disk.read(path).map_err(|error| format!("`{}`: {error}", shown_path(path)))?;
        files.push((below.to_owned(), bytes));
    }
    if let (Some(file), Some(text)) = (&documents.policy_file, &documents.policy) {
        files.push((file.into(), text.clone().into_bytes()));
    }
    // The manifest last: who sees it finds what it names.
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
