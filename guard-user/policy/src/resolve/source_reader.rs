//! Reads the files of a policy, each once, into one report.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::files::{Bundle, Files, Recorder};
use crate::syntax::{
    diagnostic::{Diagnostic, FileId, Location, Report, Span},
    rules,
    walk::nearest,
};

/// The files read so far, and the findings about them.
pub(crate) struct SourceReader<'f> {
    pub(crate) files: Recorder<'f>,
    pub(crate) report: Report,
    /// Files by normalised path; none for a file that could not be read.
    known: BTreeMap<PathBuf, Option<(FileId, Arc<str>)>>,
    /// Whether comments that silence rules are read.
    pub(crate) heeds_ignores: bool,
}

impl<'f> SourceReader<'f> {
    /// Makes a reader that has read nothing.
    pub(crate) fn new(files: &'f dyn Files) -> Self {
        Self {
            files: Recorder::new(files),
            report: Report::default(),
            known: BTreeMap::new(),
            heeds_ignores: true,
        }
    }

    /// Returns the report, the files that were read, and every path and pattern that was requested.
    pub(crate) fn finish(mut self, manifest: &Path) -> (Report, Bundle, Vec<PathBuf>) {
        self.report.finish();
        let (bundle, sources) = self.files.finish(manifest);
        (self.report, bundle, sources)
    }

    /// Returns the text of a file. Reports a file that cannot be read, at `named` if another file names
    /// it.
    pub(crate) fn open(
        &mut self,
        path: &Path,
        named: Option<Location>,
    ) -> Option<(FileId, Arc<str>)> {
        let normal = normal(path);
        if let Some(Some(known)) = self.known.get(&normal) {
            return Some(known.clone());
        }
        let tried = self.known.contains_key(&normal);
        let bytes = match self.files.read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if !tried || named.is_some() {
                    self.unreadable(path, named, &error);
                }
                self.known.insert(normal, None);
                return None;
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => {
                let text: Arc<str> = text.into();
                self.files.keep(path, Arc::clone(&text));
                let file = self.report.sources.add(path, Arc::clone(&text));
                if self.heeds_ignores {
                    self.report.read_ignores(file, &text);
                }
                self.known.insert(normal, Some((file, Arc::clone(&text))));
                Some((file, text))
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let bytes = error.into_bytes();
                let byte = bytes.get(at).copied().unwrap_or_default();
                let shown = String::from_utf8_lossy(&bytes);
                let file = self.report.sources.add(path, shown.into());
                let span = Span::new(at, at + 1);
                let message = format!("the byte 0x{byte:02x} is not UTF-8");
                let finding = Diagnostic::error(rules::CHARACTER, Location { file, span }, message)
                    .help("save the file as UTF-8");
                self.report.push(finding);
                self.known.insert(normal, None);
                None
            }
        }
    }

    fn unreadable(&mut self, path: &Path, named: Option<Location>, error: &io::Error) {
        let (code, place) = if let Some(place) = named {
            (rules::MISSING_FILE, place)
        } else {
            let file = self.report.sources.add(path, "".into());
            (rules::UNREADABLE, start_of(file))
        };
        let too_large = error.kind() == io::ErrorKind::FileTooLarge;
        let code = if too_large { rules::BUDGET } else { code };
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!("the file `{}` does not exist", path.display()),
            io::ErrorKind::FileTooLarge => format!("the file `{}` {error}", path.display()),
            _ => format!("cannot read `{}`: {error}", path.display()),
        };
        self.report.unreadable |= !too_large;
        let finding = Diagnostic::error(code, place, message);
        let near =
            (error.kind() == io::ErrorKind::NotFound).then(|| self.near_file(path)).flatten();
        self.report.push(match near {
            Some(near) => finding.help(format!("did you mean `{near}`?")),
            None => finding,
        });
    }

    /// Returns the YAML file beside a missing one whose name is most similar, for a hint. Looks only
    /// into directories from which files were read: a manifest must not list others.
    fn near_file(&self, path: &Path) -> Option<String> {
        let name = path.file_name()?.to_str()?;
        let missing = normal(path);
        if !self.known.keys().any(|known| known.parent() == missing.parent()) {
            return None;
        }
        let beside = self.files.unrecorded().glob(&path.with_file_name("*.y*ml")).ok()?;
        let names = beside.iter().filter_map(|file| file.file_name()?.to_str());
        nearest(name, names).map(str::to_owned)
    }
}

/// Returns the location of the first byte of a file.
pub(crate) fn start_of(file: FileId) -> Location {
    Location { file, span: Span::default() }
}

/// Returns a path without `.` components, for comparing paths. A `..` stays, because the component
/// before it may be a symbolic link.
pub(crate) fn normal(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
}
