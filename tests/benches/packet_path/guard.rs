//! The policies to measure.

use anyhow::Result;
use guard_tests::{bench::guard::Guard, world};

use crate::listing::{Listing, NODE};

/// The loopback interface, which a test run uses as the ingress interface (`bpf_prog_test_run_xdp`,
/// `net/bpf/test_run.c`); the MTU is that of an Ethernet device.
const LOOPBACK: (u32, &str, u32) = (1, "lo", 1500);

/// Limits of the guarded service.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limits {
    /// No limit.
    None,
    /// A limit on the packets of each source, which no test run reaches: packets are charged and never
    /// refused.
    PerSource,
}

impl Limits {
    fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::PerSource => {
                "    limits:\n      perSource:\n        packets: { rate: 1G/s, burst: 1G }\n"
            }
        }
    }
}

/// Loads a policy that admits this list.
pub(crate) fn load(listing: &Listing, limits: Limits) -> Result<Guard> {
    let policy = world::compile(&world::load(&listing.bundle(limits.text())), NODE);
    let (index, name, mtu) = LOOPBACK;
    Guard::load(&policy, index, name, mtu)
}
