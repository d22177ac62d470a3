//! A memory control group for a test: it measures the kernel memory of a daemon, including maps and
//! programs, and can limit it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// Usual mount points: the hierarchy of version 2, or that of the memory controller of version 1.
const ROOTS: [(&str, Version); 3] = [
    ("/sys/fs/cgroup", Version::Two),
    ("/sys/fs/cgroup/unified", Version::Two),
    ("/sys/fs/cgroup/memory", Version::One),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A memory control group; removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
    version: Version,
}

impl Cgroup {
    /// Creates a group. Fails if this machine has no memory controller that the test may use.
    pub fn new(name: &str) -> Result<Self> {
        for (root, version) in ROOTS {
            let directory = Path::new(root).join(format!("tgtest-{}-{name}", process::id()));
            if fs::create_dir(&directory).is_err() {
                continue;
            }
            let group = Self { directory, version };
            // Without its controller, a group of version 2 has no memory statistics.
            if group.memory().is_ok() {
                return Ok(group);
            }
        }
        bail!("cannot create a memory control group below any of the known mount points")
    }

    /// Moves a process into the group. Memory that it allocates from then on is counted.
    pub fn add(&self, process: u32) -> Result<()> {
        self.write("cgroup.procs", &process.to_string())
    }

    /// Wraps a command so that it runs in the group from its start.
    pub fn command(&self, inner: &Command) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.directory.join("cgroup.procs"));
        command.arg(inner.get_program()).args(inner.get_args());
        command
    }

    /// Returns the memory in use, in bytes: the kernel's where it is counted separately (version 1),
    /// else all.
    pub fn memory(&self) -> Result<u64> {
        let name = match self.version {
            Version::One => "memory.kmem.usage_in_bytes",
            Version::Two => "memory.current",
        };
        let text = fs::read_to_string(self.directory.join(name)).context(name)?;
        text.trim().parse().context(name)
    }

    /// Returns all memory in use, in bytes.
    pub fn total(&self) -> Result<u64> {
        let name = match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        };
        let text = fs::read_to_string(self.directory.join(name)).context(name)?;
        text.trim().parse().context(name)
    }

    /// Sets the limit in bytes.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        let name = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        self.write(name, &bytes.to_string())
    }

    /// Removes the limit.
    pub fn no_limit(&self) -> Result<()> {
        match self.version {
            Version::One => self.write("memory.limit_in_bytes", "-1"),
            Version::Two => self.write("memory.max", "max"),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The last process may still be exiting.
        for _ in 0..50 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
