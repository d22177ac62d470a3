//! Runs a virtual machine from power-on to power-off: emulated in software, without access to a network,
//! and with a time limit.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::fetch::{Cache, Kernel};
use crate::demo::Interrupt;

/// Kernel messages that report a fault. None of them may appear on the console.
const KERNEL_FAULTS: [&str; 10] = [
    "Kernel panic",
    "BUG:",
    "WARNING: ",
    "Oops",
    "general protection fault",
    "unable to handle",
    "soft lockup",
    "self-detected stall",
    "detected stalls",
    "blocked for more than",
];

/// Kernel messages that are not faults of the guard.
const NOT_FAULTS: [&str; 1] = [
    // An emulated CPU has the vulnerabilities of the model that it emulates.
    "WARNING: Spectre",
];

/// The configuration of a virtual machine.
#[derive(Debug)]
pub(super) struct Machine<'m> {
    pub(super) cache: &'m Cache,
    pub(super) kernel: &'m Kernel,
    pub(super) initramfs: PathBuf,
    pub(super) memory_mib: u32,
    /// Disks, each with whether the guest's writes are kept.
    pub(super) disks: Vec<(PathBuf, bool)>,
    pub(super) cards: Vec<Card>,
    /// Time limit, from power-on.
    pub(super) limit: Duration,
}

/// A network card, or two of them.
#[derive(Debug, Clone)]
pub(super) enum Card {
    /// Two cards of the same machine, connected to each other, with this MTU.
    Loop { mtu: u16 },
    /// A card that is connected to two unix sockets in this directory. A process that binds `host`
    /// receives the guest's frames, one frame in a datagram, and sends its own to `guest`.
    Wire(PathBuf),
}

/// The result of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Output of the kernel.
    pub(super) console: String,
    /// Output of the emulator.
    pub(super) emulator: String,
    pub(super) ended: Ended,
    pub(super) took: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The job ended with this exit status.
    Code(i32),
    /// The time limit was exceeded.
    TimedOut,
    /// The machine powered off before the job reported its exit status.
    Silent,
    /// The power was cut, as requested.
    Cut,
}

impl Machine<'_> {
    fn command(&self, console: &Path) -> Result<Command> {
        let mut qemu = self.cache.qemu()?;
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-nodefaults", "-no-user-config"])
            .args(["-no-reboot", "-display", "none", "-m", &format!("{}M", self.memory_mib)])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(&self.initramfs)
            // The kernel prints warnings on the console, but no informational messages. Mitigations are
            // not needed, because the machine has no other users.
            .args(["-append", "console=ttyS0 loglevel=5 panic=-1 mitigations=off rdinit=/init"])
            .args(["-chardev", &format!("file,id=console,path={}", console.display())])
            .args(["-serial", "chardev:console"])
            .args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=log,signal=off"])
            .args(["-device", "virtserialport,chardev=log,name=log", "-device", "virtio-rng-pci"]);
        for (file, keep) in &self.disks {
            let snapshot = if *keep { "off" } else { "on" };
            qemu.arg("-drive").arg(format!(
                "file={},format=raw,if=virtio,snapshot={snapshot},cache=unsafe",
                file.display()
            ));
        }
        for (number, card) in self.cards.iter().enumerate() {
            card.add_to(&mut qemu, number);
        }
        Ok(qemu)
    }

    /// Runs the machine until it is off. Calls `each` for each line of the job's output as it arrives.
    pub(super) fn run(&self, mut each: impl FnMut(&str)) -> Result<Outcome> {
        self.run_until(|line| {
            each(line);
            ControlFlow::Continue(())
        })
    }

    /// Same as [`Self::run`], but cuts the power when `each` breaks. The guest then loses data that it
    /// has not written to its disk yet.
    pub(super) fn run_until(
        &self,
        mut each: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        let scratch = self.cache.scratch()?;
        let console = scratch.path().join("console");
        let mut command = self.command(&console)?;
        // The port "log" counts as closed when our end of its input is closed.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // The emulator warns of intended settings, for example that a hub is connected to nothing. The
        // warnings are shown only if something failed.
        let messages = scratch.path().join("messages");
        command.stderr(fs::File::create(&messages)?);
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("running {command:?}"))?;
        let output = child.stdout.take().context("the output of the emulator is not a pipe")?;
        let guard = TimeLimit::start(child, started + self.limit, Interrupt::listen()?);
        let mut ended = Ended::Silent;
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end_matches('\r').to_owned();
            if let Some(code) = line.strip_prefix("@@end ") {
                ended = code.parse().map_or(Ended::Silent, Ended::Code);
                continue;
            }
            if each(&line).is_break() {
                guard.cut();
            }
        }
        match guard.finish() {
            Some(Stopped::Cut) => ended = Ended::Cut,
            Some(Stopped::Interrupted) => bail!("interrupted; the virtual machine is stopped"),
            Some(Stopped::OutOfTime) if ended == Ended::Silent => ended = Ended::TimedOut,
            _ => {}
        }
        // The file does not exist if the emulator did not start.
        let console = fs::read(&console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        let emulator = fs::read_to_string(&messages)?;
        Ok(Outcome { console, emulator, ended, took: started.elapsed() })
    }
}

impl Card {
    fn add_to(&self, qemu: &mut Command, number: usize) {
        // Locally administered addresses that contain the number of the card.
        match self {
            Self::Loop { mtu } => {
                for end in [1, 2] {
                    let id = format!("loop{number}e{end}");
                    qemu.arg("-netdev").arg(format!("hubport,id={id},hubid={number}"));
                    qemu.arg("-device").arg(format!(
                        "virtio-net-pci,netdev={id},mac=52:54:00:00:{number:02x}:{end:02x},host_mtu={mtu}"
                    ));
                }
            }
            Self::Wire(directory) => {
                let at = directory.display();
                qemu.arg("-netdev").arg(format!(
                    "dgram,id=wire,local.type=unix,local.path={at}/guest,remote.type=unix,\
                     remote.path={at}/host"
                ));
                qemu.arg("-device").arg("virtio-net-pci,netdev=wire,mac=52:54:00:00:ff:01");
            }
        }
    }
}

impl Outcome {
    /// Returns the faults that the kernel reported.
    pub(super) fn kernel_faults(&self) -> Vec<&str> {
        kernel_faults(&self.console)
    }
}

fn kernel_faults(console: &str) -> Vec<&str> {
    let is = |line: &&str| {
        KERNEL_FAULTS.iter().any(|words| line.contains(words))
            && !NOT_FAULTS.iter().any(|words| line.contains(words))
    };
    console.lines().filter(is).collect()
}

/// Why this program stopped the emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    OutOfTime,
    Interrupted,
    Cut,
}

/// A message to the thread that watches the emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Finished,
    Cut,
}

/// Stops the emulator when its time limit is exceeded, or when the user wants to stop.
struct TimeLimit {
    sender: mpsc::Sender<Message>,
    thread: JoinHandle<Option<Stopped>>,
}

impl TimeLimit {
    /// Interval of checks for the time limit and the interrupt.
    const CHECK_INTERVAL: Duration = Duration::from_millis(200);

    fn start(mut child: Child, end: Instant, interrupt: Interrupt) -> Self {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            let stopped = loop {
                match receiver.recv_timeout(Self::CHECK_INTERVAL) {
                    Ok(Message::Cut) => break Some(Stopped::Cut),
                    Ok(Message::Finished) | Err(RecvTimeoutError::Disconnected) => break None,
                    Err(RecvTimeoutError::Timeout) if interrupt.is_requested() => {
                        break Some(Stopped::Interrupted);
                    }
                    Err(RecvTimeoutError::Timeout) if Instant::now() >= end => {
                        break Some(Stopped::OutOfTime);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
            };
            if stopped.is_some() {
                let _ = child.kill();
            }
            let _ = child.wait();
            stopped
        });
        Self { sender, thread }
    }

    /// Stops the emulator at once.
    fn cut(&self) {
        let _ = self.sender.send(Message::Cut);
    }

    /// Waits until the emulator ends; its output has ended already. Returns why it was stopped, if it
    /// was.
    fn finish(self) -> Option<Stopped> {
        let _ = self.sender.send(Message::Finished);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_kernel_are_found() {
        let console = "[    1.2] e1000: loaded\n[    3.4] WARNING: CPU: 0 PID: 7 at net/core/dev.c:1\n\
                       [    5.6] Kernel panic - not syncing: Attempted to kill init!\n";
        assert_eq!(kernel_faults(console).len(), 2);
        assert!(
            kernel_faults("[    0.1] WARNING: Spectre v2 mitigation leaves CPU vulnerable")
                .is_empty()
        );
    }
}
