//! Points in the receive path of an interface where a program can run.

use aya_obj::generated::{
    BPF_F_BEFORE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type, bpf_link_type,
};
use guard_common::names;

use crate::vocabulary::vocabulary;

/// A hook of the kernel. Each hook needs its own type of program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// XDP: before the kernel has allocated a socket buffer for the frame (native), or right after
    /// (generic).
    Xdp,
    /// Ingress of traffic control (TCX): after XDP, before everything else.
    Tc,
}

impl Hook {
    /// Returns the name for output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "XDP",
            Self::Tc => "tc",
        }
    }

    /// Returns the name of the program for the hook in the kernel object.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Xdp => names::PROGRAM,
            Self::Tc => names::PROGRAM_TC,
        }
    }

    /// Returns the name of the program for the hook that returns verdicts.
    pub(super) fn verdict_program(self) -> &'static str {
        match self {
            Self::Xdp => names::PROGRAM_VERDICT,
            Self::Tc => names::PROGRAM_TC_VERDICT,
        }
    }

    /// Returns the hook of a link type (`enum bpf_link_type`); none for other types.
    pub(super) fn of_link(kind: u32) -> Option<Self> {
        match kind {
            _ if kind == bpf_link_type::BPF_LINK_TYPE_XDP as u32 => Some(Self::Xdp),
            _ if kind == bpf_link_type::BPF_LINK_TYPE_TCX as u32 => Some(Self::Tc),
            _ => None,
        }
    }
}

/// A way to attach a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// Traffic control (TCX), as the first program of the interface.
    Tcx,
    /// XDP in the network stack.
    Generic,
}

impl Mode {
    /// Returns the name for output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Tcx => "tcx",
            Self::Generic => "generic",
        }
    }

    /// Returns the hook of the mode.
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

    /// Returns the flags of a link. A tc program is attached before all others, because any of them
    /// could end the chain.
    pub(super) fn flags(self) -> u32 {
        match self {
            Self::Native => XDP_FLAGS_DRV_MODE,
            Self::Generic => XDP_FLAGS_SKB_MODE,
            Self::Tcx => BPF_F_BEFORE,
        }
    }
}

vocabulary! {
    /// How a device runs a program, as the device reports it, regardless of which software attached
    /// it.
    pub enum DeviceMode, by default Unknown {
        /// XDP in the driver.
        Native = "native",
        /// A tc program.
        Tcx = "tcx",
        /// XDP in the network stack.
        Generic = "generic",
        /// XDP in the card.
        Offloaded = "offloaded",
        /// XDP in several modes at once.
        Several = "several",
    }
}
