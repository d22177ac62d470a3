//! The policies that are measured.

use anyhow::Result;
use guard_tests::{bench::guard::Guard, world};

use crate::listing::{Listing, NODE};

/// The loopback interface: where a test run says that it comes from (`bpf_prog_test_run_xdp`,
/// `net/bpf/test_run.c`), taken for one of this MTU.
const LOOPBACK: (u32, &str, u32) = (1, "lo", 1500);

/// Limits of the guarded service.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limits {
    /// None.
    None,
    /// One on the packets of each source, which no test run reaches: charged, and never refused.
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

/// Loads a policy that lets this list in.
pub(crate) fn load(listing: &Listing, limits: Limits) -> Result<Guard> {
    let policy = world::compile(&world::load(&listing.bundle(limits.text())), NODE);
    let (index, name, mtu) = LOOPBACK;
    Guard::load(&policy, index, name, mtu)
}
