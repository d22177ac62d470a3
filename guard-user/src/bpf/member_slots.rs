//! Where the bucket states of members are.
//!
//! Each member has a place of its own in an array at each service that limits it. A place is kept
//! from generation to generation, so a reload refills no bucket; which place is whose is remembered
//! in a map beside the array, and so outlives the daemon.

use std::{borrow::BorrowMut, collections::BTreeMap};

use aya::maps::{Array, HashMap, MapData, MapError};
use guard_common::{
    layout::{BucketStates, MemberKey},
    names,
};

use crate::{policy::compiled::CompiledPolicy, system_error::SystemError};

/// Finds the places of a policy's members, making room for new ones. Those of members that the
/// policy does not know stay theirs: the running generation may still charge them.
///
/// # Errors
/// The array is full with the members of the running and of the new generation, or a map cannot be
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
        // Nothing is trusted because it is there: a place beyond the end, or somebody else's, is
        // none.
        if let Some(taken) = taken.get_mut(place as usize)
            && !std::mem::replace(taken, true)
        {
            known.insert(key, place);
        }
    }
    let mut free = (0..).zip(&taken).filter(|(_, taken)| !**taken).map(|(place, _)| place);
    let mut places = Vec::with_capacity(policy.members.len());
    for key in &policy.members {
        // In a slot that was another service's, the state is that service's.
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

fn full(running: usize, new: usize, most: usize) -> SystemError {
    SystemError::new(format!(
        "no room for the limiter states of members: {running} of the running generation and {new} \
         of the new one, {most} fit together"
    ))
    .hint("limit fewer services per source, or make the change in two steps")
}

fn failed(what: &'static str, name: &'static str) -> impl Fn(MapError) -> SystemError {
    move |error| SystemError::of(format_args!("{what} {name}"), error)
}
