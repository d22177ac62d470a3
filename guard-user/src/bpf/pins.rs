//! The pin directory: `<bpf-dir>/v<layout version>/` holds the shared maps by name and the links as
//! `link-<interface>`, or `link-<interface>:tcx` for the tc hook. If an interface was renamed to a
//! name that no pattern matches, its link is `link-<interface>:from:<previous name>`.
//!
//! Existing pins are not trusted: the path contains the layout version, and the properties that the
//! kernel reports for a pinned map are compared with those that this binary would create.
//!
//! Decision: `docs/decisions/0015-pins-are-restored.md`.
//! Decision: `docs/decisions/0018-pins-stay-in-sys-fs-bpf.md`.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::MapInfo;
use aya_obj::Object;
use guard_common::{layout::LAYOUT_VERSION, names};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::{
        statfs::{FsType, Statfs, statfs},
        statvfs::{FsFlags, statvfs},
    },
};

use super::{
    link::Link,
    pinned_maps::PinnedMaps,
    takeover::{self, OtherGuard},
};
use crate::{
    attach_mode::Hook, embedded_object::kernel_object, file_permissions, sys,
    system_error::SystemError,
};

/// Magic number of a bpf file system (`BPF_FS_MAGIC`, include/uapi/linux/magic.h).
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
/// Inode of the root of every bpf file system (`simple_fill_super`, fs/libfs.c).
const BPF_FS_ROOT: u64 = 1;
/// The usual mount point of the bpf file system.
const BPF_FS: &str = "/sys/fs/bpf";
const LINK_PREFIX: &str = "link-";
/// Separates the name of an interface from the name by which it was selected. Interface names contain
/// no colon (`dev_valid_name`, net/core/dev.c).
const RENAMED_FROM_SEPARATOR: &str = ":from:";
/// Suffix of a link of the tc hook. During a change of mode, an interface can have a link of each
/// hook.
const TC_SUFFIX: &str = ":tcx";

/// The layout version that this process uses.
static VERSION: AtomicU32 = AtomicU32::new(LAYOUT_VERSION);

/// Sets the layout version of this process. For the test binary that simulates an upgrade and a
/// downgrade; the contents of the maps stay those of this layout.
#[doc(hidden)]
pub fn set_layout_version(version: u32) {
    VERSION.store(version, Ordering::Relaxed);
}

fn own_version() -> u32 {
    VERSION.load(Ordering::Relaxed)
}

/// The pin directory of a guard.
///
/// A value is only a path: nothing is opened or created before one of the methods does so.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
}

/// A pinned link.
#[derive(Debug)]
pub struct PinnedLink {
    /// Name of the interface when the link was pinned.
    pub interface: String,
    /// Name by which the interface was selected before it was renamed to a name that no pattern
    /// matches.
    pub renamed_from: Option<String>,
    /// The link, opened from the pin.
    pub link: Link,
}

impl PinnedLink {
    /// Returns the name by which the interface was selected.
    pub fn selected_as(&self) -> &str {
        self.renamed_from.as_deref().unwrap_or(&self.interface)
    }
}

/// Descriptors of the shared maps, kept so that the maps can be pinned again.
#[derive(Debug)]
pub struct HeldMaps(Vec<(&'static str, OwnedFd)>);

/// An exclusive lock of a pin directory, held while a daemon uses it.
#[derive(Debug)]
pub struct PinLock {
    directory: Flock<fs::File>,
}

impl PinLock {
    /// Reports whether this is still the lock of that directory. It is not if the directory was
    /// replaced.
    pub fn is_of(&self, pins: &Pins) -> bool {
        let identity = |metadata: io::Result<fs::Metadata>| {
            metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()))
        };
        identity(self.directory.metadata()) == identity(fs::metadata(&pins.root))
    }
}

impl Pins {
    /// Creates a value for a directory, which need not exist.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Reports whether the directory exists.
    ///
    /// # Errors
    /// The directory cannot be examined, for example because of missing permissions.
    pub fn exists(&self) -> Result<bool, SystemError> {
        match fs::metadata(&self.root) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                let what = format!("examining the pin directory `{}`", self.root.display());
                Err(SystemError::of(what, error))
            }
        }
    }

    /// Changes the owner of everything that root has pinned to the owner of the directory, so that
    /// the user of the service can continue if the command of root is killed. Failures are only
    /// logged: a user without access to the pins gets an error from the kernel.
    pub fn hand_over(&self) {
        if nix::unistd::geteuid().is_root()
            && let Err(error) = file_permissions::hand_over(&self.root)
        {
            tracing::warn!("owner of `{}` not changed: {error}", self.root.display());
        }
    }

    /// Returns the directory of the pins of this layout version.
    pub fn directory(&self) -> PathBuf {
        self.root.join(format!("v{}", own_version()))
    }

    /// Creates the pin directory and the directory of this layout version.
    ///
    /// # Errors
    /// As [`Pins::create_root`], or a symbolic link is in the place of the directory.
    pub fn create(&self) -> Result<(), SystemError> {
        self.create_root()?;
        let directory = self.directory();
        create_directory(&directory)?;
        if is_directory(&directory) {
            return Ok(());
        }
        let what = format!("`{}` is a symbolic link", directory.display());
        Err(SystemError::new(what).hint("remove the link: the pins must be in a real directory"))
    }

    /// Creates the pin directory with mode 0700, for root or the user of the daemon.
    ///
    /// # Errors
    /// The path is not on a writable bpf file system, is the root of a bpf file system, or cannot be
    /// created.
    pub fn create_root(&self) -> Result<(), SystemError> {
        let parent = self.root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        let known = statfs(parent)
            .map_err(|error| SystemError::of(parent.display(), io::Error::from(error)))?;
        if !is_bpf(&known) {
            return Err(SystemError::new(format!(
                "`{}` is not on a bpf file system",
                self.root.display()
            ))
            .hint(
                "mount one with `mount -t bpf bpf /sys/fs/bpf`, or choose another directory with \
                 `--bpf-dir`",
            ));
        }
        self.check_writable()?;
        // Other software may use the root of a bpf file system, so its mode is not changed. If the
        // unit has mounted a directory of the file system at this path, that directory belongs to the
        // guard like any other.
        let inode = fs::metadata(&self.root).ok().map(|metadata| metadata.ino());
        if inode == Some(BPF_FS_ROOT) {
            return Err(SystemError::new(format!(
                "`{}` is the root of a bpf file system, which other software may use",
                self.root.display()
            ))
            .hint("choose a directory below it with `--bpf-dir`; the daemon creates it"));
        }
        create_directory(&self.root)?;
        // Also for a directory that other software created: the mode is the only protection of the
        // pins.
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))
            .map_err(creating(&self.root))
    }

    /// Checks that the file system is not mounted read-only.
    ///
    /// # Errors
    /// It is: nothing can be pinned there, and pinned maps cannot be opened for writing
    /// (`bpf_obj_do_get`, kernel/bpf/inode.c).
    pub fn check_writable(&self) -> Result<(), SystemError> {
        let parent = self.root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        let known = statvfs(parent)
            .map_err(|error| SystemError::of(parent.display(), io::Error::from(error)))?;
        if !known.flags().contains(FsFlags::ST_RDONLY) {
            return Ok(());
        }
        let what = format!("the bpf file system of `{}` is mounted read-only", self.root.display());
        Err(SystemError::new(what)
            .hint("run `mount -o remount,rw` on its mount point; existing pins are kept"))
    }

    /// Locks the directory for this process, until the lock is dropped.
    ///
    /// # Errors
    /// Another daemon holds the lock, or the directory cannot be opened.
    pub fn lock(&self) -> Result<PinLock, SystemError> {
        let directory = fs::File::open(&self.root)
            .map_err(|error| SystemError::of(self.root.display(), error))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(directory) => Ok(PinLock { directory }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(SystemError::new(format!(
                "another trainguard daemon uses `{}`",
                self.root.display()
            ))
            .hint(
                "stop that daemon first, or start this one with other directories (`--bpf-dir`, \
                 `--run-dir`, `--state-dir`)",
            )),
            Err((_, error)) => Err(SystemError::of(self.root.display(), io::Error::from(error))),
        }
    }

    /// Opens the pinned shared maps.
    ///
    /// # Errors
    /// A map is not pinned or cannot be opened.
    pub fn hold_maps(&self) -> Result<HeldMaps, SystemError> {
        let held = names::SHARED_MAPS.into_iter().map(|name| {
            let opened = sys::open_pinned(&self.directory().join(name));
            let map = opened
                .map_err(|error| SystemError::of(format_args!("opening the pin {name}"), error))?;
            Ok((name, map))
        });
        Ok(HeldMaps(held.collect::<Result<_, _>>()?))
    }

    /// Pins the maps again whose pins were removed, and returns their number. Without the pins, the
    /// next generation would create new maps: with counters at zero and full buckets.
    pub fn restore_map_pins(&self, held: &HeldMaps) -> Result<usize, SystemError> {
        let HeldMaps(held) = held;
        let missing: Vec<_> =
            held.iter().filter(|(name, _)| !self.directory().join(name).exists()).collect();
        if !missing.is_empty() {
            self.create()?;
        }
        for (name, map) in &missing {
            sys::pin(map.as_fd(), &self.directory().join(name))
                .map_err(|error| SystemError::of(format_args!("pinning {name} again"), error))?;
        }
        Ok(missing.len())
    }

    /// Compares the pinned maps with those that this binary would create.
    ///
    /// # Errors
    /// At least one property differs; the message lists all differences. Or a map cannot be opened.
    pub fn check_layout(&self) -> Result<(), SystemError> {
        let Some(object) = kernel_object() else { return Ok(()) };
        let object = Object::parse(object)
            .map_err(|error| SystemError::of("reading the kernel object", error))?;
        let mut differences = Vec::new();
        for name in names::SHARED_MAPS {
            let path = self.directory().join(name);
            if !path.exists() {
                continue;
            }
            let Some(wanted) = object.maps.get(name) else { continue };
            let found =
                MapInfo::from_pin(&path).map_err(|error| SystemError::of(path.display(), error))?;
            let kind = found.map_type().map_or(0, |kind| kind as u32);
            let facts = [
                ("type", kind, wanted.map_type()),
                ("key size", found.key_size(), wanted.key_size()),
                ("value size", found.value_size(), wanted.value_size()),
                ("entries", found.max_entries(), wanted.max_entries()),
                ("flags", found.map_flags(), wanted.map_flags()),
            ];
            for (what, found, wanted) in facts {
                // The kernel rounds the size of the ring up to whole pages, and reports no key and
                // value size for it.
                let ring = name == names::MAP_EVENTS && what != "type" && what != "entries";
                if found != wanted && !ring {
                    differences.push(format!("{name}: {what} {found}, expected {wanted}"));
                }
            }
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(SystemError::new(format!(
            "`{}` holds maps of another layout: {}",
            self.directory().display(),
            differences.join("; ")
        ))
        .hint("detach the old guard with `trainguard detach`, then start the daemon again"))
    }

    /// Returns the guards of other layouts, oldest first, whose links and maps are to be taken over.
    ///
    /// # Errors
    /// One of them is newer and guards an interface, and `newer` is not [`NewerGuard::TakeOver`]. An older
    /// binary may have been started by mistake.
    pub fn others(&self, newer: &NewerGuard) -> Result<Vec<OtherGuard>, SystemError> {
        let (own, mut others) = (own_version(), Vec::new());
        for (version, directory) in self.versions()? {
            if version == own {
                continue;
            }
            let links = links_in(&directory)?;
            let alive = links.iter().find(|pinned| pinned.link.is_alive());
            if let (Some(pinned), NewerGuard::Refuse { command }) = (alive, newer)
                && version > own
            {
                return Err(SystemError::new(format!(
                    "`{}` is guarded by a newer trainguard with layout {version} (`{}`); this \
                     version has layout {own} and changed nothing",
                    pinned.interface,
                    directory.display()
                ))
                .hint(format!(
                    "install the newer version again, or take over from it without a gap with \
                     `{command}`, then start the daemon again"
                )));
            }
            remove_remains(&directory, &links)?;
            if directory.exists() {
                others.push(OtherGuard::at(directory, version)?);
            }
        }
        Ok(others)
    }

    /// Opens the shared maps for reading without a daemon; returns none if no maps are pinned.
    ///
    /// # Errors
    /// The attached guards are all of other layouts, which count in their own maps; a take-over from
    /// another layout is incomplete; or the maps cannot be read.
    pub fn shared(&self) -> Result<Option<PinnedMaps>, SystemError> {
        let own = own_version();
        let mut guarding = Vec::new();
        for (version, directory) in self.versions()? {
            if links_in(&directory)?.iter().any(|pinned| pinned.link.is_alive()) {
                guarding.push(version);
            }
        }
        if let Some(version) = guarding.first().filter(|_| !guarding.contains(&own)) {
            return Err(SystemError::new(format!(
                "the guard has layout {version}, and this trainguard has layout {own} and cannot read \
                 its counters"
            ))
            .hint(
                "use the trainguard version of the daemon; a daemon of this version takes the \
                 counters over",
            ));
        }
        if !self.has_maps() {
            return Ok(None);
        }
        let mut others = self.versions()?.into_iter().filter(|(version, _)| *version != own);
        if let Some((version, _)) = others.find(|(_, path)| path.join(names::MAP_COUNTERS).exists())
        {
            return Err(SystemError::new(format!(
                "the take-over between layouts {version} and {own} is incomplete: the counts are \
                 spread over the maps of both"
            ))
            .hint("start the daemon, which completes the take-over"));
        }
        self.check_layout()?;
        PinnedMaps::open(&self.directory()).map(Some)
    }

    /// Reports whether the directory of another layout has pinned links.
    pub fn has_links(&self, other: &OtherGuard) -> Result<bool, SystemError> {
        Ok(!links_in(other.directory())?.is_empty())
    }

    /// Returns the path of the pin for the link of an interface. `renamed_from` is the name by which
    /// a renamed interface was selected.
    pub fn link_path(&self, interface: &str, renamed_from: Option<&str>, hook: Hook) -> PathBuf {
        let from = renamed_from
            .map(|name| format!("{RENAMED_FROM_SEPARATOR}{}", escape(name)))
            .unwrap_or_default();
        let suffix = match hook {
            Hook::Xdp => "",
            Hook::Tc => TC_SUFFIX,
        };
        self.directory().join(format!("{LINK_PREFIX}{}{from}{suffix}", escape(interface)))
    }

    /// Reports whether all shared maps of this layout version are pinned.
    pub fn has_maps(&self) -> bool {
        names::SHARED_MAPS.iter().all(|name| self.directory().join(name).exists())
    }

    /// Opens the pinned links of all layout versions.
    ///
    /// # Errors
    /// A directory cannot be read, or a pin cannot be opened.
    pub fn links(&self) -> Result<Vec<PinnedLink>, SystemError> {
        let mut links = Vec::new();
        for (_, directory) in self.versions()? {
            links.extend(links_in(&directory)?);
        }
        Ok(links)
    }

    /// Removes the additional pins of links that are pinned more than once. This can happen when two
    /// interfaces swap their names, because the pin of one link replaces that of the other.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn remove_duplicates(&self) -> Result<(), SystemError> {
        let own = self.directory();
        let mut links = self.links()?;
        links.sort_by_key(|pinned| !pinned.link.pin().starts_with(&own));
        let mut seen = BTreeSet::new();
        for PinnedLink { link, .. } in links {
            // A link that cannot be queried is not known to be a duplicate.
            if link.info().is_ok_and(|info| !seen.insert(info.id)) {
                link.remove_pin()?;
            }
        }
        Ok(())
    }

    /// Removes the shared maps of all layout versions, unless a link is still pinned. Other files
    /// stay, because the directory may also be used by other software.
    pub fn remove_maps(&self) -> Result<(), SystemError> {
        if !self.links()?.is_empty() {
            return Ok(());
        }
        for (_, directory) in self.versions()? {
            takeover::remove_maps(&directory)?;
        }
        Ok(())
    }

    /// Removes the remaining maps of this layout, which a guard of another layout left if it was
    /// killed while it removed them.
    pub fn remove_remains(&self) -> Result<(), SystemError> {
        let directory = self.directory();
        remove_remains(&directory, &links_in(&directory)?)
    }

    /// Returns the directories of the layout versions, sorted by number.
    fn versions(&self) -> Result<Vec<(u32, PathBuf)>, SystemError> {
        let version = |path: PathBuf| {
            let name = path.file_name()?.to_str()?;
            let number: u32 = name.strip_prefix('v')?.parse().ok()?;
            (is_directory(&path) && name == format!("v{number}")).then_some((number, path))
        };
        let mut versions: Vec<_> = read_dir(&self.root)?.into_iter().filter_map(version).collect();
        versions.sort();
        Ok(versions)
    }
}

/// How to treat a guard of a newer layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewerGuard {
    /// Report an error and change nothing.
    Refuse {
        /// The command that takes over from the newer guard, for the message.
        command: String,
    },
    /// Take over, as from an older guard.
    TakeOver,
}

/// Reports whether a file system is a bpf file system.
pub fn is_bpf(known: &Statfs) -> bool {
    known.filesystem_type() == BPF_FS_MAGIC
}

/// Returns the path of a directory of a bpf file system as processes outside this mount namespace see
/// it: a systemd unit can bind-mount part of the file system. Returns the path itself if the
/// directory is not in such a mount.
pub fn host_path(directory: &Path) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    host_path_in(&mounts, directory).unwrap_or_else(|| directory.to_owned())
}

/// Finds that path in the lines of `/proc/self/mountinfo`. If several mounts have the same path, the
/// last one is visible. An example of a line is
/// `36 35 0:32 /guard /run/guard rw - bpf bpf rw`.
fn host_path_in(mounts: &str, directory: &Path) -> Option<PathBuf> {
    let mounts = mounts.lines().filter_map(|line| {
        let (fields, file_system) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let below = directory.strip_prefix(at).ok()?;
        Some((at.len(), file_system.starts_with("bpf "), root, below))
    });
    let (_, is_bpf, root, below) = mounts.max_by_key(|(length, ..)| *length)?;
    let root = root.strip_prefix('/').filter(|root| is_bpf && !root.is_empty())?;
    let outside = Path::new(BPF_FS).join(root);
    Some(if below == Path::new("") { outside } else { outside.join(below) })
}

/// Reports whether the path is a directory and not a symbolic link. A link could make two versions
/// use the same directory.
fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn create_directory(directory: &Path) -> Result<(), SystemError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(creating(directory))
}

fn creating(directory: &Path) -> impl Fn(io::Error) -> SystemError {
    move |error| {
        SystemError::of(format_args!("creating the pin directory `{}`", directory.display()), error)
    }
}

fn links_in(directory: &Path) -> Result<Vec<PinnedLink>, SystemError> {
    let mut links = Vec::new();
    for path in read_dir(directory)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let interface = name.as_deref().and_then(|name| name.strip_prefix(LINK_PREFIX));
        if let Some(interface) = interface.filter(|_| !path.is_dir()) {
            let (interface, renamed_from) = names_in(interface);
            links.push(PinnedLink { interface, renamed_from, link: Link::open(&path)? });
        }
    }
    Ok(links)
}

/// Removes the remaining maps of a layout and its directory, if the counters are gone and no link is
/// pinned. In that case, a guard of another layout has carried over the contents and was killed while
/// it removed the maps.
fn remove_remains(directory: &Path, links: &[PinnedLink]) -> Result<(), SystemError> {
    if directory.join(names::MAP_COUNTERS).exists() || !links.is_empty() {
        return Ok(());
    }
    takeover::remove_maps(directory)
}

/// Parses the part of a pin after [`LINK_PREFIX`]: the name of the interface, and the name that it
/// was renamed from.
fn names_in(pin: &str) -> (String, Option<String>) {
    let names = pin.strip_suffix(TC_SUFFIX).unwrap_or(pin);
    match names.split_once(RENAMED_FROM_SEPARATOR) {
        Some((interface, from)) => (unescape(interface), Some(unescape(from))),
        None => (unescape(names), None),
    }
}

/// Replaces dots: file names on a bpf file system cannot contain them (`bpf_lookup`,
/// kernel/bpf/inode.c), but names of VLAN interfaces do.
fn escape(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn unescape(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

/// Returns the entries of a directory, sorted; an empty list if it does not exist.
pub(super) fn read_dir(directory: &Path) -> Result<Vec<PathBuf>, SystemError> {
    let failed = |error| SystemError::of(directory.display(), error);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_survive_the_pin() {
        for name in ["eth0", "eth0.100", "a%2e.b", "%25"] {
            assert!(!escape(name).contains('.'));
            assert_eq!(unescape(&escape(name)), name);
        }
    }

    #[test]
    fn the_pin_of_a_renamed_interface_contains_its_previous_name() {
        let pins = Pins::at(Path::new(""));
        for hook in [Hook::Xdp, Hook::Tc] {
            for from in [None, Some("eth0.100")] {
                let path = pins.link_path("a.1", from, hook);
                let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
                let name = name.strip_prefix(LINK_PREFIX).expect("a link");
                assert_eq!(names_in(name), ("a.1".to_owned(), from.map(str::to_owned)));
            }
        }
    }

    #[test]
    fn the_path_of_a_bind_mount_is_converted_to_the_path_on_the_host() {
        let mounts = "21 26 0:19 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
                      30 21 0:27 / /sys/fs/bpf rw,nosuid shared:10 - bpf bpf rw,mode=700\n\
                      91 26 0:24 / /run rw,nosuid shared:5 - tmpfs tmpfs rw\n\
                      99 91 0:27 /trainguard /run/trainguard/bpf rw - bpf bpf rw,mode=700\n";
        let found = |path| host_path_in(mounts, Path::new(path));
        assert_eq!(found("/run/trainguard/bpf"), Some(PathBuf::from("/sys/fs/bpf/trainguard")));
        assert_eq!(found("/run/trainguard/bpf/a"), Some(PathBuf::from("/sys/fs/bpf/trainguard/a")));
        for path in ["/sys/fs/bpf/trainguard", "/run/trainguard", "/elsewhere"] {
            assert_eq!(found(path), None, "{path}");
        }
        assert_eq!(host_path_in("", Path::new("/run/trainguard/bpf")), None);
    }
}
