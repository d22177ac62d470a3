//! Tallies that only the daemon uses, in the same map as those of [`crate::layout`]. No kernel
//! program reads or writes them, so they are not part of the layout. The index of a tally never
//! changes, because the counts outlive the daemon.

use crate::layout;

/// Tally: policies rejected because they have no valid signature of the policy key.
pub const SIGNATURES_REFUSED: u32 = 24;
/// Tally: policies rejected although they are signed, because they were replaced since or share a
/// serial number with another policy.
pub const SIGNATURES_REPLAYED: u32 = 25;

/// The first index after the tallies of [`crate::layout`] by socket, which take three entries each.
const FREE: u32 = layout::TALLY_CONNECTIONS_CUT + 3;

const _: () = {
    assert!(SIGNATURES_REFUSED >= FREE && SIGNATURES_REPLAYED > SIGNATURES_REFUSED);
    assert!(SIGNATURES_REPLAYED < layout::TALLY_ORIGINS);
};
