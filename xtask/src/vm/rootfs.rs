//! The root file system of a guest with systemd: an image that mmdebstrap builds from this machine's
//! package sources.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::fetch::Cache;
use crate::sh;

/// Its packages: systemd with its network, and what the scripts in `tests/vm/systemd` call.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,kmod,iproute2,nftables,iputils-ping,\
                        iputils-arping,ethtool,tcpdump,procps,bpftool,strace,socat,netcat-openbsd,\
                        python3,libcap2-bin,ca-certificates,rpm";

/// Options that keep the image small.
const OPTIONS: [&str; 5] = [
    "--aptopt=APT::Install-Recommends \"false\"",
    "--aptopt=Acquire::Languages \"none\"",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
];

/// Size of the image, with space for kernel modules, packages and a journal.
const BYTES: u64 = 1500 << 20;

/// The script that runs the system's job; its unit starts after multi-user.target.
const JOB: &str = include_str!("guest/job.sh");

/// Files of the system: path, mode, content.
const FILES: [(&str, u32, &str); 8] = [
    ("usr/local/sbin/vm-job", 0o755, JOB),
    (
        "etc/systemd/system/vm-job.service",
        0o644,
        "[Unit]\nDescription=The job of this machine\nAfter=multi-user.target\n\
         [Service]\nType=exec\nExecStart=/usr/local/sbin/vm-job\nTimeoutStopSec=5\n",
    ),
    (
        "etc/systemd/system/vm-job.target",
        0o644,
        "[Unit]\nDescription=The system, and then the job\nRequires=multi-user.target\n\
         After=multi-user.target\nWants=vm-job.service\nAllowIsolate=yes\n",
    ),
    ("etc/systemd/system.conf.d/vm.conf", 0o644, "[Manager]\nDefaultTimeoutStopSec=15s\n"),
    (
        "etc/systemd/journald.conf.d/vm.conf",
        0o644,
        "[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n",
    ),
    // If this file is empty, systemd creates an id at the first boot, and all later boots of an image
    // have the same id.
    ("etc/machine-id", 0o444, ""),
    ("etc/hostname", 0o644, "vm\n"),
    ("etc/fstab", 0o644, "/dev/vda / ext4 rw,noatime 0 1\n"),
];

/// Units that a guest does not need; each of them makes the boot longer.
const MASKED: [&str; 10] = [
    "getty@.service",
    "serial-getty@.service",
    "systemd-networkd-wait-online.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "dpkg-db-backup.timer",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
];

/// Returns the image; builds it if it does not exist.
pub(super) fn ensure(cache: &Cache) -> Result<PathBuf> {
    let image = cache.image(&format!("root-{:016x}.img", recipe()));
    if image.is_file() {
        return Ok(image);
    }
    ensure!(sh::is_root(), "building a root file system needs root");
    let mke2fs = sh::find("mke2fs").context("`mke2fs` is not installed (package e2fsprogs)")?;
    ensure!(sh::find("perl").is_some(), "`perl` is not installed; mmdebstrap needs it");
    let mmdebstrap = cache.ensure_mmdebstrap()?;
    let sources = sources()?;
    eprintln!(
        "building a root file system from Debian packages with mmdebstrap; sources: {}",
        sources.display()
    );
    let scratch = cache.scratch()?;
    let tree = scratch.path().join("tree");
    // mmdebstrap calls a helper in the same directory.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        std::iter::once(cache.prefix("usr/bin")).chain(std::env::split_paths(&path)),
    )?;
    let mut command = Command::new("perl");
    command
        .arg(mmdebstrap)
        .args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"])
        .arg(format!("--include={PACKAGES}"))
        .args(OPTIONS)
        .arg("")
        .args([&tree, &sources])
        .env("PATH", path)
        // mmdebstrap's output is not a result of this subcommand.
        .stdout(Stdio::null());
    sh::run(&mut command)?;
    configure(&tree)?;
    // Create a temporary file and rename it, so that an image in the cache is always complete.
    let part = scratch.path().join("image");
    fs::File::create(&part)?.set_len(BYTES)?;
    let mut make = Command::new(mke2fs);
    make.args(["-q", "-t", "ext4", "-L", "root", "-d"]).args([&tree, &part]);
    sh::run(&mut make)?;
    fs::rename(&part, &image).with_context(|| image.display().to_string())?;
    Ok(image)
}

/// Returns a hash of everything that the image is built from. It is part of the image's name.
fn recipe() -> u64 {
    let mut hasher = DefaultHasher::new();
    (PACKAGES, OPTIONS, BYTES, FILES, MASKED).hash(&mut hasher);
    hasher.finish()
}

/// Returns the file with this machine's own Debian sources: its suites and its mirror.
fn sources() -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("no VERSION_CODENAME in /etc/os-release")?;
    let directory = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    let mut files: Vec<PathBuf> = directory.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    let names = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().any(|line| {
            let line = line.trim_start();
            (line.starts_with("deb ") || line.starts_with("Suites:"))
                && line.split_whitespace().any(|word| word == codename)
        })
    };
    files
        .into_iter()
        .find(names)
        .with_context(|| format!("no file of /etc/apt lists the suite `{codename}`"))
}

/// Copies our files into the tree.
fn configure(tree: &Path) -> Result<()> {
    for (path, mode, text) in FILES {
        let path = tree.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    fs::create_dir_all(tree.join("var/log/journal"))?;
    let units = tree.join("etc/systemd/system");
    symlink("/etc/systemd/system/vm-job.target", units.join("default.target"))?;
    for unit in MASKED {
        symlink("/dev/null", units.join(unit))?;
    }
    for path in ["var/cache/apt", "var/lib/apt/lists"] {
        fs::remove_dir_all(tree.join(path))?;
        fs::create_dir(tree.join(path))?;
    }
    Ok(())
}

/// Copies the image, to boot it several times. The copy is sparse, as the image is.
pub(super) fn copy(image: &Path, to: &Path) -> Result<()> {
    sh::run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([image, to]))
}
