//! `trainguard doctor`: finds what would prevent this node from being guarded.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::{
    api::client::Client,
    cli::DoctorArgs,
    doctor::{
        Diagnosis, State,
        gather::{self, Gathered, Scope},
        redact::{self, Names},
    },
    exit::Exit,
    output::{self, Format},
    policy::{Disk, Files as _},
    report,
    text::shown_path,
};

/// Runs `trainguard doctor`.
pub fn run(args: &DoctorArgs) -> Exit {
    if let Some(manifest) = &args.manifest
        && let Err(error) = Disk.read(manifest)
    {
        output::error(format_args!("cannot read `{}`: {error}", shown_path(manifest)));
        return Exit::NoAnswer;
    }
    // Opened before the checks, so that an unwritable path is reported at once.
    let file = match args.report.as_deref().map(create).transpose() {
        Ok(file) => file,
        Err(problem) => {
            output::error(problem);
            return Exit::NoAnswer;
        }
    };
    let client = args.daemon.client();
    let scope = Scope {
        manifest: args.manifest.as_deref(),
        node: args.node.as_deref(),
        interfaces: &args.interfaces,
        client: &client,
        bpf_dir: &args.daemon.directories.bpf_dir,
        state_dir: &args.state_dir,
    };
    let found = match gather::gather(&scope) {
        Ok(found) => found,
        Err(error) => {
            output::system_error(&error);
            return Exit::NoAnswer;
        }
    };
    let diagnosis = Diagnosis::of(&found.facts);
    match args.format {
        Format::Json => output::answer_json(&diagnosis),
        Format::Text => report::doctor::print(&diagnosis),
    }
    if let (Some(file), Some(path)) = (file, &args.report) {
        if let Err(error) = write(file, &found, &diagnosis, &client) {
            let shown = shown_path(path);
            output::error(format_args!("writing `{shown}`: {error}"));
            return Exit::NoAnswer;
        }
        output::message(format_args!(
            "wrote the report to `{}`; review it before you send it",
            shown_path(path)
        ));
    }
    exit(&diagnosis)
}

fn exit(diagnosis: &Diagnosis) -> Exit {
    match diagnosis.checks.iter().map(|check| check.state).max() {
        Some(State::Failed) => Exit::No,
        Some(State::Unknown) => Exit::NoAnswer,
        _ => Exit::Yes,
    }
}

/// Creates the file of a report, readable by its owner only. An existing file is not overwritten.
fn create(path: &Path) -> Result<File, String> {
    let made = File::options().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| {
        let shown = shown_path(path);
        if error.kind() == io::ErrorKind::AlreadyExists {
            return format!("`{shown}` already exists; give --report the path of a new file");
        }
        format!("cannot write `{shown}`: {error}")
    })
}

fn write(
    mut file: File,
    found: &Gathered,
    diagnosis: &Diagnosis,
    client: &Client,
) -> io::Result<()> {
    let names = Names::of(found.loaded.as_ref().map(|loaded| &loaded.cluster));
    let document = redact::report(diagnosis, &found.facts, redact::records(client), names);
    let text = serde_json::to_string_pretty(&document).map_err(io::Error::from)?;
    writeln!(file, "{text}")
}
