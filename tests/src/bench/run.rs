//! Loads programs from the kernel, runs them and times them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::{
    TestRun as _,
    programs::{ProgramFd, ProgramInfo, SchedClassifier, TestRunOptions, Xdp, loaded_programs},
};
use aya_obj::{generated::bpf_prog_type, programs::XdpAttachType};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// Return value of an XDP program (`enum xdp_action`, `include/uapi/linux/bpf.h`).
pub const XDP_DROP: u32 = 1;
/// See [`XDP_DROP`].
pub const XDP_PASS: u32 = 2;
/// Return value of a tc program (`TC_ACT_SHOT`, `include/uapi/linux/pkt_cls.h`; `TCX_NEXT`,
/// `include/uapi/linux/bpf.h`).
pub const TC_DROP: u32 = 2;
/// See [`TC_DROP`].
pub const TC_NEXT: u32 = u32::MAX;

/// A loaded program. It stays loaded while this value exists.
#[derive(Debug)]
pub struct Program {
    kind: Kind,
    fd: ProgramFd,
}

#[derive(Debug)]
enum Kind {
    Xdp(Xdp),
    Tc(SchedClassifier),
}

impl Program {
    /// Opens the loaded program with this id.
    pub fn by_id(id: u32) -> Result<Self> {
        let info = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
        Self::of(info.with_context(|| format!("no program has the id {id}"))?)
    }

    fn of(info: ProgramInfo) -> Result<Self> {
        let fd = info.fd().context("opening the program by its id")?;
        let name = info.name_as_str().unwrap_or("program").to_owned().into();
        let kind = if info.program_type() == bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS {
            Kind::Tc(SchedClassifier::from_program_info(info, name)?)
        } else {
            Kind::Xdp(Xdp::from_program_info(info, name, XdpAttachType::Interface)?)
        };
        Ok(Self { kind, fd })
    }

    /// Returns the descriptor, for a program array.
    pub fn fd(&self) -> &ProgramFd {
        &self.fd
    }

    /// Runs the program `repeat` times on a frame and returns the result of the last run. A later run
    /// sees what an earlier one wrote into the frame (`bpf_test_run`, `net/bpf/test_run.c`).
    pub fn run(&self, frame: &[u8], repeat: u32) -> Result<u32> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let result = match &self.kind {
            Kind::Xdp(program) => program.test_run(options),
            Kind::Tc(program) => program.test_run(options),
        };
        Ok(result.context("running the program on a frame (BPF_PROG_TEST_RUN)")?.return_value)
    }

    /// Returns the CPU time of one run in nanoseconds, and the result of the last run.
    ///
    /// The kernel's own figure is in whole nanoseconds and wall-clock time. This one includes the loop
    /// of the test run, about 5 ns per packet.
    pub fn time(&self, frame: &[u8], repeat: u32) -> Result<(f64, u32)> {
        ensure!(repeat > 0, "the number of repetitions is 0");
        let before = thread_time()?;
        let result = self.run(frame, repeat)?;
        let spent = thread_time()?.saturating_sub(before);
        Ok((spent.as_secs_f64() * 1e9 / f64::from(repeat), result))
    }
}

/// Returns the CPU time of this thread.
pub fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Pins this thread to the last CPU that it may use, so that caches and per-CPU values stay the same.
/// Returns the CPU's number.
pub fn stay_on_one_cpu() -> Result<usize> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("reading the CPUs of this thread")?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let last = last.context("this thread may use no CPU")?;
    let mut only = CpuSet::new();
    only.set(last)?;
    sched_setaffinity(this, &only).context("pinning this thread to one CPU")?;
    Ok(last)
}
