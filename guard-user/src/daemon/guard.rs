//! The guard: a policy in force on some interfaces, and what has to be done when files or devices
//! change. Nothing that is in force is given up for something that may not come to be.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use guard_common::{Addr, tables};
use tokio::io::unix::AsyncFd;

use super::{
    attach::AttachMode,
    audit::Trail,
    digest::Digest,
    doors::Doors,
    drift::{self, GuardedPorts},
    failure::{Failure, log_findings},
    interfaces::{self, Selection},
    journal::{Journal, Names},
    links::Links,
    mode::Override,
    readers::Readers,
    service::{Service, Work},
    signature::{self, Signed},
    state::State,
    status::Attempt,
    strangers::Neighbourhood,
    surroundings::Surroundings,
    takeover::Takeover,
    tallies::Tallies,
    timing::Timing,
    top::TopSources,
    trial::Trial,
    trusted::Trusted,
    view::{ServiceStatus, Stats, TableStatus},
    watch::Watch,
};
use crate::{
    event::{self, Policy},
    kernel::{
        error::KernelError,
        generation::{Generation, Maps, Options, require_kernel_object},
        netlink::{Device, Netlink},
        pins::{HeldMaps, Newer, PinLock, Pins},
        shared::Shared,
        sys,
        takeover::Other,
    },
    logs::Log,
    machine,
    policy::{
        self, Bundle, Files, Placement,
        compiled::{CompiledPolicy, Tunnels, service_name},
    },
};

pub(super) use crate::policy::compile::hash::hexadecimal;

/// Events taken from the ring at a time.
const EVENTS_AT_A_TIME: usize = 4096;

/// Lines of what is wrong with files that an event tells.
const NOTED_LINES: usize = 5;

const NAME_AN_INTERFACE: &str =
    "name one that exists, in `interfaces` of the manifest or by --interface";

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
    /// How long to wait for interfaces before the daemon is ready without them; none to end if
    /// there is none.
    pub(super) wait: Option<Duration>,
    /// Whose signature a policy must have.
    pub(super) policy_key: Option<PathBuf>,
    pub(super) timing: Timing,
    pub(super) log: Log,
}

/// The generation that is in force.
pub(super) struct Running {
    pub(super) generation: Generation,
    pub(super) shared: Shared,
    pub(super) number: u64,
    pub(super) since: SystemTime,
    pub(super) hash: [u8; 32],
    pub(super) tunnels: Tunnels,
    pub(super) facts: Facts,
}

/// What is known of a policy besides its tables.
pub(super) struct Facts {
    pub(super) cluster: String,
    /// SHA-256 over the files.
    pub(super) files_hash: [u8; 32],
    pub(super) node: String,
    pub(super) patterns: Vec<String>,
    pub(super) services: BTreeMap<u8, ServiceStatus>,
    pub(super) names: Vec<(Addr, String)>,
    pub(super) ports: GuardedPorts,
    /// Taken by [`Journal::strangers`].
    near: Neighbourhood,
    pub(super) tables: TableStatus,
}

/// A policy, ready to be put into force.
pub(super) struct Ready {
    pub(super) policy: CompiledPolicy,
    pub(super) facts: Facts,
    tunnels: Tunnels,
}

/// It, and the texts that it comes from.
pub(super) struct Prepared {
    pub(super) ready: Ready,
    pub(super) bundle: Bundle,
}

/// The guard of a node.
pub(super) struct Guard {
    pub(super) wanted: Wanted,
    pub(super) pins: Pins,
    pub(super) takeover: Takeover,
    pub(super) state: State,
    pub(super) key: [u64; 2],
    pub(super) netlink: Netlink,
    pub(super) watch: Watch,
    pub(super) running: Option<Running>,
    /// The shared maps, from the first generation on.
    pub(super) maps: Option<HeldMaps>,
    pub(super) links: Links,
    pub(super) devices: Vec<Device>,
    pub(super) selection: Selection,
    pub(super) surroundings: Surroundings,
    /// Whether the state directory has what is running.
    pub(super) kept: bool,
    /// The serial number with which what is running was signed, if only signed policies may.
    pub(super) serial: Option<u64>,
    /// Why the files are not what is running.
    pub(super) outdated: Vec<String>,
    /// SHA-256 over the files that are not what is running.
    pub(super) refused_files: Option<[u8; 32]>,
    /// Why the last good policy is in force and not the files.
    pub(super) kept_because: Option<String>,
    /// What was open at the last look.
    pub(super) open_ports: Option<drift::Look>,
    /// The last time that the files were loaded.
    pub(super) last_load: Option<Attempt>,
    /// What is wrong until the next start.
    pub(super) lasting: Vec<String>,
    /// What else is wrong.
    pub(super) problems: Vec<String>,
    /// Why pins cannot be made.
    pub(super) unpinned: Option<String>,
    pub(super) top: TopSources,
    pub(super) tallies: Tallies,
    /// The connections of the sockets.
    pub(super) doors: Arc<Doors>,
    pub(super) readers: Readers,
    pub(super) service: Service,
    /// When the daemon was started.
    pub(super) started: SystemTime,
    /// What was counted when it was last told what was refused.
    digested: Option<Stats>,
    pub(super) journal: Journal,
    /// Who commanded what.
    pub(super) audit: Trail,
    /// What is in force until somebody confirms it.
    pub(super) trial: Option<Trial>,
    /// Modes that are not those of the policy.
    pub(super) mode_override: Option<Override>,
    /// The manifest that was applied and is in force, if the files do not say the same.
    pub(super) applied_from: Option<PathBuf>,
    /// The ring of events, to be woken by.
    ring: Option<AsyncFd<OwnedFd>>,
    lock: PinLock,
}

/// What woke the guard.
pub(super) enum Woken {
    /// A device has appeared, vanished or changed.
    Devices,
    /// The ring of events is half full: many CPUs tell of drops at once.
    Events,
    /// Somebody waits for statistics or metrics.
    Readers,
}

/// Waits until the kernel says that the ring fills up. It says so for no single event.
async fn filling(ring: Option<&AsyncFd<OwnedFd>>) {
    let Some(ring) = ring else { return std::future::pending().await };
    match ring.readable().await {
        Ok(mut ready) => ready.clear_ready(),
        // The timer still looks at the ring.
        Err(_) => std::future::pending().await,
    }
}

/// The pin directory, for this daemon alone, and fit for it.
pub(super) struct Claim {
    pins: Pins,
    lock: PinLock,
    others: Vec<Other>,
}

impl Claim {
    /// Claims a pin directory. Nothing is loaded or attached by this.
    pub(super) fn take(bpf_dir: &Path, newer: &Newer) -> Result<Self, KernelError> {
        require_kernel_object()?;
        let pins = Pins::at(bpf_dir);
        pins.create_root()?;
        let lock = pins.lock()?;
        let others = pins.others(newer)?;
        pins.remove_remains()?;
        pins.create()?;
        pins.check_layout()?;
        Ok(Self { pins, lock, others })
    }
}

impl Guard {
    /// Puts the policy of the manifest into force, or the last good one if the manifest is wrong.
    pub(super) async fn start(
        wanted: Wanted,
        claim: Claim,
        doors: Arc<Doors>,
        state_dir: &Path,
    ) -> Result<Self, Failure> {
        let Claim { pins, lock, others } = claim;
        let state = State::at(state_dir);
        state.tidy();
        let (key, unkept) = state.key().map_err(|error| of_state(&error))?;
        let lasting: Vec<String> = unkept.map(|error| format!("{error:#}")).into_iter().collect();
        for problem in &lasting {
            tracing::error!("{problem}");
        }
        let netlink = Netlink::open()?;
        let devices = netlink.devices().await?;
        let links = Links::new(pins.clone(), wanted.mode)?;
        let service = Service::new(wanted.wait.unwrap_or_default(), &wanted.timing);
        let mut guard = Self {
            watch: Watch::new(&wanted.timing),
            wanted,
            pins,
            takeover: Takeover::from(others),
            ring: None,
            lock,
            state,
            key,
            netlink,
            running: None,
            trial: None,
            mode_override: None,
            applied_from: None,
            tallies: Tallies::default(),
            doors,
            readers: Readers::default(),
            service,
            started: SystemTime::now(),
            maps: None,
            links,
            devices,
            selection: Selection::default(),
            surroundings: Surroundings::default(),
            kept: true,
            serial: None,
            outdated: Vec::new(),
            refused_files: None,
            kept_because: None,
            last_load: None,
            open_ports: None,
            lasting,
            problems: Vec::new(),
            unpinned: None,
            top: TopSources::default(),
            digested: None,
            journal: Journal::new(SystemTime::now()),
            audit: Trail::at(state_dir),
        };
        guard.resume_mode();
        let loaded = if guard.resume_trial() { Ok(()) } else { guard.load_files() };
        match loaded {
            Ok(()) => {}
            // What the system refuses for one policy it refuses for another.
            Err(failure @ Failure::System(_)) => return Err(failure),
            Err(failure) => {
                failure.explain();
                guard.note_policy("refused", &failure.lines());
                guard.load_last_good(&failure)?;
            }
        }
        if guard.links.is_empty() && !guard.waits() {
            let why = guard.links.failures().join("; ");
            // Made for nothing, unless an earlier daemon left them.
            guard.running = None;
            guard.pins.remove_maps()?;
            let hint = guard.selection.devices.is_empty().then_some(NAME_AN_INTERFACE);
            return Err(Failure::Unfit(format!("no interface could be guarded: {why}"), hint));
        }
        Ok(guard)
    }

    /// Whether interfaces that are not there yet are all that is amiss. What an earlier daemon
    /// attached stays until one is guarded.
    fn waits(&self) -> bool {
        let Selection { devices, not_ethernet, .. } = &self.selection;
        self.wanted.wait.is_some() && devices.is_empty() && not_ethernet.is_empty()
    }

    /// Waits until there is something to do that no timer should wait for.
    pub(super) async fn woken(&mut self) -> Woken {
        let Self { netlink, ring, readers, .. } = self;
        tokio::select! {
            () = netlink.changed() => Woken::Devices,
            () = filling(ring.as_ref()) => Woken::Events,
            () = readers.due() => Woken::Readers,
        }
    }

    /// Loads the files again, if they have changed.
    pub(super) fn check_files(&mut self) {
        // A trial is ended by who began it, or by its deadline; what changed is noticed then.
        if self.trial.is_none() && self.watch.changed() {
            tracing::info!("files have changed");
            // What is wrong was said.
            drop(self.reload());
        }
        self.service.did(Work::Files);
    }

    /// Loads the files again. If they are wrong, what is in force stays.
    pub(super) fn reload(&mut self) -> Result<(), String> {
        if self.trial.is_some() {
            let why = "a policy is on trial: the files are not loaded before it ends";
            tracing::warn!("{why}");
            return Err(format!("{why}; `trainguard confirm` or `rollback` ends it"));
        }
        let told = self.service.reloading();
        let loaded = self.load_files();
        if let Err(failure) = &loaded {
            failure.explain();
            self.outdated = failure.lines();
            self.note_policy("refused", &failure.lines());
            let generation = self.running.as_ref().map_or(0, |running| running.number);
            tracing::error!(generation, "not loaded; the running generation stays in force");
        }
        self.service.reloaded(told);
        loaded.map_err(|failure| failure.lines().join("\n"))
    }

    /// Looks at the devices, and mends what is not as it should be.
    pub(super) async fn look(&mut self) {
        match self.netlink.devices().await {
            Ok(devices) => self.devices = devices,
            Err(error) => {
                tracing::warn!("{error}; opening a new netlink socket");
                match Netlink::open() {
                    Ok(netlink) => self.netlink = netlink,
                    Err(error) => {
                        tracing::error!(
                            hint = error.hint_text(),
                            "changes of interfaces are not followed: {error}"
                        );
                    }
                }
                return;
            }
        }
        let tunnels = interfaces::tunnels(&self.wanted.tunnels, &self.devices);
        if self.running.as_ref().is_some_and(|running| running.tunnels != tunnels) {
            tracing::info!("tunnel devices have changed");
            if let Err(failure) = self.load_again() {
                tracing::error!("tunnels are not followed: {}", failure.lines().join("; "));
            }
        }
        self.look_at_pins();
        self.reconcile();
        self.service.did(Work::Interfaces);
    }

    /// Builds again what is in force, not what the files say: they may be wrong just now.
    pub(super) fn load_again(&mut self) -> Result<(), Failure> {
        match &self.trial {
            Some(trial) => self.load_bundle(&trial.bundle.clone()),
            None if self.kept => self.load_kept(),
            None => self.load_files(),
        }
    }

    /// Makes again what somebody removed of the pins, in the directory that the path names now.
    fn mend_pins(&mut self) -> Result<(), KernelError> {
        self.pins.check_writable()?;
        let Some(maps) = &self.maps else { return Ok(()) };
        if !self.lock.is_of(&self.pins) {
            // Removed, or something else is mounted there: it may be another daemon's.
            self.pins.create()?;
            self.lock = self.pins.lock()?;
        }
        let count = self.pins.mend_maps(maps)?;
        if count > 0 {
            let text = format!("the pins of {count} maps were removed: pinned again");
            tracing::warn!("{text}");
            self.note_policy("pins", &[text]);
        }
        Ok(())
    }

    /// The same, at each look: what cannot be mended is told until it can.
    fn look_at_pins(&mut self) {
        let trouble = self.mend_pins().err().map(|error| {
            format!(
                "no other policy comes into force before the pins are mended: {}",
                error.with_hint()
            )
        });
        if trouble == self.unpinned {
            return;
        }
        let text = if let Some(trouble) = &trouble {
            tracing::error!("{trouble}");
            trouble.clone()
        } else {
            tracing::info!("the pins can be made again");
            "the pins can be made again".to_owned()
        };
        self.note_policy("pins", &[text]);
        self.unpinned = trouble;
    }

    /// Takes the events from the ring.
    pub(super) fn drain_events(&mut self) {
        self.service.did(Work::Events);
        let Some(running) = &mut self.running else { return };
        #[cfg(feature = "log")]
        running.generation.flush_log();
        if let Err(error) = running.shared.listen() {
            tracing::warn!(hint = error.hint_text(), "refused frames are not sampled: {error}");
        }
        let now = SystemTime::now();
        let facts = &running.facts;
        let names =
            Names { services: &facts.services, nodes: &facts.names, devices: &self.devices };
        self.journal.tick(names, now, || running.shared.event_counts().ok());
        for event in running.shared.events(EVENTS_AT_A_TIME) {
            self.top.add(&event, now);
            self.journal.packet(&event, names, now);
            self.tallies.add_member_drops(&event, &running.facts);
        }
    }

    /// Puts what was counted where it outlives the daemon.
    pub(super) fn keep_tallies(&mut self) {
        self.doors.tally(&mut self.tallies);
        self.tallies.add_log(self.wanted.log.missing());
        let Some(running) = &mut self.running else { return };
        if let Err(error) = self.tallies.flush(&mut running.shared) {
            tracing::error!("{error}");
        }
    }

    /// Tells the log what was refused since the last time, and what the log itself left out.
    pub(super) async fn tell(&mut self) {
        self.drain_events();
        match self.stats().await {
            Ok(stats) => {
                let before = self.digested.as_ref();
                if let Some(digest) = before.and_then(|before| Digest::between(before, &stats)) {
                    digest.log();
                }
                self.digested = Some(stats);
            }
            Err(error) => tracing::warn!(hint = error.hint_text(), "{error}"),
        }
        self.wanted.log.tell();
    }

    /// Takes note of what became of a policy.
    pub(super) fn note_policy(&mut self, what: &str, lines: &[String]) {
        let running = self.running.as_ref();
        let hash = running.map(|running| hexadecimal(&running.hash));
        let lines = lines.get(..NOTED_LINES).unwrap_or(lines);
        self.journal.policy(Policy {
            what: what.to_owned(),
            generation: running.map_or(0, |running| running.number),
            policy_hash: hash.unwrap_or_default(),
            since: running.map(|running| event::time(running.since)),
            text: lines.join("\n"),
        });
    }

    fn load_files(&mut self) -> Result<(), Failure> {
        let began = SystemTime::now();
        self.watch.mark();
        let manifest = self.wanted.manifest.clone();
        let loaded = self.load(&manifest, &Trusted, Some(began));
        self.last_load = Some(Attempt { began, success: loaded.is_ok() });
        self.tallies.add_load(loaded.is_ok());
        if loaded.is_ok() {
            self.outdated.clear();
            self.refused_files = None;
            self.kept_because = None;
            self.applied_from = None;
        } else {
            self.refused_files = self.watch.digest(&self.wanted.manifest);
        }
        loaded
    }

    /// For a start with wrong files: the policy that was last in force.
    fn load_last_good(&mut self, failure: &Failure) -> Result<(), Failure> {
        self.outdated = failure.lines();
        tracing::warn!("the manifest is not loaded; looking for the last good policy");
        self.load_kept()?;
        self.kept_because = self.outdated.first().cloned();
        self.note_policy("last_good", &["kept by an earlier daemon".to_owned()]);
        Ok(())
    }

    pub(super) fn load_kept(&mut self) -> Result<(), Failure> {
        let kept = self.state.last_good().map_err(|error| of_state(&error))?;
        let bundle = kept.ok_or_else(|| {
            let hint = "correct what is named above; `trainguard lint` checks files without \
                        privileges. What an earlier daemon attached stays in force";
            Failure::Unfit("there is no policy to put into force".to_owned(), Some(hint))
        })?;
        self.load(&bundle.manifest, &bundle, None)?;
        // What is kept is what was accepted last.
        let accepted = self.wanted.policy_key.as_ref().and_then(|_| self.state.accepted().ok()?);
        self.serial = accepted.map(|accepted| accepted.serial);
        Ok(())
    }

    /// Loads a policy and puts it into force. `watched_since`: when reading began, if these are
    /// files to be watched and kept.
    pub(super) fn load(
        &mut self,
        manifest: &Path,
        files: &dyn Files,
        watched_since: Option<SystemTime>,
    ) -> Result<(), Failure> {
        let Prepared { ready, bundle } = self.prepare(manifest, files, watched_since)?;
        let is_followed = watched_since.is_some();
        let accepted = if is_followed {
            self.check_signature(&bundle, || Signed::read(manifest, files))?
        } else {
            // What is kept was checked when it came.
            None
        };
        let connections = is_followed.then(|| self.connections_under(&ready, None));
        self.install(ready)?;
        if is_followed {
            self.keep(&bundle);
            self.accept(accepted.as_ref());
        }
        if let Some(connections) = connections {
            self.tell_of_cuts(&connections);
        }
        Ok(())
    }

    /// Puts a policy into force.
    pub(super) fn install(&mut self, ready: Ready) -> Result<(), Failure> {
        self.problems.clear();
        self.put_into_force(ready)?;
        sys::trim_heap();
        Ok(())
    }

    /// Loads a policy as far as it can be without changing anything; the arguments are those of
    /// [`Guard::load`].
    pub(super) fn prepare(
        &mut self,
        manifest: &Path,
        files: &dyn Files,
        watched_since: Option<SystemTime>,
    ) -> Result<Prepared, Failure> {
        let watch = &mut self.watch;
        let is_signed = self.wanted.policy_key.is_some();
        let mut follow = |sources: &[PathBuf]| {
            if let Some(began) = watched_since {
                let mut sources = sources.to_vec();
                if is_signed {
                    sources.extend(signature::paths(manifest));
                }
                watch.set_paths(sources, began);
            }
        };
        let mut loaded = match policy::load(manifest, files) {
            Ok(loaded) => loaded,
            Err(error) => {
                follow(&error.sources);
                return Err(Failure::Files(error));
            }
        };
        follow(&loaded.sources);
        if watched_since.is_some() && !loaded.report.diagnostics.is_empty() {
            log_findings(&loaded.report);
        }
        self.override_modes(&mut loaded);
        let ready = self.compile(&loaded)?;
        Ok(Prepared { ready, bundle: loaded.bundle })
    }

    /// Keeps what is in force. In force it is; that it would not survive a reboot is worth a
    /// problem, no more.
    pub(super) fn keep(&mut self, bundle: &Bundle) {
        let kept = self.state.keep(bundle);
        self.kept = kept.is_ok();
        if let Err(error) = kept {
            tracing::error!("{error:#}");
            self.problems.push(format!("{error:#}"));
        }
    }

    fn compile(&self, loaded: &policy::Loaded) -> Result<Ready, Failure> {
        let choice = machine::node_choice(self.wanted.node.as_deref());
        let node = loaded.find_node(&choice).map_err(Failure::unfit)?;
        let patterns = if self.wanted.interfaces.is_empty() {
            node.interfaces.to_vec()
        } else {
            self.wanted.interfaces.clone()
        };
        if patterns.is_empty() {
            let why = format!("no interfaces to guard on node `{}`", node.name);
            return Err(Failure::Unfit(why, Some(NAME_AN_INTERFACE)));
        }
        // A slip of the pen must not open the node.
        let others = self.running.as_ref().is_some_and(|now| now.facts.patterns != patterns);
        if others && interfaces::select(&patterns, &self.devices).devices.is_empty() {
            let why = format!("no interface of this node is meant by `{}`", patterns.join(", "));
            return Err(Failure::Unfit(why, Some(NAME_AN_INTERFACE)));
        }
        let mut policy =
            policy::compile(loaded, node, &self.placement()?).map_err(Failure::unfit)?;
        let tunnels = interfaces::tunnels(&self.wanted.tunnels, &self.devices);
        policy.set_tunnels(&tunnels);
        let labels = || policy.services.iter().map(|service| &service.label);
        let services = policy.services.iter().map(|service| {
            let observes = service.service.has(tables::Service::OBSERVE);
            let (of, _) = service.label.split_once('/').unwrap_or_default();
            let status = ServiceStatus {
                name: service_name(&service.label, labels()).to_owned(),
                policy: of.to_owned(),
                mode: if observes { "observe" } else { "enforce" }.to_owned(),
            };
            (service.slot, status)
        });
        let services = services.collect();
        let facts = Facts {
            cluster: policy.cluster.clone(),
            files_hash: loaded.bundle.hash(),
            node: policy.node.clone(),
            patterns,
            services,
            names: std::mem::take(&mut policy.names),
            ports: GuardedPorts::of(&policy.ports),
            near: Neighbourhood::of(&loaded.cluster),
            tables: TableStatus {
                prefixes4: policy.sources4.len(),
                prefixes6: policy.sources6.len(),
                classes: policy.classes.len(),
                members: policy.members.len(),
                source_bytes: policy.source_bytes(),
            },
        };
        Ok(Ready { policy, facts, tunnels })
    }

    /// Which service has which slot: from the maps, which know it also after a restart.
    fn placement(&self) -> Result<Placement, KernelError> {
        if let Some(running) = &self.running {
            return Ok(running.shared.service_labels()?.into_iter().collect());
        }
        let mut labels = if self.pins.has_maps() {
            Shared::open(&self.pins.directory())?.service_labels()?
        } else {
            BTreeMap::new()
        };
        self.takeover.claim_slots(&mut labels)?;
        Ok(labels.into_iter().collect())
    }

    fn put_into_force(&mut self, ready: Ready) -> Result<(), Failure> {
        let Ready { policy, mut facts, tunnels } = ready;
        let near = std::mem::take(&mut facts.near);
        facts.node.clone_into(&mut self.journal.node);
        if let Some(running) = &mut self.running
            && running.hash == policy.hash
            && running.tunnels == tunnels
        {
            tracing::info!(generation = running.number, "the policy is unchanged");
            let before = std::mem::replace(&mut running.facts, facts).patterns;
            let now = &running.facts.patterns;
            let elsewhere = (before != *now).then(|| {
                let (before, now) = (before.join(", "), now.join(", "));
                format!("other interfaces are meant: `{now}`, before that `{before}`")
            });
            if let Some(elsewhere) = &elsewhere {
                tracing::info!("{elsewhere}");
            }
            self.journal.strangers.set_policy(near, &running.facts.names);
            self.note_policy("unchanged", elsewhere.as_slice());
            self.reconcile();
            return Ok(());
        }
        // What was counted for a slot is its present service's.
        self.drain_events();
        self.keep_tallies();
        self.mend_pins()?;
        let maps = Maps::Pinned(self.pins.directory());
        let options = Options::new(maps, self.key, true);
        let mut generation =
            Generation::load_for(self.wanted.mode.first_hook(), &policy, &options)?;
        // Complete before anything is switched.
        for hook in self.links.hooks() {
            generation.add(hook)?;
        }
        let mut shared = generation.shared()?;
        if self.maps.is_none() {
            self.maps = Some(self.pins.hold_maps()?);
        }
        if self.ring.is_none() {
            self.ring = shared
                .ring()?
                .map(sys::readiness)
                .transpose()
                .map_err(|error| KernelError::of("waiting for the ring of events", error))?;
        }
        shared.describe()?;
        if self.running.is_none() {
            self.takeover.begin(&mut shared)?;
        }
        let number = shared.generation()? + 1;
        for service in &policy.services {
            shared.set_service(service.slot, &service.label)?;
        }
        // From here on the new generation takes over, one interface after the other.
        let previous = self.running.replace(Running {
            generation,
            shared,
            number,
            since: SystemTime::now(),
            hash: policy.hash,
            tunnels,
            facts,
        });
        self.reconcile();
        drop(previous);
        if let Some(running) = &mut self.running {
            // Only now: until the switch the old generation charged its members. What fails here
            // does not undo the switch.
            let shared = &mut running.shared;
            let booked = shared
                .keep_members(&policy.members)
                .and_then(|()| shared.set_generation(number, &hexadecimal(&policy.hash)));
            if let Err(error) = booked {
                tracing::error!(hint = error.hint_text(), "{error}");
                self.problems.push(error.to_string());
            }
            self.journal.strangers.set_policy(near, &running.facts.names);
            if self.links.is_empty() {
                // Why, was said for each interface.
                tracing::error!(generation = number, "loaded, but on no interface");
                return Ok(());
            }
            tracing::info!(
                generation = number,
                node = running.facts.node,
                policy = hexadecimal(&policy.hash),
                services = running.facts.services.len(),
                "in force"
            );
        }
        self.note_policy("in_force", &[]);
        Ok(())
    }

    /// Makes the interfaces what the running generation wants them to be.
    fn reconcile(&mut self) {
        let Some(running) = &mut self.running else { return };
        self.selection = interfaces::select(&running.facts.patterns, &self.devices);
        self.links.reconcile(
            &mut running.generation,
            &mut running.shared,
            &self.selection,
            &self.devices,
        );
        if !self.links.is_empty() {
            self.links.drop_leftovers(&self.devices);
            self.takeover.go_on(&self.pins, &mut running.shared);
        }
        self.note_interfaces();
        self.note_surroundings();
    }

    /// Takes note of what became of interfaces.
    pub(super) fn note_interfaces(&mut self) {
        for note in self.links.take_notes() {
            self.journal.interface(note.what, &note.interface, &note.text);
        }
    }
}

fn of_state(error: &anyhow::Error) -> Failure {
    Failure::unfit(format_args!("{error:#}"))
}
