//! Gauges: what the guard is. A metric for each thing that the status tells.

use std::time::SystemTime;

use guard_common::{
    counters::MAX_INTERFACES,
    layout::{MAX_CLASSES, MAX_MEMBER_BUCKETS, MAX_PREFIXES},
    verdict::MAX_SERVICES,
};

use super::{
    Moments,
    families::{Families, number},
};
use crate::daemon::{
    doors::Door,
    view::{InterfaceStatus, ModeOverride, Status, TrialStatus},
};

/// Interfaces that are told one by one. What the patterns of a manifest match has no bound.
const INTERFACES: usize = MAX_INTERFACES as usize;
/// What all further interfaces are called, as their counters are.
const OTHERS: &str = "others";

impl Families {
    /// The policy, and where it comes from.
    pub(super) fn policy(&mut self, status: &Status, moments: &Moments) {
        if !status.policy_hash.is_empty() {
            let labels = vec![
                ("name", status.cluster.as_str()),
                ("hash", status.policy_hash.as_str()),
                ("files_hash", status.files_hash.as_str()),
            ];
            let help = "1 for what is in force: its cluster, the hash of its meaning on this node, \
                        and that of its files, which is the same on all nodes.";
            self.gauge("trainguard_policy_info", help, &[(labels, 1.0)]);
        }
        self.flags(&[
            ("policy_up_to_date", "1 while the files say what is in force.", status.up_to_date),
            (
                "policy_last_good",
                "1 while the copy of the last good policy is in force and not the files.",
                status.source.kind == "last_good",
            ),
            (
                "policy_on_trial",
                "1 while what is in force is undone unless somebody confirms it.",
                status.trial.is_some(),
            ),
            (
                "policy_files_changed",
                "1 while files differ from those that were last loaded.",
                status.source.changed,
            ),
        ]);
        self.plain("generation", "Number of the generation in force.", number(status.generation));
        if let Some(since) = moments.in_force {
            let help = "Since when the policy is in force.";
            self.plain("policy_in_force_timestamp_seconds", help, seconds(since));
        }
        if let Some((began, success)) = moments.last_load {
            let help = "1 if the last load of the files put them into force.";
            self.flags(&[("policy_last_load_successful", help, success)]);
            let help = "When files were last loaded, whatever came of it.";
            self.plain("policy_last_load_timestamp_seconds", help, seconds(began));
        }
        let deadline = status.trial.as_ref().map_or(0, TrialStatus::deadline_seconds);
        let help = "When the policy on trial is undone unless it is confirmed; 0 while none is.";
        self.plain("policy_trial_deadline_timestamp_seconds", help, number(deadline));
        let by_hand = ["enforce", "observe"].map(|mode| {
            let wanted = status.mode_override.as_ref();
            (vec![("mode", mode)], flag(wanted.is_some_and(|wanted| wanted.mode == mode)))
        });
        let help = "1 while services have this mode by hand, whatever their policy says.";
        self.gauge("trainguard_mode_override", help, &by_hand);
        let deadline = status.mode_override.as_ref().map_or(0, ModeOverride::deadline_seconds);
        let help = "When the modes by hand end; 0 while there are none, and for those that last \
                    until somebody changes them.";
        self.plain("mode_override_deadline_timestamp_seconds", help, number(deadline));
        let modes = ["enforce", "observe"].map(|mode| {
            let count = status.services.iter().filter(|service| service.mode == mode).count();
            (vec![("mode", mode)], small(count))
        });
        self.gauge("trainguard_services", "Services of this node by what they do.", &modes);
    }

    /// Each interface that is to be guarded.
    pub(super) fn interfaces(&mut self, status: &Status) {
        let help =
            "1 while some service drops, on every interface that is to be guarded and exists.";
        self.flags(&[("node_enforcing", help, status.enforcing)]);
        let drops = status.services.iter().any(|service| service.mode == "enforce");
        let told = told(&status.interfaces);
        let enforcing = told.iter().map(|interface| {
            let enforcing = drops && interface.state == "guarded";
            (vec![("interface", interface.name.as_str())], flag(enforcing))
        });
        let help = "1 while the interface is guarded by a policy that drops.";
        self.gauge("trainguard_enforcing", help, &enforcing.collect::<Vec<_>>());
        let up = told.iter().map(|interface| {
            (vec![("interface", interface.name.as_str())], flag(interface.up == Some(true)))
        });
        let help = "1 while the interface is there and up.";
        self.gauge("trainguard_interface_up", help, &up.collect::<Vec<_>>());
        let info = told.iter().map(|interface| {
            let mode = interface.mode.as_deref().unwrap_or("none");
            let labels =
                vec![("interface", &*interface.name), ("state", &*interface.state), ("mode", mode)];
            (labels, 1.0)
        });
        let help = "1 for each interface that is to be guarded, with its state and mode.";
        self.gauge("trainguard_interface_info", help, &info.collect::<Vec<_>>());
    }

    /// What is open, and what is wrong.
    pub(super) fn findings(&mut self, status: &Status) {
        let open_ports = small(status.open_ports.ports.len()) + number(status.open_ports.more);
        for (name, help, value) in [
            (
                "interfaces_unguarded",
                "Interfaces that are up and that nobody wants guarded, without loopback.",
                small(status.unguarded.len()),
            ),
            ("tunnel_devices", "Devices that unpack tunnels.", small(status.tunnels.len())),
            (
                "open_ports",
                "Ports that take what strangers send and that no service guards.",
                open_ports,
            ),
            ("problems", "What is wrong, as the status lists it.", small(status.problems.len())),
        ] {
            self.plain(name, help, value);
        }
    }

    /// How full the tables are. `rows` are the counter rows that interfaces have.
    pub(super) fn tables(&mut self, status: &Status, rows: usize) {
        let tables = &status.tables;
        let fill = [
            ("prefixes4", tables.prefixes4, MAX_PREFIXES),
            ("prefixes6", tables.prefixes6, MAX_PREFIXES),
            ("classes", tables.classes, MAX_CLASSES),
            ("members", tables.members, MAX_MEMBER_BUCKETS),
            ("services", status.services.len(), MAX_SERVICES.into()),
            ("interfaces", rows, MAX_INTERFACES),
        ];
        let entries = fill.map(|(table, entries, _)| (vec![("table", table)], small(entries)));
        let help = "Entries of a table that are in use.";
        self.gauge("trainguard_table_entries", help, &entries);
        let capacity =
            fill.map(|(table, _, capacity)| (vec![("table", table)], f64::from(capacity)));
        let help = "Entries that a table has room for.";
        self.gauge("trainguard_table_capacity", help, &capacity);
        let bytes = small(tables.source_bytes);
        self.plain("table_bytes", "Bytes of the tables by which sources are found.", bytes);
    }

    /// The daemon.
    pub(super) fn process(&mut self, status: &Status, moments: &Moments) {
        let labels = vec![("version", status.version.as_str())];
        let help = "1, with the version of the daemon.";
        self.gauge("trainguard_build_info", help, &[(labels, 1.0)]);
        let help = "When the daemon was started.";
        self.plain("daemon_start_time_seconds", help, seconds(moments.started));
        let open = Door::ALL
            .into_iter()
            .zip(moments.connections)
            .map(|(door, count)| (vec![("socket", door.name())], small(count)));
        let help = "Open connections.";
        self.gauge("trainguard_connections", help, &open.collect::<Vec<_>>());
    }

    fn plain(&mut self, name: &str, help: &str, value: f64) {
        self.gauge(&format!("trainguard_{name}"), help, &[(Vec::new(), value)]);
    }

    fn flags(&mut self, flags: &[(&str, &str, bool)]) {
        for (name, help, value) in flags {
            self.plain(name, help, flag(*value));
        }
    }
}

/// The interfaces as they are told: the last one stands for all that are too many. It is as bad as
/// the worst of them.
fn told(all: &[InterfaceStatus]) -> Vec<InterfaceStatus> {
    if all.len() <= INTERFACES {
        return all.to_vec();
    }
    let (own, others) = all.split_at_checked(INTERFACES - 1).unwrap_or((all, &[]));
    let worst = others.iter().find(|interface| interface.state != "guarded");
    let generic = others.iter().find(|interface| interface.mode.as_deref() == Some("generic"));
    let up = others.iter().all(|interface| interface.up == Some(true));
    let like = worst.or(generic).or(others.first()).cloned().unwrap_or_default();
    let others = InterfaceStatus { name: OTHERS.to_owned(), up: Some(up), ..like };
    own.iter().cloned().chain([others]).collect()
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn small(count: usize) -> f64 {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Seconds since 1970, to the millisecond.
fn seconds(at: SystemTime) -> f64 {
    let passed = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    number(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(number: usize) -> InterfaceStatus {
        InterfaceStatus {
            name: format!("eth{number}"),
            mode: Some("native".to_owned()),
            state: "guarded".to_owned(),
            up: Some(true),
            ..InterfaceStatus::default()
        }
    }

    #[test]
    fn too_many_interfaces_are_told_as_the_worst_of_them() {
        let mut all: Vec<_> = (0..INTERFACES).map(interface).collect();
        assert_eq!(told(&all), all);
        all.extend((INTERFACES..1000).map(interface));
        let others = |all: &[InterfaceStatus]| {
            let told = told(all);
            assert_eq!(told.len(), INTERFACES);
            assert_eq!(told[..INTERFACES - 1], all[..INTERFACES - 1]);
            told[INTERFACES - 1].clone()
        };
        assert_eq!((others(&all).name.as_str(), others(&all).state.as_str()), (OTHERS, "guarded"));
        all[500].mode = Some("generic".to_owned());
        assert_eq!(others(&all).mode.as_deref(), Some("generic"));
        all[600].up = Some(false);
        assert_eq!(others(&all).up, Some(false));
        "failed".clone_into(&mut all[999].state);
        assert_eq!(others(&all).state, "failed");
    }
}
