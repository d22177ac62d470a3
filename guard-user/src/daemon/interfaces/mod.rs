//! The interfaces of the node: which of them are guarded, by which generation of the program, and with
//! which result.
//!
//! [`Interfaces`] owns the devices, the attachments and the pins. Its parts: `select.rs` finds the
//! devices that patterns match; `bridge_ports.rs` sets ports of bridges apart; `attachments.rs` holds the guarded interfaces and reconciles them with
//! the selection; `attach.rs` attaches one device; `attachment_health.rs` compares a link with its
//! device; `takeover.rs` carries the counts of guards of other layouts over; `environment.rs` reports
//! what is new around the guarded interfaces; `open_ports.rs` lists open ports that no service guards.
//!
//! Decision: `docs/decisions/0013-devices-on-top-of-guarded-ones.md`.
//! Decision: `docs/decisions/0014-no-typo-opens-a-node.md`.

pub(crate) mod attach;
mod attachment_health;
pub(crate) mod attachments;
pub(crate) mod bridge_ports;
mod environment;
pub(crate) mod open_ports;
pub(crate) mod select;
mod takeover;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use self::{
    attach::AttachMode,
    attachments::{Attachments, Note},
    bridge_ports::BridgePort,
    environment::Environment,
    open_ports::{GuardedPorts, OpenPortCollector, OpenPortScan},
    select::Selection,
    takeover::Takeover,
};
use guard_common::names;

use super::node_state::{self, State, Watcher};
use crate::{
    api::{
        control::Detached,
        status::{InterfaceStatus, OpenPorts},
    },
    attach_mode::Hook,
    bpf::{
        loader::{self, Generation, Maps, require_kernel_object},
        pinned_maps::{self, PinnedMaps, node::NodeMaps},
        pins::{HeldMaps, NewerGuard, PinLock, Pins},
        program::Program,
        takeover::OtherGuard,
    },
    netlink::{
        devices::{Device, Netlink},
        forwarding::Family,
        sock_diag, topology,
    },
    policy::{
        Placement,
        compiled::{CompiledPolicy, Tunnels},
    },
    system_error::SystemError,
};

/// The pin directory, locked by this daemon.
#[derive(Debug)]
pub(crate) struct Claim {
    pins: Pins,
    lock: PinLock,
    others: Vec<OtherGuard>,
}

impl Claim {
    /// Locks a pin directory and prepares it. Nothing is loaded or attached.
    ///
    /// # Errors
    /// Another daemon has locked the directory, it is not on a bpf file system, or it holds a guard of
    /// a newer layout that `newer` does not allow to replace.
    pub(crate) fn take(bpf_dir: &Path, newer: &NewerGuard) -> Result<Self, SystemError> {
        require_kernel_object()?;
        let pins = Pins::at(bpf_dir);
        pins.create_root()?;
        let lock = pins.lock()?;
        let others = pins.others(newer)?;
        pins.remove_remains()?;
        pins.remove_duplicates()?;
        pins.create()?;
        pins.check_layout()?;
        pins.hand_over();
        Ok(Self { pins, lock, others })
    }
}

/// The generation in force.
struct Running {
    generation: Generation,
    shared: PinnedMaps,
}

/// A generation that is loaded and not attached yet.
pub(crate) struct Loaded {
    generation: Generation,
    /// Shared maps of the generation.
    pub(crate) shared: PinnedMaps,
    /// Number of the generation.
    pub(crate) number: u64,
}

/// The options that concern interfaces.
#[derive(Debug)]
pub(crate) struct InterfaceOptions {
    /// Mode in which the program is attached to interfaces.
    pub(crate) mode: AttachMode,
    /// Tunnels whose packets the node unpacks, in addition to those of its tunnel devices.
    pub(crate) tunnels: Tunnels,
    /// Whether the daemon may wait for interfaces that do not exist yet.
    pub(crate) may_wait: bool,
    /// Time that the kernel may take to list the devices for a status.
    pub(crate) netlink_timeout: Duration,
    /// Secret key of the hashed buckets.
    pub(crate) key: [u64; 2],
}

/// The changes made by an attempt to restore the pins.
#[derive(Debug, Default)]
pub(crate) struct PinReport {
    /// Texts of events, one event each.
    pub(crate) events: Vec<String>,
}

/// The owner of the devices, of the programs attached to them, and of the pinned links and maps.
///
/// It decides nothing about policies: the caller passes the patterns of the interfaces to guard, and a
/// generation goes through [`Self::load`], which attaches nothing, and [`Self::switch`]. Methods that
/// change attachments return [`Note`]s, which the caller turns into events.
pub(crate) struct Interfaces {
    options: InterfaceOptions,
    pins: Pins,
    lock: PinLock,
    /// The shared maps; none before the first generation.
    maps: Option<HeldMaps>,
    /// The thread that writes the state of the node into the shared maps; none before the first
    /// generation.
    node: Option<Watcher>,
    takeover: Takeover,
    netlink: Netlink,
    devices: Vec<Device>,
    selection: Selection,
    environment: Environment,
    attachments: Attachments,
    running: Option<Running>,
    /// The open ports found by the last scan.
    open_ports: Option<OpenPortScan>,
    /// Why pins cannot be restored; none if they can.
    unpinned: Option<String>,
}

impl Interfaces {
    /// Lists the devices and finds the links of an earlier daemon. Nothing is attached yet.
    ///
    /// # Errors
    /// A netlink socket cannot be opened, the devices cannot be listed, or the pins cannot be read.
    pub(crate) async fn open(claim: Claim, options: InterfaceOptions) -> Result<Self, SystemError> {
        let Claim { pins, lock, others } = claim;
        let netlink = Netlink::open()?;
        let devices = netlink.devices().await?;
        Ok(Self {
            attachments: Attachments::new(pins.clone(), options.mode)?,
            options,
            pins,
            lock,
            maps: None,
            node: None,
            takeover: Takeover::from(others),
            netlink,
            devices,
            selection: Selection::default(),
            environment: Environment::default(),
            running: None,
            open_ports: None,
            unpinned: None,
        })
    }

    /// Waits until a device appears, vanishes or changes.
    pub(crate) async fn changed(&mut self) {
        self.netlink.changed().await;
    }

    /// Returns the devices as last listed.
    pub(crate) fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Lists the devices for a status. If the kernel does not list them in time, returns them as last
    /// listed, and the reason.
    pub(crate) async fn devices_now(&self) -> (Vec<Device>, Option<String>) {
        let listed = tokio::time::timeout(self.options.netlink_timeout, self.netlink.devices());
        let why = match listed.await {
            Ok(Ok(devices)) => return (devices, None),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "listing the network interfaces timed out".to_owned(),
        };
        (self.devices.clone(), Some(format!("{why}; interfaces are shown as last listed")))
    }

    /// Lists the devices again and returns whether that succeeded. After a failure, opens a new netlink
    /// socket.
    pub(crate) async fn refresh(&mut self) -> bool {
        match self.netlink.devices().await {
            Ok(devices) => {
                self.devices = devices;
                return true;
            }
            Err(error) => tracing::warn!("{error}; opening a new netlink socket"),
        }
        match Netlink::open() {
            Ok(netlink) => self.netlink = netlink,
            Err(error) => {
                tracing::error!(
                    hint = error.hint_text(),
                    "changes of interfaces are not noticed: {error}"
                );
            }
        }
        false
    }

    /// Returns the devices that match the patterns.
    pub(crate) fn select(&self, patterns: &[String]) -> Selection {
        select::select(patterns, &self.devices)
    }

    /// Returns why interfaces that the patterns select cannot be guarded: they are ports of bridges.
    /// None if no guard would have to be attached to a port.
    pub(crate) fn refused_ports(&self, patterns: &[String]) -> Option<String> {
        let selection = self.select(patterns);
        let unguarded = |port: &&BridgePort| !self.attachments.has_link_on(&port.device);
        let ports: Vec<&BridgePort> = selection.bridged.iter().filter(unguarded).collect();
        bridge_ports::refusal(&ports, patterns)
    }

    /// Returns the devices that should be guarded, as selected by the last [`Self::reconcile`].
    pub(crate) fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Returns the tunnels whose packets the node unpacks: those of the options and those of the
    /// devices.
    pub(crate) fn tunnels(&self) -> Tunnels {
        select::tunnels(&self.options.tunnels, &self.devices)
    }

    /// Returns the indices of the guarded interfaces.
    pub(crate) fn guarded(&self) -> BTreeSet<u32> {
        self.attachments.indices()
    }

    /// Returns why no packet counts as forwarded, although the node forwards; none if packets do, or if
    /// the node forwards nothing.
    pub(crate) fn forwards_untold(&self) -> Option<String> {
        let node = self.node.as_ref()?;
        if let State::Failed(why) = node.state() {
            return Some(why);
        }
        let facts = node.facts();
        let why: BTreeSet<String> = facts.why_untold().map(ToString::to_string).collect();
        (!why.is_empty()).then(|| why.into_iter().collect::<Vec<_>>().join("; "))
    }

    /// Returns the IP versions of which all services judge forwarded packets, because these cannot be
    /// told apart.
    pub(crate) fn untold_families(&self) -> BTreeSet<Family> {
        let told = |node: &Watcher| {
            let facts = node.facts();
            let is_followed = node.state() == State::Following;
            Family::BOTH.into_iter().filter(move |family| {
                is_followed && (facts.tells_forwarded(*family) || !facts.forwards(*family))
            })
        };
        let told: BTreeSet<Family> = self.node.iter().flat_map(told).collect();
        Family::BOTH.into_iter().filter(|family| !told.contains(family)).collect()
    }

    /// Returns whether no interface is guarded.
    pub(crate) fn is_unguarded(&self) -> bool {
        self.attachments.is_empty()
    }

    /// Returns the problems of interfaces, such as why one is not guarded, as `name: reason`.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.attachments.failures()
    }

    /// Returns whether missing interfaces are the only problem and the daemon may wait for them. An
    /// earlier daemon's attachments stay until an interface is guarded.
    pub(crate) fn waits(&self) -> bool {
        let Selection { devices, not_ethernet, .. } = &self.selection;
        self.options.may_wait && devices.is_empty() && not_ethernet.is_empty()
    }

    /// Drops the generation of a start that guarded no interface, and removes its maps unless links of
    /// an earlier daemon count in them.
    ///
    /// # Errors
    /// The maps cannot be removed.
    pub(crate) fn abandon(&mut self) -> Result<(), SystemError> {
        self.running = None;
        self.node = None;
        self.pins.remove_maps()
    }

    /// Returns the slots of services, including those assigned by an earlier daemon.
    ///
    /// # Errors
    /// The pinned maps cannot be read.
    pub(crate) fn placement(&self) -> Result<Placement, SystemError> {
        if let Some(running) = &self.running {
            return Ok(running.shared.service_labels()?.into_iter().collect());
        }
        let mut labels = pinned_maps::service_labels(&self.pins.directory())?;
        self.takeover.claim_slots(&mut labels)?;
        Ok(labels.into_iter().collect())
    }

    /// Returns the shared maps; none before the first generation.
    pub(crate) fn shared(&self) -> Option<&PinnedMaps> {
        self.running.as_ref().map(|running| &running.shared)
    }

    /// Returns the shared maps, to read events from, and the devices as last listed; none before the
    /// first generation.
    pub(crate) fn shared_and_devices(&mut self) -> Option<(&mut PinnedMaps, &[Device])> {
        Some((&mut self.running.as_mut()?.shared, &self.devices))
    }

    /// Returns the shared maps, to write to; none before the first generation.
    pub(crate) fn shared_mut(&mut self) -> Option<&mut PinnedMaps> {
        self.running.as_mut().map(|running| &mut running.shared)
    }

    /// Prints the log of the kernel program, in a build with the feature `log`.
    #[cfg(feature = "log")]
    pub(crate) fn flush_log(&mut self) {
        if let Some(running) = &mut self.running {
            running.generation.flush_log();
        }
    }

    /// Loads a generation without attaching it.
    ///
    /// # Errors
    /// The kernel refuses the program or a map, or the pinned maps cannot be read or written.
    pub(crate) fn load(&mut self, policy: &CompiledPolicy) -> Result<Loaded, SystemError> {
        let maps = Maps::Pinned(self.pins.directory());
        let options = loader::Options::new(maps, self.options.key, true);
        let mut generation =
            Generation::load_for(self.options.mode.first_hook(), policy, &options)?;
        // All programs are loaded before the first switch, so that no interface waits for one.
        for hook in self.attachments.hooks() {
            generation.add(hook)?;
        }
        let mut shared = generation.shared()?;
        if self.maps.is_none() {
            self.maps = Some(self.pins.hold_maps()?);
        }
        if self.node.is_none() {
            // Before anything is attached, so that the first packet is evaluated with the state of the
            // node.
            self.node = Some(node_state::start(NodeMaps::open(&self.pins.directory())?)?);
        }
        shared.describe()?;
        // Before any other use of the slots: a service that gets a used slot must not inherit its
        // bucket states.
        for service in &policy.services {
            shared.set_service(service.slot, &service.label)?;
        }
        if self.running.is_none() {
            self.takeover.begin(&mut shared)?;
        }
        // Before the first switch, because after it an older daemon refuses to start.
        self.pins.hand_over();
        let number = shared.generation()? + 1;
        Ok(Loaded { generation, shared, number })
    }

    /// Switches to a generation, one interface after the other. Returns the changes of interfaces.
    pub(crate) fn switch(&mut self, loaded: Loaded, patterns: &[String]) -> Vec<Note> {
        let Loaded { generation, shared, .. } = loaded;
        let previous = self.running.replace(Running { generation, shared });
        let notes = self.reconcile(patterns);
        drop(previous);
        notes
    }

    /// Attaches and detaches until the running generation guards the interfaces that match the
    /// patterns. Returns the changes of interfaces.
    pub(crate) fn reconcile(&mut self, patterns: &[String]) -> Vec<Note> {
        let Some(running) = &mut self.running else { return Vec::new() };
        self.selection = select::select(patterns, &self.devices);
        self.attachments.reconcile(
            &mut running.generation,
            &mut running.shared,
            &self.selection,
            &self.devices,
        );
        if !self.attachments.is_empty() {
            self.attachments.drop_leftovers(&self.devices);
            self.takeover.advance(&self.pins, &mut running.shared);
        }
        if let Some(node) = &self.node {
            node.set_guarded(&self.attachments.indices());
        }
        let mut notes = self.attachments.take_notes();
        notes.extend(self.environment.update(&self.devices, &self.selection, &self.attachments));
        notes
    }

    /// Restores removed pins, in the directory that the path names now.
    ///
    /// # Errors
    /// The file system cannot be written to, another daemon has locked the directory, or pinning fails.
    pub(crate) fn restore_pins(&mut self) -> Result<PinReport, SystemError> {
        self.pins.check_writable()?;
        let mut report = PinReport::default();
        let Some(maps) = &self.maps else { return Ok(report) };
        if !self.lock.is_of(&self.pins) {
            // The directory was removed, or another file system is mounted over it: another daemon may
            // use the new one.
            self.pins.create()?;
            self.lock = self.pins.lock()?;
        }
        let count = self.pins.restore_map_pins(maps)?;
        if count > 0 {
            let text = format!("the pins of {count} maps were removed: pinned again");
            tracing::warn!("{text}");
            report.events.push(text);
        }
        Ok(report)
    }

    /// Calls [`Self::restore_pins`], for the periodic check. A failure is kept for the status until the
    /// pins can be created.
    pub(crate) fn check_pins(&mut self) -> PinReport {
        let (mut report, problem) = match self.restore_pins() {
            Ok(report) => (report, None),
            Err(error) => {
                let problem = format!(
                    "no new policy comes into force until the pins are restored: {}",
                    error.with_hint()
                );
                (PinReport::default(), Some(problem))
            }
        };
        if problem == self.unpinned {
            return report;
        }
        let text = if let Some(problem) = &problem {
            tracing::error!("{problem}");
            problem.clone()
        } else {
            tracing::info!("pins can be created again");
            "pins can be created again".to_owned()
        };
        report.events.push(text);
        self.unpinned = problem;
        report
    }

    /// Returns why a guard of another layout still guards an interface; none if there is no such guard.
    ///
    /// # Errors
    /// The pin directory cannot be read.
    pub(crate) fn not_taken_over(&self) -> Result<Option<String>, SystemError> {
        let own = self.pins.directory();
        let links = self.pins.links()?;
        let mut left = links
            .iter()
            .filter(|pinned| !pinned.link.pin().starts_with(&own) && pinned.link.is_alive());
        let Some(first) = left.next() else { return Ok(None) };
        let why = self.failures().join("; ");
        Ok(Some(format!("`{}` is not taken over: {why}", first.interface)))
    }

    /// Returns the problems of pins, of the take-over and of the program.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        let running = self.running.as_ref();
        let without = running.and_then(|running| running.generation.without_lookups());
        let problems = self.unpinned.as_deref().into_iter();
        problems
            .chain(self.takeover.problem().map(String::as_str))
            .chain(without)
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Returns when the counters were pinned, which is when they began at zero, unless their pins were
    /// restored since.
    pub(crate) fn counted_since(&self) -> Option<SystemTime> {
        fs::metadata(self.pins.directory().join(names::MAP_COUNTERS)).ok()?.modified().ok()
    }

    /// Returns the state of every interface that should be guarded. `devices`: as listed just now.
    pub(crate) fn status(&self, patterns: &[String], devices: &[Device]) -> Vec<InterfaceStatus> {
        let Some(running) = &self.running else { return Vec::new() };
        let selection = select::select(patterns, devices);
        self.attachments.status(&selection, running.generation.program_ids(), devices)
    }

    /// Returns the program of the running generation; none before the first one.
    pub(crate) fn program(&self) -> Option<Result<Program, SystemError>> {
        let running = self.running.as_ref()?;
        Some(running.generation.describe(self.first_hook()))
    }

    fn first_hook(&self) -> Hook {
        let hook = self.attachments.hooks().first().copied();
        hook.unwrap_or_else(|| self.options.mode.first_hook())
    }

    /// Returns the open ports that the running policy does not guard. Scans the sockets, unless the
    /// last scan is too recent.
    pub(crate) fn open_ports(&mut self, guarded: &GuardedPorts, devices: &[Device]) -> OpenPorts {
        let Self { attachments, open_ports, .. } = self;
        let scan = || {
            let ephemeral = sock_diag::ephemeral_ports();
            let indices = attachments.indices();
            let mut open = OpenPortCollector::new(guarded, devices, indices, ephemeral);
            match sock_diag::listening(|socket| open.add(socket)) {
                Ok(more) => open.finish(more),
                Err(error) => {
                    OpenPorts { problem: Some(error.to_string()), ..OpenPorts::default() }
                }
            }
        };
        let renewed = OpenPortScan::renew(open_ports.take(), scan);
        open_ports.insert(renewed).found().clone()
    }

    /// Detaches the named interfaces, or all if none is named, until the next start. Also returns the
    /// changes of interfaces, even if detaching fails halfway.
    pub(crate) fn detach(
        &mut self,
        names: &[String],
    ) -> (Result<Detached, SystemError>, Vec<Note>) {
        let detached = self.attachments.detach(names, &self.devices);
        (detached, self.attachments.take_notes())
    }
}

/// Returns the names of devices that are up, that no pattern matches, and whose frames no guard on
/// another device sees.
pub(crate) fn unguarded(interfaces: &[InterfaceStatus], devices: &[Device]) -> Vec<String> {
    let selected: BTreeSet<&str> =
        interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let guarded: BTreeSet<u32> = interfaces
        .iter()
        .filter(|interface| interface.is_guarded())
        .filter_map(|interface| interface.index)
        .collect();
    let bare = topology::unguarded(
        devices,
        |device| selected.contains(&*device.name),
        |index| guarded.contains(&index),
    );
    bare.map(|device| device.name.clone()).collect()
}
