//! The kernel object with the reference programs (`guard-ebpf/src/bench.rs`).

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{SchedClassifier, Xdp},
};

use super::run::Program;

/// Addresses in the table of a variator.
pub const SOURCES: usize = 1 << 18;

/// The loaded reference programs; none is attached.
#[derive(Debug)]
pub struct ReferencePrograms {
    /// Drops without reading the packet.
    pub drop_all: Program,
    /// Passes without reading the packet.
    pub pass_all: Program,
    /// Parses as the guard does, and drops.
    pub parse_only: Program,
    /// Passes every packet on to the next program, at the tc hook.
    pub tc_next: Program,
}

impl ReferencePrograms {
    /// Loads the reference programs.
    pub fn load(object: &[u8]) -> Result<Self> {
        let mut ebpf =
            EbpfLoader::new().load(object).context("loading the maps of the reference programs")?;
        Ok(Self {
            drop_all: load(&mut ebpf, "drop_all")?,
            pass_all: load(&mut ebpf, "pass_all")?,
            parse_only: load(&mut ebpf, "parse_only")?,
            tc_next: load_tc(&mut ebpf, "tc_next")?,
        })
    }
}

/// The lookups in the network stack alone, for fixed parameters.
#[expect(missing_debug_implementations, reason = "aya's typed maps have none")]
pub struct Lookups {
    /// Looks up a TCP socket, of IPv4 and of IPv6. Returns its state.
    pub sockets: [Program; 2],
    /// Looks up a route. Returns the result of the helper.
    pub route: Program,
    request: Array<MapData, [u32; 16]>,
}

impl Lookups {
    /// Loads the programs.
    pub fn load(object: &[u8]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object).context("loading the maps of the lookups")?;
        Ok(Self {
            sockets: [load(&mut ebpf, "socket4")?, load(&mut ebpf, "socket6")?],
            route: load(&mut ebpf, "route")?,
            request: take(&mut ebpf, "REQUEST")?,
        })
    }

    /// Sets the parameters: `struct bpf_sock_tuple` or `struct bpf_fib_lookup`
    /// (`include/uapi/linux/bpf.h`) in words.
    pub fn set(&mut self, request: [u32; 16]) -> Result<()> {
        self.request.set(0, request, 0).context("setting the parameters of a lookup")
    }
}

/// Reads the object file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| {
        format!(
            "{}: run the benchmark with `cargo xtask bench`, which builds the object",
            path.display()
        )
    })
}

/// Addresses of one family, in network byte order.
#[derive(Debug, Clone)]
pub enum Sources {
    /// IPv4.
    V4(Vec<[u8; 4]>),
    /// IPv6.
    V6(Vec<[u8; 16]>),
}

impl Sources {
    fn len(&self) -> usize {
        match self {
            Self::V4(sources) => sources.len(),
            Self::V6(sources) => sources.len(),
        }
    }
}

/// A program that gives every packet the next source of a table, then jumps to a program under test.
#[expect(missing_debug_implementations, reason = "aya's typed maps have none")]
pub struct Variator {
    frags: Program,
    linear: Program,
    jump: ProgramArray<MapData>,
    jump_linear: ProgramArray<MapData>,
}

impl Variator {
    /// Loads a variator with a table of [`SOURCES`] addresses, filled by repeating `sources` in order.
    pub fn load(object: &[u8], sources: &Sources) -> Result<Self> {
        ensure!(sources.len() != 0, "a variator needs at least one source");
        let mut ebpf =
            EbpfLoader::new().load(object).context("loading the maps of the variator")?;
        let [frags, linear] = match sources {
            Sources::V4(_) => ["vary4", "vary4_linear"],
            Sources::V6(_) => ["vary6", "vary6_linear"],
        };
        // Load the programs first: they then hold a reference to their maps. Otherwise a map would be
        // freed when it is taken from the object.
        let (frags, linear) = (load(&mut ebpf, frags)?, load(&mut ebpf, linear)?);
        match sources {
            Sources::V4(sources) => {
                let word = |&[a, b, c, d]: &[u8; 4]| [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])];
                fill(&mut ebpf, "SOURCES4", sources.iter().map(word))?;
            }
            Sources::V6(sources) => {
                let words = |source: &[u8; 16]| {
                    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
                    let (words, _) = source.as_chunks::<8>();
                    [word(&words[0]), word(&words[1])]
                };
                fill(&mut ebpf, "SOURCES6", sources.iter().map(words))?;
            }
        }
        Ok(Self {
            frags,
            linear,
            jump: take(&mut ebpf, "JUMP")?,
            jump_linear: take(&mut ebpf, "JUMP_LINEAR")?,
        })
    }

    /// Returns both entry programs, of which [`Self::before`] picks one.
    pub fn programs(&self) -> [&Program; 2] {
        [&self.frags, &self.linear]
    }

    /// Returns the program to run so that `program` gets varied sources. Valid until the next call.
    pub fn before(&mut self, program: &Program) -> Result<&Program> {
        // The kernel does not report whether a program has `xdp.frags`, so try.
        if self.jump.set(0, program.fd(), 0).is_ok() {
            return Ok(&self.frags);
        }
        self.jump_linear
            .set(0, program.fd(), 0)
            .context("setting the jump to the program under test")?;
        Ok(&self.linear)
    }
}

fn fill<V: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &str,
    words: impl Iterator<Item = V> + Clone,
) -> Result<()> {
    let mut table: Array<MapData, V> = take(ebpf, name)?;
    for (at, word) in (0..).zip(words.cycle().take(SOURCES)) {
        table.set(at, word, 0).with_context(|| format!("filling {name}"))?;
    }
    Ok(())
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<Program> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the kernel object has no program `{name}`"))?;
    let xdp: &mut Xdp = program.try_into()?;
    xdp.load().with_context(|| format!("loading `{name}`"))?;
    Program::by_id(xdp.info()?.id())
}

fn load_tc(ebpf: &mut Ebpf, name: &str) -> Result<Program> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the kernel object has no program `{name}`"))?;
    let tc: &mut SchedClassifier = program.try_into()?;
    tc.load().with_context(|| format!("loading `{name}`"))?;
    Program::by_id(tc.info()?.id())
}

fn take<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T> {
    let map =
        ebpf.take_map(name).with_context(|| format!("the kernel object has no map `{name}`"))?;
    T::try_from(map).with_context(|| name.to_owned())
}
