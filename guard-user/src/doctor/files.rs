//! Who may change a file: its owner and mode, and those of every directory and link on the way.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use super::facts::{Owned, PolicyFile, Seen};

/// Links that are followed on the way to one file, as many as the kernel follows (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Looks at some files and at all on the way to them, each once, sorted by path. What does not
/// exist is left out: patterns are asked for as well.
pub(super) fn on_the_way(paths: &[PathBuf]) -> Seen<Vec<PolicyFile>> {
    let mut found = BTreeMap::new();
    for path in paths {
        match walk(path, &mut found) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Seen::Hidden(format!("`{}`: {error}", path.display()));
            }
            _ => {}
        }
    }
    Seen::Known(found.into_values().collect())
}

/// Owner and mode of what a path leads to; none if there is nothing.
pub(super) fn owned(path: &Path) -> Option<Seen<Owned>> {
    match fs::metadata(path) {
        Ok(metadata) => Some(Seen::Known(of(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Seen::Hidden(error.to_string())),
    }
}

fn of(metadata: &fs::Metadata) -> Owned {
    Owned { uid: metadata.uid(), mode: metadata.mode() & 0o7777 }
}

fn walk(path: &Path, found: &mut BTreeMap<PathBuf, PolicyFile>) -> io::Result<()> {
    let absolute = std::path::absolute(path)?;
    let mut rest: VecDeque<OsString> = parts(&absolute);
    let mut at = PathBuf::from("/");
    look(&at, found)?;
    let mut links = 0;
    while let Some(next) = rest.pop_front() {
        if next == ".." {
            at.pop();
            continue;
        }
        let here = at.join(&next);
        if look(&here, found)? != "link" {
            at = here;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let target = fs::read_link(&here)?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for part in parts(&target).into_iter().rev() {
            rest.push_front(part);
        }
    }
    Ok(())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|component| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        _ => None,
    });
    parts.collect()
}

/// Notes what is at a path; its kind.
fn look(path: &Path, found: &mut BTreeMap<PathBuf, PolicyFile>) -> io::Result<&'static str> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = match metadata.file_type() {
        kind if kind.is_symlink() => "link",
        kind if kind.is_dir() => "directory",
        kind if kind.is_file() => "file",
        _ => "other",
    };
    let file = PolicyFile { path: path.to_owned(), kind, owned: of(&metadata) };
    found.insert(path.to_owned(), file);
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_and_everything_on_the_way_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let base = directory.path().canonicalize().expect("a path");
        fs::create_dir(base.join("real")).expect("a directory");
        fs::write(base.join("real/policy.yaml"), "").expect("a file");
        symlink("real", base.join("data")).expect("a link");
        symlink("data/policy.yaml", base.join("policy.yaml")).expect("a link");
        symlink("loop", base.join("loop")).expect("a link");

        let seen = on_the_way(&[base.join("policy.yaml"), base.join("*.none")]);
        let found = seen.known().expect("all of it");
        let kind = |name: &str| {
            let path = base.join(name);
            found.iter().find(|file| file.path == path).map(|file| file.kind)
        };
        assert_eq!(kind("policy.yaml"), Some("link"));
        assert_eq!(kind("data"), Some("link"));
        assert_eq!(kind("real"), Some("directory"));
        assert_eq!(kind("real/policy.yaml"), Some("file"));
        assert!(found.iter().any(|file| file.path == Path::new("/")));
        assert!(on_the_way(&[base.join("loop")]).known().is_none(), "it leads nowhere");
    }
}
