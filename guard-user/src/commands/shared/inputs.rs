//! The input files of a subcommand: named files, files in directories, and standard input.

use std::{
    cell::RefCell,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::policy::{Disk, Files, resolve::files::MAX_BYTES};

/// Stands for standard input among the paths.
pub(crate) const STDIN: &str = "-";
/// Maximum depth of the directory search.
const MAX_DEPTH: usize = 32;

/// The input files of a subcommand.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// Files named on the command line.
    pub(crate) named: Vec<PathBuf>,
    /// Files found in directories.
    pub(crate) found: Vec<PathBuf>,
    /// Directories that could not be searched, with the error.
    pub(crate) problems: Vec<(PathBuf, String)>,
}

impl Inputs {
    /// Resolves paths to files. In directories, takes the files that `wanted` selects. Standard
    /// input is read once and stored in `files`.
    pub(crate) fn find(paths: &[PathBuf], wanted: impl Fn(&Path) -> bool, files: &Overlay) -> Self {
        let mut inputs = Self::default();
        for path in paths {
            if path == Path::new(STDIN) {
                if !inputs.named.contains(path) {
                    files.read_stdin();
                    inputs.named.push(path.clone());
                }
            } else if path.is_dir() {
                inputs.search(path, &wanted, 0);
            } else {
                inputs.named.push(path.clone());
            }
        }
        inputs
    }

    fn search(&mut self, directory: &Path, wanted: &impl Fn(&Path) -> bool, depth: usize) {
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
            // Symbolic links to directories are not followed, because they may form cycles.
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            if is_directory && !hidden && depth < MAX_DEPTH {
                self.search(&path, wanted, depth + 1);
            } else if !hidden && wanted(&path) {
                let plain = path.strip_prefix(".").unwrap_or(&path).to_owned();
                self.found.push(plain);
            }
        }
    }
}

/// The files on disk, with replaced contents for some paths: standard input, an older policy, a
/// fixed file.
#[derive(Debug, Default)]
pub(crate) struct Overlay(RefCell<Vec<(PathBuf, Text)>>);

/// The bytes of a file, or the error of reading it.
type Text = Result<Arc<[u8]>, (io::ErrorKind, String)>;

impl Overlay {
    /// Replaces the contents of a file. Contents longer than `MAX_BYTES` become an error.
    pub(crate) fn put(&self, path: PathBuf, bytes: io::Result<Vec<u8>>) {
        let bytes = bytes.and_then(|bytes| {
            if bytes.len() as u64 > MAX_BYTES {
                let message = format!("is longer than {MAX_BYTES} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
            Ok(bytes.into())
        });
        let bytes = bytes.map_err(|error| (error.kind(), error.to_string()));
        let mut texts = self.0.borrow_mut();
        texts.retain(|(known, _)| *known != path);
        texts.push((path, bytes));
    }

    /// Reads standard input, and stores it under the path `-`.
    pub(crate) fn read_stdin(&self) {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes);
        self.put(PathBuf::from(STDIN), read.map(|_| bytes));
    }
}

impl Files for Overlay {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let texts = self.0.borrow();
        match texts.iter().find(|(known, _)| known == path) {
            Some((_, Ok(bytes))) => Ok(bytes.to_vec()),
            Some((_, Err((kind, message)))) => Err(io::Error::new(*kind, message.clone())),
            None => Disk.read(path),
        }
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        Disk.glob(pattern)
    }
}
