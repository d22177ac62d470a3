//! Errors of attaching a program to an interface, with hints.
//!
//! The message of the driver is not available: the kernel passes it only to a tracepoint
//! (`bpf_xdp_link_attach`, net/core/dev.c), which the daemon is not permitted to read.

use std::{fs, io};

use crate::{attach_mode::Mode, system_error::SystemError};

const DRIVER_MESSAGE_HINT: &str = "the driver's own words are in the tracepoint \
                             xdp:bpf_xdp_link_attach_failed and often in `dmesg`";

/// Alternatives if the driver rejects the program.
const OTHER_MODES: &str = "allow `--mode tcx` (Linux 6.6) or the slower `--mode generic`";

/// Converts the error of an attempt to attach, and adds a hint if the errno has a known cause.
pub(super) fn refused(interface: &str, mode: Mode, error: io::Error) -> SystemError {
    let errno = error.raw_os_error().unwrap_or(0);
    let refusal = SystemError::of(format!("attaching to `{interface}` ({})", mode.name()), error);
    match hint(interface, mode, errno) {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

fn hint(interface: &str, mode: Mode, errno: i32) -> Option<String> {
    let hint = match (mode, errno) {
        (_, libc::ENODEV) => "the interface went away; it is guarded when it comes back".to_owned(),
        (_, libc::EPERM | libc::EACCES) => {
            "it takes CAP_NET_ADMIN and CAP_BPF in this network namespace: run it as root, or with \
             the capabilities that the unit gives it"
                .to_owned()
        }
        (_, libc::ENOMEM) => {
            "the kernel has no memory for it; a driver takes rings anew for XDP: fewer or smaller \
             ones may do (`ethtool -G`, `ethtool -L`)"
                .to_owned()
        }
        (Mode::Tcx, libc::EINVAL | libc::EOPNOTSUPP) => format!(
            "tc programs are attached by TCX, which needs Linux 6.6 or later with \
             CONFIG_NET_XGRESS; this is {}. Use `--mode native` or `--mode generic`",
            release()
        ),
        (Mode::Tcx, libc::ERANGE | libc::ENOSPC | libc::E2BIG) => format!(
            "the interface has as many tc programs as it may: `bpftool net show dev {interface}` \
             lists them, take off what nobody needs"
        ),
        (Mode::Tcx, libc::EBUSY | libc::EEXIST | libc::ESTALE) => {
            "somebody else changed the tc programs of the interface in this moment; it is tried \
             again"
                .to_owned()
        }
        (_, libc::EBUSY) => format!(
            "another XDP program is attached; `ip -d link show dev {interface}` names it. \
             trainguard replaces no program of others"
        ),
        (_, libc::EEXIST) => {
            "another XDP program is attached in the other mode, or on a device over this one (a \
             bond that it is a port of, a VLAN device): `ip -d link` names it. Guard a bond or its \
             ports, not both; trainguard replaces no program of others"
                .to_owned()
        }
        (Mode::Native, libc::EOPNOTSUPP) => {
            "the driver has no native XDP, or not for frames of several buffers; or it is a bond \
             with a port that has none, or a program already (guard a bond or its ports, not \
             both). Allow `--mode tcx` (Linux 6.6), the slower `--mode generic`, or \
             `--mode auto`, which takes the best that can be had"
                .to_owned()
        }
        (Mode::Native, libc::ERANGE) => format!(
            "the driver cannot take XDP at this MTU: `ip link set dev {interface} mtu N` lowers \
             it, or {OTHER_MODES}"
        ),
        (Mode::Native, libc::EINVAL) => format!(
            "the driver refuses XDP as the interface is set up (MTU, LRO, number of queues): \
             {DRIVER_MESSAGE_HINT}. Or {OTHER_MODES}"
        ),
        (Mode::Native, libc::ENOSPC) => format!(
            "the driver lacks queues for XDP; `ethtool -L {interface} combined N` with fewer of \
             them may make room. Or {OTHER_MODES}"
        ),
        (Mode::Native, libc::E2BIG) => {
            format!(
                "the program is too long for the device: {DRIVER_MESSAGE_HINT}. Or {OTHER_MODES}"
            )
        }
        (Mode::Generic, libc::EOPNOTSUPP | libc::EINVAL) => {
            "the interface belongs to a bond or a team that runs XDP itself, or its kind takes \
             none: guard that one instead, or use `--mode tcx`"
                .to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Case 87: each errno has its own message with a remedy.
    #[test]
    fn each_refusal_has_its_remedy() {
        let all = [
            (Mode::Native, &[libc::EBUSY, libc::EEXIST, libc::EOPNOTSUPP, libc::ERANGE][..]),
            (Mode::Native, &[libc::EINVAL, libc::ENODEV, libc::EPERM, libc::ENOMEM]),
            (Mode::Native, &[libc::E2BIG, libc::ENOSPC]),
            (Mode::Generic, &[libc::EOPNOTSUPP]),
            (Mode::Tcx, &[libc::EINVAL, libc::ERANGE, libc::EBUSY]),
        ];
        let mut said = BTreeMap::new();
        for (mode, errnos) in all {
            for errno in errnos {
                let error = refused("eth7", mode, io::Error::from_raw_os_error(*errno));
                assert!(error.to_string().contains("`eth7`"), "{error}");
                let hint = error.hint_text().map(str::to_owned).expect("a hint");
                let before = said.insert(hint, (mode, *errno));
                assert_eq!(before, None, "{mode:?} {errno} says the same");
            }
        }
    }

    #[test]
    fn an_old_kernel_is_told_what_tcx_needs() {
        let error = refused("eth7", Mode::Tcx, io::Error::from_raw_os_error(libc::EINVAL));
        let hint = error.hint_text().unwrap_or_default();
        assert!(hint.contains("needs Linux 6.6") && hint.contains(&release()), "{hint}");
    }
}
