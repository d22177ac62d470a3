//! Loading a generation: the program of one policy with its own policy maps, complete before it is
//! attached.
//!
//! Decision: `docs/decisions/0002-generation-is-a-program.md`.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap},
    programs,
};
use guard_common::{
    Addr,
    bucket::{LONGEST_TICK_NS, TICKS_PER_NS},
    layout::{BucketStates, MemberKey, node::NodeState},
    names,
    stack::{LOOKUP_ROUTES, LOOKUP_SOCKETS},
    tables::{Service, Setting},
    trie::Root,
};
use nix::time::{ClockId, clock_getres};

use super::{
    member_slots,
    pinned_maps::{PinnedMaps, node::NodeMaps},
    program::Program,
    self_test,
};
use crate::{
    attach_mode::Hook, embedded_object::kernel_object, policy::compiled::CompiledPolicy,
    system_error::SystemError,
};

/// Minimum length of a frame for a test run, in bytes: an Ethernet header. The kernel rejects shorter
/// input (`bpf_prog_test_run_xdp`, `net/bpf/test_run.c`).
pub const MIN_FRAME_LEN: usize = 14;

/// Where the maps come from that all generations share.
#[derive(Debug, Clone)]
pub enum Maps {
    /// Pinned in this directory; created there if a pin is missing.
    Pinned(PathBuf),
    /// New maps that are freed with the generation, for replay and tests.
    Private,
}

/// Options for loading a generation.
#[derive(Debug, Clone)]
pub struct Options {
    /// Source of the shared maps.
    pub maps: Maps,
    /// Secret key of the hashed buckets.
    pub key: [u64; 2],
    /// Whether the program samples refused frames and emits them as events.
    pub sampling: bool,
    /// How much the verifier logs when it rejects the program. The default is everything, which helps
    /// to find the reason, but is up to 16 MB and takes ten times as long.
    pub verifier_log: VerifierLogLevel,
    /// Which lookups in the network stack the programs make: a combination of
    /// [`LOOKUP_ROUTES`] and [`LOOKUP_SOCKETS`]. The default is both.
    pub lookups: u64,
}

impl Options {
    /// Returns options with the default verifier log, which is everything, and all lookups.
    pub fn new(maps: Maps, key: [u64; 2], sampling: bool) -> Self {
        Self {
            maps,
            key,
            sampling,
            verifier_log: VerifierLogLevel::default(),
            lookups: LOOKUP_ROUTES | LOOKUP_SOCKETS,
        }
    }

    /// Returns the names of the shared maps, with the paths of their pins.
    fn pins(&self) -> Vec<(&'static str, PathBuf)> {
        match &self.maps {
            Maps::Pinned(directory) => {
                names::SHARED_MAPS.into_iter().map(|name| (name, directory.join(name))).collect()
            }
            Maps::Private => Vec::new(),
        }
    }
}

/// Returns the kernel object of this binary.
///
/// # Errors
/// The binary was built without a kernel object.
pub fn require_kernel_object() -> Result<&'static [u8], SystemError> {
    kernel_object().ok_or_else(|| {
        SystemError::new(
            "this binary contains no kernel object: it can check, trace and replay policies, but \
             not guard interfaces",
        )
        .hint("build it with `cargo xtask build`")
    })
}

/// The problem of a generation whose programs make no lookups.
const WITHOUT_LOOKUPS: &str = "the kernel refuses the program with its lookups of routes and sockets, so \
    it runs without them: forwarded packets are evaluated like those for this node, and segments of \
    sources that are not allowed are refused, even those of connections that the node opened";

/// A failed attempt to load a generation.
struct Failed {
    error: SystemError,
    /// Whether the kernel has refused the program, and not for a lack of rights or memory.
    is_refused: bool,
}

impl From<SystemError> for Failed {
    fn from(error: SystemError) -> Self {
        Self { error, is_refused: false }
    }
}

/// A loaded generation: the eBPF programs of one compiled policy, the policy maps that only they use,
/// and the maps that all generations share.
///
/// A generation is complete before it is attached. [`link`](super::link) attaches the descriptors of
/// [`Generation::program`] or switches existing links to them. Dropping a generation closes its
/// descriptors; the kernel keeps programs that a link attaches, and shared maps that are pinned.
///
/// # Examples
///
/// Evaluating a frame in the kernel attaches nothing. It needs `CAP_BPF`, `CAP_NET_ADMIN` and
/// `CAP_PERFMON`.
///
/// ```no_run
/// use guard_user::bpf::loader::Generation;
/// use guard_user::policy::{self, Disk, Placement};
/// use std::path::Path;
///
/// let loaded = policy::load(Path::new("/etc/trainguard/cluster.yaml"), &Disk)?;
/// let node = loaded.cluster.node("sched-0").expect("a node of the manifest");
/// let compiled = policy::compile(&loaded, node, &Placement::default())?;
/// let generation = Generation::for_tests(&compiled, [1, 2])?;
/// assert!(generation.evaluate(&[0; 60], 0)?.passes(), "the frame is not IP");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg_attr(not(feature = "log"), derive(Debug))]
#[cfg_attr(
    feature = "log",
    expect(missing_debug_implementations, reason = "aya's logger has none")
)]
pub struct Generation {
    ebpf: Ebpf,
    /// The hook of the program that the generation was loaded with.
    hook: Hook,
    /// Ids of the loaded programs, by hook.
    ids: BTreeMap<Hook, u32>,
    /// Why the programs make no lookups in the network stack; none if they do.
    without_lookups: Option<String>,
    #[cfg(feature = "log")]
    flush_log: Option<Box<dyn FnMut()>>,
}

impl Generation {
    /// Loads a policy and the program that enforces it at the XDP hook, and runs the self-test.
    /// Nothing is attached; only shared maps may have been pinned.
    ///
    /// # Errors
    /// The binary has no kernel object, the kernel rejects a map or the program, or the self-test
    /// finds a verdict that differs from that of user space. Pins that this call created are removed.
    pub fn load(policy: &CompiledPolicy, options: &Options) -> Result<Self, SystemError> {
        Self::load_for(Hook::Xdp, policy, options)
    }

    /// As [`Generation::load`], with the program for `hook`.
    ///
    /// # Errors
    /// As for [`Generation::load`].
    pub fn load_for(
        hook: Hook,
        policy: &CompiledPolicy,
        options: &Options,
    ) -> Result<Self, SystemError> {
        Self::build(policy, options, hook, hook.program())
    }

    /// Compares the verdicts of the kernel, from the tables of this generation, with those of user
    /// space for `policy`. [`Generation::load`] has already done this once.
    ///
    /// # Errors
    /// A verdict differs, or a test run fails.
    pub fn self_test(&mut self, policy: &CompiledPolicy) -> Result<(), SystemError> {
        self_test::run(&mut self.ebpf, policy)
    }

    /// Loads a policy for [`Generation::evaluate`], with the program that returns verdicts and
    /// private maps. Such a generation cannot be attached; the self-test is not run.
    ///
    /// # Errors
    /// The binary has no kernel object, or the kernel rejects a map or the program.
    pub fn for_tests(policy: &CompiledPolicy, key: [u64; 2]) -> Result<Self, SystemError> {
        Self::for_tests_of(Hook::Xdp, policy, key)
    }

    /// As [`Generation::for_tests`], with the program for `hook`.
    pub fn for_tests_of(
        hook: Hook,
        policy: &CompiledPolicy,
        key: [u64; 2],
    ) -> Result<Self, SystemError> {
        Self::for_tests_with(hook, policy, &Options::new(Maps::Private, key, false))
    }

    /// As [`Generation::for_tests_of`], with these options.
    pub fn for_tests_with(
        hook: Hook,
        policy: &CompiledPolicy,
        options: &Options,
    ) -> Result<Self, SystemError> {
        Self::build(policy, options, hook, hook.verdict_program())
    }

    fn build(
        policy: &CompiledPolicy,
        options: &Options,
        hook: Hook,
        program: &str,
    ) -> Result<Self, SystemError> {
        let missing: Vec<PathBuf> =
            options.pins().into_iter().map(|(_, pin)| pin).filter(|pin| !pin.exists()).collect();
        Self::try_build(policy, options, hook, program).inspect_err(|_| {
            // The pins that this build created are not used by any program. Pins that existed before
            // are left in place.
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
        hook: Hook,
        program: &str,
    ) -> Result<Self, SystemError> {
        let (error, is_refused) = match Self::attempt(policy, options, hook, program) {
            Ok(generation) => return Ok(generation),
            Err(Failed { error, is_refused }) => (error, is_refused),
        };
        if !is_refused || options.lookups == 0 {
            return Err(error);
        }
        // A kernel without a lookup refuses a program that calls it.
        let without = Options { lookups: 0, ..options.clone() };
        let Ok(mut generation) = Self::attempt(policy, &without, hook, program) else {
            return Err(error);
        };
        let why = error.to_string();
        let why = why.lines().next().unwrap_or_default();
        tracing::error!("{WITHOUT_LOOKUPS}: {why}");
        generation.without_lookups = Some(format!("{WITHOUT_LOOKUPS}: {why}"));
        Ok(generation)
    }

    fn attempt(
        policy: &CompiledPolicy,
        options: &Options,
        hook: Hook,
        program: &str,
    ) -> Result<Self, Failed> {
        let object = require_kernel_object()?;
        let globals = Globals::new(policy, options)?;
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(options.verifier_log);
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
            .map_err(|error| SystemError::of("creating the maps of the kernel object", error))?;
        fill(&mut ebpf, policy, &options.maps)?;
        let id = load_program(&mut ebpf, program).map_err(|error| Failed {
            is_refused: !matches!(error.errno(), Some(libc::EPERM | libc::ENOMEM)),
            error,
        })?;
        if program == hook.program() {
            self_test::run(&mut ebpf, policy)?;
        }
        Ok(Self {
            without_lookups: None,
            #[cfg(feature = "log")]
            flush_log: logger(&mut ebpf),
            ebpf,
            hook,
            ids: BTreeMap::from([(hook, id)]),
        })
    }

    /// Loads the program for a further hook on the same maps, and returns its id. Returns the
    /// existing id if the hook already has a program.
    ///
    /// # Errors
    /// The kernel rejects the program.
    pub fn add(&mut self, hook: Hook) -> Result<u32, SystemError> {
        if let Some(id) = self.ids.get(&hook) {
            return Ok(*id);
        }
        let id = load_program(&mut self.ebpf, hook.program())?;
        self.ids.insert(hook, id);
        Ok(id)
    }

    /// Passes the log lines of the program to the logger of this process. Development only.
    #[cfg(feature = "log")]
    pub fn flush_log(&mut self) {
        if let Some(flush) = &mut self.flush_log {
            flush();
        }
    }

    /// Returns why the programs make no lookups in the network stack; none if they do.
    pub fn without_lookups(&self) -> Option<&str> {
        self.without_lookups.as_deref()
    }

    /// Returns the id of the program that the generation was loaded with.
    pub fn program_id(&self) -> u32 {
        self.ids.get(&self.hook).copied().unwrap_or(0)
    }

    /// Returns the ids of the loaded programs, by hook.
    pub fn program_ids(&self) -> &BTreeMap<Hook, u32> {
        &self.ids
    }

    /// Describes the program for a hook, as the kernel reports it now.
    ///
    /// # Errors
    /// The program for the hook is not loaded, or the kernel cannot be queried.
    pub fn describe(&self, hook: Hook) -> Result<Program, SystemError> {
        let program = self.ebpf.program(hook.program());
        let info = program.ok_or_else(|| missing(hook.program()))?.info();
        let info = info.map_err(|error| SystemError::of("querying the program", error))?;
        Ok(Program::from(&info))
    }

    /// Returns the descriptor of the program for a hook.
    ///
    /// # Errors
    /// The program for the hook is not loaded.
    pub fn program(&self, hook: Hook) -> Result<BorrowedFd<'_>, SystemError> {
        let program = self.ebpf.program(hook.program());
        let program = program.ok_or_else(|| missing(hook.program()))?;
        let fd = program.fd().map_err(|error| SystemError::of("opening the program", error))?;
        Ok(fd.as_fd())
    }

    pub(super) fn hook(&self) -> Hook {
        self.hook
    }

    pub(super) fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    /// Takes the shared maps out of this generation.
    ///
    /// # Errors
    /// The maps were taken before, or the kernel object has maps of other types.
    pub fn shared(&mut self) -> Result<PinnedMaps, SystemError> {
        PinnedMaps::take(&mut self.ebpf)
    }

    /// Takes the maps with the node's state out of this generation.
    ///
    /// # Errors
    /// As for [`Generation::shared`].
    pub fn node_maps(&mut self) -> Result<NodeMaps, SystemError> {
        NodeMaps::take(&mut self.ebpf)
    }
}

/// Creates the reader of the log lines of the program; returns none if the object was built without
/// them.
#[cfg(feature = "log")]
fn logger(ebpf: &mut Ebpf) -> Option<Box<dyn FnMut()>> {
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(mut logger) => Some(Box::new(move || logger.flush())),
        Err(error) => {
            tracing::warn!("log lines of the kernel program not available: {error}");
            None
        }
    }
}

/// Values of the read-only globals. The loader borrows them until it has loaded the object.
struct Globals(Vec<(&'static str, u64)>);

impl Globals {
    fn new(policy: &CompiledPolicy, options: &Options) -> Result<Self, SystemError> {
        let settings = Setting::ALL.map(|setting| policy.settings.get(setting));
        let mut globals = vec![
            (names::GLOBAL_SAMPLING, u64::from(options.sampling)),
            (names::GLOBAL_JIFFY, jiffy()?),
            (names::GLOBAL_LOOKUPS, options.lookups),
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

/// Returns the length of a timer tick of this kernel, in ticks of the limiter's clock (1/16 ns). It
/// is the resolution of the kernel's coarse clocks (`KTIME_LOW_RES`, `include/linux/hrtimer_defs.h`).
fn jiffy() -> Result<u64, SystemError> {
    let what = "reading the length of a timer tick of the kernel";
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|error| SystemError::of(what, error))?;
    let ns = u64::try_from(Duration::from(tick).as_nanos()).unwrap_or(0);
    // The policy compiler only ensures that a burst covers the rate of a tick of `LONGEST_TICK_NS`.
    // With a longer tick, such a burst could be too short for its rate.
    if !(1..=LONGEST_TICK_NS).contains(&ns) {
        let message = format!("{what}: {ns} ns, expected 1 to {LONGEST_TICK_NS} ns");
        return Err(SystemError::new(message));
    }
    Ok(ns * TICKS_PER_NS)
}

fn entries(prefixes: usize) -> u32 {
    u32::try_from(prefixes).unwrap_or(u32::MAX).max(1)
}

fn fill(ebpf: &mut Ebpf, policy: &CompiledPolicy, maps: &Maps) -> Result<(), SystemError> {
    let failed = |name: &'static str| {
        move |error: aya::maps::MapError| SystemError::of(format_args!("filling {name}"), error)
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
    if matches!(maps, Maps::Private) {
        fill_own(ebpf, policy)?;
    }
    let [keys, states] = ebpf.maps_disjoint_mut([names::MAP_MEMBER_KEYS, names::MAP_MEMBERS]);
    let mut keys: HashMap<_, MemberKey, u32> = typed(keys, names::MAP_MEMBER_KEYS)?;
    let mut states: Array<_, BucketStates> = typed(states, names::MAP_MEMBERS)?;
    let places = member_slots::places(&mut keys, &mut states, policy)?;
    fill_array(ebpf, names::MAP_MEMBER_SLOTS, &places)
}

/// Makes the node hold the addresses that the manifest gives to it, as user space assumes. Only for
/// maps that no node writes.
fn fill_own(ebpf: &mut Ebpf, policy: &CompiledPolicy) -> Result<(), SystemError> {
    let four = policy.sources4.iter().map(|(prefix, source)| (IpAddr::from(prefix.addr), source));
    let six = policy.sources6.iter().map(|(prefix, source)| (IpAddr::from(prefix.addr), source));
    let own: Vec<Addr> = four
        .chain(six)
        .filter(|(_, source)| source.is_own())
        .map(|(addr, _)| Addr::from(addr))
        .collect();
    let mut state = NodeState::default();
    let mut addresses: HashMap<_, [u64; 2], u32> = map(ebpf, names::MAP_OWN)?;
    for addr in &own {
        state.add_own(addr);
        addresses
            .insert(addr.mapped(), 0, 0)
            .map_err(|error| SystemError::of(format_args!("filling {}", names::MAP_OWN), error))?;
    }
    fill_array(ebpf, names::MAP_NODE, &[state])
}

/// Sets the entries of an array, from index 0.
fn fill_array<T: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    values: &[T],
) -> Result<(), SystemError> {
    let mut array: Array<_, T> = map(ebpf, name)?;
    for (index, value) in (0..).zip(values) {
        array
            .set(index, value, 0)
            .map_err(|error| SystemError::of(format_args!("filling {name}"), error))?;
    }
    Ok(())
}

fn map<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<T, SystemError>
where
    T: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
{
    typed(ebpf.map_mut(name), name)
}

fn typed<M, T>(map: Option<M>, name: &str) -> Result<T, SystemError>
where
    T: TryFrom<M, Error = aya::maps::MapError>,
{
    let map = map.ok_or_else(|| missing(name))?;
    T::try_from(map).map_err(|error| SystemError::of(name, error))
}

/// Loads a program of the kernel object, and returns its id.
fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<u32, SystemError> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    match program {
        programs::Program::Xdp(program) => program.load(),
        programs::Program::SchedClassifier(program) => program.load(),
        _ => return Err(missing(name)),
    }
    .map_err(|error| SystemError::of("loading the program", error))?;
    let info = program.info().map_err(|error| SystemError::of("querying the program", error))?;
    Ok(info.id())
}

pub(super) fn missing(name: &str) -> SystemError {
    SystemError::new(format!("the kernel object has no `{name}`"))
        .hint("build binary and object together with `cargo xtask build`")
}
