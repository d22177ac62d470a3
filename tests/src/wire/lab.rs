//! Two network namespaces with a cable between them: frames are sent from one, and decided in the other.
//!
//! The machine is left unchanged however the process ends: [`enter`] moves it to a mount namespace of
//! its own, where the names of network namespaces and the pins of BPF objects lie on file systems that
//! end with it.

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail};
use guard_user::{attach_mode::Mode, bpf::link::Link, policy::compiled::CompiledPolicy};
use nix::sched::{CloneFlags, setns};

use crate::{bench::guard::Guard, system::mounts};

/// Directory in which `ip netns` keeps names.
const NAMES: &str = "/run/netns";
/// Directory of BPF pins; private to this process after [`enter`].
const PINS: &str = "/sys/fs/bpf";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Gives this process private file systems for the names of namespaces and for pins. Must be called
/// while the process has a single thread.
pub fn enter() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and bpf(2) need root");
    }
    mounts::unshare_mounts()?;
    fs::create_dir_all(NAMES).context(NAMES)?;
    mounts::new("tmpfs", Path::new(NAMES))?;
    mounts::new("bpf", Path::new(PINS))
}

/// An end of the cable.
#[derive(Debug, Clone)]
pub struct End {
    namespace: String,
    /// Name of the device, unique on this machine, because kernel threads are named after it and have no
    /// namespaces.
    pub device: String,
    /// MTU in bytes.
    pub mtu: u32,
}

/// The two ends.
#[derive(Debug)]
pub struct Lab {
    /// The end that sends frames.
    pub sender: End,
    /// The end whose program decides about frames.
    pub receiver: End,
}

impl Lab {
    /// Creates two namespaces and connects them.
    pub fn new(mtu: u32) -> Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tg{}x{number}", std::process::id());
        let end =
            |side| End { namespace: format!("{name}{side}"), device: format!("{name}{side}"), mtu };
        let lab = Self { sender: end("s"), receiver: end("r") };
        for end in [&lab.sender, &lab.receiver] {
            run(Command::new("ip").args(["netns", "add", &end.namespace]))?;
            end.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
            end.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        let (sender, receiver, mtu) = (&lab.sender, &lab.receiver, mtu.to_string());
        sender.ip(&[
            "link",
            "add",
            &sender.device,
            "mtu",
            &mtu,
            "type",
            "veth",
            "peer",
            "name",
            &receiver.device,
            "netns",
            &receiver.namespace,
            "mtu",
            &mtu,
        ])?;
        Ok(lab)
    }

    /// Sets both ends up.
    pub fn up(&self) -> Result<()> {
        for end in [&self.sender, &self.receiver] {
            end.ip(&["link", "set", &end.device, "up"])?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for end in [&self.sender, &self.receiver] {
            // The device is removed with its namespace.
            let _ = Command::new("ip").args(["netns", "del", &end.namespace]).output();
        }
    }
}

impl End {
    /// Runs a closure on a thread inside the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        // The namespace is a property of the thread, so a thread is created for it.
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(Path::new(NAMES).join(&self.namespace))?;
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("entering the namespace")?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Returns a command that runs inside the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]).stdin(Stdio::null());
        command
    }

    /// Runs `ip` inside the namespace.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.namespace]).args(args)).map(drop)
    }

    /// Sets a sysctl of the namespace.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.inside(|| fs::write(Path::new("/proc/sys").join(name), value).context(name.to_owned()))
    }

    /// Makes a kernel thread of its own poll the device, instead of softirq work in the context of any
    /// thread.
    pub fn thread_napi(&self) -> Result<()> {
        let set = format!("echo 1 > /sys/class/net/{}/threaded", self.device);
        run(self.command("sh").args(["-c", &set])).map(drop)
    }

    /// Returns the interface index of the device.
    pub fn index(&self) -> Result<u32> {
        self.inside(|| Ok(nix::net::if_::if_nametoindex(self.device.as_str())?))
    }

    /// Returns the number of frames that the device has received. On a veth with NAPI these are the
    /// frames that it has taken from the cable, whatever their verdict.
    pub fn received(&self) -> Result<u64> {
        self.inside(|| received(&self.device))
    }

    /// Loads the guard for the device.
    pub fn guard(&self, policy: &CompiledPolicy) -> Result<Guard> {
        Guard::load(policy, self.index()?, &self.device, self.mtu)
    }

    /// Attaches a program in native mode.
    pub fn attach(&self, program: BorrowedFd<'_>) -> Result<Link> {
        let pin = PathBuf::from(PINS).join(&self.device);
        let index = self.index()?;
        self.inside(|| Ok(Link::attach(program, &self.device, index, Mode::Native, &pin)?))
    }
}

/// Returns the number of frames that a device of the current namespace has received, as
/// [`End::received`].
pub fn received(device: &str) -> Result<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line =
        table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    let line = line.with_context(|| format!("no `{device}` in /proc/net/dev"))?;
    let packets =
        line.split_whitespace().nth(1).context("no number of packets in /proc/net/dev")?;
    Ok(packets.parse()?)
}

/// Runs a command that must succeed, and returns its output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command with `text` as its input; it must succeed. Returns its output.
pub fn run_with(command: &mut Command, text: &str) -> Result<String> {
    let mut input = tempfile::tempfile()?;
    input.write_all(text.as_bytes())?;
    std::io::Seek::rewind(&mut input)?;
    run(command.stdin(Stdio::from(input)))
}
