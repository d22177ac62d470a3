//! Owners and modes of the files of a policy, of the path to them, and of directories.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::facts::{MaybeHidden, Ownership, PolicyFile};
use crate::file_permissions;

/// Returns the owners and modes of files, and of all directories and links on the way to them, each
/// once, sorted by path. Paths that do not exist are left out, because `paths` may contain
/// patterns.
pub(super) fn path_entries(paths: &[PathBuf]) -> MaybeHidden<Vec<PolicyFile>> {
    let mut found = BTreeMap::new();
    for path in paths {
        match walk(path, &mut found) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return MaybeHidden::Hidden(format!("`{}`: {error}", path.display()));
            }
            _ => {}
        }
    }
    MaybeHidden::Known(found.into_values().collect())
}

/// Returns owner and mode of a path, following links; none if it does not exist.
pub(super) fn owned(path: &Path) -> Option<MaybeHidden<Ownership>> {
    match fs::metadata(path) {
        Ok(metadata) => Some(MaybeHidden::Known(of(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(MaybeHidden::Hidden(error.to_string())),
    }
}

fn of(metadata: &fs::Metadata) -> Ownership {
    Ownership { uid: metadata.uid(), mode: metadata.mode() & 0o7777 }
}

fn walk(path: &Path, found: &mut BTreeMap<PathBuf, PolicyFile>) -> io::Result<()> {
    let mut note = |passed: PolicyFile| {
        found.insert(passed.path.clone(), passed);
        Ok(())
    };
    match file_permissions::walk(path, &mut note) {
        Ok(end) => note(end.stat()?),
        // The directory was recorded on the way; lint reports that it is not a file.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::file_permissions::EntryKind;

    #[test]
    fn links_are_followed_and_all_path_entries_are_reported() {
        let directory = tempfile::tempdir().expect("a directory");
        let base = directory.path().canonicalize().expect("a path");
        fs::create_dir(base.join("real")).expect("a directory");
        fs::write(base.join("real/policy.yaml"), "").expect("a file");
        symlink("real", base.join("data")).expect("a link");
        symlink("data/policy.yaml", base.join("policy.yaml")).expect("a link");
        symlink("loop", base.join("loop")).expect("a link");

        let seen = path_entries(&[base.join("policy.yaml"), base.join("*.none")]);
        let found = seen.known().expect("a readable path");
        let kind = |name: &str| {
            let path = base.join(name);
            found.iter().find(|file| file.path == path).map(|file| file.kind)
        };
        assert_eq!(kind("policy.yaml"), Some(EntryKind::Link));
        assert_eq!(kind("data"), Some(EntryKind::Link));
        assert_eq!(kind("real"), Some(EntryKind::Directory));
        assert_eq!(kind("real/policy.yaml"), Some(EntryKind::File));
        assert!(found.iter().any(|file| file.path == Path::new("/")));
        assert!(path_entries(&[base.join("loop")]).known().is_none(), "a link to itself");
    }
}
