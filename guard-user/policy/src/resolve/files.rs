//! Where files come from: the disk, or a bundle of what an earlier load read.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::compile::hash;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a document or list file.
pub const MAX_BYTES: u64 = 64 << 20;

/// What a load may ask of a file system.
pub trait Files {
    /// The bytes of a file.
    ///
    /// # Errors
    /// The file is not there, is no regular file, or has more than 64 MiB.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The paths that match a pattern, sorted.
    ///
    /// # Errors
    /// The pattern is no pattern.
    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>>;
}

/// Sees that an open file is a regular one.
///
/// # Errors
/// It is something else.
pub fn require_regular(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(())
}

/// The bytes of an open, regular file.
///
/// # Errors
/// It has more than [`MAX_BYTES`], or cannot be read.
pub fn read_whole(file: File) -> io::Result<Vec<u8>> {
    let too_large = |len: u64| {
        let message = format!("has {len} bytes, at most {MAX_BYTES} are read");
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    };
    let len = file.metadata()?.len();
    if len > MAX_BYTES {
        return Err(too_large(len));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    let len = bytes.len() as u64;
    // The file may have grown since.
    if len > MAX_BYTES {
        return Err(too_large(len));
    }
    Ok(bytes)
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // Without O_NONBLOCK, opening a pipe waits for a writer that may never come.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        require_regular(&file)?;
        read_whole(file)
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let invalid = |message: &str| io::Error::new(io::ErrorKind::InvalidInput, message);
        let text = pattern.to_str().ok_or_else(|| invalid("the pattern is not UTF-8"))?;
        let paths = glob::glob(text).map_err(|error| invalid(error.msg))?;
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>().map_err(io::Error::from)?;
        paths.sort();
        Ok(paths)
    }
}

/// Everything that a load read: loading from it gives the same policy again, whatever has become
/// of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Path of the manifest.
    pub manifest: PathBuf,
    #[serde(serialize_with = "write_texts", deserialize_with = "read_texts")]
    texts: BTreeMap<PathBuf, Arc<str>>,
    globs: BTreeMap<PathBuf, Vec<PathBuf>>,
}

impl Bundle {
    /// A bundle of texts, for tests and for standard input.
    pub fn new(
        manifest: impl Into<PathBuf>,
        texts: impl IntoIterator<Item = (impl Into<PathBuf>, impl Into<Arc<str>>)>,
    ) -> Self {
        Self {
            manifest: manifest.into(),
            texts: texts.into_iter().map(|(path, text)| (path.into(), text.into())).collect(),
            globs: BTreeMap::new(),
        }
    }

    /// Whether it has the same texts, wherever they lie.
    pub fn has_texts_of(&self, other: &Self) -> bool {
        let sorted = |bundle: &Self| {
            let mut texts: Vec<Arc<str>> = bundle.texts.values().cloned().collect();
            texts.sort();
            texts
        };
        sorted(self) == sorted(other)
    }

    /// SHA-256 over the files in it: the same on all nodes that have the same files.
    pub fn hash(&self) -> [u8; 32] {
        let files = self.texts.iter().map(|(path, text)| (path.as_path(), text.as_bytes()));
        hash::of_files(&self.manifest, files)
    }

    /// The files in it, by their paths from the directory of the manifest.
    pub fn relative(&self) -> impl Iterator<Item = (&Path, &str)> {
        let directory = self.manifest.parent().unwrap_or(Path::new(""));
        self.texts
            .iter()
            .map(move |(path, text)| (path.strip_prefix(directory).unwrap_or(path), &**text))
    }

    /// Paths of the files in it.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.texts.keys().map(PathBuf::as_path)
    }
}

impl Files for Bundle {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = self.texts.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.as_bytes().to_vec())
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        if let Some(paths) = self.globs.get(pattern) {
            return Ok(paths.clone());
        }
        let invalid =
            |error: glob::PatternError| io::Error::new(io::ErrorKind::InvalidInput, error.msg);
        let text = pattern.to_string_lossy();
        let pattern = glob::Pattern::new(&text).map_err(invalid)?;
        let paths = self.texts.keys().filter(|path| pattern.matches_path(path));
        Ok(paths.cloned().collect())
    }
}

fn write_texts<S: Serializer>(
    texts: &BTreeMap<PathBuf, Arc<str>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(texts.iter().map(|(path, text)| (path, &**text)))
}

fn read_texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<PathBuf, Arc<str>>, D::Error> {
    let texts: BTreeMap<PathBuf, String> = BTreeMap::deserialize(deserializer)?;
    Ok(texts.into_iter().map(|(path, text)| (path, text.into())).collect())
}

/// Reads from other files and remembers what it read.
pub(crate) struct Recorder<'f> {
    files: &'f dyn Files,
    bundle: RefCell<Bundle>,
    asked: RefCell<Vec<PathBuf>>,
}

impl<'f> Recorder<'f> {
    pub(crate) fn new(files: &'f dyn Files) -> Self {
        Self { files, bundle: RefCell::default(), asked: RefCell::default() }
    }

    /// The bytes of a file. [`Recorder::keep`] puts them into the bundle once they are a text.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.asked.borrow_mut().push(path.to_owned());
        self.files.read(path)
    }

    pub(crate) fn keep(&self, path: &Path, text: Arc<str>) {
        self.bundle.borrow_mut().texts.insert(path.to_owned(), text);
    }

    pub(crate) fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        self.asked.borrow_mut().push(pattern.to_owned());
        let paths = self.files.glob(pattern)?;
        let mut bundle = self.bundle.borrow_mut();
        bundle.globs.insert(pattern.to_owned(), paths.clone());
        Ok(paths)
    }

    /// What was read, and every path and pattern that was asked for.
    pub(crate) fn finish(self, manifest: &Path) -> (Bundle, Vec<PathBuf>) {
        let mut bundle = self.bundle.into_inner();
        manifest.clone_into(&mut bundle.manifest);
        let mut asked = self.asked.into_inner();
        asked.sort();
        asked.dedup();
        (bundle, asked)
    }
}
