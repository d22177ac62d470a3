//! A sender of floods: a program that gives each frame of a burst the next source, and sends it.

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

/// Sources; as many as the program has room for.
pub const SOURCES: usize = 1 << 16;
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
/// Which byte of an IPv4 source in the table says which bits of its second octet change.
const VARIED: usize = 15;

/// The family of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
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
    /// From a frame to the next, on average.
    pace: Duration,
}

impl Flood {
    /// Loads it, to send from this CPU out of the device of this index.
    pub fn load(object: &Path, index: u32, cpu: usize) -> Result<Self> {
        let simple = Simple::load(object, index, &["flood"])?;
        Ok(Self { simple, frame: Vec::new(), cpu, pace: FASTEST })
    }

    /// Sets the sources: unknown to the policy of the benchmarks, at its port.
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

    /// Opens connections from many forged IPv4 sources, sixteen times as many as are given, and
    /// from these, every so many frames.
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

    /// Leaves the receiver so long for a frame. Whoever is overrun works on a full ring, whose
    /// frames fall out of its caches: then it is the cache that is measured.
    pub fn pace(&mut self, pace: Duration) -> Result<()> {
        let map = self.simple.0.map_mut("FLOOD_STATE").context("FLOOD_STATE")?;
        let mut state: Array<_, u64> = map.try_into()?;
        let pause = (pace * BURST).as_nanos();
        state.set(PAUSE_NS, u64::try_from(pause)?, 0)?;
        self.pace = pace.max(FASTEST);
        Ok(())
    }

    /// Sends for so long, out of the namespace that it is called in; how long that was. What was
    /// sent last is still on its way.
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

/// An IPv4 source as the table holds it.
fn wide(address: Ipv4Addr) -> [u8; 16] {
    let mut wide = [0; 16];
    wide[..4].copy_from_slice(&address.octets());
    wide
}

/// A segment that opens a connection, filled up to the shortest frame of an Ethernet: 60 bytes.
fn syn4(to: Ipv4Addr, port: u16) -> String {
    format!("ipv4 from=0.0.0.0 to={to} / tcp to={port} flags=S / pad 6")
}
