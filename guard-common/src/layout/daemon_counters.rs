//! Tallies of the daemon alone, beside those of [`crate::layout`], in the same map: no program of
//! the kernel reads or writes them, so they are no part of the layout. A place once given is kept,
//! because counts outlive the daemon.

use crate::layout;

/// Tally: policies that were not accepted because they are not what the holder of the policy key
/// has signed.
pub const SIGNATURES_REFUSED: u32 = 24;
/// Tally: policies that were signed, but replaced since, or that share a serial number.
pub const SIGNATURES_REPLAYED: u32 = 25;

/// The first place that no name of [`crate::layout`] takes: three sockets have a place each.
const FREE: u32 = layout::TALLY_CONNECTIONS_CUT + 3;

const _: () = {
    assert!(SIGNATURES_REFUSED >= FREE && SIGNATURES_REPLAYED > SIGNATURES_REFUSED);
    assert!(SIGNATURES_REPLAYED < layout::TALLY_ORIGINS);
};
