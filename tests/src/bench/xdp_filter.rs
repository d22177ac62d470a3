//! Debian's xdp-filter for comparison: its deny policy, with every port but the guarded one accepted and
//! the listed hosts accepted as sources, which together does the guard's task. Its maps are filled
//! directly, because its command takes one port at a time.
//!
//! The object of the package is loaded unchanged, with its maps on a private bpffs. The command would
//! add libxdp's dispatcher where the kernel allows that, and a program behind a dispatcher cannot be
//! test-run; so the figure is a few ns lower than that of an installation. The other difference: the
//! package's limit of 10,000 sources is raised where more are listed.

use std::{
    fs, io, iter,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues},
    programs::Xdp,
};

use super::run::{Program, XDP_DROP};
use crate::system::mounts::Bpffs;

/// The message if xdp-filter is not installed.
pub const MISSING: &str = "xdp-filter: not installed (cargo xtask bench --install)";

/// The variant of the object with all features, which `xdp-filter load --policy deny` uses for TCP, UDP,
/// IPv4 and IPv6 together.
const OBJECT: &str = "xdpfilt_dny_all.o";
const PROGRAM: &str = "xdpfilt_dny_all";
/// Directories in which distributions install it, besides the architecture's own.
const DIRECTORIES: [&str; 4] =
    ["/usr/lib64/bpf", "/usr/lib/bpf", "/usr/local/lib/bpf", "/usr/share/xdp-tools"];
/// Maximum number of sources of each family in the package.
const AS_SHIPPED: u32 = 10_000;

// Flags of the map values (xdp-tools, xdp-filter/common_kern_user.h).
const SOURCE: u64 = 1 << 0;
const DESTINATION: u64 = 1 << 1;
const TCP: u64 = 1 << 2;
const UDP: u64 = 1 << 3;

/// The object file of the package.
#[derive(Debug)]
pub struct Object {
    path: PathBuf,
    version: String,
}

/// Finds the object of an installed package.
pub fn find() -> io::Result<Object> {
    let native = format!("/usr/lib/{}-linux-gnu/bpf", std::env::consts::ARCH);
    let path = iter::once(native.as_str())
        .chain(DIRECTORIES)
        .map(|directory| Path::new(directory).join(OBJECT))
        .find(|path| path.is_file())
        .ok_or(io::ErrorKind::NotFound)?;
    Ok(Object { path, version: version().unwrap_or_else(|| "version unknown".to_owned()) })
}

/// Returns the version according to the package manager; xdp-filter does not print it.
fn version() -> Option<String> {
    let said = Command::new("dpkg-query").args(["--show", "xdp-tools"]).output().ok()?;
    Some(String::from_utf8(said.stdout).ok()?.split_whitespace().nth(1)?.to_owned())
}

impl Object {
    /// Describes the object for a note.
    pub fn describe(&self) -> String {
        format!(
            "xdp-filter: {}, {}, without libxdp's dispatcher; its table has room for {AS_SHIPPED} sources, \
             and for more if more are listed; its sources are hosts, so a list of prefixes has no \
             figure",
            self.version,
            self.path.display()
        )
    }
}

/// xdp-filter, loaded, with its maps filled.
#[expect(missing_debug_implementations, reason = "aya's typed maps have none")]
pub struct XdpFilter {
    program: Program,
    statistics: PerCpuArray<MapData, [u64; 2]>,
    _pins: Bpffs,
}

impl XdpFilter {
    /// Loads xdp-filter with rules that deny `port` to all but these hosts.
    pub fn load(object: &Object, port: u16, v4: &[Ipv4Addr], v6: &[Ipv6Addr]) -> Result<Self> {
        let pins = Bpffs::new()?;
        let bytes = fs::read(&object.path)?;
        let room = u32::try_from(v4.len().max(v6.len()))?.max(AS_SHIPPED);
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins.path())
            .map_max_entries("filter_ipv4", room)
            .map_max_entries("filter_ipv6", room)
            .load(&bytes)
            .context("loading the maps of xdp-filter")?;
        let program =
            ebpf.program_mut(PROGRAM).context("the object of xdp-filter has no program")?;
        let xdp: &mut Xdp = program.try_into()?;
        xdp.load().context("loading xdp-filter")?;
        let program = Program::by_id(xdp.info()?.id())?;
        // From here on the loaded program holds its maps; before, they would be freed with our
        // descriptors.
        accept_ports_but(&mut ebpf, port)?;
        accept_sources(&mut ebpf, "filter_ipv4", v4.iter().map(Ipv4Addr::octets))?;
        accept_sources(&mut ebpf, "filter_ipv6", v6.iter().map(Ipv6Addr::octets))?;
        let statistics = PerCpuArray::try_from(take(&mut ebpf, "xdp_stats_map")?)?;
        Ok(Self { program, statistics, _pins: pins })
    }

    /// Returns the program, for test runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Returns how many frames got an XDP action so far.
    pub fn counted(&self, action: u32) -> Result<u64> {
        let values =
            self.statistics.get(&action, 0).context("reading the statistics of xdp-filter")?;
        Ok(values.iter().map(|[packets, _]| packets).sum())
    }

    /// Returns how many frames were dropped so far.
    pub fn dropped(&self) -> Result<u64> {
        self.counted(XDP_DROP)
    }
}

fn accept_ports_but(ebpf: &mut Ebpf, refused: u16) -> Result<()> {
    let mut ports = PerCpuArray::try_from(take(ebpf, "filter_ports")?)?;
    for port in (0..=u16::MAX).filter(|port| *port != refused) {
        // The key is the port in network byte order.
        let index = u32::from(port.to_be());
        ports.set(index, on_all_cpus(DESTINATION | TCP | UDP)?, 0)?;
    }
    Ok(())
}

fn accept_sources<K: Pod>(
    ebpf: &mut Ebpf,
    map: &str,
    sources: impl Iterator<Item = K>,
) -> Result<()> {
    let mut accepted = PerCpuHashMap::try_from(take(ebpf, map)?)?;
    for source in sources {
        accepted.insert(source, on_all_cpus(SOURCE)?, 0)?;
    }
    Ok(())
}

fn on_all_cpus(value: u64) -> Result<PerCpuValues<u64>> {
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
    Ok(PerCpuValues::try_from(vec![value; cpus])?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).with_context(|| format!("xdp-filter has no map `{name}`"))
}
