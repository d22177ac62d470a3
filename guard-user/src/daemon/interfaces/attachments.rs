//! The guarded interfaces: how they are taken over from an earlier daemon, attached, repaired and
//! released.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use super::{
    attach::{self, AttachMode, Attachment, device_of, mode_on, name_now},
    attachment_health::{self, Finding},
    bridge_ports::{self, BridgePort},
    select::Selection,
};
use crate::{
    api::{
        control::Detached,
        events::InterfaceChange,
        status::{InterfaceState, InterfaceStatus},
    },
    attach_mode::{Hook, Mode},
    bpf::{
        link::Link,
        loader::Generation,
        pinned_maps::PinnedMaps,
        pins::{PinnedLink, Pins},
    },
    netlink::{
        devices::{self, Device},
        topology,
    },
    system_error::SystemError,
};

/// Number of successive listings without a device after which it is considered to be in another
/// namespace. One listing may miss a device while other devices come and go.
const MAX_ABSENCES: u8 = 3;

/// A guarded interface.
#[derive(Debug)]
pub(crate) struct GuardedInterface {
    name: String,
    link: Link,
    mode: Mode,
    /// Why a better mode failed; none if no better mode was tried.
    fallback_reason: Option<String>,
    /// The name that a pattern matched, if the interface was since renamed to one that no pattern
    /// matches. It stays guarded: a rename must not open a port.
    selected_as: Option<String>,
    /// Whether the program has been notified that each frame of this interface is in one buffer.
    one_buffer: bool,
    /// Number of successive listings without its device.
    absent: u8,
}

impl GuardedInterface {
    fn new(device: &Device, selected_as: Option<&str>, attachment: Attachment) -> Self {
        let Attachment { link, mode, fallback_reason } = attachment;
        let (name, selected_as) = (device.name.clone(), selected_as.map(str::to_owned));
        Self { name, link, mode, fallback_reason, selected_as, one_buffer: false, absent: 0 }
    }
}

/// The guarded interfaces, and the links of an earlier daemon that are not taken over yet.
#[derive(Debug)]
pub(crate) struct Attachments {
    pins: Pins,
    mode: AttachMode,
    /// By interface index.
    guarded: BTreeMap<u32, GuardedInterface>,
    /// Links of an earlier daemon that are not taken over yet.
    earlier: Vec<PinnedLink>,
    /// Problems of interfaces that should be guarded, by name.
    failed: BTreeMap<String, Problem>,
    /// Names of interfaces that the operator detached until the next start.
    released: BTreeSet<String>,
    all_released: bool,
    /// Changes of interfaces since the last call of [`Attachments::take_notes`].
    notes: Vec<Note>,
}

/// A problem of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    /// The interface is not guarded, or by an old generation.
    NotGuarded(String),
    /// The interface is guarded, but its link is not pinned.
    NotPinned(String),
    /// The interface is a port of a bridge that is not guarded.
    Bridged(String),
    /// The interface is guarded, but no pattern matches its present name. `from`: the name that one
    /// matched.
    Renamed { from: String },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotGuarded(why) | Self::Bridged(why) => f.write_str(why),
            Self::NotPinned(why) => write!(
                f,
                "link not pinned: the guard on this interface ends with the daemon; do not stop \
                 the daemon, which tries to pin the link again: {why}"
            ),
            Self::Renamed { from } => write!(f, "renamed from `{from}`; still guarded"),
        }
    }
}

/// A change of an interface, for the log of events.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) what: InterfaceChange,
    pub(crate) interface: String,
    pub(crate) text: String,
}

fn note(notes: &mut Vec<Note>, what: InterfaceChange, interface: &str, text: impl Into<String>) {
    notes.push(Note { what, interface: interface.to_owned(), text: text.into() });
}

impl Attachments {
    /// Starts without attachments, and finds the pinned links of an earlier daemon.
    pub(crate) fn new(pins: Pins, mode: AttachMode) -> Result<Self, SystemError> {
        let earlier = pins.links()?;
        Ok(Self {
            pins,
            mode,
            guarded: BTreeMap::new(),
            earlier,
            failed: BTreeMap::new(),
            released: BTreeSet::new(),
            all_released: false,
            notes: Vec::new(),
        })
    }

    /// Returns the changes of interfaces since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Returns whether no interface is guarded.
    pub(crate) fn is_empty(&self) -> bool {
        self.guarded.is_empty()
    }

    /// Returns the problems of interfaces, as `name: reason`.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failed.iter().map(|(name, why)| format!("{name}: {why}")).collect()
    }

    /// Attaches, switches, pins and releases until the guarded interfaces match the selection. A
    /// failure is kept for the status, and the next call tries again.
    pub(crate) fn reconcile(
        &mut self,
        generation: &mut Generation,
        shared: &mut PinnedMaps,
        selection: &Selection,
        devices: &[Device],
    ) {
        let mut failed = BTreeMap::new();
        self.drop_dead_links(devices);
        self.follow_names(selection, devices, shared);
        for guarded in self.guarded.values() {
            if let Err(error) = switch(guarded, generation) {
                failed.insert(guarded.name.clone(), Problem::NotGuarded(error.to_string()));
            }
        }
        let renamed = self.renamed(selection, devices);
        // Without its guard, a port would be open until the bridge has one.
        let ports = selection.bridge_ports().map(|port| &port.device);
        let kept: Vec<&Device> = ports.filter(|device| self.has_link_on(device)).collect();
        let wanted = selection.devices.iter().chain(kept).map(|device| (device, None));
        let wanted = wanted.chain(renamed.iter().map(|(device, from)| (*device, Some(&**from))));
        for (device, selected_as) in lower_first(wanted, devices) {
            if self.guarded.contains_key(&device.index) || self.is_released(&device.name) {
                continue;
            }
            match self.guard(device, devices, generation, shared) {
                Ok(attached) => {
                    let guarded = GuardedInterface::new(device, selected_as, attached);
                    let mode = guarded.mode.name();
                    tracing::info!(interface = device.name, mode, "guarded");
                    let text = match &guarded.fallback_reason {
                        Some(why) => format!("{mode} mode: {why}"),
                        None => format!("{mode} mode"),
                    };
                    note(&mut self.notes, InterfaceChange::Guarded, &device.name, text);
                    self.guarded.insert(device.index, guarded);
                }
                Err(error) => {
                    failed.insert(device.name.clone(), Problem::NotGuarded(error.with_hint()));
                }
            }
        }
        self.release_unwanted(selection);
        self.report_bridge_ports(selection, devices, &mut failed);
        self.pin_all(&mut failed);
        self.follow_buffers(devices, shared);
        self.follow_ports(devices, shared);
        for name in &selection.missing {
            let why = "there is no such interface; waiting for it";
            failed.insert(name.clone(), Problem::NotGuarded(why.to_owned()));
        }
        for name in &selection.not_ethernet {
            let why = "its frames have no Ethernet header: it cannot be guarded";
            failed.insert(name.clone(), Problem::NotGuarded(why.to_owned()));
        }
        // Log each problem once, not at every attempt.
        for (name, why) in &failed {
            if self.failed.get(name) == Some(why) {
                continue;
            }
            // An interface that is missing or renamed is not open.
            let renamed =
                |guarded: &GuardedInterface| guarded.name == *name && guarded.selected_as.is_some();
            if selection.missing.contains(name) || self.guarded.values().any(renamed) {
                tracing::warn!(interface = name, "{why}");
            } else {
                tracing::error!(interface = name, "{why}");
                let what = match why {
                    Problem::NotPinned(_) => InterfaceChange::Warning,
                    Problem::NotGuarded(_) | Problem::Bridged(_) | Problem::Renamed { .. } => {
                        InterfaceChange::Failed
                    }
                };
                note(&mut self.notes, what, name, why.to_string());
            }
        }
        self.failed = failed;
    }

    /// Returns devices that an earlier daemon guarded and that were since renamed, possibly while no
    /// daemon ran, with the names that a pattern matches.
    fn renamed<'d>(
        &self,
        selection: &Selection,
        devices: &'d [Device],
    ) -> Vec<(&'d Device, String)> {
        let found = self.earlier.iter().filter_map(|pinned| {
            let device = device_of(&pinned.link, devices)?;
            let is_renamed =
                !selection.selects(device.index) && selection.selects_name(pinned.selected_as());
            is_renamed.then(|| (device, pinned.selected_as().to_owned()))
        });
        found.collect()
    }

    /// Detaches the links of an earlier daemon whose interfaces should not be guarded any more, and
    /// those that another mode has replaced.
    pub(crate) fn drop_leftovers(&mut self, devices: &[Device]) {
        for pinned in std::mem::take(&mut self.earlier) {
            let link = &pinned.link;
            let info = link.info();
            let name = name_now(&pinned, devices);
            let here = info.as_ref().is_ok_and(|info| {
                devices.iter().any(|device| device.mode_of(info.program_id).is_some())
            });
            let replaced = info.as_ref().is_ok_and(|info| {
                self.guarded
                    .get(&info.ifindex)
                    .is_some_and(|now| Some(now.mode.hook()) != info.hook)
            });
            let gone = info.is_ok_and(|info| info.ifindex == 0);
            // If taking it over failed, it is still needed: the next call tries again.
            if self.failed.contains_key(name) && !gone {
                self.earlier.push(pinned);
                continue;
            }
            let ended = if here && replaced {
                tracing::info!(
                    interface = name,
                    "attach mode changed: link of the old mode detached"
                );
                link.detach()
            } else if here && !gone {
                let why = "detached: no longer in the manifest";
                tracing::warn!(interface = name, "{why}");
                note(&mut self.notes, InterfaceChange::Released, name, why);
                link.detach()
            } else {
                link.remove_pin()
            };
            if let Err(error) = ended {
                tracing::error!(interface = name, hint = error.hint_text(), "{error}");
            }
        }
    }

    /// Detaches the named interfaces, or all if none is named, until the next start.
    pub(crate) fn detach(
        &mut self,
        names: &[String],
        devices: &[Device],
    ) -> Result<Detached, SystemError> {
        let mut answer = Detached::default();
        // Links of an earlier daemon that could not be taken over guard interfaces, too.
        let mut earlier: Vec<(String, PinnedLink)> = std::mem::take(&mut self.earlier)
            .into_iter()
            .map(|pinned| (name_now(&pinned, devices).to_owned(), pinned))
            .collect();
        let known = |name: &&String| {
            self.guarded.values().any(|guarded| guarded.name == **name)
                || earlier.iter().any(|(earlier, _)| earlier == *name)
        };
        answer.not_guarded = names.iter().filter(|name| !known(name)).cloned().collect();
        // Set before detaching, because an interface must not be attached again even if detaching fails
        // halfway.
        self.released.extend(names.iter().filter(known).cloned());
        self.all_released |= names.is_empty();
        let mut failed = None;
        let notes = &mut self.notes;
        let mut stays = |name: &String, link: &Link| {
            if !names.is_empty() && !names.contains(name) {
                return true;
            }
            let was_alive = link.is_alive();
            match link.detach() {
                Ok(()) => {
                    if was_alive && !answer.detached.contains(name) {
                        answer.detached.push(name.clone());
                        note(notes, InterfaceChange::Detached, name, "by the operator");
                    }
                    false
                }
                Err(error) => {
                    failed.get_or_insert(error);
                    true
                }
            }
        };
        self.guarded.retain(|_, guarded| stays(&guarded.name, &guarded.link));
        earlier.retain(|(name, pinned)| stays(name, &pinned.link));
        self.earlier = earlier.into_iter().map(|(_, pinned)| pinned).collect();
        failed.map_or(Ok(answer), Err)
    }

    /// Returns the hooks that are in use.
    pub(crate) fn hooks(&self) -> BTreeSet<Hook> {
        self.guarded.values().map(|guarded| guarded.mode.hook()).collect()
    }

    /// Returns the programs that run before the guard, as pairs of interface name and description.
    pub(crate) fn in_front(&self, devices: &[Device]) -> Vec<(String, String)> {
        let found = self.guarded.iter().filter_map(|(index, guarded)| {
            let device = devices.iter().find(|device| device.index == *index)?;
            let id = guarded.link.info().ok()?.program_id;
            let finding = attachment_health::in_front(guarded.mode.hook(), device, id)?;
            Some((guarded.name.clone(), finding.problem?))
        });
        found.collect()
    }

    /// Returns the indices of the guarded interfaces.
    pub(crate) fn indices(&self) -> BTreeSet<u32> {
        self.guarded.keys().copied().collect()
    }

    /// Returns the state of every interface that should be guarded: its link as queried now, compared
    /// with its device in `devices`, which was listed just now.
    pub(crate) fn status(
        &self,
        selection: &Selection,
        programs: &BTreeMap<Hook, u32>,
        devices: &[Device],
    ) -> Vec<InterfaceStatus> {
        let mut all = Vec::new();
        for (index, guarded) in &self.guarded {
            let device = devices.iter().find(|device| device.index == *index);
            let link = guarded.link.info();
            let hook = guarded.mode.hook();
            let expected = programs.get(&hook).copied().unwrap_or(0);
            let mut finding = attachment_health::check(&link, hook, device, expected);
            if finding.state == InterfaceState::Guarded
                && let Some(port) = device.and_then(|device| self.bridged(device, devices))
            {
                finding = attachment_health::bridged(&port, &selection.patterns);
            }
            let Finding { state, problem, remedy } = finding;
            let problem =
                problem.or_else(|| self.failed.get(&guarded.name).map(Problem::to_string));
            let reported = device_status(&guarded.name, device);
            // The device's view of the program that the link runs.
            let id = link.ok().map(|info| info.program_id);
            let ours = id.and_then(|id| Some((id, device?.mode_of(id)?)));
            all.push(InterfaceStatus {
                state,
                problem: problem
                    .or_else(|| Some(in_mode(guarded.mode, guarded.fallback_reason.as_ref()?))),
                remedy,
                mode: ours.map(|(_, mode)| mode).or(reported.mode),
                program_id: ours.map(|(id, _)| id).or(reported.program_id),
                ..reported
            });
        }
        let bare = |name: &str, state: InterfaceState| {
            let device = devices.iter().find(|device| device.name == name);
            let problem = self.failed.get(name).map(Problem::to_string);
            InterfaceStatus { state, problem, ..device_status(name, device) }
        };
        for device in &selection.devices {
            if self.guarded.contains_key(&device.index) {
                continue;
            }
            if self.is_released(&device.name) {
                let mut status = bare(&device.name, InterfaceState::Detached);
                status.problem = Some("detached by the operator".to_owned());
                status.remedy = Some("restart the daemon to guard it again".to_owned());
                all.push(status);
                continue;
            }
            let mut status = bare(&device.name, InterfaceState::Failed);
            status.problem.get_or_insert_with(|| {
                "the interface has just appeared and is not attached yet".to_owned()
            });
            all.push(status);
        }
        for port in &selection.bridged {
            let name = &port.device.name;
            if !self.guarded.contains_key(&port.device.index) && !self.is_released(name) {
                let Finding { state, problem, remedy } =
                    attachment_health::bridged(port, &selection.patterns);
                let reported = device_status(name, Some(&port.device));
                all.push(InterfaceStatus { state, problem, remedy, ..reported });
            }
        }
        for (names, state) in [
            (&selection.missing, InterfaceState::Missing),
            (&selection.not_ethernet, InterfaceState::Failed),
        ] {
            for name in names {
                // An interface that vanished a moment ago is listed above.
                if !all.iter().any(|status| status.name == *name) {
                    all.push(bare(name, state));
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Returns whether a link of this or of an earlier daemon is attached to a device.
    pub(super) fn has_link_on(&self, device: &Device) -> bool {
        self.guarded.contains_key(&device.index)
            || self.earlier.iter().any(|pinned| mode_on(&pinned.link, device).is_some())
    }

    /// Returns the bridge that passes on what a device receives, unless the bridge is guarded.
    fn bridged(&self, device: &Device, devices: &[Device]) -> Option<BridgePort> {
        let bridge = bridge_ports::bridge_of(device, devices)?;
        let is_guarded = self.guarded.contains_key(&bridge.index);
        (!is_guarded).then(|| BridgePort { device: device.clone(), bridge: bridge.clone() })
    }

    /// Adds to `failed` the ports of bridges, guarded or not. Guarded ones stay so, because a device
    /// that becomes a port must not open the node.
    fn report_bridge_ports(
        &self,
        selection: &Selection,
        devices: &[Device],
        failed: &mut BTreeMap<String, Problem>,
    ) {
        let guarded = devices.iter().filter(|device| self.guarded.contains_key(&device.index));
        let guarded = guarded.filter_map(|device| self.bridged(device, devices));
        let unguarded = selection.bridged.iter().filter(|port| {
            !self.guarded.contains_key(&port.device.index) && !self.is_released(&port.device.name)
        });
        for port in guarded.chain(unguarded.cloned()) {
            let why = format!("{}; {}", port.problem(), port.remedy(&selection.patterns));
            failed.entry(port.device.name).or_insert(Problem::Bridged(why));
        }
    }

    fn is_released(&self, name: &str) -> bool {
        self.all_released || self.released.contains(name)
    }

    /// Drops links whose interface is gone or that were detached from outside.
    fn drop_dead_links(&mut self, devices: &[Device]) {
        let Self { guarded, notes, .. } = self;
        guarded.retain(|index, GuardedInterface { name, link, absent, .. }| {
            let here = devices.iter().any(|device| device.index == *index);
            *absent = if here { 0 } else { *absent + 1 };
            let alive = link.is_alive();
            if alive && *absent < MAX_ABSENCES {
                return true;
            }
            let why = "the interface or its link is gone";
            tracing::warn!(interface = name, "{why}");
            note(notes, InterfaceChange::Lost, name, why);
            // An interface that moved to another namespace takes its program along; detach that.
            let ended = if alive { link.detach() } else { link.remove_pin() };
            if let Err(error) = ended {
                tracing::error!(interface = name, hint = error.hint_text(), "{error}");
            }
            false
        });
    }

    /// Updates the names of renamed interfaces.
    fn follow_names(&mut self, selection: &Selection, devices: &[Device], shared: &mut PinnedMaps) {
        for (index, guarded) in &mut self.guarded {
            let wanted = selection.selects(*index);
            if wanted {
                guarded.selected_as = None;
            }
            let Some(device) = devices.iter().find(|device| device.index == *index) else {
                continue;
            };
            if device.name == guarded.name {
                continue;
            }
            let text = format!("renamed from `{}`", guarded.name);
            tracing::warn!(interface = device.name, "{text}");
            note(&mut self.notes, InterfaceChange::Renamed, &device.name, text);
            let before = std::mem::replace(&mut guarded.name, device.name.clone());
            if !wanted && guarded.selected_as.is_none() {
                guarded.selected_as = Some(before);
            }
            // The pin is renamed later, with the others.
            let counts = shared.set_interface(device.index, &device.name, guarded.one_buffer);
            if let Err(error) = counts {
                tracing::error!(interface = device.name, hint = error.hint_text(), "{error}");
            }
        }
    }

    /// Notifies the program for which interfaces each frame is in one buffer, as their MTU changes.
    /// Until a larger MTU reaches the program, it evaluates packets by the data in the first buffer. It
    /// then misses only bytes behind the packet, in a later buffer.
    fn follow_buffers(&mut self, devices: &[Device], shared: &mut PinnedMaps) {
        for device in devices {
            let Some(guarded) = self.guarded.get_mut(&device.index) else { continue };
            // In the network stack, a driver may spread a frame over any number of buffers.
            let one_buffer = guarded.mode == Mode::Native && devices::has_one_buffer(device.mtu);
            if one_buffer == guarded.one_buffer {
                continue;
            }
            match shared.set_interface(device.index, &guarded.name, one_buffer) {
                Ok(()) => guarded.one_buffer = one_buffer,
                Err(error) => {
                    tracing::error!(
                        interface = guarded.name,
                        hint = error.hint_text(),
                        "MTU change not passed to the program: {error}"
                    );
                }
            }
        }
    }

    /// Notifies the program of the ports of guarded bonds, as they come and go: in native mode the
    /// program runs at the ports and sees their indices.
    fn follow_ports(&mut self, devices: &[Device], shared: &mut PinnedMaps) {
        for (index, guarded) in &self.guarded {
            let ports = topology::ports_of(*index, devices);
            if guarded.mode != Mode::Native || ports.is_empty() {
                continue;
            }
            if let Err(error) = shared.set_ports(*index, &guarded.name, &ports) {
                tracing::error!(
                    interface = guarded.name,
                    hint = error.hint_text(),
                    "frames of its ports are counted under `others`: {error}"
                );
            }
        }
    }

    /// Releases interfaces that the patterns do not match any more. Called after attaching, and does
    /// nothing unless an interface that they do match is guarded.
    fn release_unwanted(&mut self, selection: &Selection) {
        if !self.guarded.keys().any(|index| selection.selects(*index)) {
            return;
        }
        let Self { guarded, notes, .. } = self;
        let has_guard: BTreeSet<u32> = guarded.keys().copied().collect();
        let is_replaced = |index: u32| {
            let mut covered = selection.covered.iter();
            covered.any(|port| port.device.index == index && has_guard.contains(&port.bridge.index))
        };
        guarded.retain(|index, GuardedInterface { name, link, selected_as, .. }| {
            let is_renamed = selected_as.as_ref().is_some_and(|name| selection.selects_name(name));
            let replaced = is_replaced(*index);
            if (selection.selects(*index) || is_renamed) && !replaced {
                return true;
            }
            // If detaching fails, keep it and try again next time.
            match link.detach() {
                Ok(()) => {
                    let why = if replaced {
                        "released: the guard on its bridge covers it"
                    } else {
                        "released: no longer in the manifest"
                    };
                    tracing::warn!(interface = name, "{why}");
                    note(notes, InterfaceChange::Released, name, why);
                    false
                }
                Err(error) => {
                    tracing::error!(
                        interface = name,
                        hint = error.hint_text(),
                        "interface not released: {error}"
                    );
                    true
                }
            }
        });
    }

    /// Pins links that are not pinned, under the present names of their interfaces. Adds failures and
    /// renamed interfaces to `failed`.
    fn pin_all(&mut self, failed: &mut BTreeMap<String, Problem>) {
        let Self { guarded, pins, notes, failed: before, .. } = self;
        for guarded in guarded.values_mut() {
            let GuardedInterface { name, link, mode, selected_as, .. } = guarded;
            let path = pins.link_path(name, selected_as.as_deref(), mode.hook());
            let pinned = link.move_to(&path).and_then(|()| {
                let missing = !link.is_pinned();
                if missing { link.pin_again().map(|()| true) } else { Ok(false) }
            });
            let problem = match (pinned, &*selected_as) {
                (Err(error), _) => Problem::NotPinned(error.with_hint()),
                (Ok(again), wanted) => {
                    if again {
                        let text = if matches!(before.get(name), Some(Problem::NotPinned(_))) {
                            "link pinned: the guard now outlives the daemon"
                        } else {
                            "link pinned again: its pin was removed; find out which software \
                             removed it"
                        };
                        tracing::warn!(interface = name, "{text}");
                        note(notes, InterfaceChange::Warning, name, text);
                    }
                    let Some(wanted) = wanted else { continue };
                    Problem::Renamed { from: wanted.clone() }
                }
            };
            failed.entry(name.clone()).or_insert(problem);
        }
    }

    /// Takes over the link of an earlier daemon, or attaches.
    fn guard(
        &mut self,
        device: &Device,
        devices: &[Device],
        generation: &mut Generation,
        shared: &mut PinnedMaps,
    ) -> Result<Attachment, SystemError> {
        // Before the first frame, so that every frame is counted for the right interface.
        shared.set_interface(device.index, &device.name, false)?;
        let ports = topology::ports_of(device.index, devices);
        if self.mode.first_hook() == Hook::Xdp && !ports.is_empty() {
            shared.set_ports(device.index, &device.name, &ports)?;
        }
        attach::guard(self.mode, device, generation, &self.pins, &mut self.earlier)
    }
}

/// Sorts devices into the order in which to attach. A program on an upper device keeps the kernel from
/// attaching to the device below it (`dev_xdp_attach`, `net/core/dev.c`), but not the reverse.
fn lower_first<'d, T>(
    wanted: impl Iterator<Item = (&'d Device, T)>,
    devices: &[Device],
) -> Vec<(&'d Device, T)> {
    let of = |index: u32| devices.iter().find(|device| device.index == index);
    let below = |device: &Device| {
        iter::successors(device.lies_on(), |index| of(*index)?.lies_on())
            .take(devices.len())
            .count()
    };
    let mut ordered: Vec<_> = wanted.collect();
    ordered.sort_by_key(|(device, _)| below(device));
    ordered
}

/// Describes an interface that is guarded in another mode than the first choice.
fn in_mode(mode: Mode, why: &str) -> String {
    format!("guarded in {} mode: {why}", mode.name())
}

/// Returns the state of an interface as its device reports it.
fn device_status(name: &str, device: Option<&Device>) -> InterfaceStatus {
    let xdp = device.and_then(|device| device.xdp);
    InterfaceStatus {
        name: name.to_owned(),
        mode: xdp.map(|attached| attached.mode),
        program_id: xdp.map(|attached| attached.program_id),
        index: device.map(|device| device.index),
        up: device.map(|device| device.up),
        ..InterfaceStatus::default()
    }
}

/// Switches a link to the running generation, unless it runs it already.
fn switch(guarded: &GuardedInterface, generation: &mut Generation) -> Result<(), SystemError> {
    let hook = guarded.mode.hook();
    if guarded.link.info()?.program_id != generation.add(hook)? {
        guarded.link.switch(generation.program(hook)?)?;
    }
    Ok(())
}
