//! xdp-filter of xdp-tools, set up to do what the guard does: who is listed reaches all ports, everybody
//! else all but one. Its own program and maps, filled directly: its command takes a port at a time.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, PerCpuArray, PerCpuHashMap, PerCpuValues},
    programs::Xdp,
};
use guard_tests::wire::policy::{Addresses, PORT};

/// The variant that drops by default and knows ports and addresses.
const NAME: &str = "xdpfilt_dny_all";
/// Where distributions put it.
const DIRECTORIES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/bpf",
    "/usr/lib/aarch64-linux-gnu/bpf",
    "/usr/lib64/bpf",
    "/usr/lib/bpf",
    "/usr/local/lib/bpf",
    "/usr/share/xdp-tools",
];
/// Flags of entries (`xdp-filter/common_kern_user.h`): source, destination, TCP, UDP.
const SOURCE: u64 = 1;
const ALL_OF_PORT: u64 = 2 | 4 | 8;
/// `XDP_DROP`
const DROP: u32 = 1;

/// The program, with its maps.
#[derive(Debug)]
pub(crate) struct XdpFilter(Ebpf);

impl XdpFilter {
    /// Where its object is, if it is installed.
    pub(crate) fn object() -> Option<PathBuf> {
        let files = DIRECTORIES.iter().map(|directory| Path::new(directory).join(NAME));
        files.map(|file| file.with_extension("o")).find(|file| file.is_file())
    }

    /// Loads it and lists sources.
    pub(crate) fn load(object: &Path, listed: &Addresses) -> Result<Self> {
        let pins = tempfile::Builder::new().prefix("xdp-filter-").tempdir_in("/sys/fs/bpf")?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(pins.path());
        let ebpf = loader.load_file(object).with_context(|| object.display().to_string())?;
        let mut filter = Self(ebpf);
        filter.fill(listed)?;
        let program = filter.0.program_mut(NAME).context(NAME)?;
        <&mut Xdp>::try_from(program)?.load()?;
        Ok(filter)
    }

    fn fill(&mut self, listed: &Addresses) -> Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| error_of(what, error))?;
        let on_all = |value| PerCpuValues::try_from(vec![value; cpus]);
        let mut ports: PerCpuArray<_, u64> = self.map("filter_ports")?.try_into()?;
        for port in (0..=u16::MAX).filter(|port| *port != PORT) {
            ports.set(port.to_be().into(), on_all(ALL_OF_PORT)?, 0)?;
        }
        let mut sources: PerCpuHashMap<_, [u8; 4], u64> = self.map("filter_ipv4")?.try_into()?;
        for address in &listed.v4 {
            sources.insert(address.octets(), on_all(SOURCE)?, 0)?;
        }
        let mut sources: PerCpuHashMap<_, [u8; 16], u64> = self.map("filter_ipv6")?.try_into()?;
        for address in &listed.v6 {
            sources.insert(address.octets(), on_all(SOURCE)?, 0)?;
        }
        Ok(())
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.0.map_mut(name).with_context(|| format!("no map `{name}`"))
    }

    /// Its program.
    pub(crate) fn program(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.0.program(NAME).context(NAME)?.fd()?.as_fd())
    }

    /// Frames that it has dropped.
    pub(crate) fn dropped(&self) -> Result<u64> {
        let map = self.0.map("xdp_stats_map").context("no map `xdp_stats_map`")?;
        // Packets and bytes, by what was done with them.
        let counters: PerCpuArray<_, [u64; 2]> = map.try_into()?;
        Ok(counters.get(&DROP, 0)?.iter().map(|[packets, _]| packets).sum())
    }
}

fn error_of(what: &str, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(what.to_owned())
}
