//! The offloads that the benchmarks on a wire switch on or off, at either end.

use anyhow::Result;
use guard_test_support::ethtool;

use super::lab::End;

/// The receiver merges segments before the stack sees them.
pub const GRO: &[&str] = &["rx-gro"];
/// The sender leaves the splitting into segments to the device.
pub const TSO: &[&str] = &[
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
];

/// Switches offloads of a device on or off.
pub fn set(end: &End, names: &[&str], on: bool) -> Result<()> {
    end.inside(|| ethtool::switch(&end.device, names, on))
}
