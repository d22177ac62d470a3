//! Sources of files: the disk, or a bundle of the files that an earlier load read.

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

/// Maximum size of a document or list file, in bytes.
pub const MAX_BYTES: u64 = 64 << 20;

/// The file operations that a load needs.
pub trait Files {
    /// Reads a file.
    ///
    /// # Errors
    /// The file does not exist, is not a regular file, cannot be read, or is larger than [`MAX_BYTES`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Returns the paths that match a glob pattern, sorted.
    ///
    /// # Errors
    /// The pattern is invalid, or a directory cannot be read.
    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>>;
}

/// Checks that an open file is a regular file.
///
/// # Errors
/// The file is a directory or another kind of file, or its metadata cannot be read.
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

/// Reads an open regular file to its end.
///
/// # Errors
/// The file is larger than [`MAX_BYTES`], or cannot be read.
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
    // The file may have grown since its size was read.
    if len > MAX_BYTES {
        return Err(too_large(len));
    }
    Ok(bytes)
}

/// Reads files from the file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // Without O_NONBLOCK, opening a named pipe blocks until a writer opens it.
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

/// All files and glob results of a load. Loading from a bundle gives the same policy again, even if the
/// files have changed since.
///
/// # Examples
///
/// ```
/// use guard_policy::{Bundle, Files};
/// use std::path::Path;
///
/// let texts = [("m.yaml", "policies: [p.yaml]\n"), ("p.yaml", "name: p\n")];
/// let bundle = Bundle::new("m.yaml", texts);
/// assert_eq!(bundle.read(Path::new("p.yaml"))?, b"name: p\n");
/// assert_eq!(bundle.glob(Path::new("p*.yaml"))?, [Path::new("p.yaml")]);
/// assert!(bundle.read(Path::new("q.yaml")).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Path of the manifest.
    pub manifest: PathBuf,
    #[serde(serialize_with = "write_texts", deserialize_with = "read_texts")]
    texts: BTreeMap<PathBuf, Arc<str>>,
    globs: BTreeMap<PathBuf, Vec<PathBuf>>,
}

impl Bundle {
    /// Makes a bundle from texts, for tests and for standard input.
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

    /// Reports whether both bundles have the same texts, regardless of the paths.
    pub fn has_texts_of(&self, other: &Self) -> bool {
        let sorted = |bundle: &Self| {
            let mut texts: Vec<Arc<str>> = bundle.texts.values().cloned().collect();
            texts.sort();
            texts
        };
        sorted(self) == sorted(other)
    }

    /// Returns SHA-256 of the files: equal on all nodes that have the same files, in whatever
    /// directory.
    pub fn hash(&self) -> [u8; 32] {
        let files = self.texts.iter().map(|(path, text)| (path.as_path(), text.as_bytes()));
        hash::of_files(&self.manifest, files)
    }

    /// Iterates over the files: the path relative to the directory of the manifest, and the text. A
    /// file outside that directory keeps its whole path.
    pub fn relative(&self) -> impl Iterator<Item = (&Path, &str)> {
        let directory = self.manifest.parent().unwrap_or(Path::new(""));
        self.texts
            .iter()
            .map(move |(path, text)| (path.strip_prefix(directory).unwrap_or(path), &**text))
    }

    /// Iterates over the paths of the files.
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

/// Reads files and records them in a bundle.
pub(crate) struct Recorder<'f> {
    files: &'f dyn Files,
    bundle: RefCell<Bundle>,
    asked: RefCell<Vec<PathBuf>>,
}

impl<'f> Recorder<'f> {
    pub(crate) fn new(files: &'f dyn Files) -> Self {
        Self { files, bundle: RefCell::default(), asked: RefCell::default() }
    }

    /// Reads a file. [`Recorder::keep`] adds it to the bundle once it is known to be UTF-8.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.asked.borrow_mut().push(path.to_owned());
        self.files.read(path)
    }

    pub(crate) fn keep(&self, path: &Path, text: Arc<str>) {
        self.bundle.borrow_mut().texts.insert(path.to_owned(), text);
    }

    /// Returns the files themselves, for a look that is no part of the load.
    pub(crate) fn unrecorded(&self) -> &'f dyn Files {
        self.files
    }

    pub(crate) fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        self.asked.borrow_mut().push(pattern.to_owned());
        let paths = self.files.glob(pattern)?;
        let mut bundle = self.bundle.borrow_mut();
        bundle.globs.insert(pattern.to_owned(), paths.clone());
        Ok(paths)
    }

    /// Returns the bundle, and every path and pattern that was requested, sorted.
    pub(crate) fn finish(self, manifest: &Path) -> (Bundle, Vec<PathBuf>) {
        let mut bundle = self.bundle.into_inner();
        manifest.clone_into(&mut bundle.manifest);
        let mut asked = self.asked.into_inner();
        asked.sort();
        asked.dedup();
        (bundle, asked)
    }
}
