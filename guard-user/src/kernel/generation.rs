//! A generation: one program on policy maps of its own, complete before anything is switched.

use std::{
    fs,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, HashMap},
    programs::{TestRunOptions, Xdp},
};
use guard_common::{
    bucket::{LONGEST_TICK_NS, TICKS_PER_NS},
    layout::{BucketStates, MemberKey},
    names,
    tables::{Service, Setting},
    trie::Root,
    verdict::Verdict,
};
use nix::time::{ClockId, clock_getres};

use super::{error::KernelError, members, program::Program, rehearsal, shared::Shared};
use crate::{object::kernel_object, policy::compiled::CompiledPolicy};

/// Frames shorter than an Ethernet header cannot be handed to the kernel
/// (`bpf_prog_test_run_xdp`, `net/bpf/test_run.c`).
pub const SHORTEST_FRAME: usize = 14;

/// Where the maps that all generations share come from.
#[derive(Debug, Clone)]
pub enum Maps {
    /// Pinned in this directory, made there if they are not.
    Pinned(PathBuf),
    /// New ones, that end with the generation: for replay and tests.
    Private,
}

/// How a generation is loaded.
#[derive(Debug, Clone)]
pub struct Options {
    /// The shared maps.
    pub maps: Maps,
    /// The secret key of hashed buckets.
    pub key: [u64; 2],
    /// Whether refused frames are told of.
    pub sampling: bool,
}

impl Options {
    /// The shared maps by name, and where they are pinned.
    fn pins(&self) -> Vec<(&'static str, PathBuf)> {
        match &self.maps {
            Maps::Pinned(directory) => {
                names::SHARED_MAPS.into_iter().map(|name| (name, directory.join(name))).collect()
            }
            Maps::Private => Vec::new(),
        }
    }
}

/// The kernel object of this binary.
///
/// # Errors
/// It was built without one.
pub fn require_kernel_object() -> Result<&'static [u8], KernelError> {
    kernel_object().ok_or_else(|| {
        KernelError::new(
            "this binary carries no kernel object: it can check, trace and replay, but guard \
             nothing",
        )
        .hint("build it with `cargo xtask build`")
    })
}

/// A loaded policy.
#[cfg_attr(not(feature = "log"), derive(Debug))]
#[cfg_attr(
    feature = "log",
    expect(missing_debug_implementations, reason = "aya's logger has none")
)]
pub struct Generation {
    ebpf: Ebpf,
    program_id: u32,
    #[cfg(feature = "log")]
    flush_log: Option<Box<dyn FnMut()>>,
}

impl Generation {
    /// Loads a policy and the program that enforces it. Nothing is attached yet; dropped, it
    /// leaves nothing behind but pinned shared maps.
    ///
    /// # Errors
    /// The kernel refuses it, or judges by it otherwise than the host does.
    pub fn load(policy: &CompiledPolicy, options: &Options) -> Result<Self, KernelError> {
        Self::build(policy, options, names::PROGRAM)
    }

    /// Sees that the kernel judges by the tables of this generation as the host does by this
    /// policy's. [`Generation::load`] has done it.
    ///
    /// # Errors
    /// It does not, or cannot be asked.
    pub fn rehearse(&mut self, policy: &CompiledPolicy) -> Result<(), KernelError> {
        rehearsal::rehearse(xdp(&mut self.ebpf, names::PROGRAM_REHEARSAL)?, policy)
    }

    /// Loads a policy for [`Generation::judge`], on maps of its own.
    pub fn for_tests(policy: &CompiledPolicy, key: [u64; 2]) -> Result<Self, KernelError> {
        let options = Options { maps: Maps::Private, key, sampling: false };
        Self::build(policy, &options, names::PROGRAM_VERDICT)
    }

    fn build(
        policy: &CompiledPolicy,
        options: &Options,
        program: &str,
    ) -> Result<Self, KernelError> {
        let missing: Vec<PathBuf> =
            options.pins().into_iter().map(|(_, pin)| pin).filter(|pin| !pin.exists()).collect();
        Self::try_build(policy, options, program).inspect_err(|_| {
            // What this build has pinned guards nothing and counts nothing. What else there was is
            // somebody's.
            for pin in missing.iter().filter(|pin| pin.exists()) {
                if let Err(error) = fs::remove_file(pin) {
                    tracing::error!("removing the pin `{}`: {error}", pin.display());
                }
            }
        })
    }

    fn try_build(
        policy: &CompiledPolicy,
        options: &Options,
        program: &str,
    ) -> Result<Self, KernelError> {
        let object = require_kernel_object()?;
        let globals = Globals::new(policy, options)?;
        let mut loader = EbpfLoader::new();
        globals.set(&mut loader);
        loader.override_global(names::GLOBAL_PORTS, policy.ports.as_slice(), true);
        let pins = options.pins();
        for (name, pin) in &pins {
            loader.map_pin_path(name, pin.as_path());
        }
        loader.override_global(names::GLOBAL_ROOT4, policy.trie4.root(), true);
        loader.override_global(names::GLOBAL_ROOT6, policy.trie6.root(), true);
        for (name, len) in [
            (names::MAP_CLASSES, policy.classes.len()),
            (names::MAP_NODES4, policy.trie4.nodes().len()),
            (names::MAP_LEAVES4, policy.trie4.leaves().len()),
            (names::MAP_NODES6, policy.trie6.nodes().len()),
            (names::MAP_LEAVES6, policy.trie6.leaves().len()),
            (names::MAP_MEMBER_SLOTS, policy.members.len()),
        ] {
            loader.map_max_entries(name, entries(len));
        }
        if matches!(options.maps, Maps::Private) {
            for name in [names::MAP_MEMBERS, names::MAP_MEMBER_KEYS] {
                loader.map_max_entries(name, entries(policy.members.len()));
            }
        }
        let mut ebpf = loader
            .load(object)
            .map_err(|error| KernelError::of("making the maps of the kernel object", error))?;
        fill(&mut ebpf, policy)?;
        let attached = xdp(&mut ebpf, program)?;
        attached.load().map_err(|error| KernelError::of("loading the program", error))?;
        let info =
            attached.info().map_err(|error| KernelError::of("asking for the program", error))?;
        let program_id = info.id();
        if program == names::PROGRAM {
            rehearsal::rehearse(xdp(&mut ebpf, names::PROGRAM_REHEARSAL)?, policy)?;
        }
        Ok(Self {
            #[cfg(feature = "log")]
            flush_log: logger(&mut ebpf),
            ebpf,
            program_id,
        })
    }

    /// Development only: hands the program's log lines to the logger of this process.
    #[cfg(feature = "log")]
    pub fn flush_log(&mut self) {
        if let Some(flush) = &mut self.flush_log {
            flush();
        }
    }

    /// Id of the program.
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// The program, as the kernel tells of it now.
    pub fn describe(&self) -> Result<Program, KernelError> {
        let program = self.ebpf.program(names::PROGRAM);
        let info = program.ok_or_else(|| missing(names::PROGRAM))?.info();
        let info = info.map_err(|error| KernelError::of("asking for the program", error))?;
        Ok(Program::from(&info))
    }

    /// Descriptor of the program.
    pub fn program(&self) -> Result<BorrowedFd<'_>, KernelError> {
        let program = self.ebpf.program(names::PROGRAM);
        let program = program.ok_or_else(|| missing(names::PROGRAM))?;
        let fd = program.fd().map_err(|error| KernelError::of("the program", error))?;
        Ok(fd.as_fd())
    }

    /// The shared maps of this generation.
    pub fn shared(&mut self) -> Result<Shared, KernelError> {
        Shared::take(&mut self.ebpf)
    }

    /// Lets the program in the kernel judge a frame of at least [`SHORTEST_FRAME`] bytes, at this
    /// time in nanoseconds. Only for generations made by [`Generation::for_tests`].
    pub fn judge(&self, frame: &[u8], now_ns: u64) -> Result<Verdict, KernelError> {
        // The clock goes in front of the frame as XDP metadata.
        let now = now_ns.saturating_mul(TICKS_PER_NS).to_ne_bytes();
        let input = [&now, frame].concat();
        let context = XdpMd { data: now.len(), data_end: input.len() }.bytes();
        let options = TestRunOptions {
            data_in: Some(&input),
            ctx_in: Some(&context),
            repeat: 1,
            ..TestRunOptions::default()
        };
        let program = self.ebpf.program(names::PROGRAM_VERDICT);
        let xdp: &Xdp = program
            .ok_or_else(|| missing(names::PROGRAM_VERDICT))?
            .try_into()
            .map_err(|error| KernelError::of(names::PROGRAM_VERDICT, error))?;
        let result = xdp.test_run(options).map_err(|error| {
            let what = format!("running the program on a frame of {} bytes", frame.len());
            KernelError::of(what, error)
        })?;
        Verdict::unpack(result.return_value).ok_or_else(|| {
            KernelError::new(format!("the program returned {:#x}, no verdict", result.return_value))
        })
    }
}

/// The reader of the program's log lines; none if the object was built without them.
#[cfg(feature = "log")]
fn logger(ebpf: &mut Ebpf) -> Option<Box<dyn FnMut()>> {
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(mut logger) => Some(Box::new(move || logger.flush())),
        Err(error) => {
            tracing::warn!("no log lines from the kernel: {error}");
            None
        }
    }
}

/// The context of a test run (`struct xdp_md`, include/uapi/linux/bpf.h): where in the input the
/// frame begins, after the metadata, and where it ends.
struct XdpMd {
    data: usize,
    data_end: usize,
}

impl XdpMd {
    fn bytes(&self) -> [u8; 24] {
        let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_ne_bytes();
        let mut bytes = [0; 24];
        for (at, value) in [(0, self.data), (4, self.data_end)] {
            if let Some(field) = bytes.get_mut(at..at + 4) {
                field.copy_from_slice(&word(value));
            }
        }
        bytes
    }
}

/// Values of the read-only globals, which the loader borrows.
struct Globals(Vec<(&'static str, u64)>);

impl Globals {
    fn new(policy: &CompiledPolicy, options: &Options) -> Result<Self, KernelError> {
        let settings = Setting::ALL.map(|setting| policy.settings.get(setting));
        let mut globals = vec![
            (names::GLOBAL_SAMPLING, u64::from(options.sampling)),
            (names::GLOBAL_JIFFY, jiffy()?),
        ];
        globals.extend(names::GLOBAL_SETTINGS.into_iter().zip(settings));
        let Root { shared, skip } = policy.trie4.begin();
        globals.extend(names::GLOBAL_BEGIN4.into_iter().zip([shared, skip].map(u64::from)));
        let Root { shared: [high, low], skip } = policy.trie6.begin();
        globals.extend(names::GLOBAL_BEGIN6.into_iter().zip([high, low, skip.into()]));
        globals.extend(names::GLOBAL_KEY.into_iter().zip(options.key));
        globals.extend(names::GLOBAL_UNPACKS.into_iter().zip(policy.unpacks));
        Ok(Self(globals))
    }

    fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for (name, value) in &self.0 {
            loader.override_global(name, value, true);
        }
    }
}

/// Ticks of the limiter's clock in a timer tick of this kernel, which is the resolution of its
/// coarse clocks (`KTIME_LOW_RES`, `include/linux/hrtimer_defs.h`).
fn jiffy() -> Result<u64, KernelError> {
    let what = "asking how often the kernel's timer ticks";
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|error| KernelError::of(what, error))?;
    let ns = u64::try_from(Duration::from(tick).as_nanos()).unwrap_or(0);
    // As long as the compiler of policies reckons with, at most: shorter bursts were refused.
    if !(1..=LONGEST_TICK_NS).contains(&ns) {
        let message = format!("{what}: every {ns} ns, expected up to {LONGEST_TICK_NS}");
        return Err(KernelError::new(message));
    }
    Ok(ns * TICKS_PER_NS)
}

fn entries(prefixes: usize) -> u32 {
    u32::try_from(prefixes).unwrap_or(u32::MAX).max(1)
}

fn fill(ebpf: &mut Ebpf, policy: &CompiledPolicy) -> Result<(), KernelError> {
    let failed = |name: &'static str| {
        move |error: aya::maps::MapError| KernelError::of(format_args!("filling {name}"), error)
    };

    let mut services: Array<_, Service> = map(ebpf, names::MAP_SERVICES)?;
    for service in &policy.services {
        services
            .set(service.slot.into(), service.service, 0)
            .map_err(failed(names::MAP_SERVICES))?;
    }
    fill_array(ebpf, names::MAP_CLASSES, &policy.classes)?;
    fill_array(ebpf, names::MAP_NODES4, policy.trie4.nodes())?;
    fill_array(ebpf, names::MAP_LEAVES4, policy.trie4.leaves())?;
    fill_array(ebpf, names::MAP_NODES6, policy.trie6.nodes())?;
    fill_array(ebpf, names::MAP_LEAVES6, policy.trie6.leaves())?;
    let [keys, states] = ebpf.maps_disjoint_mut([names::MAP_MEMBER_KEYS, names::MAP_MEMBERS]);
    let mut keys: HashMap<_, MemberKey, u32> = typed(keys, names::MAP_MEMBER_KEYS)?;
    let mut states: Array<_, BucketStates> = typed(states, names::MAP_MEMBERS)?;
    let places = members::places(&mut keys, &mut states, policy)?;
    fill_array(ebpf, names::MAP_MEMBER_SLOTS, &places)
}

/// Fills an array from its first entry on.
fn fill_array<T: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    values: &[T],
) -> Result<(), KernelError> {
    let mut array: Array<_, T> = map(ebpf, name)?;
    for (index, value) in (0..).zip(values) {
        array
            .set(index, value, 0)
            .map_err(|error| KernelError::of(format_args!("filling {name}"), error))?;
    }
    Ok(())
}

fn map<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<T, KernelError>
where
    T: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
{
    typed(ebpf.map_mut(name), name)
}

fn typed<M, T>(map: Option<M>, name: &str) -> Result<T, KernelError>
where
    T: TryFrom<M, Error = aya::maps::MapError>,
{
    let map = map.ok_or_else(|| missing(name))?;
    T::try_from(map).map_err(|error| KernelError::of(name, error))
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, KernelError> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error| KernelError::of(name, error))
}

pub(super) fn missing(name: &str) -> KernelError {
    KernelError::new(format!("the kernel object has no `{name}`"))
        .hint("build binary and object together with `cargo xtask build`")
}
