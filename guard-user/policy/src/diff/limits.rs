//! Limits that differ.

use guard_common::{
    bucket::{Limit, TICKS_PER_SECOND},
    tables::{Limits, Unit},
};

use crate::{compiled::CompiledService, syntax::scalars::PortRange};

/// A service and its limits; none of both where nothing is guarded.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limited {
    /// `policy/service`.
    pub service: Option<String>,
    /// Rate and burst of each unit, per source and then in total; none where there is no limit.
    limits: [[Option<(u64, u64)>; 3]; 2],
}

impl Limited {
    pub(super) fn of(service: &CompiledService) -> Self {
        let units = |limits: &Limits| {
            [
                (limits.new_connections, Unit::NewConnections),
                (limits.packets, Unit::Packets),
                (limits.bytes, Unit::Bytes),
            ]
            .map(|(limit, unit)| limit.is_some().then(|| (limit.rate, burst(&limit, unit))))
        };
        let of = &service.service;
        Self {
            service: Some(service.label.clone()),
            limits: [units(&of.per_source), units(&of.total)],
        }
    }

    /// Whether the limits are the same.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.limits == other.limits
    }
}

/// What a full bucket admits at once.
fn burst(limit: &Limit, unit: Unit) -> u64 {
    if unit != Unit::Bytes {
        return limit.depth.checked_div(limit.unit).unwrap_or(0);
    }
    // A bucket of bytes is 1/4096 deeper than its burst: see `Limit::per_byte`.
    let depth = u128::from(limit.depth) * 4096 / 4097;
    let bytes = (depth * u128::from(limit.rate)).div_ceil(TICKS_PER_SECOND.into());
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Limits of some ports that changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LimitChange {
    /// Before.
    pub old: Limited,
    /// After.
    pub new: Limited,
    /// The ports.
    pub ports: Vec<PortRange>,
    /// The nodes that receive.
    pub nodes: Vec<String>,
}

/// One limit that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneLimit {
    /// For all sources together, and not for each.
    pub total: bool,
    /// What is counted.
    pub unit: Unit,
    /// Rate per second and burst before; none if there was no limit.
    pub old: Option<(u64, u64)>,
    /// After.
    pub new: Option<(u64, u64)>,
}

impl OneLimit {
    /// Whether more is let through, at once or over time.
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
    /// The limits that changed.
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

    /// Whether more is let through.
    pub fn is_wider(&self) -> bool {
        self.each().any(|limit| limit.is_wider())
    }
}
