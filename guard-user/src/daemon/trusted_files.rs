//! Reading of files that only root or the daemon's own user can have written: policy files, and the
//! daemon's own state. The rules are those of [`crate::file_permissions`].
//!
//! Decision: `docs/decisions/0023-files-are-walked.md`.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
    unistd::geteuid,
};

use crate::{
    file_permissions::{self, Fault, Ownership, PathEntry, PathTarget},
    policy::{Disk, Files, resolve::files},
};

/// The file system, restricted to files that can be trusted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TrustedFiles;

impl Files for TrustedFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = open_trusted(path)?;
        files::read_whole(file)
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        Disk.glob(pattern)
    }
}

/// Opens a file for reading.
///
/// # Errors
/// The file does not exist, or a user other than root and the daemon's own can write to it or replace
/// it. The error names that user or mode and the command that corrects it.
pub(super) fn open_trusted(path: &Path) -> io::Result<File> {
    let PathTarget { directory, name, path } =
        file_permissions::walk(path, &mut |entry| require(&entry))?;
    // Without `O_NONBLOCK`, opening a pipe would wait for a writer that may never come. Without
    // `O_NOCTTY`, a terminal could become the daemon's controlling terminal.
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let file = File::from(openat(&directory, &*name, flags, Mode::empty())?);
    files::require_regular(&file)?;
    require(&PathEntry::file(path, &file)?)?;
    Ok(file)
}

/// Fails if users other than root and the daemon's own can change this file, directory or link.
fn require(entry: &PathEntry) -> io::Result<()> {
    let own = geteuid().as_raw();
    let Some(fault) = entry.fault(&[own]) else { return Ok(()) };
    let shown = entry.path.display();
    let Ownership { uid, mode } = entry.owned;
    let why = match fault {
        Fault::Owner => {
            let who = if own == 0 {
                String::new()
            } else {
                format!(" or user {own}, as which the daemon runs")
            };
            format!("`{shown}` belongs to user {uid}, expected root{who}: `chown` it")
        }
        Fault::Writable => {
            format!("other users may write to `{shown}` (mode {mode:04o}): `chmod go-w` it")
        }
        Fault::Shared => format!(
            "other users may put files into the directory `{shown}` (mode {mode:04o}): `chmod \
             go-w` it"
        ),
        Fault::Kind => format!("`{shown}` is not a regular file"),
        Fault::HardLinks => format!(
            "`{shown}` has {} hard links, and one of them may be in a directory that other users \
             can write to: replace the file with a copy",
            entry.names
        ),
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Reads a file of the daemon's own state.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_trusted(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, chown, symlink},
        time::{Duration, Instant},
    };

    use nix::unistd::mkfifo;

    use super::*;

    const TEXT: &[u8] = b"text";

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    }

    fn why(path: &Path) -> String {
        let began = Instant::now();
        let error = TrustedFiles.read(path).expect_err("it is refused");
        assert!(began.elapsed() < Duration::from_secs(1), "no waiting");
        error.to_string()
    }

    /// Case 128.
    #[test]
    fn files_that_other_users_may_write_are_rejected() {
        let dir = tempfile::tempdir().expect("a directory");
        let (inner, file) = (dir.path().join("inner"), dir.path().join("inner/file"));
        fs::create_dir(&inner).expect("a directory");
        fs::write(&file, TEXT).expect("a file");
        assert_eq!(TrustedFiles.read(&file).expect("a file of our own"), TEXT);
        for (path, mode, part) in [
            (&file, 0o664, "other users may write to"),
            (&file, 0o646, "mode 0646"),
            (&inner, 0o775, "other users may put files into the directory"),
            (&inner, 0o757, "inner` (mode 0757)"),
        ] {
            let before = fs::metadata(path).expect("a mode").permissions().mode();
            set_mode(path, mode);
            let error = why(&file);
            assert!(error.contains(part) && error.contains("chmod go-w"), "{mode:o}: {error}");
            set_mode(path, before);
        }
        // A sticky directory, as /tmp is: the files in it are checked instead.
        set_mode(&inner, 0o1777);
        assert_eq!(TrustedFiles.read(&file).expect("a sticky directory"), TEXT);
        fs::hard_link(&file, dir.path().join("another name")).expect("a hard link");
        assert!(why(&file).contains("2 hard links"), "{}", why(&file));
        fs::remove_file(dir.path().join("another name")).expect("removing");
        if geteuid().is_root() {
            for path in [&file, &inner] {
                chown(path, Some(1000), None).expect("another owner");
                let error = why(&file);
                assert!(error.contains("belongs to user 1000, expected root"), "{error}");
                chown(path, Some(0), None).expect("the owner");
            }
        }
        assert_eq!(TrustedFiles.read(&file).expect("as before"), TEXT);
    }

    #[test]
    fn links_are_followed_if_all_entries_on_the_path_are_trusted() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(at(version)).expect("a directory");
            fs::write(at(version).join("file"), version).expect("a file");
        }
        symlink("one", at("data")).expect("a link");
        symlink("data/file", at("file")).expect("a link");
        symlink(at("two").join("../one/./file"), at("absolute")).expect("a link");
        for link in ["file", "absolute"] {
            assert_eq!(TrustedFiles.read(&at(link)).expect("a link"), b"one", "{link}");
        }
        set_mode(&at("one"), 0o777);
        for link in ["file", "absolute"] {
            assert!(why(&at(link)).contains("one` (mode 0777)"), "{}", why(&at(link)));
        }
        set_mode(&at("one"), 0o755);
        symlink("around", at("around")).expect("a link");
        assert!(why(&at("around")).contains("symbolic links"), "{}", why(&at("around")));
        if geteuid().is_root() {
            std::os::unix::fs::lchown(at("data"), Some(1000), None).expect("another owner");
            assert!(
                why(&at("file")).contains("data` belongs to user 1000"),
                "{}",
                why(&at("file"))
            );
        }
    }

    #[test]
    fn files_that_are_not_regular_are_rejected_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        for path in [&pipe, Path::new("/dev/null"), Path::new("/dev/tty"), dir.path()] {
            let error = TrustedFiles.read(path).expect_err("no file").to_string();
            let expected = ["not a regular file", "directory", "No such device"]
                .iter()
                .any(|p| error.contains(p));
            assert!(expected, "{}: {error}", path.display());
        }
        assert!(
            TrustedFiles
                .read(&dir.path().join("nothing"))
                .is_err_and(|error| { error.kind() == io::ErrorKind::NotFound })
        );
        assert!(TrustedFiles.read(&pipe.join("below")).is_err());
    }
}
