//! CPU affinity, priority and CPU time of threads.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use rustix::{
    process::setpriority_process,
    time::{ClockId, clock_gettime},
};

/// Higher than ordinary priority, but lower than that of essential system threads.
const NICE: i32 = -15;

/// The CPUs of the two ends.
#[derive(Debug, Clone, Copy)]
pub struct Cpus {
    /// CPU of the sender.
    pub sender: usize,
    /// CPU of the receiver, which runs the program.
    pub receiver: usize,
}

impl Cpus {
    /// Returns the first and the last CPU that this process may use.
    pub fn of_this_machine() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::this())?;
        let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
        let sender = cpus.next().context("no CPU is available")?;
        let Some(receiver) = cpus.next_back() else {
            bail!("the benchmark needs two CPUs, one for each end")
        };
        Ok(Self { sender, receiver })
    }
}

/// Pins a thread to a CPU. 0 is the calling thread.
pub fn pin(thread: Pid, cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(thread, &only).with_context(|| format!("pinning {thread} to CPU {cpu}"))
}

/// Raises a thread's priority above the ordinary. 0 is the calling thread.
pub fn raise(thread: Pid) -> Result<()> {
    setpriority_process(rustix::process::Pid::from_raw(thread.as_raw()), NICE)
        .with_context(|| format!("raising the priority of {thread}"))
}

/// Returns the id 0, which means the calling thread.
pub fn this_thread() -> Pid {
    Pid::from_raw(0)
}

/// Returns the kernel thread that polls a device.
pub fn napi_thread(device: &str) -> Result<Pid> {
    let threads = kernel_threads(&format!("napi/{device}-"))?;
    threads.first().copied().with_context(|| format!("no thread polls `{device}`"))
}

/// Returns the kernel threads whose names start with `prefix`.
pub fn kernel_threads(prefix: &str) -> Result<Vec<Pid>> {
    let found = fs::read_dir("/proc")?.filter_map(Result::ok).filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        name.starts_with(prefix).then_some(Pid::from_raw(number))
    });
    Ok(found.collect())
}

/// Returns the CPU time of a thread. For a running thread it lags by up to a tick.
pub fn time_of(thread: Pid) -> Result<Duration> {
    let file = Path::new("/proc").join(thread.to_string()).join("schedstat");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let run = text.split_whitespace().next().context("no CPU time in schedstat")?;
    Ok(Duration::from_nanos(run.parse()?))
}

/// Returns the CPU time of the calling thread.
pub fn own_time() -> Result<Duration> {
    Ok(Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))?)
}
