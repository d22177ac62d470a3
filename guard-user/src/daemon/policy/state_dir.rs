//! The state directory: the last known good policy, the secret of the hashed buckets, the trial, the
//! mode override, and the last accepted signature. All of them survive a reboot.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result};
use serde::{Serialize, de::DeserializeOwned};

use super::documents::{Accepted, ActiveOverride, Trial};
use crate::{
    api::versioned::{self, Unreadable},
    daemon::trusted_files,
    policy::Bundle,
};

const LAST_GOOD: &str = "last-good.json";
const KEY: &str = "hash-key";
const TRIAL: &str = "trial.json";
/// Prefix of the names of files that are not complete.
const UNFINISHED_PREFIX: &str = ".unfinished-";
const MODE: &str = "mode.json";
const ACCEPTED: &str = "accepted.json";

/// `schema` of each JSON file. Files without `schema` are older than the field and have this version.
const SCHEMA: &str = "trainguard/state/v1";

/// A file to be written.
#[derive(Serialize)]
struct Versioned<'a, T> {
    schema: &'static str,
    #[serde(flatten)]
    document: &'a T,
}

/// The state directory.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    directory: PathBuf,
}

impl StateDir {
    /// Names the directory; it need not exist.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Removes incomplete files of daemons that were killed while writing. Must be called while no
    /// other daemon uses the directory. The next call tries again to remove files that cannot be
    /// removed.
    pub(crate) fn tidy(&self) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED_PREFIX) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Returns the path of the last known good policy.
    pub(crate) fn last_good_path(&self) -> PathBuf {
        self.directory.join(LAST_GOOD)
    }

    /// Returns the last known good policy with all its files: the one that was last switched to. None
    /// if there was none.
    pub(crate) fn last_good(&self) -> Result<Option<Bundle>> {
        self.read(LAST_GOOD)
    }

    /// Saves the last known good policy.
    pub(crate) fn keep(&self, bundle: &Bundle) -> Result<()> {
        self.write(LAST_GOOD, bundle)
    }

    /// Returns the trial in progress; none if there is none.
    pub(crate) fn trial(&self) -> Result<Option<Trial>> {
        self.read(TRIAL)
    }

    /// Saves a trial.
    pub(crate) fn keep_trial(&self, trial: &Trial) -> Result<()> {
        self.write(TRIAL, trial)
    }

    /// Returns the signature that was accepted last; none if there was none.
    pub(crate) fn accepted(&self) -> Result<Option<Accepted>> {
        self.read(ACCEPTED)
    }

    /// Saves the signature that was accepted last.
    pub(crate) fn keep_accepted(&self, accepted: &Accepted) -> Result<()> {
        self.write(ACCEPTED, accepted)
    }

    /// Returns the mode override; none if the policy's modes are in force.
    pub(crate) fn mode(&self) -> Result<Option<ActiveOverride>> {
        self.read(MODE)
    }

    /// Saves a mode override.
    pub(crate) fn keep_mode(&self, wanted: &ActiveOverride) -> Result<()> {
        self.write(MODE, wanted)
    }

    /// Removes the mode override, if there is one.
    pub(crate) fn forget_mode(&self) -> Result<()> {
        self.forget(MODE)
    }

    /// Removes the trial, if there is one.
    pub(crate) fn forget_trial(&self) -> Result<()> {
        self.forget(TRIAL)
    }

    fn forget(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing `{}`", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.directory.join(name);
        // A file that another user could have written is not used.
        match trusted_files::read(&path) {
            Ok(bytes) => versioned::read(&bytes, SCHEMA)
                .map(Some)
                .with_context(|| format!("reading `{}`", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
        }
    }

    fn write(&self, name: &str, document: &impl Serialize) -> Result<()> {
        self.replace(name, |file| {
            let mut writer = io::BufWriter::new(file);
            serde_json::to_writer(&mut writer, &Versioned { schema: SCHEMA, document })?;
            writer.flush()
        })
    }

    /// Returns the secret of the hashed buckets, and creates it if there is none. If it cannot be
    /// saved, also returns the reason: the next daemon will create another secret, under which sources
    /// share buckets differently.
    pub(crate) fn key(&self) -> Result<([u64; 2], Option<Error>)> {
        let path = self.directory.join(KEY);
        if let Some(key) = trusted_files::read(&path).ok().as_deref().and_then(two_words) {
            return Ok((key, None));
        }
        let mut bytes = [0; 16];
        File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).context(
            "reading random bytes from `/dev/urandom` for the secret of the hashed buckets",
        )?;
        let kept = self.replace(KEY, |file| file.write_all(&bytes));
        Ok((two_words(&bytes).context("16 bytes are two words")?, kept.err()))
    }

    /// Replaces a file atomically: after a crash or a power cut, either the old or the new file is
    /// there.
    fn replace(&self, name: &str, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
        let path = self.directory.join(name);
        let replaced = (|| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            let mut file =
                tempfile::Builder::new().prefix(UNFINISHED_PREFIX).tempfile_in(&self.directory)?;
            file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
            write(file.as_file_mut())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(&self.directory)?.sync_all()
        })();
        replaced.with_context(|| format!("writing `{}`", path.display()))
    }
}

/// Returns whether an error is about a file of another version of trainguard, which may still need the
/// file.
pub(crate) fn is_of_another_version(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(Unreadable::OtherSchema { .. }))
}

fn two_words(bytes: &[u8]) -> Option<[u64; 2]> {
    let ([first, second], []) = bytes.as_chunks::<8>() else { return None };
    Some([u64::from_ne_bytes(*first), u64::from_ne_bytes(*second)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_created_once_and_the_bundle_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::at(&dir.path().join("state"));
        let (key, problem) = state.key().expect("a key");
        assert_ne!(key, [0, 0]);
        assert!(problem.is_none());
        assert_eq!(state.key().expect("a key").0, key);
        assert_eq!(state.last_good().expect("no file is fine"), None);
        let bundle = Bundle::new("m.yaml", [("m.yaml", "text")]);
        state.keep(&bundle).expect("writing");
        assert_eq!(state.last_good().expect("reading"), Some(bundle));
    }

    #[test]
    fn only_unfinished_files_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::at(dir.path());
        state.keep(&Bundle::new("m.yaml", [("m.yaml", "text")])).expect("writing");
        fs::write(dir.path().join(format!("{UNFINISHED_PREFIX}x1")), "half").expect("writing");
        state.tidy();
        let left = fs::read_dir(dir.path()).expect("a directory").flatten();
        let names: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(names, [LAST_GOOD]);
        StateDir::at(Path::new("/dev/null/state")).tidy();
    }

    #[test]
    fn a_key_that_cannot_be_saved_is_returned_with_a_problem() {
        let (key, problem) = StateDir::at(Path::new("/dev/null/state")).key().expect("a key");
        assert_ne!(key, [0, 0]);
        assert!(problem.is_some_and(|problem| problem.to_string().contains("/dev/null/state")));
    }

    #[test]
    fn a_damaged_bundle_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::at(dir.path());
        fs::write(dir.path().join(LAST_GOOD), b"{\"manifest\": 7").expect("writing");
        assert!(state.last_good().is_err());
    }

    /// Returns files that daemons wrote before these files had a `schema`, byte for byte.
    fn without_schema() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline/data/state");
        for name in [LAST_GOOD, TRIAL, MODE, ACCEPTED, KEY] {
            fs::copy(data.join(name), dir.path().join(name)).expect("a copy");
        }
        let state = StateDir::at(dir.path());
        (dir, state)
    }

    #[test]
    fn files_without_a_schema_are_read_and_written_with_one() {
        let (dir, state) = without_schema();
        let bundle = state.last_good().expect("a policy").expect("one");
        assert_eq!(bundle.manifest, Path::new("/etc/trainguard/cluster.yaml"));
        let trial = state.trial().expect("a trial").expect("one");
        assert_eq!(trial.bundle.manifest, Path::new("/etc/trainguard/trial.yaml"));
        let mode = state.mode().expect("a mode").expect("one");
        let accepted = state.accepted().expect("a signature").expect("one");
        assert_eq!(accepted.serial, 7);
        let key = *b"\xf3\x74\x69\x13\xcd\xd7\x52\x66\x12\xfc\x07\x18\xe1\x4e\xfc\x5e";
        assert_eq!(Some(state.key().expect("a key").0), two_words(&key));

        // When they are written again they have a `schema`; all other fields are as an older daemon
        // wrote them.
        state.keep(&bundle).expect("writing");
        state.keep_trial(&trial).expect("writing");
        state.keep_mode(&mode).expect("writing");
        state.keep_accepted(&accepted).expect("writing");
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline/data/state");
        for name in [LAST_GOOD, TRIAL, MODE, ACCEPTED] {
            let fields = |directory: &Path| -> serde_json::Value {
                let text = fs::read(directory.join(name)).expect("a file");
                serde_json::from_slice(&text).expect("JSON")
            };
            let (mut now, before) = (fields(dir.path()), fields(&data));
            let schema = now.as_object_mut().expect("an object").remove("schema");
            assert_eq!(schema, Some(SCHEMA.into()), "{name}");
            assert_eq!(now, before, "{name}");
        }
        assert_eq!(state.last_good().expect("reading"), Some(bundle));
    }

    #[test]
    fn a_file_of_another_version_is_not_read_and_stays() {
        let (dir, state) = without_schema();
        let text = fs::read_to_string(dir.path().join(MODE)).expect("a file");
        let later_schema = text.replacen('{', "{\"schema\":\"trainguard/state/v2\",", 1);
        fs::write(dir.path().join(MODE), &later_schema).expect("writing");
        let error = state.mode().expect_err("another version");
        assert!(is_of_another_version(&error));
        let said = format!("{error:#}");
        assert!(said.contains(MODE) && said.contains("trainguard/state/v2"), "{said}");
        assert!(said.contains(SCHEMA), "{said}");
    }
}
