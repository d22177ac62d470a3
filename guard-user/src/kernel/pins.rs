//! The pin directory: `<bpf-dir>/v<layout version>/` holds the shared maps by name and the links
//! as `link-<interface>`, those of the tc hook as `link-<interface>:tcx`.
//!
//! Nothing is trusted because it is already there: the version is in the path, and what the kernel
//! says of a pinned map is compared with what this binary would make.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use aya_obj::Object;
use guard_common::{layout::LAYOUT_VERSION, names};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statfs::statfs,
};

use super::{error::KernelError, link::Link, mode::Hook, sys};
use crate::object::kernel_object;

/// Magic number of a bpf file system (`BPF_FS_MAGIC`, include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const LINK_PREFIX: &str = "link-";
/// Behind the name of an interface, which has no colon in it: a link of the tc hook. For a moment
/// an interface can have one of each hook.
const TC_SUFFIX: &str = ":tcx";

/// The pin directory of a guard.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
}

/// The shared maps by descriptor, so that their pins can be made again.
#[derive(Debug)]
pub struct HeldMaps(Vec<(&'static str, OwnedFd)>);

/// Held while a daemon uses a pin directory.
#[derive(Debug)]
pub struct PinLock {
    directory: Flock<fs::File>,
}

impl PinLock {
    /// Whether this is still the lock of that directory: not if another one has taken its place.
    pub fn is_of(&self, pins: &Pins) -> bool {
        let identity = |metadata: io::Result<fs::Metadata>| {
            metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()))
        };
        identity(self.directory.metadata()) == identity(fs::metadata(&pins.root))
    }
}

impl Pins {
    /// Names a directory; it need not exist.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether there is such a directory.
    pub fn exists(&self) -> Result<bool, KernelError> {
        match fs::metadata(&self.root) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                let what = format!("looking at the pin directory `{}`", self.root.display());
                Err(KernelError::of(what, error))
            }
        }
    }

    /// Where this version's pins are.
    pub fn directory(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    /// Makes the directory, for root or the daemon's user alone. Fails if it is on no bpf file
    /// system.
    pub fn create(&self) -> Result<(), KernelError> {
        let parent = self.root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        let known = statfs(parent)
            .map_err(|error| KernelError::of(parent.display(), io::Error::from(error)))?;
        let magic = known.filesystem_type().0 as i64;
        if magic != BPF_FS_MAGIC {
            return Err(KernelError::new(format!(
                "`{}` is not on a bpf file system",
                self.root.display()
            ))
            .hint("mount one: `mount -t bpf bpf /sys/fs/bpf`, or name another with `--bpf-dir`"));
        }
        // The whole file system is everybody's; its modes are not ours to change.
        let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
        if self.root.is_dir() && device(&self.root) != self.root.parent().and_then(device) {
            return Err(KernelError::new(format!(
                "`{}` is a mount point, which others may use, too",
                self.root.display()
            ))
            .hint("name a directory in it: `--bpf-dir` makes it"));
        }
        let making = |error| {
            let what = format!("making the pin directory `{}`", self.directory().display());
            KernelError::of(what, error)
        };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(self.directory());
        made.map_err(making)?;
        // Also when somebody else made it: file modes are what keeps strangers from the pins.
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700)).map_err(making)
    }

    /// Takes the directory for this process alone, until the lock is dropped.
    pub fn lock(&self) -> Result<PinLock, KernelError> {
        let directory = fs::File::open(&self.root)
            .map_err(|error| KernelError::of(self.root.display(), error))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(directory) => Ok(PinLock { directory }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(KernelError::new(format!(
                "another trainguard daemon uses `{}`",
                self.root.display()
            ))
            .hint("stop it first, or give this one directories of its own (`--bpf-dir`, `--run-dir`, `--state-dir`)")),
            Err((_, error)) => Err(KernelError::of(self.root.display(), io::Error::from(error))),
        }
    }

    /// Opens the pinned shared maps, to hold them.
    pub fn hold_maps(&self) -> Result<HeldMaps, KernelError> {
        let held = names::SHARED_MAPS.into_iter().map(|name| {
            let opened = sys::open_pinned(&self.directory().join(name));
            let map = opened
                .map_err(|error| KernelError::of(format_args!("opening the pin {name}"), error))?;
            Ok((name, map))
        });
        Ok(HeldMaps(held.collect::<Result<_, _>>()?))
    }

    /// Pins maps again whose pins somebody removed; how many. A generation that is loaded next
    /// would otherwise begin with new ones: counters at zero, buckets full.
    pub fn mend_maps(&self, held: &HeldMaps) -> Result<usize, KernelError> {
        let HeldMaps(held) = held;
        let missing: Vec<_> =
            held.iter().filter(|(name, _)| !self.directory().join(name).exists()).collect();
        if !missing.is_empty() {
            self.create()?;
        }
        for (name, map) in &missing {
            sys::pin(map.as_fd(), &self.directory().join(name))
                .map_err(|error| KernelError::of(format_args!("pinning {name} again"), error))?;
        }
        Ok(missing.len())
    }

    /// Compares the pinned maps with what this binary would make, listing every difference.
    pub fn check_layout(&self) -> Result<(), KernelError> {
        let Some(object) = kernel_object() else { return Ok(()) };
        let object = Object::parse(object)
            .map_err(|error| KernelError::of("reading the kernel object", error))?;
        let mut differences = Vec::new();
        for name in names::SHARED_MAPS {
            let path = self.directory().join(name);
            if !path.exists() {
                continue;
            }
            let Some(wanted) = object.maps.get(name) else { continue };
            let found =
                MapInfo::from_pin(&path).map_err(|error| KernelError::of(path.display(), error))?;
            let kind = found.map_type().map_or(0, |kind| kind as u32);
            let facts = [
                ("type", kind, wanted.map_type()),
                ("key size", found.key_size(), wanted.key_size()),
                ("value size", found.value_size(), wanted.value_size()),
                ("entries", found.max_entries(), wanted.max_entries()),
                ("flags", found.map_flags(), wanted.map_flags()),
            ];
            for (what, found, wanted) in facts {
                // The kernel rounds the ring up to pages, and gives it no key and no value.
                let ring = name == names::MAP_EVENTS && what != "type" && what != "entries";
                if found != wanted && !ring {
                    differences.push(format!("{name}: {what} {found}, expected {wanted}"));
                }
            }
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(KernelError::new(format!(
            "`{}` holds maps of another layout: {}",
            self.directory().display(),
            differences.join("; ")
        ))
        .hint("take the old guard off with `trainguard detach`, then start again"))
    }

    /// Fails if pins of another layout version still guard an interface: two guards on one
    /// interface cannot be, and the old one is not thrown out silently.
    pub fn check_versions(&self) -> Result<(), KernelError> {
        let own = self.directory();
        for entry in self.versions()? {
            if entry == own {
                continue;
            }
            let links = links_in(&entry)?;
            if let Some((name, _)) = links.iter().find(|(_, link)| link.is_alive()) {
                return Err(KernelError::new(format!(
                    "`{name}` is guarded by another version, pinned in `{}`",
                    entry.display()
                ))
                .hint("take it off with `trainguard detach`, then start again; the node is open in between"));
            }
        }
        Ok(())
    }

    /// Where the link of an interface is pinned.
    pub fn link_path(&self, interface: &str, hook: Hook) -> PathBuf {
        let suffix = match hook {
            Hook::Xdp => "",
            Hook::Tc => TC_SUFFIX,
        };
        self.directory().join(format!("{LINK_PREFIX}{}{suffix}", escape(interface)))
    }

    /// Whether the shared maps of this version are pinned.
    pub fn has_maps(&self) -> bool {
        names::SHARED_MAPS.iter().all(|name| self.directory().join(name).exists())
    }

    /// The pinned links by interface name, in all versions.
    pub fn links(&self) -> Result<Vec<(String, Link)>, KernelError> {
        let mut links = Vec::new();
        for version in self.versions()? {
            links.extend(links_in(&version)?);
        }
        Ok(links)
    }

    /// Removes the shared maps, if no link is left that counts in them. Only what is ours is
    /// touched: the directory may be one that others use, too.
    pub fn remove_maps(&self) -> Result<(), KernelError> {
        if !self.links()?.is_empty() {
            return Ok(());
        }
        for version in self.versions()? {
            for name in names::SHARED_MAPS {
                match fs::remove_file(version.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        let what = format!("removing the pin {name} in `{}`", version.display());
                        return Err(KernelError::of(what, error));
                    }
                    _ => {}
                }
            }
            // Not empty: leave it.
            let _ = fs::remove_dir(&version);
        }
        Ok(())
    }

    /// The directories of layout versions.
    fn versions(&self) -> Result<Vec<PathBuf>, KernelError> {
        let is_version = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.strip_prefix('v'));
            number.is_some_and(|number| number.parse::<u32>().is_ok()) && path.is_dir()
        };
        Ok(read_dir(&self.root)?.into_iter().filter(is_version).collect())
    }
}

fn links_in(directory: &Path) -> Result<Vec<(String, Link)>, KernelError> {
    let mut links = Vec::new();
    for path in read_dir(directory)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let interface = name.as_deref().and_then(|name| name.strip_prefix(LINK_PREFIX));
        if let Some(interface) = interface {
            let interface = interface.strip_suffix(TC_SUFFIX).unwrap_or(interface);
            links.push((unescape(interface), Link::open(&path)?));
        }
    }
    Ok(links)
}

/// A bpf file system takes no dots in names (`bpf_lookup`, kernel/bpf/inode.c), but names of VLAN
/// interfaces have them.
fn escape(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn unescape(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

/// The entries of a directory, sorted; none if it does not exist.
fn read_dir(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let failed = |error| KernelError::of(directory.display(), error);
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
}
