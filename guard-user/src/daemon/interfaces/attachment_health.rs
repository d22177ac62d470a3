//! Whether an interface runs the right program: its link compared with its device.
//!
//! Decision: `docs/decisions/0043-status-is-checked.md`.

use super::bridge_ports::BridgePort;
use crate::{
    api::status::InterfaceState, attach_mode::Hook, netlink::devices::Device, sys::LinkInfo,
    system_error::SystemError,
};

/// The result of a check.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) state: InterfaceState,
    pub(crate) problem: Option<String>,
    pub(crate) remedy: Option<String>,
}

impl Finding {
    fn new(state: InterfaceState, problem: impl Into<String>) -> Self {
        Self { state, problem: Some(problem.into()), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Checks an interface that should run the program with this id at a hook. `device` is none if the
/// device is not in this network namespace.
pub(crate) fn check(
    link: &Result<LinkInfo, SystemError>,
    hook: Hook,
    device: Option<&Device>,
    program_id: u32,
) -> Finding {
    const REATTACH_HINT: &str =
        "the daemon attaches it again within seconds; find out which software detached it";
    let link = match link {
        Ok(link) => link,
        Err(error) => {
            let finding = Finding::new(
                InterfaceState::Failed,
                format!("the link cannot be queried: {error}"),
            );
            return match error.hint_text() {
                Some(hint) => finding.remedy(hint),
                None => finding,
            };
        }
    };
    let Some(device) = device else {
        if link.ifindex == 0 {
            return Finding::new(InterfaceState::Missing, "the interface is gone");
        }
        return Finding::new(
            InterfaceState::Failed,
            "the interface has moved to another network namespace",
        )
        .remedy("move it back, or remove it from the manifest");
    };
    let running = match hook {
        Hook::Xdp => device.xdp.map(|attached| attached.program_id),
        Hook::Tc => device.tc.iter().copied().find(|id| *id == link.program_id),
    };
    if link.ifindex != device.index {
        return match running {
            None => {
                Finding::new(InterfaceState::Failed, "the program was detached by other software")
                    .remedy(REATTACH_HINT)
            }
            Some(other) => foreign(device, other),
        };
    }
    match running {
        None => Finding::new(
            InterfaceState::Failed,
            format!(
                "the link reports program {}, but the device reports no program",
                link.program_id
            ),
        )
        .remedy(REATTACH_HINT),
        Some(other) if other != link.program_id => foreign(device, other),
        Some(id) if id != program_id => Finding::new(
            InterfaceState::Failed,
            format!(
                "program {id} of another generation is attached, expected program {program_id}"
            ),
        )
        .remedy(
            "the daemon switches it within seconds; if it does not, the log contains the reason",
        ),
        Some(_) if !device.up => Finding::new(InterfaceState::Guarded, "the interface is down")
            .remedy(format!("to use the interface: `ip link set dev {} up`", device.name)),
        Some(id) => in_front(hook, device, id)
            .unwrap_or_else(|| Finding { state: InterfaceState::Guarded, ..Finding::default() }),
    }
}

/// Reports a port of a bridge that is not guarded. The guard may be attached to the port, but does
/// more than its policy says.
pub(crate) fn bridged(port: &BridgePort, patterns: &[String]) -> Finding {
    Finding::new(InterfaceState::Failed, port.problem()).remedy(port.remedy(patterns))
}

/// Reports programs of other software that see a packet before the program with this id at this hook.
pub(crate) fn in_front(hook: Hook, device: &Device, id: u32) -> Option<Finding> {
    // A device that does not show the program yet was listed before the switch.
    if hook == Hook::Xdp || !device.tc.contains(&id) {
        return None;
    }
    if let Some(xdp) = device.xdp {
        let what = format!(
            "an XDP program runs before the guard, id {}: packets that it redirects do not reach \
             the guard",
            xdp.program_id
        );
        let remedy = format!("inspect it with `bpftool prog show id {}`", xdp.program_id);
        return Some(Finding::new(InterfaceState::Guarded, what).remedy(remedy));
    }
    let ids: Vec<String> =
        device.tc.iter().take_while(|other| **other != id).map(u32::to_string).collect();
    if ids.is_empty() {
        return None;
    }
    let what = format!(
        "tc programs run before the guard, id {}: packets that one of them accepts without \
         running the next program, or redirects, do not reach the guard",
        ids.join(", ")
    );
    let remedy = format!(
        "inspect them with `bpftool net show dev {}`, and attach them behind the guard",
        device.name
    );
    Some(Finding::new(InterfaceState::Guarded, what).remedy(remedy))
}

fn foreign(device: &Device, id: u32) -> Finding {
    Finding::new(InterfaceState::Failed, format!("another XDP program is attached, id {id}")).remedy(format!(
        "inspect it with `bpftool prog show id {id}`; detach it with `ip link set dev {} xdp off` \
         if it is not needed",
        device.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attach_mode::DeviceMode, netlink::devices::Attached};

    fn device(program_id: Option<u32>) -> Device {
        let xdp = program_id.map(|program_id| Attached { program_id, mode: DeviceMode::Native });
        Device { xdp, ..Device::ethernet(2, "eth0", None) }
    }

    fn at(program_id: u32, ifindex: u32, hook: Hook) -> LinkInfo {
        LinkInfo { id: 1, hook: Some(hook), program_id, ifindex }
    }

    fn found(link: (u32, u32), device: Option<&Device>) -> (InterfaceState, String) {
        let (program_id, ifindex) = link;
        let finding = check(&Ok(at(program_id, ifindex, Hook::Xdp)), Hook::Xdp, device, 7);
        assert_eq!(
            finding.problem.is_none(),
            finding.remedy.is_none() && finding.state == InterfaceState::Guarded
        );
        (finding.state, finding.problem.unwrap_or_default())
    }

    #[test]
    fn an_interface_is_guarded_only_if_link_and_device_agree() {
        assert_eq!(found((7, 2), Some(&device(Some(7)))), (InterfaceState::Guarded, String::new()));
        for (link, running, expected) in [
            ((7, 0), None, "detached"),
            ((7, 0), Some(9), "another XDP program is attached, id 9"),
            ((7, 2), None, "the device reports no program"),
            ((7, 2), Some(9), "another XDP program is attached, id 9"),
            ((6, 2), Some(6), "program 6 of another generation is attached, expected program 7"),
            ((7, 3), None, "detached"),
        ] {
            let (state, problem) = found(link, Some(&device(running)));
            assert_eq!(state, InterfaceState::Failed, "{link:?} {running:?}");
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn a_moved_interface_is_failed_and_a_removed_one_missing() {
        let gone = check(&Ok(at(7, 0, Hook::Xdp)), Hook::Xdp, None, 7);
        assert_eq!(gone.state, InterfaceState::Missing);
        assert_eq!(found((7, 2), None).0, InterfaceState::Failed);
        let error = Err(SystemError::new("no").hint("try"));
        let refused = check(&error, Hook::Xdp, Some(&device(Some(7))), 7);
        assert_eq!(
            (refused.state, refused.remedy.as_deref()),
            (InterfaceState::Failed, Some("try"))
        );
    }

    #[test]
    fn an_interface_that_is_down_is_guarded_with_a_problem() {
        let mut device = device(Some(7));
        device.up = false;
        let (state, problem) = found((7, 2), Some(&device));
        assert_eq!((state, problem.as_str()), (InterfaceState::Guarded, "the interface is down"));
    }

    #[test]
    fn programs_before_the_guard_are_reported() {
        let check = |tc: &[u32], xdp| {
            let device = Device { tc: tc.to_vec(), ..device(xdp) };
            let finding = check(&Ok(at(7, 2, Hook::Tc)), Hook::Tc, Some(&device), 7);
            (finding.state, finding.problem.unwrap_or_default())
        };
        assert_eq!(check(&[7, 8], None), (InterfaceState::Guarded, String::new()));
        let (state, problem) = check(&[5, 6, 7, 8], None);
        assert!(state == InterfaceState::Guarded && problem.contains("id 5, 6:"), "{problem}");
        let (state, problem) = check(&[7], Some(9));
        assert!(state == InterfaceState::Guarded && problem.contains("id 9:"), "{problem}");
        let (state, problem) = check(&[5, 6], None);
        assert!(
            state == InterfaceState::Failed && problem.contains("the device reports no program"),
            "{problem}"
        );
    }
}
