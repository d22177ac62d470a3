//! The sender: a program that gives each frame of a burst the next source, and sends it.

use std::{
    fmt,
    net::Ipv6Addr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    TestRun as _,
    maps::Array,
    programs::{TestRunAttrs, TestRunOptions, Xdp},
};
use guard_tests::{
    text,
    wire::{
        cpu,
        lab::{End, Lab},
        policy::{self, Addresses},
        programs::Simple,
    },
};

/// Sources; as many as the program has room for.
pub(crate) const SOURCES: usize = 1 << 16;
/// Frames sent at a time, between two pauses of the program; the most that the kernel
/// allows (`TEST_XDP_MAX_BATCH`, `net/bpf/test_run.c`).
const BURST: u32 = 256;
/// Calls are to take so long. To set one up and to take it down costs tens of milliseconds, in
/// which nothing is sent.
const CALL: Duration = Duration::from_millis(400);
/// Of the state of the program: nanoseconds from the start of a burst to the next.
const PAUSE_NS: u32 = 1;
/// Faster than anything can receive, and than we can send.
const FASTEST: Duration = Duration::from_nanos(30);
/// How long the receiver must have been quiet to be done.
const QUIET: Duration = Duration::from_millis(10);

/// The family of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The program and the frame that it sends.
#[derive(Debug)]
pub(crate) struct Flood {
    simple: Simple,
    frame: Vec<u8>,
    cpu: usize,
    /// From a frame to the next, on average.
    pace: Duration,
}

impl Flood {
    /// Loads it, to send out of the device of this end.
    pub(crate) fn load(object: &Path, end: &End, cpu: usize) -> Result<Self> {
        let simple = Simple::load(object, end.index()?, &["flood"])?;
        Ok(Self { simple, frame: Vec::new(), cpu, pace: FASTEST })
    }

    /// Sets the sources.
    pub(crate) fn aim(&mut self, family: Family, sources: &Addresses) -> Result<()> {
        let port = policy::PORT;
        let (v4, v6) = policy::NODE;
        let (layers, sources): (_, Vec<[u8; 16]>) = match family {
            Family::V4 => {
                let wide = |octets: [u8; 4]| {
                    let mut wide = [0; 16];
                    wide[..4].copy_from_slice(&octets);
                    wide
                };
                let sources = sources.v4.iter().map(|address| wide(address.octets()));
                // Up to the shortest frame of an Ethernet: 60 bytes.
                (
                    format!("ipv4 from=0.0.0.0 to={v4} / tcp to={port} flags=S / pad 6"),
                    sources.collect(),
                )
            }
            Family::V6 => {
                let sources = sources.v6.iter().map(Ipv6Addr::octets);
                (format!("ipv6 from=:: to={v6} / tcp to={port} flags=S"), sources.collect())
            }
        };
        self.frame = text::frame(&layers)?;
        let map = self.simple.0.map_mut("FLOOD_SOURCES").context("FLOOD_SOURCES")?;
        let mut table: Array<_, [u8; 16]> = map.try_into()?;
        for (index, source) in (0..).zip(sources) {
            table.set(index, source, 0)?;
        }
        Ok(())
    }

    /// Leaves the receiver so long for a frame. Whoever is overrun works on a full ring, whose
    /// frames fall out of its caches: then it is the cache that is measured.
    pub(crate) fn pace(&mut self, pace: Duration) -> Result<()> {
        let map = self.simple.0.map_mut("FLOOD_STATE").context("FLOOD_STATE")?;
        let mut state: Array<_, u64> = map.try_into()?;
        let pause = (pace * BURST).as_nanos();
        state.set(PAUSE_NS, u64::try_from(pause)?, 0)?;
        self.pace = pace.max(FASTEST);
        Ok(())
    }

    /// Sends for so long, until the receiver has taken what was sent; how long that was.
    pub(crate) fn run(&self, lab: &Lab, duration: Duration) -> Result<Duration> {
        let elapsed = lab.sender.inside(|| {
            cpu::pin(cpu::this_thread(), self.cpu)?;
            cpu::raise(cpu::this_thread())?;
            let program: &Xdp = self.simple.0.program("flood").context("`flood`")?.try_into()?;
            let start = Instant::now();
            let frames = duration.min(CALL).as_nanos() / self.pace.as_nanos();
            let frames = u32::try_from(frames)?.next_multiple_of(BURST);
            while start.elapsed() < duration {
                let options = TestRunOptions {
                    data_in: Some(&self.frame),
                    repeat: frames,
                    attrs: TestRunAttrs::new().xdp_live_frames(BURST),
                    ..TestRunOptions::default()
                };
                program.test_run(options).context("sending live frames (Linux 5.18)")?;
            }
            Ok(start.elapsed())
        })?;
        let mut received = lab.receiver.received()?;
        loop {
            thread::sleep(QUIET);
            let now = lab.receiver.received()?;
            if now == received {
                return Ok(elapsed);
            }
            received = now;
        }
    }
}
