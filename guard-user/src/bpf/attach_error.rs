//! Errors of attaching a program to an interface, with hints.
//!
//! The message of the driver is not available: the kernel passes it only to a tracepoint
//! (`bpf_xdp_link_attach`, net/core/dev.c), which the daemon is not permitted to read.

use std::{fs, io};

use crate::{attach_mode::Mode, system_error::SystemError};

const DRIVER_MESSAGE_HINT: &str = "the driver reports the reason in the tracepoint \
                                   xdp:bpf_xdp_link_attach_failed and often in `dmesg`";

/// Alternatives if the driver rejects the program.
const OTHER_MODES: &str = "use `--mode tcx` (Linux 6.6) or the slower `--mode generic`";

/// Converts the error of an attempt to attach, and adds a hint if the errno has a known cause.
pub(super) fn attach_error(interface: &str, mode: Mode, error: io::Error) -> SystemError {
    let errno = error.raw_os_error().unwrap_or(0);
    let failure = SystemError::of(format!("attaching to `{interface}` ({})", mode.name()), error);
    match hint(interface, mode, errno) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn hint(interface: &str, mode: Mode, errno: i32) -> Option<String> {
    let hint = match (mode, errno) {
        (_, libc::ENODEV) => {
            "the interface is gone; the daemon guards it when it appears again".to_owned()
        }
        (_, libc::EPERM | libc::EACCES) => {
            "attaching requires CAP_NET_ADMIN and CAP_BPF in this network namespace: run \
             trainguard as root, or with the capabilities that the systemd unit grants"
                .to_owned()
        }
        (_, libc::ENOMEM) => {
            "the kernel is out of memory; a driver allocates new rings for XDP: try fewer or \
             smaller ones (`ethtool -L`, `ethtool -G`)"
                .to_owned()
        }
        (Mode::Tcx, libc::EINVAL | libc::EOPNOTSUPP) => format!(
            "tc programs are attached with TCX, which needs Linux 6.6 or later with \
             CONFIG_NET_XGRESS; this kernel is {}. Use `--mode native` or `--mode generic`",
            release()
        ),
        (Mode::Tcx, libc::ERANGE | libc::ENOSPC | libc::E2BIG) => format!(
            "the interface has the maximum number of tc programs: list them with \
             `bpftool net show dev {interface}`, and detach those that are not needed"
        ),
        (Mode::Tcx, libc::EBUSY | libc::EEXIST | libc::ESTALE) => {
            "other software changed the tc programs of the interface at the same time; the daemon \
             tries again"
                .to_owned()
        }
        (_, libc::EBUSY) => format!(
            "another XDP program is attached; `ip -d link show dev {interface}` shows it. \
             trainguard does not replace programs of other software"
        ),
        (_, libc::EEXIST) => {
            "another XDP program is attached in the other mode, or to a device on top of this one \
             (a bond that it is a port of, a VLAN device): `ip -d link` shows it. Guard a bond or \
             its ports, not both; trainguard does not replace programs of other software"
                .to_owned()
        }
        (Mode::Native, libc::EOPNOTSUPP) => {
            "the driver has no native XDP, or not for frames in several buffers; or the interface \
             is a bond, and one of its ports has no native XDP or already has a program (guard a \
             bond or its ports, not both). Use `--mode tcx` (Linux 6.6), the slower \
             `--mode generic`, or `--mode auto`, which uses the best available mode"
                .to_owned()
        }
        (Mode::Native, libc::ERANGE) => format!(
            "the driver does not support XDP at this MTU: lower it with \
             `ip link set dev {interface} mtu N`, or {OTHER_MODES}"
        ),
        (Mode::Native, libc::EINVAL) => format!(
            "the driver does not support XDP with the settings of this interface (MTU, LRO, \
             number of queues): {DRIVER_MESSAGE_HINT}. Or {OTHER_MODES}"
        ),
        (Mode::Native, libc::ENOSPC) => format!(
            "the driver has no free queues for XDP; try fewer queues with \
             `ethtool -L {interface} combined N`. Or {OTHER_MODES}"
        ),
        (Mode::Native, libc::E2BIG) => {
            format!(
                "the program is too long for the device: {DRIVER_MESSAGE_HINT}. Or {OTHER_MODES}"
            )
        }
        (Mode::Generic, libc::EOPNOTSUPP | libc::EINVAL) => {
            "the interface is a port of a bond or team that has an XDP program, or its kind does \
             not support XDP: guard the bond or team instead, or use `--mode tcx`"
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
    fn each_errno_has_its_own_hint() {
        let all = [
            (Mode::Native, &[libc::EBUSY, libc::EEXIST, libc::EOPNOTSUPP, libc::ERANGE][..]),
            (Mode::Native, &[libc::EINVAL, libc::ENODEV, libc::EPERM, libc::ENOMEM]),
            (Mode::Native, &[libc::E2BIG, libc::ENOSPC]),
            (Mode::Generic, &[libc::EOPNOTSUPP]),
            (Mode::Tcx, &[libc::EINVAL, libc::ERANGE, libc::EBUSY]),
        ];
        let mut hints = BTreeMap::new();
        for (mode, errnos) in all {
            for errno in errnos {
                let error = attach_error("eth7", mode, io::Error::from_raw_os_error(*errno));
                assert!(error.to_string().contains("`eth7`"), "{error}");
                let hint = error.hint_text().map(str::to_owned).expect("a hint");
                let before = hints.insert(hint, (mode, *errno));
                assert_eq!(before, None, "{mode:?} {errno}: same hint as another errno");
            }
        }
    }

    #[test]
    fn the_hint_for_an_old_kernel_names_the_requirements_of_tcx() {
        let error = attach_error("eth7", Mode::Tcx, io::Error::from_raw_os_error(libc::EINVAL));
        let hint = error.hint_text().unwrap_or_default();
        assert!(hint.contains("needs Linux 6.6") && hint.contains(&release()), "{hint}");
    }
}
