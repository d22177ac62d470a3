//! Whether an interface runs the right program: its link compared with its device.
//!
//! Decision: `docs/decisions/0043-status-is-checked.md`.

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
        "the daemon attaches it again within seconds; find out who detached it";
    let link = match link {
        Ok(link) => link,
        Err(error) => {
            let finding =
                Finding::new(InterfaceState::Failed, format!("its link cannot be asked: {error}"));
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
        .remedy("move it back, or take it out of the manifest");
    };
    let running = match hook {
        Hook::Xdp => device.xdp.map(|attached| attached.program_id),
        Hook::Tc => device.tc.iter().copied().find(|id| *id == link.program_id),
    };
    if link.ifindex != device.index {
        return match running {
            None => {
                Finding::new(InterfaceState::Failed, "the program was detached, not by this daemon")
                    .remedy(REATTACH_HINT)
            }
            Some(other) => foreign(device, other),
        };
    }
    match running {
        None => Finding::new(
            InterfaceState::Failed,
            format!(
                "its link says that program {} runs, the device says that none does",
                link.program_id
            ),
        )
        .remedy(REATTACH_HINT),
        Some(other) if other != link.program_id => foreign(device, other),
        Some(id) if id != program_id => Finding::new(
            InterfaceState::Failed,
            format!("it runs another generation: program {id}, not {program_id}"),
        )
        .remedy("it is switched within seconds; if it is not, the log says why"),
        Some(_) if !device.up => Finding::new(InterfaceState::Guarded, "it is down")
            .remedy(format!("`ip link set dev {} up`, if it is to be used", device.name)),
        Some(id) => in_front(hook, device, id)
            .unwrap_or_else(|| Finding { state: InterfaceState::Guarded, ..Finding::default() }),
    }
}

/// Reports programs of other software that see a packet before the program with this id at this hook.
pub(crate) fn in_front(hook: Hook, device: &Device, id: u32) -> Option<Finding> {
    // A device that does not show the program yet was listed before the switch.
    if hook == Hook::Xdp || !device.tc.contains(&id) {
        return None;
    }
    if let Some(xdp) = device.xdp {
        let what = format!(
            "an XDP program runs in front of it, id {}: what that redirects never reaches the guard",
            xdp.program_id
        );
        let remedy = format!("see what it is with `bpftool prog show id {}`", xdp.program_id);
        return Some(Finding::new(InterfaceState::Guarded, what).remedy(remedy));
    }
    let ids: Vec<String> =
        device.tc.iter().take_while(|other| **other != id).map(u32::to_string).collect();
    if ids.is_empty() {
        return None;
    }
    let what = format!(
        "tc programs run in front of it, id {}: what one of them accepts for good or redirects \
         never reaches the guard",
        ids.join(", ")
    );
    let remedy = format!(
        "see what they are with `bpftool net show dev {}`, and have them attached behind it",
        device.name
    );
    Some(Finding::new(InterfaceState::Guarded, what).remedy(remedy))
}

fn foreign(device: &Device, id: u32) -> Finding {
    Finding::new(InterfaceState::Failed, format!("another XDP program runs on it, id {id}")).remedy(format!(
        "see what it is with `bpftool prog show id {id}`; `ip link set dev {} xdp off` takes it off \
         if it may go",
        device.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attach_mode::DeviceMode, netlink::devices::Attached};

    fn device(program_id: Option<u32>) -> Device {
        Device {
            index: 2,
            name: "eth0".to_owned(),
            up: true,
            mtu: 1500,
            ethernet: true,
            kind: None,
            ports: Vec::new(),
            xdp: program_id.map(|program_id| Attached { program_id, mode: DeviceMode::Native }),
            tc: Vec::new(),
            stacked: crate::netlink::topology::Stacked::default(),
        }
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
    fn only_what_link_and_device_agree_on_is_guarded() {
        assert_eq!(found((7, 2), Some(&device(Some(7)))), (InterfaceState::Guarded, String::new()));
        for (link, running, said) in [
            ((7, 0), None, "detached"),
            ((7, 0), Some(9), "another XDP program runs on it, id 9"),
            ((7, 2), None, "says that none does"),
            ((7, 2), Some(9), "another XDP program runs on it, id 9"),
            ((6, 2), Some(6), "program 6, not 7"),
            ((7, 3), None, "detached"),
        ] {
            let (state, problem) = found(link, Some(&device(running)));
            assert_eq!(state, InterfaceState::Failed, "{link:?} {running:?}");
            assert!(problem.contains(said), "{problem}");
        }
    }

    #[test]
    fn what_left_is_told_apart_from_what_is_gone() {
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
    fn an_interface_that_is_down_is_guarded_and_told_of() {
        let mut device = device(Some(7));
        device.up = false;
        let (state, problem) = found((7, 2), Some(&device));
        assert_eq!((state, problem.as_str()), (InterfaceState::Guarded, "it is down"));
    }

    #[test]
    fn who_runs_in_front_of_a_tc_program_is_named() {
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
            state == InterfaceState::Failed && problem.contains("says that none does"),
            "{problem}"
        );
    }
}
