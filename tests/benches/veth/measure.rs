//! One run of one case.
#![expect(clippy::cast_precision_loss, reason = "counts of frames are far below 2^52")]

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use guard_tests::wire::{
    cpu,
    flood::{Family, Flood},
    lab::{End, Lab},
};
use nix::unistd::Pid;

use crate::subject::Subject;

/// Time before a measurement, in which caches, pools and queues fill up.
const WARM_UP: Duration = Duration::from_millis(50);
/// A receiver that got no frame for this long has received everything.
const QUIET: Duration = Duration::from_millis(10);

/// The cable and the sender.
pub(crate) struct Bench {
    pub(crate) lab: Lab,
    pub(crate) flood: Flood,
    /// CPU of the receiver.
    pub(crate) cpu: usize,
    /// Duration of a measurement.
    pub(crate) duration: Duration,
}

/// The result of one run of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// CPU time of the receiver per frame, in nanoseconds.
    pub(crate) ns: f64,
    /// Frames per microsecond of wall-clock time.
    pub(crate) mpps: f64,
}

impl Bench {
    /// Measures a case. Returns `None` if its program is not installed.
    pub(crate) fn measure(
        &mut self,
        subject: &mut Subject,
        family: Family,
    ) -> Result<Option<Sample>> {
        if subject.missing().is_some() {
            return Ok(None);
        }
        subject.attach(&self.lab.receiver)?;
        let napi = self.napi()?;
        self.warm_up(napi)?;
        let dropped = subject.dropped(&self.lab.receiver, family)?;
        let before = Reading::of(&self.lab.receiver, napi)?;
        let elapsed = self.run(self.duration)?;
        let received = Reading::of(&self.lab.receiver, napi)?.since(before);
        let dropped_later = subject.dropped(&self.lab.receiver, family)?;
        subject.detach(&self.lab.receiver)?;
        if let Some((before, after)) = dropped.zip(dropped_later) {
            let (name, arrived, dropped) = (subject.kind.name(), received.frames, after - before);
            ensure!(
                dropped == arrived,
                "{name} {family}: {arrived} frames arrived, {dropped} were dropped"
            );
        }
        let frames = received.frames as f64;
        Ok(Some(Sample {
            ns: received.time.as_secs_f64() * 1e9 / frames,
            mpps: frames / elapsed.as_secs_f64() / 1e6,
        }))
    }

    /// Sends for `duration` and waits until the receiver has received everything. Returns the time spent
    /// sending.
    fn run(&self, duration: Duration) -> Result<Duration> {
        let elapsed = self.lab.sender.inside(|| self.flood.send(duration))?;
        let mut received = self.lab.receiver.received()?;
        loop {
            thread::sleep(QUIET);
            let now = self.lab.receiver.received()?;
            if now == received {
                return Ok(elapsed);
            }
            received = now;
        }
    }

    /// Returns the polling thread, pinned to its CPU. Attaching may have replaced the thread.
    fn napi(&self) -> Result<Pid> {
        let napi = cpu::napi_thread(&self.lab.receiver.device)?;
        cpu::pin(napi, self.cpu)?;
        cpu::raise(napi)?;
        Ok(napi)
    }

    /// Sends as fast as possible, then sets the pace to the speed of the receiver.
    fn warm_up(&mut self, napi: Pid) -> Result<()> {
        self.flood.pace(Duration::ZERO)?;
        let before = Reading::of(&self.lab.receiver, napi)?;
        self.run(WARM_UP)?;
        let received = Reading::of(&self.lab.receiver, napi)?.since(before);
        self.flood.pace(received.time / u32::try_from(received.frames)?.max(1))?;
        self.run(WARM_UP)?;
        Ok(())
    }
}

/// Counters of the receiver at one moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    frames: u64,
    time: Duration,
}

impl Reading {
    fn of(end: &End, napi: Pid) -> Result<Self> {
        Ok(Self { frames: end.received()?, time: cpu::time_of(napi)? })
    }

    fn since(self, before: Self) -> Self {
        Self { frames: self.frames - before.frames, time: self.time.saturating_sub(before.time) }
    }
}
