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
/// Frames sent at a time; the most that the kernel allows (`TEST_XDP_MAX_BATCH`,
/// net/bpf/test_run.c).
const BURST: u32 = 256;
/// Frames sent in one call: a few tens of milliseconds.
const CALL: u32 = 1 << 18;
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
}

impl Flood {
    /// Loads it, to send out of the device of this end.
    pub(crate) fn load(object: &Path, end: &End, cpu: usize) -> Result<Self> {
        let simple = Simple::load(object, end.index()?, &["flood"])?;
        Ok(Self { simple, frame: Vec::new(), cpu })
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

    /// Sends for so long, until the receiver has taken what was sent; how long that was.
    pub(crate) fn run(&self, lab: &Lab, duration: Duration) -> Result<Duration> {
        let elapsed = lab.sender.inside(|| {
            cpu::pin(cpu::this_thread(), self.cpu)?;
            cpu::raise(cpu::this_thread())?;
            let program: &Xdp = self.simple.0.program("flood").context("`flood`")?.try_into()?;
            let start = Instant::now();
            while start.elapsed() < duration {
                let options = TestRunOptions {
                    data_in: Some(&self.frame),
                    repeat: CALL,
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
