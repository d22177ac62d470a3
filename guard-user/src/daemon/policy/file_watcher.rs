//! Detection of changed files.
//!
//! The files are checked every [`Timing::files`]. Inotify would not do: a manifest on NFS, or a
//! `ConfigMap` that is swapped by a symlink three directories up, changes without an event at a watched
//! path.
//!
//! Decision: `docs/decisions/0025-files-are-polled.md`.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    daemon::timing::Timing,
    policy::{Disk, Files as _, compile::hash},
};

/// Maximum size in bytes of a file that is read for [`FileWatcher::digest`]; the maximum of a document.
const MAX_DIGESTED: u64 = 64 << 20;

/// Metadata that identify a version of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for FileVersion {
    fn from(metadata: Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl FileVersion {
    /// Returns whether this is the same file with other contents: written in place, not replaced by
    /// another file.
    fn is_rewritten(&self, before: &Self) -> bool {
        let identity = |file: &Self| (file.device, file.inode);
        identity(self) == identity(before)
            && (self.size, self.modified) != (before.size, before.modified)
    }
}

/// The version of the file at each path; none if there is no file.
type Seen = Vec<(PathBuf, Option<FileVersion>)>;

/// Watches paths and glob patterns.
#[derive(Debug)]
pub(crate) struct FileWatcher {
    /// Number of successive checks for which a file that is written in place must be unchanged. The
    /// first half of a policy may be a valid policy, and a copy over a slow link pauses now and then.
    checks_at_rest: u32,
    paths: Vec<PathBuf>,
    /// The files when they were last loaded.
    loaded: Seen,
    /// The files at the last check.
    seen: Seen,
    /// Number of further checks without a change before the files are considered complete.
    wait: u32,
}

impl FileWatcher {
    /// Starts without paths.
    pub(crate) fn new(timing: &Timing) -> Self {
        Self {
            checks_at_rest: timing.checks_at_rest(),
            paths: Vec::new(),
            loaded: Seen::new(),
            seen: Seen::new(),
            wait: 0,
        }
    }

    /// Records the present files as loaded. Called before the files are read, so that a change while
    /// they are read is noticed.
    pub(crate) fn mark(&mut self) {
        self.loaded = current_versions(&self.paths);
        self.seen.clone_from(&self.loaded);
        self.wait = 0;
    }

    /// Watches these paths and patterns from now on, unless they are the same as before. The files were
    /// read at `began` or later. A file that was written since then may be newer than the version that
    /// was read.
    pub(crate) fn set_paths(&mut self, paths: Vec<PathBuf>, began: SystemTime) {
        if self.paths == paths {
            return;
        }
        self.paths = paths;
        self.mark();
        let began = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Timestamps of files are as coarse as the kernel's timer tick.
        let began = i64::try_from(began.as_secs()).unwrap_or(i64::MAX) - 1;
        for (_, version) in &mut self.loaded {
            if version.as_ref().is_some_and(|version| version.changed.0 >= began) {
                *version = None;
            }
        }
    }

    /// Treats all files as changed.
    pub(crate) fn forget(&mut self) {
        for (_, version) in &mut self.loaded {
            *version = None;
        }
    }

    /// Returns whether the files differ from those loaded and are complete. A file that replaced
    /// another one was complete before it was renamed, so one check without a change is enough. A file
    /// that was written in place must be unchanged for [`Timing::rest`].
    pub(crate) fn changed(&mut self) -> bool {
        let now = current_versions(&self.paths);
        if now != self.seen {
            let in_place = is_rewritten(&now, &self.seen) || is_rewritten(&now, &self.loaded);
            self.wait = if in_place { self.checks_at_rest } else { self.wait.max(1) };
            self.seen = now;
            return false;
        }
        self.wait = self.wait.saturating_sub(1);
        self.wait == 0 && now != self.loaded
    }
}

impl FileWatcher {
    /// Returns whether the files differ from those that were last loaded, complete or not.
    pub(crate) fn differs(&self) -> bool {
        current_versions(&self.paths) != self.loaded
    }

    /// Returns the SHA-256 over the files, as computed by [`crate::policy::Bundle::hash`]. None if
    /// there are no files, or one of them is too large or cannot be read.
    pub(crate) fn digest(&self, manifest: &Path) -> Option<[u8; 32]> {
        let files = current_versions(&self.paths).into_iter().map(|(path, version)| {
            let size = version.as_ref().map(|version| version.size);
            // Not by `fs::read`, which blocks forever on a pipe.
            let bytes =
                size.filter(|size| *size <= MAX_DIGESTED).and_then(|_| Disk.read(&path).ok());
            Some((path, bytes?))
        });
        let files: Vec<(PathBuf, Vec<u8>)> = files.collect::<Option<_>>()?;
        let files = files.iter().map(|(path, bytes)| (path.as_path(), bytes.as_slice()));
        (!self.paths.is_empty()).then(|| hash::of_files(manifest, files))
    }
}

/// Returns whether one of the files was written in place since `before`.
fn is_rewritten(now: &Seen, before: &Seen) -> bool {
    now.iter().any(|(path, file)| {
        let earlier = before.iter().find(|(known, _)| known == path);
        let files = file.as_ref().zip(earlier.and_then(|(_, file)| file.as_ref()));
        files.is_some_and(|(file, earlier)| file.is_rewritten(earlier))
    })
}

fn current_versions(paths: &[PathBuf]) -> Seen {
    let mut found = Vec::new();
    for path in paths {
        // An existing path is used literally, even if it contains pattern characters.
        if path.exists() || !is_pattern(path) {
            found.push(with_version(path));
        } else if let Some(matches) = path.to_str().and_then(|text| glob::glob(text).ok()) {
            found.extend(matches.flatten().map(|path| with_version(&path)));
        }
    }
    found
}

fn with_version(path: &Path) -> (PathBuf, Option<FileVersion>) {
    (path.to_owned(), fs::metadata(path).ok().map(FileVersion::from))
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching(paths: Vec<PathBuf>) -> FileWatcher {
        let mut watch = FileWatcher::new(&Timing::default());
        watch.set_paths(paths, SystemTime::now());
        watch.mark();
        watch
    }

    #[test]
    fn a_file_that_was_written_while_it_was_read_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("m.yaml");
        fs::write(&file, "").expect("a file");
        let mut watch = FileWatcher::new(&Timing::default());
        watch.set_paths(vec![file], SystemTime::now());
        assert!(watch.changed());
        watch.mark();
        assert!(!watch.changed());
    }

    #[test]
    fn a_digest_covers_all_files_or_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = ["a", "b"].map(|name| dir.path().join(name));
        let watch = watching(files.to_vec());
        assert_eq!(watch.digest(Path::new("m.yaml")), None);
        let digest = |texts: [&str; 2]| {
            for (file, text) in files.iter().zip(texts) {
                fs::write(file, text).expect("a file");
            }
            watch.digest(Path::new("m.yaml")).expect("a digest")
        };
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_eq!(digest(["ab", "c"]), digest(["ab", "c"]));
        assert!(watch.differs());
        assert_eq!(watching(Vec::new()).digest(Path::new("m.yaml")), None);
    }

    #[test]
    fn a_swapped_symlink_is_a_change() {
        let dir = tempfile::tempdir().expect("a directory");
        for version in ["one", "two"] {
            fs::create_dir(dir.path().join(version)).expect("a directory");
            fs::write(dir.path().join(version).join("m.yaml"), version).expect("a file");
        }
        let current = dir.path().join("current");
        std::os::unix::fs::symlink("one", &current).expect("a link");
        let mut watch = watching(vec![current.join("m.yaml")]);
        assert!(!watch.changed());
        let next = dir.path().join("next");
        std::os::unix::fs::symlink("two", &next).expect("a link");
        fs::rename(&next, &current).expect("the swap");
        assert!(!watch.changed(), "it must be unchanged at a second check");
        assert!(watch.changed());
        watch.mark();
        assert!(!watch.changed());
    }

    #[test]
    fn a_file_that_is_written_in_place_must_be_unchanged_for_longer_than_a_replaced_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("m.yaml");
        fs::write(&file, "all of it").expect("a file");
        let mut watch = watching(vec![file.clone()]);
        let checks = |watch: &mut FileWatcher| (1..100).find(|_| watch.changed());

        let next = dir.path().join("next");
        fs::write(&next, "another").expect("a file");
        fs::rename(&next, &file).expect("replacing");
        assert_eq!(checks(&mut watch), Some(2));
        watch.mark();

        fs::write(&file, "half").expect("writing in place");
        for _ in 0..watch.checks_at_rest {
            assert!(!watch.changed(), "the write may continue");
        }
        fs::write(&file, "half and half").expect("writing the rest");
        assert_eq!(checks(&mut watch), Some(1 + watch.checks_at_rest));
        watch.mark();
        assert_eq!(checks(&mut watch), None);

        // A new file that grows between the checks.
        fs::remove_file(&file).expect("removing");
        fs::write(&file, "h").expect("a new file");
        assert!(!watch.changed());
        fs::write(&file, "ha").expect("more of it");
        assert_eq!(checks(&mut watch), Some(1 + watch.checks_at_rest));
    }

    #[test]
    fn a_new_file_that_matches_a_pattern_is_a_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut watch = watching(vec![dir.path().join("*.yaml")]);
        fs::write(dir.path().join("a.yaml"), "").expect("a file");
        assert!(!watch.changed());
        assert!(watch.changed());
        watch.mark();
        fs::remove_file(dir.path().join("a.yaml")).expect("removing");
        assert!(!watch.changed());
        assert!(watch.changed());
    }
}
