//! Attaching the guard to one interface: the choice of the mode, and the change from one mode to
//! another without a gap in which nothing guards the interface.
//!
//! Decision: `docs/decisions/0012-auto-mode.md`.

use crate::{
    attach_mode::{DeviceMode, Hook, Mode},
    bpf::{
        link::Link,
        loader::Generation,
        pins::{PinnedLink, Pins},
    },
    netlink::devices::Device,
    system_error::SystemError,
};

/// The mode in which to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// This mode, or fail.
    Only(Mode),
    /// Native XDP if the driver supports it; else tcx, which sees the same frames later; else generic
    /// XDP in the network stack, which is slower than both and sees less of the traffic.
    Auto,
}

impl AttachMode {
    /// Returns the permitted modes, best first.
    fn modes(&self) -> &[Mode] {
        match self {
            Self::Only(mode) => std::slice::from_ref(mode),
            Self::Auto => &[Mode::Native, Mode::Tcx, Mode::Generic],
        }
    }

    /// Returns the hook that is tried first.
    pub(crate) fn first_hook(self) -> Hook {
        match self {
            Self::Only(mode) => mode.hook(),
            Self::Auto => Hook::Xdp,
        }
    }
}

/// A link and its mode.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) link: Link,
    pub(crate) mode: Mode,
    /// Why a better mode failed; none if no better mode was tried.
    pub(crate) fallback_reason: Option<String>,
}

/// Returns the mode in which a link is attached to a device; none if it is not attached to it.
/// Interface indices are unique only within a network namespace, and a link does not report its
/// namespace; program ids are unique on the machine.
pub(crate) fn mode_on(link: &Link, device: &Device) -> Option<Mode> {
    let info = link.info().ok().filter(|info| info.ifindex == device.index)?;
    let found = device.mode_of(info.program_id)?;
    let mode = match info.hook? {
        Hook::Tc => Mode::Tcx,
        Hook::Xdp if found == DeviceMode::Generic => Mode::Generic,
        Hook::Xdp => Mode::Native,
    };
    Some(mode)
}

/// Returns the device that a link is attached to; none if the device is not in this network namespace.
pub(crate) fn device_of<'d>(link: &Link, devices: &'d [Device]) -> Option<&'d Device> {
    devices.iter().find(|device| mode_on(link, device).is_some())
}

/// Returns the present name of a pinned link's interface; the name in the pin if the interface is not
/// in this network namespace.
pub(crate) fn name_now<'a>(pinned: &'a PinnedLink, devices: &'a [Device]) -> &'a str {
    device_of(&pinned.link, devices).map_or(&pinned.interface, |device| &device.name)
}

/// Attaches the guard to a device, or switches the link of an earlier daemon on it to the generation.
///
/// `earlier` holds the links of that daemon. Links on this device that are not used any more stay in
/// `earlier`, and the caller removes them, because the device is guarded without them.
pub(crate) fn guard(
    wanted: AttachMode,
    device: &Device,
    generation: &mut Generation,
    pins: &Pins,
    earlier: &mut Vec<PinnedLink>,
) -> Result<Attachment, SystemError> {
    let before = take_links_on(earlier, device);
    let Some((pinned, mode)) = best(before, wanted, earlier) else {
        if wanted.first_hook() == Hook::Xdp {
            refuse_foreign(device)?;
        }
        return first_of(wanted.modes(), device, generation, pins);
    };
    if wanted.modes().contains(&mode) {
        return take_over(pinned, mode, device, generation, earlier);
    }
    let changed = if wanted.modes().iter().any(|new| new.hook() != mode.hook()) {
        attach_at_other_hook(wanted, device, generation, pins)
    } else {
        change_xdp_mode(wanted, mode, &pinned.link, device, generation, pins)
    };
    match changed {
        Ok(attachment) => {
            tracing::info!(
                interface = device.name,
                "attach mode changed from {} to {}",
                mode.name(),
                attachment.mode.name()
            );
            if pinned.link.is_alive() {
                earlier.push(pinned);
            }
            Ok(attachment)
        }
        // Keep the old mode rather than leave the interface unguarded.
        Err(error) if pinned.link.is_alive() => {
            let why = format!("{error}; still in {} mode", mode.name());
            tracing::error!(interface = device.name, "{why}");
            let kept = take_over(pinned, mode, device, generation, earlier)?;
            Ok(Attachment { fallback_reason: Some(why), ..kept })
        }
        Err(error) => Err(error),
    }
}

/// Removes the links on a device from `earlier` and returns them with their modes.
fn take_links_on(earlier: &mut Vec<PinnedLink>, device: &Device) -> Vec<(PinnedLink, Mode)> {
    let mut taken = Vec::new();
    for pinned in std::mem::take(earlier) {
        match mode_on(&pinned.link, device) {
            Some(mode) => taken.push((pinned, mode)),
            None => earlier.push(pinned),
        }
    }
    taken
}

/// Returns the link in the most preferred mode. The others go back to `earlier`: a daemon that ended
/// during a change of the mode left them.
fn best(
    mut taken: Vec<(PinnedLink, Mode)>,
    wanted: AttachMode,
    earlier: &mut Vec<PinnedLink>,
) -> Option<(PinnedLink, Mode)> {
    let rank = |mode| wanted.modes().iter().position(|it| *it == mode).unwrap_or(usize::MAX);
    taken.sort_by_key(|(_, mode)| rank(*mode));
    let mut taken = taken.into_iter();
    let best = taken.next();
    earlier.extend(taken.map(|(pinned, _)| pinned));
    best
}

fn take_over(
    pinned: PinnedLink,
    mode: Mode,
    device: &Device,
    generation: &mut Generation,
    earlier: &mut Vec<PinnedLink>,
) -> Result<Attachment, SystemError> {
    let hook = mode.hook();
    // The pin follows later, with the others. Until then it shows that the link was made by another
    // layout.
    let taken = generation.add(hook).and_then(|_| pinned.link.switch(generation.program(hook)?));
    if let Err(error) = taken {
        earlier.push(pinned);
        return Err(error);
    }
    tracing::info!(interface = device.name, "taken over from an earlier daemon");
    Ok(Attachment { link: pinned.link, mode, fallback_reason: None })
}

/// Attaches at the other hook. Until the old link is removed, both programs evaluate and count each
/// frame.
fn attach_at_other_hook(
    wanted: AttachMode,
    device: &Device,
    generation: &mut Generation,
    pins: &Pins,
) -> Result<Attachment, SystemError> {
    if wanted.first_hook() == Hook::Xdp {
        refuse_foreign(device)?;
    }
    first_of(wanted.modes(), device, generation, pins)
}

/// Changes the mode at the XDP hook. The kernel attaches no second XDP program in another mode, so the
/// old program is detached first, and a tc program guards the interface meanwhile.
fn change_xdp_mode(
    wanted: AttachMode,
    mode: Mode,
    link: &Link,
    device: &Device,
    generation: &mut Generation,
    pins: &Pins,
) -> Result<Attachment, SystemError> {
    let interim = attach(Mode::Tcx, device, generation, pins);
    if let Err(error) = &interim {
        tracing::warn!(
            interface = device.name,
            "interface not guarded while the mode changes from {}: {error}",
            mode.name()
        );
    }
    link.detach()?;
    let attached = first_of(wanted.modes(), device, generation, pins).or_else(|error| {
        let why = format!("{error}; still in {} mode", mode.name());
        tracing::error!(interface = device.name, "{why}");
        let again = attach(mode, device, generation, pins)?;
        Ok(Attachment { fallback_reason: Some(why), ..again })
    });
    match (attached, interim) {
        (Ok(attachment), Ok(interim)) => {
            if let Err(error) = interim.link.detach() {
                // Until the next generation it evaluates frames beside the new one, by the same policy.
                tracing::error!(interface = device.name, hint = error.hint_text(), "{error}");
            }
            Ok(attachment)
        }
        // Only the tc program guards the interface now.
        (Err(error), Ok(interim)) => {
            let why = format!("{error}; attached in tcx mode instead");
            tracing::error!(interface = device.name, "{why}");
            Ok(Attachment { fallback_reason: Some(why), ..interim })
        }
        (attached, Err(_)) => attached,
    }
}

/// Attaches in the first of these modes that the interface supports.
fn first_of(
    modes: &[Mode],
    device: &Device,
    generation: &mut Generation,
    pins: &Pins,
) -> Result<Attachment, SystemError> {
    let mut fallback_reason: Option<String> = None;
    for (nth, mode) in modes.iter().enumerate() {
        let error = match attach(*mode, device, generation, pins) {
            Ok(attachment) => return Ok(Attachment { fallback_reason, ..attachment }),
            Err(error) => error,
        };
        let Some(next) = modes.get(nth + 1) else { return Err(error) };
        // Another mode may work only if the interface does not support this one. If another program is
        // attached, or permissions or memory are missing, a worse mode does not help.
        if !matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE)) {
            return Err(error);
        }
        tracing::warn!(interface = device.name, "{error}; trying {} mode", next.name());
        fallback_reason.get_or_insert_with(|| error.to_string());
    }
    Err(SystemError::new("no attach mode is permitted"))
}

fn attach(
    mode: Mode,
    device: &Device,
    generation: &mut Generation,
    pins: &Pins,
) -> Result<Attachment, SystemError> {
    let hook = mode.hook();
    let pin = pins.link_path(&device.name, None, hook);
    generation.add(hook)?;
    let link = Link::attach(generation.program(hook)?, &device.name, device.index, mode, &pin)?;
    Ok(Attachment { link, mode, fallback_reason: None })
}

/// Fails if an XDP program of other software is attached to a device.
fn refuse_foreign(device: &Device) -> Result<(), SystemError> {
    let Some(foreign) = device.xdp else { return Ok(()) };
    Err(SystemError::new(format!(
        "another XDP program is attached, id {} ({}); trainguard does not replace programs of \
         other software",
        foreign.program_id, foreign.mode
    ))
    .hint(format!(
        "inspect it with `bpftool prog show id {}`; detach it with `ip link set dev {} xdp off` if \
         it is not needed; or attach trainguard behind it with `--mode tcx`",
        foreign.program_id, device.name
    )))
}
