//! The initial file system of a guest, as a cpio archive: a shell, kernel modules, programs of this
//! machine with their libraries, and the job.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use cpio::newc::{Builder, ModeFileType, trailer};

use super::fetch::{Cache, Kernel};
use crate::sh;

/// The script of the first process.
const INIT: &str = include_str!("guest/init.sh");

/// Mount points of the first process, and directories that programs expect.
const DIRECTORIES: [&str; 12] =
    ["dev", "etc", "newroot", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "var", "vm"];

/// Programs of this machine that tests run. busybox provides the others.
const PROGRAMS: [&str; 2] = ["ip", "setpriv"];

/// Modules that a guest loads at its start.
const LOADED: [&str; 4] = ["virtio_pci", "virtio_net", "virtio_console", "veth"];
/// The same for a guest whose root file system is a disk. udev loads the other modules later, above all
/// the driver of the network card.
const LOADED_FOR_DISK: [&str; 5] =
    ["virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4"];
/// Modules that the kernel or udev loads on demand. If tunnel modules were loaded at the start, every
/// namespace would have a `tunl0` and similar interfaces.
const ON_DEMAND: [&str; 38] = [
    "8021q",
    "af_packet",
    "bonding",
    "bridge",
    "crc32c_intel",
    "dummy",
    "e1000",
    "fou",
    "geneve",
    "gre",
    "ifb",
    "inet_diag",
    "ip6_gre",
    "ip6_tunnel",
    "ip_gre",
    "ipip",
    "ipvlan",
    "macvlan",
    "netlink_diag",
    "nf_conntrack",
    "nf_tables",
    "nft_ct",
    "nft_limit",
    "overlay",
    "sch_fq",
    "sch_ingress",
    "sch_netem",
    "sit",
    "tcp_diag",
    "tun",
    "udp_diag",
    "unix_diag",
    "veth",
    "virtio_net",
    "virtio_rng",
    "vrf",
    "vxlan",
    "wireguard",
];
/// Prefix of the indexes that modprobe reads.
const INDEXES: &str = "modules.";

/// What the first process does after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Runs `/vm/job`.
    Job,
    /// Boots the system on the first disk.
    Disk,
}

/// The entries of the archive, by path.
#[derive(Debug, Default)]
pub(super) struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory,
    /// A copy of a file of this machine.
    File(PathBuf),
    /// A file with this content and mode.
    Text(Vec<u8>, u32),
    Link(PathBuf),
}

impl Initramfs {
    /// Returns the entries that every guest has.
    pub(super) fn new(cache: &Cache, kernel: &Kernel, start: Start) -> Result<Self> {
        let mut new = Self::default();
        for directory in DIRECTORIES {
            new.add(directory, Entry::Directory);
        }
        new.add("init", Entry::Text(INIT.into(), 0o755));
        new.add("bin/busybox", Entry::File(cache.busybox()));
        new.program(&cache.prefix("bin/kmod"), "usr/bin/kmod")?;
        new.link("sbin/modprobe", "/usr/bin/kmod");
        let (kind, loaded) = match start {
            Start::Job => ("job", &LOADED[..]),
            Start::Disk => ("disk", &LOADED_FOR_DISK[..]),
        };
        new.text("etc/start", kind);
        new.text("etc/modules", &loaded.join("\n"));
        new.modules(kernel, loaded)?;
        if start == Start::Job {
            for name in PROGRAMS {
                let path = sh::find(name)
                    .with_context(|| format!("`{name}` is not installed on this machine"))?;
                new.program(&path, &format!("usr/bin/{name}"))?;
            }
        }
        Ok(new)
    }

    fn add(&mut self, path: impl AsRef<Path>, entry: Entry) {
        let path = path.as_ref();
        let path = path.strip_prefix("/").unwrap_or(path);
        for directory in path.ancestors().skip(1) {
            if !directory.as_os_str().is_empty() {
                self.entries.entry(directory.to_owned()).or_insert(Entry::Directory);
            }
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Adds a file with this content.
    pub(super) fn text(&mut self, path: impl AsRef<Path>, text: &str) {
        self.add(path, Entry::Text(text.into(), 0o644));
    }

    /// Adds a script with this content.
    pub(super) fn script(&mut self, path: impl AsRef<Path>, text: &str) {
        self.add(path, Entry::Text(text.into(), 0o755));
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: impl AsRef<Path>, target: &str) {
        self.add(path, Entry::Link(target.into()));
    }

    /// Adds a file of this machine, or a directory with everything below it.
    pub(super) fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        if !from.is_dir() {
            ensure!(from.is_file(), "no such file: {}", from.display());
            self.add(to, Entry::File(from.to_owned()));
            return Ok(());
        }
        for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
            let entry = entry?;
            self.copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// Adds a program of this machine. Its libraries get the same paths as on this machine.
    pub(super) fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        let from = from.canonicalize().with_context(|| from.display().to_string())?;
        // ldd fails for a static program, and then lists no library.
        let output = Command::new("ldd").arg(&from).output().context("running ldd")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if let Some(line) = said.lines().find(|line| line.contains("not found")) {
            bail!("{}: {}", from.display(), line.trim());
        }
        for library in said.split_whitespace().filter(|word| word.starts_with('/')) {
            self.add(library, Entry::File(library.into()));
        }
        self.add(to, Entry::File(from));
        Ok(())
    }

    /// Adds modules with their dependencies. Modules that this kernel has built in or lacks are left out;
    /// a test that needs a missing one reports that.
    fn modules(&mut self, kernel: &Kernel, loaded: &[&str]) -> Result<()> {
        let directory = kernel.modules();
        let target = Path::new("lib/modules").join(&kernel.release);
        let index = directory.join("modules.dep");
        let index = fs::read_to_string(&index).with_context(|| index.display().to_string())?;
        for file in closure(&index, loaded.iter().chain(&ON_DEMAND)) {
            self.add(target.join(&file), Entry::File(directory.join(&file)));
        }
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(INDEXES) {
                self.add(target.join(entry.file_name()), Entry::File(entry.path()));
            }
        }
        Ok(())
    }

    /// Writes the archive.
    pub(super) fn write(&self, to: &Path) -> Result<()> {
        let mut archive =
            BufWriter::new(File::create(to).with_context(|| to.display().to_string())?);
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let name = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
            let head =
                |kind, mode| Builder::new(name).ino(number).mode(mode).set_mode_file_type(kind);
            archive = match entry {
                Entry::Directory => {
                    head(ModeFileType::Directory, 0o755).write(archive, 0).finish()?
                }
                Entry::Link(target) => {
                    let target = target.as_os_str().as_encoded_bytes();
                    let mut writer =
                        head(ModeFileType::Symlink, 0o777).write(archive, length(target.len())?);
                    writer.write_all(target)?;
                    writer.finish()?
                }
                Entry::Text(text, mode) => {
                    let mut writer =
                        head(ModeFileType::Regular, *mode).write(archive, length(text.len())?);
                    writer.write_all(text)?;
                    writer.finish()?
                }
                Entry::File(from) => {
                    let file = File::open(from).with_context(|| from.display().to_string())?;
                    let meta = file.metadata()?;
                    let mode = meta.permissions().mode() & 0o777;
                    let mut writer =
                        head(ModeFileType::Regular, mode).write(archive, length(meta.len())?);
                    io::copy(&mut BufReader::new(file), &mut writer)?;
                    writer.finish()?
                }
            };
        }
        trailer(archive)?.flush()?;
        Ok(())
    }
}

fn length(bytes: impl TryInto<u32>) -> Result<u32> {
    bytes.try_into().ok().context("a file of the archive is longer than 4 GiB")
}

/// Returns the files of these modules and of their dependencies, from the text of `modules.dep`. Its
/// lines (`kernel/a.ko.xz: kernel/b.ko.xz ...`) list indirect dependencies, too.
fn closure<'n>(index: &str, names: impl Iterator<Item = &'n &'n str>) -> BTreeSet<String> {
    let names: BTreeSet<String> = names.map(|name| name.replace('-', "_")).collect();
    let mut files = BTreeSet::new();
    for line in index.lines() {
        let Some((file, needs)) = line.split_once(':') else { continue };
        let stem = file.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or(file);
        if names.contains(&stem.replace('-', "_")) {
            files.insert(file.to_owned());
            files.extend(needs.split_whitespace().map(str::to_owned));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_copied_with_their_dependencies() {
        let index = "kernel/net/vxlan.ko.xz: kernel/net/udp_tunnel.ko.xz kernel/net/udp6.ko.xz\n\
                     kernel/net/udp_tunnel.ko.xz:\nkernel/net/sch-fq.ko:\nkernel/net/other.ko:\n";
        let files = closure(index, ["vxlan", "sch_fq", "built_in"].iter());
        let expected = [
            "kernel/net/sch-fq.ko",
            "kernel/net/udp6.ko.xz",
            "kernel/net/udp_tunnel.ko.xz",
            "kernel/net/vxlan.ko.xz",
        ];
        assert_eq!(files.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}
