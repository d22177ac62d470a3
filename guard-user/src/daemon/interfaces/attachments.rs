//! The interfaces that are guarded: taken over from an earlier daemon, attached, mended, released.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use super::{
    attach::{self, AttachMode, Attachment, device_of, name_now},
    attachment_health::{self, Finding},
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

/// Listings in a row without a device after which it is taken to be in another namespace. One
/// listing may miss a device while others come and go.
const MAX_ABSENCES: u8 = 3;

/// A guarded interface.
#[derive(Debug)]
pub(crate) struct GuardedInterface {
    name: String,
    link: Link,
    mode: Mode,
    /// Why it is not in a better mode, if one was tried.
    instead: Option<String>,
    /// The name by which it was wanted, if it was renamed to one that nobody wants. It stays
    /// guarded: a name is no reason to open a port.
    wanted_as: Option<String>,
    /// Whether the program was told that it gets each frame in one buffer.
    one_buffer: bool,
    /// How often in a row its device was not among those listed.
    absent: u8,
}

impl GuardedInterface {
    fn new(device: &Device, wanted_as: Option<&str>, attachment: Attachment) -> Self {
        let Attachment { link, mode, instead } = attachment;
        let (name, wanted_as) = (device.name.clone(), wanted_as.map(str::to_owned));
        Self { name, link, mode, instead, wanted_as, one_buffer: false, absent: 0 }
    }
}

/// The guarded interfaces.
#[derive(Debug)]
pub(crate) struct Attachments {
    pins: Pins,
    mode: AttachMode,
    /// By interface index.
    guarded: BTreeMap<u32, GuardedInterface>,
    /// Of an earlier daemon, not yet taken over.
    earlier: Vec<PinnedLink>,
    /// What is wrong with wanted interfaces, by name.
    failed: BTreeMap<String, Problem>,
    /// The operator wants these to be without a guard until the next start.
    released: BTreeSet<String>,
    all_released: bool,
    /// What became of interfaces since [`Attachments::take_notes`] was called last.
    notes: Vec<Note>,
}

/// What is wrong with an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    /// It is not guarded.
    NotGuarded(String),
    /// It is guarded, but its link is not pinned.
    NotPinned(String),
    /// It is guarded, but has another name than the one by which it was selected.
    Renamed { from: String },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotGuarded(why) => f.write_str(why),
            Self::NotPinned(why) => write!(
                f,
                "guarded only as long as this daemon runs: its link is not pinned; do not end it, \
                 pinning is tried again: {why}"
            ),
            Self::Renamed { from } => write!(f, "renamed from `{from}`; guarded all the same"),
        }
    }
}

/// Something became of an interface.
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
    /// None yet; finds those of an earlier daemon.
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

    /// What became of interfaces since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Whether no interface is guarded.
    pub(crate) fn is_empty(&self) -> bool {
        self.guarded.is_empty()
    }

    /// Why interfaces are not guarded.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failed.iter().map(|(name, why)| format!("{name}: {why}")).collect()
    }

    /// Makes the interfaces what they are to be. What fails is kept for the status and tried again
    /// next time.
    pub(crate) fn reconcile(
        &mut self,
        generation: &mut Generation,
        shared: &mut PinnedMaps,
        selection: &Selection,
        devices: &[Device],
    ) {
        let mut failed = BTreeMap::new();
        self.forget_dead(devices);
        self.follow_names(selection, devices, shared);
        for guarded in self.guarded.values() {
            if let Err(error) = switch(guarded, generation) {
                failed.insert(guarded.name.clone(), Problem::NotGuarded(error.to_string()));
            }
        }
        let renamed = self.renamed(selection, devices);
        let wanted = selection.devices.iter().map(|device| (device, None));
        let wanted = wanted.chain(renamed.iter().map(|(device, from)| (*device, Some(&**from))));
        for (device, wanted_as) in lower_first(wanted, devices) {
            if self.guarded.contains_key(&device.index) || self.is_released(&device.name) {
                continue;
            }
            match self.guard(device, devices, generation, shared) {
                Ok(attached) => {
                    let guarded = GuardedInterface::new(device, wanted_as, attached);
                    let mode = guarded.mode.name();
                    tracing::info!(interface = device.name, mode, "guarded");
                    let text = match &guarded.instead {
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
        // Said once, not every time that it is tried again.
        for (name, why) in &failed {
            if self.failed.get(name) == Some(why) {
                continue;
            }
            // What is not there, or only has another name, is not open.
            let renamed =
                |guarded: &GuardedInterface| guarded.name == *name && guarded.wanted_as.is_some();
            if selection.missing.contains(name) || self.guarded.values().any(renamed) {
                tracing::warn!(interface = name, "{why}");
            } else {
                tracing::error!(interface = name, "{why}");
                let what = match why {
                    Problem::NotPinned(_) => InterfaceChange::Warning,
                    Problem::NotGuarded(_) | Problem::Renamed { .. } => InterfaceChange::Failed,
                };
                note(&mut self.notes, what, name, why.to_string());
            }
        }
        self.failed = failed;
    }

    /// Devices that an earlier daemon guarded and that were renamed since, also while no daemon ran, with the
    /// names by which they are wanted.
    fn renamed<'d>(
        &self,
        selection: &Selection,
        devices: &'d [Device],
    ) -> Vec<(&'d Device, String)> {
        let found = self.earlier.iter().filter_map(|pinned| {
            let device = device_of(&pinned.link, devices)?;
            let is_renamed =
                !selection.means(device.index) && selection.means_name(pinned.wanted_as());
            is_renamed.then(|| (device, pinned.wanted_as().to_owned()))
        });
        found.collect()
    }

    /// Ends what an earlier daemon guarded and nobody wants guarded any more.
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
            // One whose taking over failed is still wanted: it is tried again.
            if self.failed.contains_key(name) && !gone {
                self.earlier.push(pinned);
                continue;
            }
            let ended = if here && replaced {
                tracing::info!(interface = name, "guarded in another mode now: the old one ends");
                link.detach()
            } else if here && !gone {
                let why = "no longer wanted: detached";
                tracing::warn!(interface = name, "{why}");
                note(&mut self.notes, InterfaceChange::Released, name, why);
                link.detach()
            } else {
                link.forget()
            };
            if let Err(error) = ended {
                tracing::error!(interface = name, hint = error.hint_text(), "{error}");
            }
        }
    }

    /// Detaches some interfaces, or all, until the next start.
    pub(crate) fn detach(
        &mut self,
        names: &[String],
        devices: &[Device],
    ) -> Result<Detached, SystemError> {
        let mut answer = Detached::default();
        // What an earlier daemon attached and could not be taken over guards, too.
        let mut earlier: Vec<(String, PinnedLink)> = std::mem::take(&mut self.earlier)
            .into_iter()
            .map(|pinned| (name_now(&pinned, devices).to_owned(), pinned))
            .collect();
        let known = |name: &&String| {
            self.guarded.values().any(|guarded| guarded.name == **name)
                || earlier.iter().any(|(earlier, _)| earlier == *name)
        };
        answer.not_guarded = names.iter().filter(|name| !known(name)).cloned().collect();
        // From now on, also if detaching fails halfway: what is detached must not come back.
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

    /// The hooks that are in use.
    pub(crate) fn hooks(&self) -> BTreeSet<Hook> {
        self.guarded.values().map(|guarded| guarded.mode.hook()).collect()
    }

    /// What runs in front of the guard, by interface.
    pub(crate) fn in_front(&self, devices: &[Device]) -> Vec<(String, String)> {
        let told = self.guarded.iter().filter_map(|(index, guarded)| {
            let device = devices.iter().find(|device| device.index == *index)?;
            let id = guarded.link.info().ok()?.program_id;
            let finding = attachment_health::in_front(guarded.mode.hook(), device, id)?;
            Some((guarded.name.clone(), finding.problem?))
        });
        told.collect()
    }

    /// Indices of the guarded interfaces.
    pub(crate) fn indices(&self) -> BTreeSet<u32> {
        self.guarded.keys().copied().collect()
    }

    /// The state of every wanted interface: what its link says now, beside what the device says in
    /// a listing made now.
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
            let Finding { state, problem, remedy } =
                attachment_health::check(&link, hook, device, expected);
            let problem =
                problem.or_else(|| self.failed.get(&guarded.name).map(Problem::to_string));
            let told = told(&guarded.name, device);
            // What the device says of the program that the link runs.
            let id = link.ok().map(|info| info.program_id);
            let ours = id.and_then(|id| Some((id, device?.mode_of(id)?)));
            all.push(InterfaceStatus {
                state,
                problem: problem.or_else(|| Some(in_mode(guarded.mode, guarded.instead.as_ref()?))),
                remedy,
                mode: ours.map(|(_, mode)| mode).or(told.mode),
                program_id: ours.map(|(id, _)| id).or(told.program_id),
                ..told
            });
        }
        let bare = |name: &str, state: InterfaceState| {
            let device = devices.iter().find(|device| device.name == name);
            let problem = self.failed.get(name).map(Problem::to_string);
            InterfaceStatus { state, problem, ..told(name, device) }
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
            status.problem.get_or_insert_with(|| "it has just appeared".to_owned());
            all.push(status);
        }
        for (names, state) in [
            (&selection.missing, InterfaceState::Missing),
            (&selection.not_ethernet, InterfaceState::Failed),
        ] {
            for name in names {
                // One that has just gone is told of above.
                if !all.iter().any(|status| status.name == *name) {
                    all.push(bare(name, state));
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn is_released(&self, name: &str) -> bool {
        self.all_released || self.released.contains(name)
    }

    /// Forgets links whose interface is gone or that somebody detached.
    fn forget_dead(&mut self, devices: &[Device]) {
        let Self { guarded, notes, .. } = self;
        guarded.retain(|index, GuardedInterface { name, link, absent, .. }| {
            let here = devices.iter().any(|device| device.index == *index);
            *absent = if here { 0 } else { *absent + 1 };
            let alive = link.is_alive();
            if alive && *absent < MAX_ABSENCES {
                return true;
            }
            let why = "its link is gone, or the interface is";
            tracing::warn!(interface = name, "{why}");
            note(notes, InterfaceChange::Lost, name, why);
            // One that moved to another namespace takes its program along; end that.
            let ended = if alive { link.detach() } else { link.forget() };
            if let Err(error) = ended {
                tracing::error!(interface = name, hint = error.hint_text(), "{error}");
            }
            false
        });
    }

    /// Calls interfaces what they are called now.
    fn follow_names(&mut self, selection: &Selection, devices: &[Device], shared: &mut PinnedMaps) {
        for (index, guarded) in &mut self.guarded {
            let wanted = selection.means(*index);
            if wanted {
                guarded.wanted_as = None;
            }
            let Some(device) = devices.iter().find(|device| device.index == *index) else {
                continue;
            };
            if device.name == guarded.name {
                continue;
            }
            let was = format!("was called `{}`", guarded.name);
            tracing::warn!(interface = device.name, "{was}");
            note(&mut self.notes, InterfaceChange::Renamed, &device.name, was);
            let before = std::mem::replace(&mut guarded.name, device.name.clone());
            if !wanted && guarded.wanted_as.is_none() {
                guarded.wanted_as = Some(before);
            }
            // Its pin follows with the others.
            let counts = shared.set_interface(device.index, &device.name, guarded.one_buffer);
            if let Err(error) = counts {
                tracing::error!(interface = device.name, hint = error.hint_text(), "{error}");
            }
        }
    }

    /// Says of which interfaces the program gets each frame in one buffer, as their MTU changes. A
    /// program that has not heard of a larger one yet judges by what is there: only of bytes behind
    /// the packet, in a later buffer, it does not know.
    fn follow_buffers(&mut self, devices: &[Device], shared: &mut PinnedMaps) {
        for device in devices {
            let Some(guarded) = self.guarded.get_mut(&device.index) else { continue };
            // In the network stack a frame lies in as many buffers as its driver likes.
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
                        "a change of its MTU is not followed: {error}"
                    );
                }
            }
        }
    }

    /// Says of which bonds the ports are, as they come and go: in the driver the program sees those.
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
                    "frames of its ports are counted as others': {error}"
                );
            }
        }
    }

    /// Releases interfaces that the patterns do not mean any more; last, and only when one that
    /// they do mean is guarded.
    fn release_unwanted(&mut self, selection: &Selection) {
        if !self.guarded.keys().any(|index| selection.means(*index)) {
            return;
        }
        let Self { guarded, notes, .. } = self;
        guarded.retain(|index, GuardedInterface { name, link, wanted_as, .. }| {
            let is_renamed = wanted_as.as_ref().is_some_and(|name| selection.means_name(name));
            if selection.means(*index) || is_renamed {
                return true;
            }
            // What cannot be detached is kept, and tried again.
            match link.detach() {
                Ok(()) => {
                    let why = "no longer in the manifest: released";
                    tracing::warn!(interface = name, "{why}");
                    note(notes, InterfaceChange::Released, name, why);
                    false
                }
                Err(error) => {
                    tracing::error!(
                        interface = name,
                        hint = error.hint_text(),
                        "cannot be released: {error}"
                    );
                    true
                }
            }
        });
    }

    /// Pins what is not pinned, under its present name, and says of what is not so and why.
    fn pin_all(&mut self, failed: &mut BTreeMap<String, Problem>) {
        let Self { guarded, pins, notes, failed: before, .. } = self;
        for guarded in guarded.values_mut() {
            let GuardedInterface { name, link, mode, wanted_as, .. } = guarded;
            let path = pins.link_path(name, wanted_as.as_deref(), mode.hook());
            let pinned = link.move_to(&path).and_then(|()| {
                let missing = !link.is_pinned();
                if missing { link.pin_again().map(|()| true) } else { Ok(false) }
            });
            let trouble = match (pinned, &*wanted_as) {
                (Err(error), _) => Problem::NotPinned(error.with_hint()),
                (Ok(again), wanted) => {
                    if again {
                        let text = if matches!(before.get(name), Some(Problem::NotPinned(_))) {
                            "pinned at last: it outlives the daemon"
                        } else {
                            "its pin was removed: pinned again; find out who did that"
                        };
                        tracing::warn!(interface = name, "{text}");
                        note(notes, InterfaceChange::Warning, name, text);
                    }
                    let Some(wanted) = wanted else { continue };
                    Problem::Renamed { from: wanted.clone() }
                }
            };
            failed.entry(name.clone()).or_insert(trouble);
        }
    }

    /// Takes over what an earlier daemon attached, or attaches.
    fn guard(
        &mut self,
        device: &Device,
        devices: &[Device],
        generation: &mut Generation,
        shared: &mut PinnedMaps,
    ) -> Result<Attachment, SystemError> {
        // Before the first frame, so that each is counted where it belongs.
        shared.set_interface(device.index, &device.name, false)?;
        let ports = topology::ports_of(device.index, devices);
        if self.mode.first_hook() == Hook::Xdp && !ports.is_empty() {
            shared.set_ports(device.index, &device.name, &ports)?;
        }
        attach::guard(self.mode, device, generation, &self.pins, &mut self.earlier)
    }
}

/// Devices in the order in which they are attached to. On a device that lies on another one a program
/// keeps the kernel from attaching to that (`dev_xdp_attach`, `net/core/dev.c`), not the reverse.
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

/// Said of an interface that is guarded in a mode that was not the first choice.
fn in_mode(mode: Mode, why: &str) -> String {
    format!("guarded in {} mode: {why}", mode.name())
}

/// What a device tells of itself.
fn told(name: &str, device: Option<&Device>) -> InterfaceStatus {
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

/// Switches a link to the running generation.
fn switch(guarded: &GuardedInterface, generation: &mut Generation) -> Result<(), SystemError> {
    let hook = guarded.mode.hook();
    if guarded.link.info()?.program_id != generation.add(hook)? {
        guarded.link.switch(generation.program(hook)?)?;
    }
    Ok(())
}
