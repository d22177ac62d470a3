//! Places of the bucket states of members.
//!
//! Each member has its own place in an array, for each service that limits it. The place stays the
//! same from generation to generation, so a reload does not refill buckets. A second map beside the
//! array holds the owner of each place, so the assignment outlives the daemon.

use std::{borrow::BorrowMut, collections::BTreeMap};

use aya::maps::{Array, HashMap, MapData, MapError};
use guard_common::{
    layout::{BucketStates, MemberKey},
    names,
};

use crate::{policy::compiled::CompiledPolicy, system_error::SystemError};

/// Returns the places of the members of a policy, in the order of `policy.members`, and assigns free
/// places to new members. Members that are not in the policy keep their places, because the running
/// generation may still charge them.
///
/// # Errors
/// The array cannot hold the members of both the running and the new generation, or a map cannot be
/// read or written.
pub(super) fn places<M: BorrowMut<MapData>, N: BorrowMut<MapData>>(
    keys: &mut HashMap<M, MemberKey, u32>,
    states: &mut Array<N, BucketStates>,
    policy: &CompiledPolicy,
) -> Result<Vec<u32>, SystemError> {
    let mut taken = vec![false; states.len() as usize];
    let mut known = BTreeMap::new();
    for entry in keys.iter() {
        let (key, place) = entry.map_err(failed("reading", names::MAP_MEMBER_KEYS))?;
        // The map is not trusted: an entry with a place beyond the end of the array, or with a place
        // that another entry already has, is ignored.
        if let Some(taken) = taken.get_mut(place as usize)
            && !std::mem::replace(taken, true)
        {
            known.insert(key, place);
        }
    }
    let mut free = (0..).zip(&taken).filter(|(_, taken)| !**taken).map(|(place, _)| place);
    let mut places = Vec::with_capacity(policy.members.len());
    for key in &policy.members {
        // If the slot belonged to another service, the state in the place is that of the other
        // service.
        let is_new = policy.reclaimed.iter().any(|slot| key.slot == u64::from(*slot));
        if let Some(place) = known.get(key).filter(|_| !is_new) {
            places.push(*place);
            continue;
        }
        let place =
            free.next().ok_or_else(|| full(known.len(), policy.members.len(), taken.len()))?;
        states.set(place, [0; 3], 0).map_err(failed("writing", names::MAP_MEMBERS))?;
        keys.insert(key, place, 0).map_err(failed("writing", names::MAP_MEMBER_KEYS))?;
        places.push(place);
    }
    Ok(places)
}

fn full(running: usize, new: usize, capacity: usize) -> SystemError {
    SystemError::new(format!(
        "no room for the limiter states of members: {running} of the running generation and {new} \
         of the new one, expected at most {capacity} together"
    ))
    .hint("limit fewer services per source, or make the change in two steps")
}

fn failed(what: &'static str, name: &'static str) -> impl Fn(MapError) -> SystemError {
    move |error| SystemError::of(format_args!("{what} {name}"), error)
}
