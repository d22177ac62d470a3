//! Fetches the parts of virtual machines: an emulator, a shell, kernels. apt downloads Debian packages,
//! which are unpacked below `target/vm`; nothing is installed.

use std::{
    ffi::OsStr,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    sh,
    toolchain::{is_debian, update_package_lists},
};

/// Name of the emulator.
const QEMU: &str = "qemu-system-x86_64";
/// Arguments of apt for its package. The second excludes a recommended package, which conflicts with
/// newer versions that a machine may have.
const QEMU_PACKAGE: [&str; 2] = ["qemu-system-x86", "qemu-utils-"];

/// Directory of everything that was downloaded or built. Missing parts are made again.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// An unpacked kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Its release, as in `uname -r`: `6.1.0-56-cloud-amd64`.
    pub(crate) release: String,
    directory: PathBuf,
}

impl Cache {
    /// Opens a cache in this directory, which is created if it does not exist.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        for part in ["debs", "kernels", "images", "tmp", "prefix"] {
            let directory = root.join(part);
            fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        Ok(Self { root: root.canonicalize()? })
    }

    /// Creates a directory for one run, which is removed when the value is dropped.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir> {
        let parent = self.root.join("tmp");
        tempfile::tempdir_in(&parent).with_context(|| parent.display().to_string())
    }

    /// Returns the path of an image of a root file system.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.root.join("images").join(name)
    }

    /// Returns the path of a file of an unpacked package.
    pub(super) fn prefix(&self, path: &str) -> PathBuf {
        self.root.join("prefix").join(path)
    }

    /// Returns the path of the guests' shell, which is statically linked.
    pub(super) fn busybox(&self) -> PathBuf {
        self.prefix("bin/busybox")
    }

    /// Returns a command for a program of an unpacked package, with the libraries that were unpacked with
    /// it.
    pub(super) fn program(&self, path: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(path);
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let libraries = libraries.map(|path| self.prefix(path).display().to_string());
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
        command
    }

    /// Returns a command for the emulator: the unpacked one, or else the one in `PATH`.
    pub(super) fn qemu(&self) -> Result<Command> {
        let unpacked = self.prefix("usr/bin").join(QEMU);
        if !unpacked.is_file() {
            return Ok(Command::new(
                sh::find(QEMU).with_context(|| format!("`{QEMU}` is not installed"))?,
            ));
        }
        let mut qemu = self.program(&unpacked);
        for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            qemu.arg("-L").arg(self.prefix(firmware));
        }
        Ok(qemu)
    }

    /// Fetches missing tools. Prints what is downloaded before the download.
    pub(crate) fn ensure_tools(&self) -> Result<()> {
        if !self.prefix("usr/bin").join(QEMU).is_file() && sh::find(QEMU).is_none() {
            let packages = packages_of_qemu()?;
            self.unpack("an emulator with its libraries", &packages, &self.root.join("prefix"))?;
        }
        for (package, program, why) in [
            ("busybox-static", "bin/busybox", "a shell for the guests"),
            ("kmod", "bin/kmod", "an index of kernel modules"),
        ] {
            if !self.prefix(program).is_file() {
                self.unpack(why, &[package.to_owned()], &self.root.join("prefix"))?;
            }
        }
        Ok(())
    }

    /// Returns the builder of root file systems; fetches it if it is missing.
    pub(super) fn ensure_mmdebstrap(&self) -> Result<PathBuf> {
        let program = self.prefix("usr/bin/mmdebstrap");
        if !program.is_file() {
            let package = ["mmdebstrap".to_owned()];
            let why = "a builder of root file systems";
            self.unpack(why, &package, &self.root.join("prefix"))?;
        }
        Ok(program)
    }

    /// Returns a kernel of this version and flavour: the newest in the cache, or else the newest that apt
    /// offers.
    pub(crate) fn ensure_kernel(&self, wanted: Wanted) -> Result<Kernel> {
        let kernels = self.root.join("kernels");
        let here =
            fs::read_dir(&kernels)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        if let Some(release) = newest(here.filter(|release| wanted.is(release))) {
            return Ok(Kernel { directory: kernels.join(&release), release });
        }
        let mut offered = newest_offered(wanted)?;
        if offered.is_none() {
            update_package_lists(false)?;
            offered = newest_offered(wanted)?;
        }
        let release = offered.with_context(|| {
            format!("apt offers no kernel {wanted}; Debian 12 with its security updates has it")
        })?;
        let directory = kernels.join(&release);
        // Unpack into a temporary directory and rename it, so that a kernel in the cache is always
        // complete.
        let part = tempfile::tempdir_in(self.root.join("tmp"))?;
        let why = format!("kernel {wanted}");
        self.unpack(&why, &[format!("linux-image-{release}")], part.path())?;
        // kmod chooses its function by the name that it is called with.
        let mut depmod = self.program(self.prefix("bin/kmod"));
        sh::run(depmod.arg0("depmod").arg("-b").arg(part.path()).arg(&release))?;
        fs::rename(part.keep(), &directory).with_context(|| directory.display().to_string())?;
        Ok(Kernel { release, directory })
    }

    /// Unpacks packages; downloads those that are not in the cache.
    fn unpack(&self, why: &str, packages: &[String], to: &Path) -> Result<()> {
        need_apt()?;
        let debs = self.root.join("debs");
        let missing: Vec<&String> =
            packages.iter().filter(|name| deb(&debs, name).is_none()).collect();
        if !missing.is_empty() {
            eprintln!(
                "fetching {why}: {} Debian packages, by `apt-get download`; unpacking them into {} \
                 without installing them",
                missing.len(),
                to.display()
            );
            let download = || {
                let mut apt = Command::new("apt-get");
                apt.args(["download", "-qq"]).args(&missing).current_dir(&debs);
                // Otherwise apt warns that it cannot drop root's privileges in a directory of root.
                sh::read(apt.args(["-o", "APT::Sandbox::User=root"]))
            };
            if download().is_err() {
                update_package_lists(false)?;
                download()?;
            }
        }
        for name in packages {
            let file = deb(&debs, name);
            let file = file.with_context(|| format!("apt-get downloaded no package `{name}`"))?;
            sh::run(Command::new("dpkg").arg("-x").arg(file).arg(to))?;
        }
        Ok(())
    }
}

/// Returns the packages that the emulator needs and that this machine lacks, according to a simulated
/// installation.
fn packages_of_qemu() -> Result<Vec<String>> {
    need_apt()?;
    let simulate = || {
        let mut apt = Command::new("apt-get");
        apt.args(["--simulate", "--no-install-recommends", "install"]).args(QEMU_PACKAGE);
        sh::read(&mut apt)
    };
    let said = simulate().or_else(|_| {
        update_package_lists(false)?;
        simulate()
    })?;
    let package = |line: &str| line.strip_prefix("Inst ")?.split(' ').next().map(str::to_owned);
    Ok(said.lines().filter_map(package).collect())
}

/// Returns the release of the newest kernel of this kind in apt's package lists.
fn newest_offered(wanted: Wanted) -> Result<Option<String>> {
    need_apt()?;
    let mut apt = Command::new("apt-cache");
    let said = sh::read(apt.args(["search", "--names-only", "^linux-image-[0-9].*-amd64$"]))?;
    let names = said.lines().filter_map(|line| {
        let name = line.split(' ').next()?.strip_prefix("linux-image-")?;
        wanted.is(name).then(|| name.to_owned())
    });
    Ok(newest(names))
}

/// Returns the downloaded file of a package.
fn deb(directory: &Path, package: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.strip_prefix(package).is_some_and(|rest| rest.starts_with('_'))
    })
}

fn need_apt() -> Result<()> {
    ensure!(is_debian(), "this needs apt-get: xtask fetches Debian packages only");
    if sh::find("dpkg").is_none() {
        bail!("`dpkg` is not installed; xtask unpacks packages with it");
    }
    Ok(())
}

impl Kernel {
    /// Returns the path of the bootable image.
    pub(super) fn image(&self) -> PathBuf {
        self.directory.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// Returns the directory of the modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }
}

/// A kind of kernel: version, and flavour of Debian's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    version: &'static str,
    flavour: &'static str,
}

impl Wanted {
    /// A kernel for virtual machines: few drivers, a fast start.
    pub(crate) const fn cloud(version: &'static str) -> Self {
        Self { version, flavour: "cloud" }
    }

    /// A `PREEMPT_RT` kernel: its spinlocks sleep, and its interrupt handlers are threads.
    pub(crate) const fn real_time(version: &'static str) -> Self {
        Self { version, flavour: "rt" }
    }

    /// Returns whether a release is of this kind, such as `6.12.117+deb12-cloud-amd64`.
    fn is(self, release: &str) -> bool {
        let flavour = release.strip_suffix("-amd64").and_then(|rest| rest.rsplit('-').next());
        let version = release.strip_prefix(self.version);
        version.is_some_and(|rest| rest.starts_with('.')) && flavour == Some(self.flavour)
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.flavour {
            "cloud" => f.write_str(self.version),
            flavour => write!(f, "{}-{flavour}", self.version),
        }
    }
}

/// Returns the newest of some releases.
fn newest(releases: impl Iterator<Item = String>) -> Option<String> {
    releases.max_by_key(|release| numbers(release))
}

/// Returns the numbers in a release, by which releases of one kind are ordered.
fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_chosen_by_version_and_flavour() {
        let offered = [
            "6.1.0-9-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.1.0-57-rt-amd64",
            "6.1.0-58-amd64",
            "6.12.117+deb12-cloud-amd64",
        ];
        let choose = |wanted: Wanted| {
            newest(offered.into_iter().filter(|name| wanted.is(name)).map(str::to_owned))
        };
        assert_eq!(choose(Wanted::cloud("6.1")).as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(choose(Wanted::cloud("6.12")).as_deref(), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(choose(Wanted::real_time("6.1")).as_deref(), Some("6.1.0-57-rt-amd64"));
        assert_eq!(choose(Wanted::real_time("6.12")), None);
    }
}
