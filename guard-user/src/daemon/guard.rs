//! The guard: a policy in force on some interfaces, and what has to be done when files or devices
//! change. Nothing that is in force is given up for something that may not come to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use guard_common::{Addr, event::Event, flow::Transport, parse, tables, verdict::Verdict};

use super::{
    interfaces::{self, Selection},
    links::{AttachMode, Links},
    server::{Ask, Detach, Detached},
    state::State,
    top::TopSources,
    view::{self, InterfaceStatus, ServiceStatus, Stats, Status, TopSource},
    watch::Watch,
};
use crate::{
    kernel::{
        error::KernelError,
        generation::{Generation, Maps, Options},
        netlink::{Device, Netlink},
        pins::{PinLock, Pins},
        shared::Shared,
        sys,
    },
    machine,
    policy::{
        self, Disk, Files, LoadError, Placement,
        compiled::{CompiledPolicy, Tunnels, service_name},
    },
    report,
};

/// Events taken from the ring at a time.
const EVENTS_AT_A_TIME: usize = 4096;
/// Sources in the statistics.
const TOP: usize = 20;

/// What the operator asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) manifest: PathBuf,
    pub(super) node: Option<String>,
    /// Instead of those of the manifest, if there are any.
    pub(super) interfaces: Vec<String>,
    pub(super) mode: AttachMode,
    /// Besides what the devices unpack.
    pub(super) tunnels: Tunnels,
}

/// Why a policy was not loaded.
#[derive(Debug)]
pub(super) enum Failure {
    /// The files are wrong.
    Files(Box<LoadError>),
    /// The files are right, but not for this machine; or the kernel refuses.
    Other(KernelError),
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(KernelError::new(error.to_string()))
    }

    /// Tells people, on standard error.
    pub(super) fn explain(&self) {
        match self {
            Self::Files(error) => report::lint::explain(&error.report),
            Self::Other(error) => {
                report::error(error);
                if let Some(hint) = error.hint_text() {
                    report::hint(hint);
                }
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        match self {
            Self::Files(error) => error.report.to_string().lines().map(str::to_owned).collect(),
            Self::Other(error) => vec![error.to_string()],
        }
    }
}

/// The generation that is in force.
struct Running {
    generation: Generation,
    shared: Shared,
    number: u64,
    hash: [u8; 32],
    tunnels: Tunnels,
    facts: Facts,
}

/// What is known of a policy besides its tables.
struct Facts {
    cluster: String,
    node: String,
    patterns: Vec<String>,
    services: BTreeMap<u8, ServiceStatus>,
    names: Vec<(Addr, String)>,
}

/// A policy, ready to be put into force.
struct Ready {
    policy: CompiledPolicy,
    facts: Facts,
    tunnels: Tunnels,
}

/// The guard of a node.
pub(super) struct Guard {
    wanted: Wanted,
    pins: Pins,
    state: State,
    key: [u64; 2],
    netlink: Netlink,
    watch: Watch,
    running: Option<Running>,
    links: Links,
    devices: Vec<Device>,
    selection: Selection,
    /// Why the files are not what is running.
    outdated: Vec<String>,
    /// What else is wrong.
    problems: Vec<String>,
    top: TopSources,
    _lock: PinLock,
}

impl Guard {
    /// Puts the policy of the manifest into force, or the last good one if the manifest is wrong.
    pub(super) async fn start(
        wanted: Wanted,
        bpf_dir: &Path,
        state_dir: &Path,
    ) -> Result<Self, Failure> {
        let pins = Pins::at(bpf_dir);
        pins.create()?;
        let lock = pins.lock()?;
        pins.check_versions()?;
        pins.check_layout()?;
        let state = State::open(state_dir).map_err(|error| {
            let error = KernelError::new(format!("{error:#}"));
            Failure::Other(error.hint("run it as the daemon's user, or name another: --state-dir"))
        })?;
        let key = state.key().map_err(|error| Failure::other(format!("{error:#}")))?;
        let netlink = Netlink::open()?;
        let devices = netlink.devices().await?;
        let links = Links::new(pins.clone(), wanted.mode)?;
        let mut guard = Self {
            wanted,
            pins,
            state,
            key,
            netlink,
            watch: Watch::default(),
            running: None,
            links,
            devices,
            selection: Selection::default(),
            outdated: Vec::new(),
            problems: Vec::new(),
            top: TopSources::default(),
            _lock: lock,
        };
        if let Err(failure) = guard.load_files() {
            failure.explain();
            guard.load_last_good(&failure)?;
        }
        guard.links.drop_leftovers(&guard.devices);
        if guard.links.is_empty() {
            let why = guard.links.failures().join("; ");
            // Made for nothing, unless an earlier daemon left them.
            guard.running = None;
            guard.pins.remove_maps()?;
            return Err(Failure::Other(
                KernelError::new(format!("no interface could be guarded: {why}"))
                    .hint("name one that exists in `interfaces` of the manifest or by --interface"),
            ));
        }
        Ok(guard)
    }

    /// Waits until devices change.
    pub(super) async fn devices_changed(&mut self) {
        self.netlink.changed().await;
    }

    /// Loads the files again, if they have changed.
    pub(super) fn check_files(&mut self) {
        if self.watch.changed() {
            tracing::info!("files have changed");
            self.reload();
        }
    }

    /// Loads the files again. If they are wrong, what is in force stays.
    pub(super) fn reload(&mut self) {
        if let Err(failure) = self.load_files() {
            failure.explain();
            self.outdated = failure.lines();
            let generation = self.running.as_ref().map_or(0, |running| running.number);
            tracing::error!(generation, "not loaded; the running generation stays in force");
        }
    }

    /// Looks at the devices, and mends what is not as it should be.
    pub(super) async fn look(&mut self) {
        match self.netlink.devices().await {
            Ok(devices) => self.devices = devices,
            Err(error) => {
                tracing::warn!("{error}; opening a new netlink socket");
                match Netlink::open() {
                    Ok(netlink) => self.netlink = netlink,
                    Err(error) => tracing::error!("{error}"),
                }
                return;
            }
        }
        let tunnels = interfaces::tunnels(&self.wanted.tunnels, &self.devices);
        if self.running.as_ref().is_some_and(|running| running.tunnels != tunnels) {
            tracing::info!("tunnel devices have changed");
            // From what is in force, not from the files: those may be wrong just now.
            if let Err(failure) = self.load_kept() {
                tracing::error!("tunnels are not followed: {}", failure.lines().join("; "));
            }
        }
        self.reconcile();
    }

    /// Takes the events from the ring.
    pub(super) fn drain_events(&mut self) {
        let Some(running) = &mut self.running else { return };
        #[cfg(feature = "log")]
        running.generation.flush_log();
        for event in running.shared.events(EVENTS_AT_A_TIME) {
            self.top.add(&event);
            tracing::debug!(
                source = event.source().map(|addr| std::net::IpAddr::from(addr).to_string()),
                reason = event.verdict().map(|verdict| verdict.reason.name()),
                destination = destination(&event),
                "refused"
            );
        }
    }

    /// Answers a request. Who has stopped listening needs no answer.
    pub(super) fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::Stats(reply) => {
                self.drain_events();
                drop(reply.send(self.stats()));
            }
            Ask::Detach(detach, reply) => drop(reply.send(self.detach(&detach))),
        }
    }

    fn load_files(&mut self) -> Result<(), Failure> {
        let began = SystemTime::now();
        self.watch.mark();
        let manifest = self.wanted.manifest.clone();
        self.load(&manifest, &Disk, Some(began))?;
        self.outdated.clear();
        Ok(())
    }

    /// For a start with wrong files: the policy that was last in force.
    fn load_last_good(&mut self, failure: &Failure) -> Result<(), Failure> {
        self.outdated = failure.lines();
        tracing::warn!("the manifest is not loaded; looking for the last good policy");
        self.load_kept()
    }

    fn load_kept(&mut self) -> Result<(), Failure> {
        let kept = self.state.last_good().map_err(|error| Failure::other(format!("{error:#}")))?;
        let bundle = kept.ok_or_else(|| {
            let error = KernelError::new("there is no policy to put into force");
            Failure::Other(error.hint(
                "correct the files above; `trainguard lint` checks them without privileges. What \
                 an earlier daemon attached stays in force",
            ))
        })?;
        self.load(&bundle.manifest.clone(), &bundle, None)
    }

    /// Loads a policy and puts it into force. `watched_since`: when reading began, if these are
    /// files to be watched and kept.
    fn load(
        &mut self,
        manifest: &Path,
        files: &dyn Files,
        watched_since: Option<SystemTime>,
    ) -> Result<(), Failure> {
        let watch = &mut self.watch;
        let mut follow = |sources: &[PathBuf]| {
            if let Some(began) = watched_since {
                watch.set_paths(sources.to_vec(), began);
            }
        };
        let loaded = match policy::load(manifest, files) {
            Ok(loaded) => loaded,
            Err(error) => {
                follow(&error.sources);
                return Err(Failure::Files(error));
            }
        };
        follow(&loaded.sources);
        if watched_since.is_some() && !loaded.report.diagnostics.is_empty() {
            report::lint::explain(&loaded.report);
        }
        let ready = self.compile(&loaded)?;
        self.put_into_force(ready)?;
        if watched_since.is_some() {
            // In force it is; that it would not survive a reboot is worth a problem, no more.
            self.problems.clear();
            if let Err(error) = self.state.keep(&loaded.bundle) {
                tracing::error!("{error:#}");
                self.problems.push(format!("{error:#}"));
            }
        }
        drop(loaded);
        sys::trim_heap();
        Ok(())
    }

    fn compile(&self, loaded: &policy::Loaded) -> Result<Ready, Failure> {
        let choice = machine::node_choice(self.wanted.node.as_deref());
        let node = loaded.find_node(&choice).map_err(Failure::other)?;
        let patterns = if self.wanted.interfaces.is_empty() {
            node.interfaces.to_vec()
        } else {
            self.wanted.interfaces.clone()
        };
        if patterns.is_empty() {
            let error = KernelError::new(format!("no interfaces to guard on node `{}`", node.name));
            return Err(Failure::Other(
                error.hint("list them under `interfaces` in the manifest, or give --interface"),
            ));
        }
        let mut policy =
            policy::compile(loaded, node, &self.placement()?).map_err(Failure::other)?;
        let tunnels = interfaces::tunnels(&self.wanted.tunnels, &self.devices);
        policy.set_tunnels(&tunnels);
        let services = policy.services.iter().map(|service| {
            let observes = service.service.has(tables::Service::OBSERVE);
            let mode = if observes { "observe" } else { "enforce" };
            (service.slot, ServiceStatus { name: service.label.clone(), mode: mode.to_owned() })
        });
        let facts = Facts {
            cluster: policy.cluster.clone(),
            node: policy.node.clone(),
            patterns,
            services: services.collect(),
            names: std::mem::take(&mut policy.names),
        };
        Ok(Ready { policy, facts, tunnels })
    }

    /// Which service has which slot: from the maps, which know it also after a restart.
    fn placement(&self) -> Result<Placement, KernelError> {
        let labels = match &self.running {
            Some(running) => running.shared.service_labels()?,
            None if self.pins.has_maps() => {
                Shared::open(&self.pins.directory())?.service_labels()?
            }
            None => BTreeMap::new(),
        };
        Ok(labels.into_iter().collect())
    }

    fn put_into_force(&mut self, ready: Ready) -> Result<(), Failure> {
        let Ready { policy, facts, tunnels } = ready;
        if let Some(running) = &mut self.running
            && running.hash == policy.hash
            && running.tunnels == tunnels
        {
            tracing::info!(generation = running.number, "the policy means the same as before");
            running.facts = facts;
            self.reconcile();
            return Ok(());
        }
        let maps = Maps::Pinned(self.pins.directory());
        let options = Options { maps, key: self.key, sampling: true };
        let mut generation = Generation::load(&policy, &options)?;
        let mut shared = generation.shared()?;
        let number = shared.generation()? + 1;
        for service in &policy.services {
            shared.set_service(service.slot, &service.label)?;
        }
        // From here on the new generation takes over, one interface after the other.
        let previous = self.running.replace(Running {
            generation,
            shared,
            number,
            hash: policy.hash,
            tunnels,
            facts,
        });
        self.reconcile();
        drop(previous);
        if let Some(running) = &mut self.running {
            // Only now: until the switch the old generation charged its members.
            running.shared.keep_members(&policy.members)?;
            running.shared.set_generation(number, &hexadecimal(&policy.hash))?;
            tracing::info!(
                generation = number,
                node = running.facts.node,
                policy = short(&policy.hash),
                services = running.facts.services.len(),
                "in force"
            );
        }
        Ok(())
    }

    /// Makes the interfaces what the running generation wants them to be.
    fn reconcile(&mut self) {
        let Some(running) = &mut self.running else { return };
        self.selection = interfaces::select(&running.facts.patterns, &self.devices);
        self.links.reconcile(
            &running.generation,
            &mut running.shared,
            &self.selection,
            &self.devices,
        );
    }

    fn status(&self) -> Status {
        let mut status = Status {
            schema: view::STATUS_SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up_to_date: self.outdated.is_empty(),
            manifest: self.wanted.manifest.display().to_string(),
            tunnels: interfaces::describe_tunnels(&self.devices),
            problems: self.outdated.clone(),
            ..Status::default()
        };
        if let Some(running) = &self.running {
            status.generation = running.number;
            status.policy_hash = hexadecimal(&running.hash);
            status.cluster.clone_from(&running.facts.cluster);
            status.node.clone_from(&running.facts.node);
            status.services = running.facts.services.values().cloned().collect();
            status.interfaces = self.links.status(&self.selection, running.generation.program_id());
        }
        let drops = status.services.iter().any(|service| service.mode == "enforce");
        let guarded = |interface: &&InterfaceStatus| interface.state == "guarded";
        let open = |interface: &InterfaceStatus| {
            interface.state == "failed" || interface.state == "detached"
        };
        status.enforcing = drops
            && status.interfaces.iter().any(|interface| guarded(&interface))
            && !status.interfaces.iter().any(open);
        status.problems.extend(self.problems.iter().cloned());
        let troubled = status.interfaces.iter().filter(|interface| !guarded(interface));
        status.problems.extend(troubled.filter_map(|interface| {
            Some(format!("{}: {}", interface.name, interface.problem.as_deref()?))
        }));
        let wanted: BTreeSet<&str> =
            status.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let bare = self.devices.iter().filter(|device| {
            device.up && device.name != "lo" && !wanted.contains(device.name.as_str())
        });
        status.unguarded = bare.map(|device| device.name.clone()).collect();
        status
    }

    fn stats(&self) -> Result<Stats, KernelError> {
        let running =
            self.running.as_ref().ok_or_else(|| KernelError::new("no policy is in force"))?;
        let mut stats = Stats::read(&running.shared)?;
        stats.node.clone_from(&running.facts.node);
        let facts = &running.facts;
        let labels: Vec<String> =
            facts.services.values().map(|service| service.name.clone()).collect();
        let service_of = |verdict: &Verdict| {
            let label = &facts.services.get(&verdict.service?)?.name;
            Some(service_name(label, &labels).to_owned())
        };
        stats.top_sources = self
            .top
            .most(TOP)
            .into_iter()
            .map(|(addr, entry)| TopSource {
                address: std::net::IpAddr::from(addr).to_string(),
                node: name_of(&facts.names, &addr),
                sampled: entry.count,
                reason: entry.verdict.reason.name().to_owned(),
                service: service_of(&entry.verdict),
                port: port(entry.protocol, entry.port),
            })
            .collect();
        Ok(stats)
    }

    fn detach(&mut self, detach: &Detach) -> Result<Detached, KernelError> {
        let detached = self.links.detach(&detach.interfaces)?;
        tracing::warn!(interfaces = detached.detached.join(" "), "detached, as asked for");
        Ok(detached)
    }
}

fn name_of(names: &[(Addr, String)], addr: &Addr) -> Option<String> {
    let at = names.binary_search_by(|(known, _)| known.cmp(addr)).ok()?;
    names.get(at).map(|(_, name)| name.clone())
}

fn destination(event: &Event) -> Option<String> {
    port(event.protocol, event.port)
}

fn port(protocol: u8, port: u16) -> Option<String> {
    let transport: Transport = parse::transport(protocol)?;
    Some(format!("{}/{port}", transport.name()))
}

fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn short(hash: &[u8; 32]) -> String {
    hexadecimal(hash.get(..6).unwrap_or_default())
}
