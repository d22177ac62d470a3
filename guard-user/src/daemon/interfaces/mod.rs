//! The interfaces of the node: which of them are guarded, by which generation of the program, and
//! whether they really are.

pub(crate) mod attach;
mod attachment_health;
pub(crate) mod attachments;
mod environment;
pub(crate) mod open_ports;
pub(crate) mod select;
mod takeover;

use std::{collections::BTreeSet, path::Path, time::Duration};

use self::{
    attach::AttachMode,
    attachments::{Attachments, Note},
    environment::Environment,
    open_ports::{GuardedPorts, OpenPortCollector, OpenPortScan},
    select::Selection,
    takeover::Takeover,
};
use crate::{
    api::{
        control::Detached,
        status::{InterfaceStatus, OpenPorts},
    },
    attach_mode::Hook,
    bpf::{
        loader::{self, Generation, Maps, require_kernel_object},
        pinned_maps::{self, PinnedMaps},
        pins::{HeldMaps, Newer, PinLock, Pins},
        program::Program,
        takeover::Other,
    },
    netlink::{
        devices::{Device, Netlink},
        sock_diag, topology,
    },
    policy::{
        Placement,
        compiled::{CompiledPolicy, Tunnels},
    },
    system_error::SystemError,
};

/// The pin directory, claimed by this daemon alone.
#[derive(Debug)]
pub(crate) struct Claim {
    pins: Pins,
    lock: PinLock,
    others: Vec<Other>,
}

impl Claim {
    /// Claims a pin directory. Nothing is loaded or attached by this.
    ///
    /// # Errors
    /// Another daemon has claimed it, it is on no bpf file system, or a guard of another layout is in
    /// it and `newer` forbids to replace that.
    pub(crate) fn take(bpf_dir: &Path, newer: &Newer) -> Result<Self, SystemError> {
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

/// The generation that is in force.
struct Running {
    generation: Generation,
    shared: PinnedMaps,
}

/// A generation that is loaded and not in force yet.
pub(crate) struct Loaded {
    generation: Generation,
    /// Its shared maps.
    pub(crate) shared: PinnedMaps,
    /// Its number.
    pub(crate) number: u64,
}

/// The options that concern interfaces.
#[derive(Debug)]
pub(crate) struct InterfaceOptions {
    /// How to attach.
    pub(crate) mode: AttachMode,
    /// What the node unpacks, in addition to what its tunnel devices show.
    pub(crate) tunnels: Tunnels,
    /// Whether the daemon may wait for interfaces that are not there yet.
    pub(crate) may_wait: bool,
    /// How long the kernel may take to list the devices for a status.
    pub(crate) netlink_timeout: Duration,
    /// Secret of the hashed buckets.
    pub(crate) key: [u64; 2],
}

/// What an attempt to mend the pins has changed.
#[derive(Debug, Default)]
pub(crate) struct PinReport {
    /// Lines of events, each of which is an event of its own.
    pub(crate) events: Vec<String>,
}

/// The owner of the devices, of what is attached to them, and of what is pinned.
pub(crate) struct Interfaces {
    options: InterfaceOptions,
    pins: Pins,
    lock: PinLock,
    /// The shared maps, from the first generation on.
    maps: Option<HeldMaps>,
    takeover: Takeover,
    netlink: Netlink,
    devices: Vec<Device>,
    selection: Selection,
    environment: Environment,
    attachments: Attachments,
    running: Option<Running>,
    /// Open ports at the last scan.
    open_ports: Option<OpenPortScan>,
    /// Why pins cannot be made.
    unpinned: Option<String>,
}

impl Interfaces {
    /// Lists the devices and finds the links of an earlier daemon. Nothing is attached yet.
    ///
    /// # Errors
    /// The kernel cannot be asked.
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

    /// The devices at the last listing.
    pub(crate) fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The devices as they are now. If the kernel cannot be asked: as they were, and why.
    pub(crate) async fn devices_now(&self) -> (Vec<Device>, Option<String>) {
        let listed = tokio::time::timeout(self.options.netlink_timeout, self.netlink.devices());
        let why = match listed.await {
            Ok(Ok(devices)) => return (devices, None),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "listing the network interfaces takes too long".to_owned(),
        };
        (self.devices.clone(), Some(format!("{why}; interfaces are told as they were before")))
    }

    /// Lists the devices again; whether that succeeded.
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
                    "changes of interfaces are not followed: {error}"
                );
            }
        }
        false
    }

    /// The devices that patterns select.
    pub(crate) fn select(&self, patterns: &[String]) -> Selection {
        select::select(patterns, &self.devices)
    }

    /// The devices that are to be guarded.
    pub(crate) fn selection(&self) -> &Selection {
        &self.selection
    }

    /// What the node unpacks.
    pub(crate) fn tunnels(&self) -> Tunnels {
        select::tunnels(&self.options.tunnels, &self.devices)
    }

    /// Indices of the guarded interfaces.
    pub(crate) fn guarded(&self) -> BTreeSet<u32> {
        self.attachments.indices()
    }

    /// Whether no interface is guarded.
    pub(crate) fn is_unguarded(&self) -> bool {
        self.attachments.is_empty()
    }

    /// Why interfaces are not guarded.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.attachments.failures()
    }

    /// Whether interfaces that are not there yet are all that is wrong, and the daemon may wait for
    /// them. What an earlier daemon attached stays until one is guarded.
    pub(crate) fn waits(&self) -> bool {
        let Selection { devices, not_ethernet, .. } = &self.selection;
        self.options.may_wait && devices.is_empty() && not_ethernet.is_empty()
    }

    /// Gives up the maps of a start that guarded no interface, unless an earlier daemon left them.
    ///
    /// # Errors
    /// They cannot be removed.
    pub(crate) fn abandon(&mut self) -> Result<(), SystemError> {
        self.running = None;
        self.pins.remove_maps()
    }

    /// The slots of services, also of those that an earlier daemon had.
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

    /// The shared maps; none before the first generation.
    pub(crate) fn shared(&self) -> Option<&PinnedMaps> {
        self.running.as_ref().map(|running| &running.shared)
    }

    /// The shared maps, to read events from, and the devices at the last listing; none before the first
    /// generation.
    pub(crate) fn shared_and_devices(&mut self) -> Option<(&mut PinnedMaps, &[Device])> {
        Some((&mut self.running.as_mut()?.shared, &self.devices))
    }

    /// The shared maps, to write to; none before the first generation.
    pub(crate) fn shared_mut(&mut self) -> Option<&mut PinnedMaps> {
        self.running.as_mut().map(|running| &mut running.shared)
    }

    /// Prints what the kernel program has logged, in a build for that.
    #[cfg(feature = "log")]
    pub(crate) fn flush_log(&mut self) {
        if let Some(running) = &mut self.running {
            running.generation.flush_log();
        }
    }

    /// Loads a generation as far as that switches nothing.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(crate) fn load(&mut self, policy: &CompiledPolicy) -> Result<Loaded, SystemError> {
        let maps = Maps::Pinned(self.pins.directory());
        let options = loader::Options::new(maps, self.options.key, true);
        let mut generation =
            Generation::load_for(self.options.mode.first_hook(), policy, &options)?;
        // Complete before anything is switched.
        for hook in self.attachments.hooks() {
            generation.add(hook)?;
        }
        let mut shared = generation.shared()?;
        if self.maps.is_none() {
            self.maps = Some(self.pins.hold_maps()?);
        }
        shared.describe()?;
        // First, so that a service that gets another one's slot does not get its bucket states as well.
        for service in &policy.services {
            shared.set_service(service.slot, &service.label)?;
        }
        if self.running.is_none() {
            self.takeover.begin(&mut shared)?;
        }
        // Before the first switch: from then on an older daemon does not start.
        self.pins.hand_over();
        let number = shared.generation()? + 1;
        Ok(Loaded { generation, shared, number })
    }

    /// Switches to a generation, one interface after the other. Returns what became of interfaces.
    pub(crate) fn switch(&mut self, loaded: Loaded, patterns: &[String]) -> Vec<Note> {
        let Loaded { generation, shared, .. } = loaded;
        let previous = self.running.replace(Running { generation, shared });
        let notes = self.reconcile(patterns);
        drop(previous);
        notes
    }

    /// Makes the interfaces what the running generation wants them to be. Returns what became of
    /// interfaces.
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
            self.takeover.go_on(&self.pins, &mut running.shared);
        }
        let mut notes = self.attachments.take_notes();
        notes.extend(self.environment.update(&self.devices, &self.selection, &self.attachments));
        notes
    }

    /// Makes again what somebody removed of the pins, in the directory that the path names now.
    ///
    /// # Errors
    /// Nothing can be pinned there.
    pub(crate) fn mend_pins(&mut self) -> Result<PinReport, SystemError> {
        self.pins.check_writable()?;
        let mut report = PinReport::default();
        let Some(maps) = &self.maps else { return Ok(report) };
        if !self.lock.is_of(&self.pins) {
            // Removed, or something else is mounted there: it may be another daemon's.
            self.pins.create()?;
            self.lock = self.pins.lock()?;
        }
        let count = self.pins.mend_maps(maps)?;
        if count > 0 {
            let text = format!("the pins of {count} maps were removed: pinned again");
            tracing::warn!("{text}");
            report.events.push(text);
        }
        Ok(report)
    }

    /// Does [`Self::mend_pins`] at each check. A failure is kept for the status until it is over.
    pub(crate) fn check_pins(&mut self) -> PinReport {
        let (mut report, trouble) = match self.mend_pins() {
            Ok(report) => (report, None),
            Err(error) => {
                let trouble = format!(
                    "no other policy comes into force before the pins are mended: {}",
                    error.with_hint()
                );
                (PinReport::default(), Some(trouble))
            }
        };
        if trouble == self.unpinned {
            return report;
        }
        let text = if let Some(trouble) = &trouble {
            tracing::error!("{trouble}");
            trouble.clone()
        } else {
            tracing::info!("the pins can be made again");
            "the pins can be made again".to_owned()
        };
        report.events.push(text);
        self.unpinned = trouble;
        report
    }

    /// Why a guard of another layout still guards an interface; none if there is no such guard.
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

    /// Problems of pins and of a take-over.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        self.unpinned.iter().chain(self.takeover.trouble()).cloned()
    }

    /// The state of every interface that is to be guarded.
    pub(crate) fn status(&self, patterns: &[String], devices: &[Device]) -> Vec<InterfaceStatus> {
        let Some(running) = &self.running else { return Vec::new() };
        let selection = select::select(patterns, devices);
        self.attachments.status(&selection, running.generation.program_ids(), devices)
    }

    /// The program of the running generation; none before the first one.
    pub(crate) fn program(&self) -> Option<Result<Program, SystemError>> {
        let running = self.running.as_ref()?;
        Some(running.generation.describe(self.first_hook()))
    }

    fn first_hook(&self) -> Hook {
        let hook = self.attachments.hooks().first().copied();
        hook.unwrap_or_else(|| self.options.mode.first_hook())
    }

    /// The ports that are open besides those that the running policy guards.
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

    /// Detaches some interfaces, or all, until the next start. Also returns what became of
    /// interfaces, even if it fails halfway.
    pub(crate) fn detach(
        &mut self,
        names: &[String],
    ) -> (Result<Detached, SystemError>, Vec<Note>) {
        let detached = self.attachments.detach(names, &self.devices);
        (detached, self.attachments.take_notes())
    }
}

/// Devices that are up, that no pattern selects, and whose frames no other guard sees.
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
