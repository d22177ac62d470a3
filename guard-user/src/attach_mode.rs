//! Where in the receive path of an interface a program runs.

use aya_obj::generated::{
    BPF_F_BEFORE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type, bpf_link_type,
};
use guard_common::names;

use crate::vocabulary::vocabulary;

/// A hook of the kernel. Each takes a program of its own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// XDP: before the kernel has made a packet of the frame, or right after.
    Xdp,
    /// Ingress of traffic control (TCX): behind XDP, before anything else.
    Tc,
}

impl Hook {
    /// The name used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "XDP",
            Self::Tc => "tc",
        }
    }

    /// Name of the program for it in the kernel object.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Xdp => names::PROGRAM,
            Self::Tc => names::PROGRAM_TC,
        }
    }

    /// Name of the program that returns verdicts.
    pub(super) fn verdict_program(self) -> &'static str {
        match self {
            Self::Xdp => names::PROGRAM_VERDICT,
            Self::Tc => names::PROGRAM_TC_VERDICT,
        }
    }

    /// The hook of a link of this type; none if it is another one.
    pub(super) fn of_link(kind: u32) -> Option<Self> {
        match kind {
            _ if kind == bpf_link_type::BPF_LINK_TYPE_XDP as u32 => Some(Self::Xdp),
            _ if kind == bpf_link_type::BPF_LINK_TYPE_TCX as u32 => Some(Self::Tc),
            _ => None,
        }
    }
}

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// In traffic control, as the first program of the interface.
    Tcx,
    /// XDP in the network stack.
    Generic,
}

impl Mode {
    /// The name used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Tcx => "tcx",
            Self::Generic => "generic",
        }
    }

    /// The hook that it uses.
    pub fn hook(self) -> Hook {
        match self {
            Self::Native | Self::Generic => Hook::Xdp,
            Self::Tcx => Hook::Tc,
        }
    }

    pub(super) fn attach_type(self) -> bpf_attach_type {
        match self.hook() {
            Hook::Xdp => bpf_attach_type::BPF_XDP,
            Hook::Tc => bpf_attach_type::BPF_TCX_INGRESS,
        }
    }

    /// Flags of a link. A tc program goes in front of all others: one of them could end the chain.
    pub(super) fn flags(self) -> u32 {
        match self {
            Self::Native => XDP_FLAGS_DRV_MODE,
            Self::Generic => XDP_FLAGS_SKB_MODE,
            Self::Tcx => BPF_F_BEFORE,
        }
    }
}

vocabulary! {
    /// How a device says that it runs a program, whoever attached it.
    pub enum DeviceMode, by default Unknown {
        /// By XDP in the driver.
        Native = "native",
        /// As a tc program.
        Tcx = "tcx",
        /// By XDP in the network stack.
        Generic = "generic",
        /// By XDP in the card.
        Offloaded = "offloaded",
        /// By XDP in more than one way.
        Several = "several",
    }
}
