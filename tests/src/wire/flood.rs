//! Sends floods: a program gives each frame of a burst the next source, and sends it.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    time::{Duration, Instant},
};

use super::{
    cpu,
    policy::{self, Addresses},
    programs::Simple,
};
use crate::text;
use anyhow::{Context as _, Result};
use aya::{
    TestRun as _,
    maps::Array,
    programs::{TestRunAttrs, TestRunOptions, Xdp},
};

/// Maximum number of sources, the size of the program's table.
pub const SOURCES: usize = 1 << 16;
/// Frames per burst. The program pauses between bursts. This is the maximum that the kernel allows
/// (`TEST_XDP_MAX_BATCH`, `net/bpf/test_run.c`).
const BURST: u32 = 256;
/// Duration of one call. Its setup and teardown take tens of milliseconds, in which nothing is sent.
const CALL: Duration = Duration::from_millis(400);
/// Index in the program's state: nanoseconds from the start of a burst to the next.
const PAUSE_NS: u32 = 1;
/// Minimum time between frames: faster than any receiver, and than this sender.
const FASTEST: Duration = Duration::from_nanos(30);
/// Byte of an IPv4 source in the table that holds the mask of the varying bits in its second octet.
const VARIED: usize = 15;

/// The address family of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
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
pub struct Flood {
    simple: Simple,
    frame: Vec<u8>,
    cpu: usize,
    /// Average time between frames.
    pace: Duration,
}

impl Flood {
    /// Loads the program, to send from a CPU out of the device with this index.
    pub fn load(object: &Path, index: u32, cpu: usize) -> Result<Self> {
        let simple = Simple::load(object, index, &["flood"])?;
        Ok(Self { simple, frame: Vec::new(), cpu, pace: FASTEST })
    }

    /// Sets the sources, and the guarded port of the benchmarks' policy as the destination.
    pub fn aim(&mut self, family: Family, sources: &Addresses) -> Result<()> {
        let port = policy::PORT;
        let (v4, v6) = policy::NODE;
        let (layers, sources): (_, Vec<[u8; 16]>) = match family {
            Family::V4 => {
                let sources = sources.v4.iter().map(|address| wide(*address));
                (syn4(v4, port), sources.collect())
            }
            Family::V6 => {
                let sources = sources.v6.iter().map(Ipv6Addr::octets);
                (format!("ipv6 from=:: to={v6} / tcp to={port} flags=S"), sources.collect())
            }
        };
        self.set(&layers, &sources)
    }

    /// Sets SYNs from forged IPv4 sources: sixteen variants of each address in `forged`; and each
    /// address in `fixed` once in as many frames as given with it.
    pub fn forge(
        &mut self,
        to: Ipv4Addr,
        port: u16,
        forged: &[Ipv4Addr],
        fixed: &[(Ipv4Addr, usize)],
    ) -> Result<()> {
        let mut sources: Vec<[u8; 16]> = forged.iter().map(|address| wide(*address)).collect();
        for source in &mut sources {
            source[VARIED] = 0x0f;
        }
        for (number, (address, every)) in fixed.iter().enumerate() {
            for source in sources.iter_mut().skip(number).step_by(*every) {
                *source = wide(*address);
            }
        }
        self.set(&syn4(to, port), &sources)
    }

    fn set(&mut self, layers: &str, sources: &[[u8; 16]]) -> Result<()> {
        self.frame = text::frame(layers)?;
        let map = self.simple.0.map_mut("FLOOD_SOURCES").context("FLOOD_SOURCES")?;
        let mut table: Array<_, [u8; 16]> = map.try_into()?;
        for (index, source) in (0..).zip(sources) {
            table.set(index, source, 0)?;
        }
        Ok(())
    }

    /// Sets the time between frames. A receiver that is overrun works on a full ring, whose frames fall
    /// out of its caches, so the benchmark would measure the cache.
    pub fn pace(&mut self, pace: Duration) -> Result<()> {
        let map = self.simple.0.map_mut("FLOOD_STATE").context("FLOOD_STATE")?;
        let mut state: Array<_, u64> = map.try_into()?;
        let pause = (pace * BURST).as_nanos();
        state.set(PAUSE_NS, u64::try_from(pause)?, 0)?;
        self.pace = pace.max(FASTEST);
        Ok(())
    }

    /// Sends for `duration` out of the current network namespace and returns how long that took. The
    /// last frames may still be in flight.
    pub fn send(&self, duration: Duration) -> Result<Duration> {
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
    }
}

/// Returns an IPv4 source in the format of the table.
fn wide(address: Ipv4Addr) -> [u8; 16] {
    let mut wide = [0; 16];
    wide[..4].copy_from_slice(&address.octets());
    wide
}

/// Returns a segment that opens a connection, padded to the minimum Ethernet frame of 60 bytes.
fn syn4(to: Ipv4Addr, port: u16) -> String {
    format!("ipv4 from=0.0.0.0 to={to} / tcp to={port} flags=S / pad 6")
}
