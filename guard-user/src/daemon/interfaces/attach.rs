//! How an interface comes to run the guard: in which mode, and how one mode gives way to another
//! without a moment in which nothing guards.

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

/// How to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// Like this or not at all.
    Only(Mode),
    /// In the driver where it can; else as a tc program, which sees the same frames later; else by
    /// XDP in the network stack, which is slower than both and sees less.
    Auto,
}

impl AttachMode {
    /// The modes that may be, best first.
    fn modes(&self) -> &[Mode] {
        match self {
            Self::Only(mode) => std::slice::from_ref(mode),
            Self::Auto => &[Mode::Native, Mode::Tcx, Mode::Generic],
        }
    }

    /// The hook that is tried first.
    pub(crate) fn first_hook(self) -> Hook {
        match self {
            Self::Only(mode) => mode.hook(),
            Self::Auto => Hook::Xdp,
        }
    }
}

/// A link, and how it is attached.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) link: Link,
    pub(crate) mode: Mode,
    /// Why it is not in a better mode, if one was tried.
    pub(crate) instead: Option<String>,
}

/// How a link is attached to a device; none if it is not. Interface indices mean something only
/// within a namespace, which a link does not tell; program ids are the machine's.
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

/// The device that a link is attached to; none if that is not in this network namespace.
pub(crate) fn device_of<'d>(link: &Link, devices: &'d [Device]) -> Option<&'d Device> {
    devices.iter().find(|device| mode_on(link, device).is_some())
}

/// The name that the interface of a pinned link has now; that of the pin if it is not in this network namespace.
pub(crate) fn name_now<'a>(pinned: &'a PinnedLink, devices: &'a [Device]) -> &'a str {
    device_of(&pinned.link, devices).map_or(&pinned.interface, |device| &device.name)
}

/// Attaches the guard to a device, or lets it run the generation where an earlier daemon attached
/// it. Of the links of that daemon, those that are left over are handed back: they are to go when
/// the new one is in place, which it is.
pub(crate) fn guard(
    wanted: AttachMode,
    device: &Device,
    generation: &mut Generation,
    pins: &Pins,
    earlier: &mut Vec<PinnedLink>,
) -> Result<Attachment, SystemError> {
    let before = take(earlier, device);
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
        beside(wanted, device, generation, pins)
    } else {
        across(wanted, mode, &pinned.link, device, generation, pins)
    };
    match changed {
        Ok(attachment) => {
            tracing::info!(
                interface = device.name,
                "attached in {} mode before, in {} mode now",
                mode.name(),
                attachment.mode.name()
            );
            if pinned.link.is_alive() {
                earlier.push(pinned);
            }
            Ok(attachment)
        }
        // Better in the mode that it had than not at all.
        Err(error) if pinned.link.is_alive() => {
            let why = format!("{error}; still in {} mode", mode.name());
            tracing::error!(interface = device.name, "{why}");
            let kept = take_over(pinned, mode, device, generation, earlier)?;
            Ok(Attachment { instead: Some(why), ..kept })
        }
        Err(error) => Err(error),
    }
}

/// The earlier daemon's links on a device, with their modes.
fn take(earlier: &mut Vec<PinnedLink>, device: &Device) -> Vec<(PinnedLink, Mode)> {
    let mut taken = Vec::new();
    for pinned in std::mem::take(earlier) {
        match mode_on(&pinned.link, device) {
            Some(mode) => taken.push((pinned, mode)),
            None => earlier.push(pinned),
        }
    }
    taken
}

/// The one in the mode that is wanted most. Others, which a daemon left that ended while it changed
/// the mode, are given back.
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
    // Its pin follows with the others: until it has, what is pinned says that it was another layout's.
    let taken = generation.add(hook).and_then(|_| pinned.link.switch(generation.program(hook)?));
    if let Err(error) = taken {
        earlier.push(pinned);
        return Err(error);
    }
    tracing::info!(interface = device.name, "taken over from an earlier daemon");
    Ok(Attachment { link: pinned.link, mode, instead: None })
}

/// Attaches at the other hook: for a moment both judge each frame, and both count it.
fn beside(
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

/// Changes the mode at the XDP hook, where the kernel takes no second program in another mode. So
/// the old one goes first, and a tc program guards meanwhile.
fn across(
    wanted: AttachMode,
    mode: Mode,
    link: &Link,
    device: &Device,
    generation: &mut Generation,
    pins: &Pins,
) -> Result<Attachment, SystemError> {
    let bridge = attach(Mode::Tcx, device, generation, pins);
    if let Err(error) = &bridge {
        tracing::warn!(
            interface = device.name,
            "open for a moment while the mode changes from {}: {error}",
            mode.name()
        );
    }
    link.detach()?;
    let attached = first_of(wanted.modes(), device, generation, pins).or_else(|error| {
        let why = format!("{error}; still in {} mode", mode.name());
        tracing::error!(interface = device.name, "{why}");
        let again = attach(mode, device, generation, pins)?;
        Ok(Attachment { instead: Some(why), ..again })
    });
    match (attached, bridge) {
        (Ok(attachment), Ok(bridge)) => {
            if let Err(error) = bridge.link.detach() {
                // It judges beside the other one, by the same policy until the next generation.
                tracing::error!(interface = device.name, hint = error.hint_text(), "{error}");
            }
            Ok(attachment)
        }
        // Now it is what guards.
        (Err(error), Ok(bridge)) => {
            let why = format!("{error}; in tcx mode instead");
            tracing::error!(interface = device.name, "{why}");
            Ok(Attachment { instead: Some(why), ..bridge })
        }
        (attached, Err(_)) => attached,
    }
}

/// Attaches in the first of these modes that the interface can have.
fn first_of(
    modes: &[Mode],
    device: &Device,
    generation: &mut Generation,
    pins: &Pins,
) -> Result<Attachment, SystemError> {
    let mut instead: Option<String> = None;
    for (nth, mode) in modes.iter().enumerate() {
        let error = match attach(*mode, device, generation, pins) {
            Ok(attachment) => return Ok(Attachment { instead, ..attachment }),
            Err(error) => error,
        };
        let Some(next) = modes.get(nth + 1) else { return Err(error) };
        // What the interface cannot, another mode may. What somebody else did, or a lack of rights
        // or memory, is no reason to take less.
        if !matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE)) {
            return Err(error);
        }
        tracing::warn!(interface = device.name, "{error}; trying {} mode", next.name());
        instead.get_or_insert_with(|| error.to_string());
    }
    Err(SystemError::new("there is no mode to attach in"))
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
    Ok(Attachment { link, mode, instead: None })
}

/// Fails if there is an XDP program on a device, which can only be somebody else's.
fn refuse_foreign(device: &Device) -> Result<(), SystemError> {
    let Some(foreign) = device.xdp else { return Ok(()) };
    Err(SystemError::new(format!(
        "another XDP program is attached, id {} ({}); trainguard replaces no program of others",
        foreign.program_id, foreign.mode
    ))
    .hint(format!(
        "see what it is with `bpftool prog show id {}`, and take it off with `ip link set dev {} \
         xdp off` if it may go; or guard behind it, with `--mode tcx`",
        foreign.program_id, device.name
    )))
}
