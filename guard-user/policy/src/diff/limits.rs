//! Compares limits.

use guard_common::{
    bucket::{Limit, TICKS_PER_SECOND},
    tables::{Limits, Service, Unit},
};

use super::change::PacketPath;
use crate::{compiled::CompiledService, syntax::scalars::PortRange};

/// A service and its limits; both empty for ports that are not guarded.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limited {
    /// `policy/service`.
    pub service: Option<String>,
    /// Rate per second and burst of each unit, per source and then in total; none without a limit.
    limits: [[Option<(u64, u64)>; 3]; 2],
}

impl Limited {
    /// Returns the limits of a service on packets for the node, or on packets that it only forwards.
    pub(super) fn of(service: &CompiledService, forwarded: bool) -> Self {
        let units = |limits: &Limits| {
            [
                (limits.new_connections, Unit::NewConnections),
                (limits.packets, Unit::Packets),
                (limits.bytes, Unit::Bytes),
            ]
            .map(|(limit, unit)| limit.is_some().then(|| (limit.rate, burst(&limit, unit))))
        };
        let of = &service.service;
        let limits = if forwarded && !of.has(Service::GUARDS_FORWARDED) {
            Default::default()
        } else {
            [units(&of.per_source), units(&of.total)]
        };
        Self { service: Some(service.label.clone()), limits }
    }

    /// Reports whether the limits are the same, whatever the service.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.limits == other.limits
    }
}

/// Returns the amount that a full bucket admits at once, in packets or bytes.
fn burst(limit: &Limit, unit: Unit) -> u64 {
    if unit != Unit::Bytes {
        return limit.depth.checked_div(limit.unit).unwrap_or(0);
    }
    // A byte bucket is 1/4096 deeper than its burst (see `Limit::per_byte`).
    let depth = u128::from(limit.depth) * 4096 / 4097;
    let bytes = (depth * u128::from(limit.rate)).div_ceil(TICKS_PER_SECOND.into());
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// A change of the limits of some ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LimitChange {
    /// The service and its limits before.
    pub old: Limited,
    /// The service and its limits after.
    pub new: Limited,
    /// Whether the limits are those on packets for the node, or on packets that it only forwards.
    pub path: PacketPath,
    /// The affected ports.
    pub ports: Vec<PortRange>,
    /// The receiving nodes.
    pub nodes: Vec<String>,
}

/// A change of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneLimit {
    /// Whether the limit applies to all sources together instead of to each.
    pub total: bool,
    /// The unit that is limited.
    pub unit: Unit,
    /// Rate per second and burst before; none if there was no limit.
    pub old: Option<(u64, u64)>,
    /// Rate per second and burst after; none if there is no limit.
    pub new: Option<(u64, u64)>,
}

impl OneLimit {
    /// Reports whether the limit is removed, or its rate or burst is higher than before.
    pub fn is_wider(&self) -> bool {
        match (self.old, self.new) {
            (Some((rate, burst)), Some((new_rate, new_burst))) => {
                new_rate > rate || new_burst > burst
            }
            (old, _) => old.is_some(),
        }
    }
}

impl LimitChange {
    /// Iterates over the limits that differ.
    pub fn each(&self) -> impl Iterator<Item = OneLimit> {
        let scopes = self.old.limits.iter().zip(&self.new.limits).zip([false, true]);
        scopes.flat_map(|((old, new), total)| {
            let units = old.iter().zip(new).zip(Unit::ALL);
            units.filter(|((old, new), _)| old != new).map(move |((old, new), unit)| OneLimit {
                total,
                unit,
                old: *old,
                new: *new,
            })
        })
    }

    /// Reports whether any limit became wider.
    pub fn is_wider(&self) -> bool {
        self.each().any(|limit| limit.is_wider())
    }
}
