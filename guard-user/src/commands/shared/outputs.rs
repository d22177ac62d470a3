//! The files that `lint --output` writes. All are opened before the checks begin, so that an
//! unwritable path is reported at once. They are truncated only when the findings are written.

use std::{
    fs::{File, Metadata},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    cli::{LintArgs, LintOutput},
    report::lint::{Findings, LintFormat},
    text::shown_path,
};

/// Stands for standard output among the paths.
const STDOUT: &str = "-";

/// The destinations of the findings.
#[derive(Debug)]
pub(crate) struct Outputs {
    /// Format on standard output.
    pub(crate) format: LintFormat,
    files: Vec<Output>,
}

#[derive(Debug)]
struct Output {
    format: LintFormat,
    path: PathBuf,
    file: File,
    /// Device and inode number; none for devices and pipes, which several outputs may share.
    identity: Option<(u64, u64)>,
}

fn identity(metadata: &Metadata) -> Option<(u64, u64)> {
    metadata.is_file().then(|| (metadata.dev(), metadata.ino()))
}

impl Outputs {
    /// Opens all files, without truncating them. The error names the path that failed.
    pub(crate) fn open(args: &LintArgs) -> Result<Self, String> {
        let mut format = args.format;
        let mut files: Vec<Output> = Vec::new();
        for LintOutput { format: wanted, path } in &args.outputs {
            if path == Path::new(STDOUT) {
                if format.replace(*wanted).is_some() {
                    return Err(
                        "standard output can have only one format, but `--format` and `--output \
                         ...=-` give several"
                            .to_owned(),
                    );
                }
                continue;
            }
            let shown = shown_path(path);
            let opened = File::options().write(true).create(true).truncate(false).open(path);
            let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
            let (metadata, file) =
                opened.map_err(|error| format!("cannot write `{shown}`: {error}"))?;
            let identity = identity(&metadata);
            if identity.is_some() && files.iter().any(|other| other.identity == identity) {
                return Err(format!("two `--output` options name `{shown}`"));
            }
            files.push(Output { format: *wanted, path: path.clone(), file, identity });
        }
        Ok(Self { format: format.unwrap_or(LintFormat::Full), files })
    }

    /// Writes the findings to each file. The error lists the files that could not be written.
    pub(crate) fn write(&mut self, findings: &Findings<'_>) -> Result<(), String> {
        let sources = || findings.report.sources.iter().map(|(_, source)| &source.path);
        let mut problems = Vec::new();
        for Output { format, path, file, identity } in &mut self.files {
            let shown = shown_path(path);
            let is_source = |source: &PathBuf| {
                source.metadata().is_ok_and(|metadata| self::identity(&metadata) == *identity)
            };
            if identity.is_some() && sources().any(is_source) {
                problems.push(format!(
                    "`{shown}` is one of the checked files, so it was not overwritten"
                ));
                continue;
            }
            // Devices and pipes cannot be truncated.
            let empty = if identity.is_some() { file.set_len(0) } else { Ok(()) };
            let text = findings.render(*format, false);
            if let Err(error) = empty.and_then(|()| file.write_all(text.as_bytes())) {
                problems.push(format!("cannot write `{shown}`: {error}"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }
}
