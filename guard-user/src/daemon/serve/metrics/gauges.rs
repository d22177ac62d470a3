//! Gauges of the guard's state, made from the status.

use std::time::SystemTime;

use guard_common::{
    layout::{MAX_CLASSES, MAX_MEMBER_BUCKETS, MAX_PREFIXES, counters::MAX_INTERFACES},
    verdict::MAX_SERVICES,
};

use super::{
    Moments, declared,
    families::{Families, flag, number},
};
use crate::{
    api::status::{InterfaceStatus, ModeOverride, ServiceMode, SourceKind, Status, TrialStatus},
    attach_mode::DeviceMode,
    daemon::serve::connection_limits::Endpoint,
};

/// Modes by which services are counted.
const MODES: [ServiceMode; 2] = [ServiceMode::Enforce, ServiceMode::Observe];
/// Maximum number of interfaces with rows of their own, because the patterns of a manifest may match
/// any number.
const INTERFACES: usize = MAX_INTERFACES as usize;
/// Label of the row for all further interfaces, as for their counters.
const OTHERS_LABEL: &str = "others";

impl Families {
    /// Adds the gauges of the policy and its origin.
    pub(crate) fn policy(&mut self, status: &Status, moments: &Moments) {
        if !status.policy_hash.is_empty() {
            let labels = vec![&*status.cluster, &*status.policy_hash, &*status.files_hash];
            self.add(&declared::POLICY_INFO, &[(labels, 1.0)]);
        }
        self.flag(&declared::POLICY_UP_TO_DATE, status.up_to_date);
        self.flag(&declared::POLICY_LAST_GOOD, status.source.kind == SourceKind::LastGood);
        self.flag(&declared::POLICY_ON_TRIAL, status.trial.is_some());
        self.flag(&declared::POLICY_FILES_CHANGED, status.source.changed);
        self.value(&declared::GENERATION, number(status.generation));
        if let Some(since) = moments.in_force {
            self.value(&declared::IN_FORCE_SINCE, seconds(since));
        }
        if let Some((began, success)) = moments.last_load {
            self.flag(&declared::LAST_LOAD_SUCCESSFUL, success);
            self.value(&declared::LAST_LOAD, seconds(began));
        }
        let deadline = status.trial.as_ref().map_or(0, TrialStatus::deadline_seconds);
        self.value(&declared::TRIAL_DEADLINE, number(deadline));
        let overrides = MODES.map(|mode| {
            let wanted = status.mode_override.as_ref();
            (vec![mode.name()], flag(wanted.is_some_and(|wanted| wanted.mode == mode)))
        });
        self.add(&declared::MODE_OVERRIDE, &overrides);
        let deadline = status.mode_override.as_ref().map_or(0, ModeOverride::deadline_seconds);
        self.value(&declared::MODE_OVERRIDE_DEADLINE, number(deadline));
        let modes = MODES.map(|mode| {
            let count = status.services.iter().filter(|service| service.mode == mode).count();
            (vec![mode.name()], small(count))
        });
        self.add(&declared::SERVICES, &modes);
    }

    /// Adds the gauges of each interface that should be guarded.
    pub(crate) fn interfaces(&mut self, status: &Status) {
        self.flag(&declared::NODE_ENFORCING, status.enforcing);
        let drops = status.services.iter().any(|service| service.mode == ServiceMode::Enforce);
        let reported = reported(&status.interfaces);
        let enforcing = reported.iter().map(|interface| {
            (vec![interface.name.as_str()], flag(drops && interface.is_guarded()))
        });
        self.add(&declared::ENFORCING, &enforcing.collect::<Vec<_>>());
        let up = reported
            .iter()
            .map(|interface| (vec![interface.name.as_str()], flag(interface.up == Some(true))));
        self.add(&declared::INTERFACE_UP, &up.collect::<Vec<_>>());
        let info = reported.iter().map(|interface| {
            let mode = interface.mode.map_or("none", DeviceMode::name);
            (vec![&*interface.name, interface.state.name(), mode], 1.0)
        });
        self.add(&declared::INTERFACE_INFO, &info.collect::<Vec<_>>());
    }

    /// Adds the numbers of unguarded interfaces, tunnel devices, open ports and problems.
    pub(crate) fn findings(&mut self, status: &Status) {
        let open_ports = small(status.open_ports.ports.len()) + number(status.open_ports.more);
        self.value(&declared::INTERFACES_UNGUARDED, small(status.unguarded.len()));
        self.value(&declared::TUNNEL_DEVICES, small(status.tunnels.len()));
        self.value(&declared::OPEN_PORTS, open_ports);
        self.value(&declared::PROBLEMS, small(status.problems.len()));
    }

    /// Adds the sizes and capacities of the tables. `rows`: the number of counter rows that interfaces
    /// have.
    pub(crate) fn tables(&mut self, status: &Status, rows: usize) {
        let tables = &status.tables;
        let fill = [
            ("prefixes4", tables.prefixes4, MAX_PREFIXES),
            ("prefixes6", tables.prefixes6, MAX_PREFIXES),
            ("classes", tables.classes, MAX_CLASSES),
            ("members", tables.members, MAX_MEMBER_BUCKETS),
            ("services", status.services.len(), MAX_SERVICES.into()),
            ("interfaces", rows, MAX_INTERFACES),
        ];
        let entries = fill.map(|(table, entries, _)| (vec![table], small(entries)));
        self.add(&declared::TABLE_ENTRIES, &entries);
        let capacity = fill.map(|(table, _, capacity)| (vec![table], f64::from(capacity)));
        self.add(&declared::TABLE_CAPACITY, &capacity);
        self.value(&declared::TABLE_BYTES, small(tables.source_bytes));
    }

    /// Adds the gauges of the daemon itself.
    pub(crate) fn process(&mut self, status: &Status, moments: &Moments) {
        self.add(&declared::BUILD_INFO, &[(vec![status.version.as_str()], 1.0)]);
        self.value(&declared::START_TIME, seconds(moments.started));
        let open = Endpoint::ALL
            .into_iter()
            .zip(moments.connections)
            .map(|(endpoint, count)| (vec![endpoint.name()], small(count)));
        self.add(&declared::CONNECTIONS, &open.collect::<Vec<_>>());
    }
}

/// Returns the interfaces to report. If there are too many, the last one stands for the rest, with the
/// state of the worst of them.
fn reported(all: &[InterfaceStatus]) -> Vec<InterfaceStatus> {
    if all.len() <= INTERFACES {
        return all.to_vec();
    }
    let (own, others) = all.split_at_checked(INTERFACES - 1).unwrap_or((all, &[]));
    let worst = others.iter().find(|interface| !interface.is_guarded());
    let generic = others.iter().find(|interface| interface.mode == Some(DeviceMode::Generic));
    let up = others.iter().all(|interface| interface.up == Some(true));
    let like = worst.or(generic).or(others.first()).cloned().unwrap_or_default();
    let others = InterfaceStatus { name: OTHERS_LABEL.to_owned(), up: Some(up), ..like };
    own.iter().cloned().chain([others]).collect()
}

fn small(count: usize) -> f64 {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Converts a time to seconds since 1970, to the millisecond.
fn seconds(at: SystemTime) -> f64 {
    let passed = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    number(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::InterfaceState;

    fn interface(number: usize) -> InterfaceStatus {
        InterfaceStatus {
            name: format!("eth{number}"),
            mode: Some(DeviceMode::Native),
            state: InterfaceState::Guarded,
            up: Some(true),
            ..InterfaceStatus::default()
        }
    }

    #[test]
    fn interfaces_beyond_the_maximum_share_a_row_with_the_worst_state() {
        let mut all: Vec<_> = (0..INTERFACES).map(interface).collect();
        assert_eq!(reported(&all), all);
        all.extend((INTERFACES..1000).map(interface));
        let others = |all: &[InterfaceStatus]| {
            let reported = reported(all);
            assert_eq!(reported.len(), INTERFACES);
            assert_eq!(reported[..INTERFACES - 1], all[..INTERFACES - 1]);
            reported[INTERFACES - 1].clone()
        };
        assert_eq!(others(&all).name, OTHERS_LABEL);
        assert!(others(&all).is_guarded());
        all[500].mode = Some(DeviceMode::Generic);
        assert_eq!(others(&all).mode, Some(DeviceMode::Generic));
        all[600].up = Some(false);
        assert_eq!(others(&all).up, Some(false));
        all[999].state = InterfaceState::Failed;
        assert_eq!(others(&all).state, InterfaceState::Failed);
    }
}
