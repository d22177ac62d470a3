//! The metrics, each declared once: name, kind, labels, and the text that explains it.

/// What a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It may become anything.
    Gauge,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, a contract.
    pub name: &'static str,
    /// What it counts.
    pub kind: Kind,
    /// The names of its labels, a contract.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// Declares the metrics: a constant for each, and [`ALL`].
macro_rules! metrics {
    ($($ident:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            pub(crate) const $ident: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All metrics, in the order in which they are told.
        pub const ALL: &[Metric] = &[$($ident),*];
    };
}

metrics! {
    PACKETS = Counter "trainguard_packets_total" ["interface", "service", "verdict"]
        "Frames by what happened to them.";
    BYTES = Counter "trainguard_bytes_total" ["interface", "service", "verdict"]
        "Bytes of frames by what happened to them.";
    DROPPED_PACKETS = Counter "trainguard_dropped_packets_total" ["interface", "service", "reason"]
        "Frames that were dropped.";
    WOULD_DROP_PACKETS = Counter "trainguard_would_drop_packets_total" ["interface", "service", "reason"]
        "Frames that passed because their service observes.";
    MEMBER_DROPS = Counter "trainguard_member_drops_estimated_total" ["service"]
        "Dropped frames from addresses of nodes of the manifest, estimated from samples.";
    EVENTS_EMITTED = Counter "trainguard_events_emitted_total" []
        "Samples of refused frames.";
    EVENTS_SUPPRESSED = Counter "trainguard_events_suppressed_total" []
        "Refused frames beyond the sampling budget.";
    EVENTS_LOST = Counter "trainguard_events_lost_total" []
        "Samples that found no room because nobody read them.";
    POLICY_LOADS = Counter "trainguard_policy_loads_total" ["result"]
        "Loads of the files, by whether that put them into force.";
    SIGNATURE_REFUSALS = Counter "trainguard_policy_signature_refusals_total" ["reason"]
        "Policies that were not accepted for the sake of their signature.";
    REQUESTS = Counter "trainguard_requests_total" ["socket", "result"]
        "Requests by what they got.";
    LOG_SUPPRESSED = Counter "trainguard_log_records_suppressed_total" []
        "Log records that were not written because they repeated.";
    LOG_LOST = Counter "trainguard_log_records_lost_total" []
        "Log records that were not written because nobody took them.";
    CONNECTIONS_CUT = Counter "trainguard_connections_cut_total" ["socket"]
        "Connections that were ended: too slow, or in the way of others.";
    POLICY_INFO = Gauge "trainguard_policy_info" ["name", "hash", "files_hash"]
        "1 for what is in force: its cluster, the hash of its meaning on this node, and that \
         of its files, which is the same on all nodes.";
    POLICY_UP_TO_DATE = Gauge "trainguard_policy_up_to_date" []
        "1 while the files say what is in force.";
    POLICY_LAST_GOOD = Gauge "trainguard_policy_last_good" []
        "1 while the copy of the last good policy is in force and not the files.";
    POLICY_ON_TRIAL = Gauge "trainguard_policy_on_trial" []
        "1 while what is in force is undone unless somebody confirms it.";
    POLICY_FILES_CHANGED = Gauge "trainguard_policy_files_changed" []
        "1 while files differ from those that were last loaded.";
    GENERATION = Gauge "trainguard_generation" []
        "Number of the generation in force.";
    IN_FORCE_SINCE = Gauge "trainguard_policy_in_force_timestamp_seconds" []
        "Since when the policy is in force.";
    LAST_LOAD_SUCCESSFUL = Gauge "trainguard_policy_last_load_successful" []
        "1 if the last load of the files put them into force.";
    LAST_LOAD = Gauge "trainguard_policy_last_load_timestamp_seconds" []
        "When files were last loaded, whatever came of it.";
    TRIAL_DEADLINE = Gauge "trainguard_policy_trial_deadline_timestamp_seconds" []
        "When the policy on trial is undone unless it is confirmed; 0 while none is.";
    MODE_OVERRIDE = Gauge "trainguard_mode_override" ["mode"]
        "1 while services have this mode by hand, whatever their policy says.";
    MODE_OVERRIDE_DEADLINE = Gauge "trainguard_mode_override_deadline_timestamp_seconds" []
        "When the modes by hand end; 0 while there are none, and for those that last until \
         somebody changes them.";
    SERVICES = Gauge "trainguard_services" ["mode"]
        "Services of this node by what they do.";
    NODE_ENFORCING = Gauge "trainguard_node_enforcing" []
        "1 while some service drops, on every interface that is to be guarded and exists.";
    ENFORCING = Gauge "trainguard_enforcing" ["interface"]
        "1 while the interface is guarded by a policy that drops.";
    INTERFACE_UP = Gauge "trainguard_interface_up" ["interface"]
        "1 while the interface is there and up.";
    INTERFACE_INFO = Gauge "trainguard_interface_info" ["interface", "state", "mode"]
        "1 for each interface that is to be guarded, with its state and mode.";
    INTERFACES_UNGUARDED = Gauge "trainguard_interfaces_unguarded" []
        "Interfaces that are up and that nobody wants guarded, without loopback.";
    TUNNEL_DEVICES = Gauge "trainguard_tunnel_devices" []
        "Devices that unpack tunnels.";
    OPEN_PORTS = Gauge "trainguard_open_ports" []
        "Ports that take what strangers send and that no service guards.";
    PROBLEMS = Gauge "trainguard_problems" []
        "What is wrong, as the status lists it.";
    TABLE_ENTRIES = Gauge "trainguard_table_entries" ["table"]
        "Entries of a table that are in use.";
    TABLE_CAPACITY = Gauge "trainguard_table_capacity" ["table"]
        "Entries that a table has room for.";
    TABLE_BYTES = Gauge "trainguard_table_bytes" []
        "Bytes of the tables by which sources are found.";
    BUILD_INFO = Gauge "trainguard_build_info" ["version"]
        "1, with the version of the daemon.";
    START_TIME = Gauge "trainguard_daemon_start_time_seconds" []
        "When the daemon was started.";
    CONNECTIONS = Gauge "trainguard_connections" ["socket"]
        "Open connections.";
}
