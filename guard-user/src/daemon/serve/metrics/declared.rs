//! The metrics, each declared once: name, kind, labels, and the text that explains it.

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that never decreases.
    Counter,
    /// A value that increases and decreases.
    Gauge,
}

impl Kind {
    /// Returns the name of the kind.
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
    /// Name of the metric, a stable interface.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Names of the labels, a stable interface.
    pub labels: &'static [&'static str],
    /// Explanation, the `HELP` text.
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

        /// All metrics, in the order in which they are written.
        pub const ALL: &[Metric] = &[$($ident),*];
    };
}

metrics! {
    PACKETS = Counter "trainguard_packets_total" ["interface", "service", "verdict"]
        "Frames by verdict.";
    BYTES = Counter "trainguard_bytes_total" ["interface", "service", "verdict"]
        "Bytes of frames by verdict.";
    DROPPED_PACKETS = Counter "trainguard_dropped_packets_total" ["interface", "service", "reason"]
        "Dropped frames.";
    WOULD_DROP_PACKETS = Counter "trainguard_would_drop_packets_total" ["interface", "service", "reason"]
        "Frames that passed only because their service is in mode observe.";
    MEMBER_DROPS = Counter "trainguard_member_drops_estimated_total" ["service"]
        "Dropped frames from addresses of nodes in the manifest, estimated from samples.";
    EVENTS_EMITTED = Counter "trainguard_events_emitted_total" []
        "Samples of refused frames.";
    EVENTS_SUPPRESSED = Counter "trainguard_events_suppressed_total" []
        "Refused frames beyond the sampling budget.";
    EVENTS_LOST = Counter "trainguard_events_lost_total" []
        "Samples lost because the ring buffer was full.";
    POLICY_LOADS = Counter "trainguard_policy_loads_total" ["result"]
        "Loads of the policy files, by result.";
    SIGNATURE_REFUSALS = Counter "trainguard_policy_signature_refusals_total" ["reason"]
        "Policies rejected by signature verification.";
    REQUESTS = Counter "trainguard_requests_total" ["socket", "result"]
        "API requests by result.";
    LOG_SUPPRESSED = Counter "trainguard_log_records_suppressed_total" []
        "Log records suppressed by the rate limit for repeated records.";
    LOG_LOST = Counter "trainguard_log_records_lost_total" []
        "Log records lost because the reader of the log was too slow.";
    CONNECTIONS_CUT = Counter "trainguard_connections_cut_total" ["socket"]
        "API connections closed by the daemon: timed out, or evicted for another client.";
    POLICY_INFO = Gauge "trainguard_policy_info" ["name", "hash", "files_hash"]
        "1, labelled with the policy in force: its cluster, the hash of the compiled policy of this \
         node, and the hash of the files, which is the same on all nodes.";
    POLICY_UP_TO_DATE = Gauge "trainguard_policy_up_to_date" []
        "1 while the policy in force is the one in the files.";
    POLICY_LAST_GOOD = Gauge "trainguard_policy_last_good" []
        "1 while the saved copy of the last good policy is in force instead of the files.";
    POLICY_ON_TRIAL = Gauge "trainguard_policy_on_trial" []
        "1 while the policy in force is on trial: rolled back unless it is confirmed.";
    POLICY_FILES_CHANGED = Gauge "trainguard_policy_files_changed" []
        "1 while the policy files differ from those last loaded.";
    GENERATION = Gauge "trainguard_generation" []
        "Number of the generation in force.";
    IN_FORCE_SINCE = Gauge "trainguard_policy_in_force_timestamp_seconds" []
        "Unix time at which the policy in force was loaded.";
    LAST_LOAD_SUCCESSFUL = Gauge "trainguard_policy_last_load_successful" []
        "1 if the last load of the policy files succeeded.";
    LAST_LOAD = Gauge "trainguard_policy_last_load_timestamp_seconds" []
        "Unix time of the last load of the policy files, successful or not.";
    TRIAL_DEADLINE = Gauge "trainguard_policy_trial_deadline_timestamp_seconds" []
        "Unix time at which the policy on trial is rolled back unless it is confirmed; 0 without a trial.";
    MODE_OVERRIDE = Gauge "trainguard_mode_override" ["mode"]
        "1 while an operator's override sets this mode, whatever the policy says.";
    MODE_OVERRIDE_DEADLINE = Gauge "trainguard_mode_override_deadline_timestamp_seconds" []
        "Unix time at which the mode override ends; 0 without an override, and for one without an \
         end.";
    SERVICES = Gauge "trainguard_services" ["mode"]
        "Services of this node by mode.";
    NODE_ENFORCING = Gauge "trainguard_node_enforcing" []
        "1 while a service enforces and every configured interface that exists is guarded.";
    ENFORCING = Gauge "trainguard_enforcing" ["interface"]
        "1 while the interface is guarded by a policy with a service that enforces.";
    INTERFACE_UP = Gauge "trainguard_interface_up" ["interface"]
        "1 while the interface exists and is up.";
    INTERFACE_INFO = Gauge "trainguard_interface_info" ["interface", "state", "mode"]
        "1 for each configured interface, with its state and attach mode.";
    INTERFACES_UNGUARDED = Gauge "trainguard_interfaces_unguarded" []
        "Interfaces that are up and not configured to be guarded, without loopback.";
    TUNNEL_DEVICES = Gauge "trainguard_tunnel_devices" []
        "Tunnel devices of this node.";
    OPEN_PORTS = Gauge "trainguard_open_ports" []
        "Listening ports that unlisted hosts can reach and no service guards.";
    PROBLEMS = Gauge "trainguard_problems" []
        "Problems that `trainguard status` lists.";
    TABLE_ENTRIES = Gauge "trainguard_table_entries" ["table"]
        "Used entries of a policy table.";
    TABLE_CAPACITY = Gauge "trainguard_table_capacity" ["table"]
        "Capacity of a policy table in entries.";
    TABLE_BYTES = Gauge "trainguard_table_bytes" []
        "Bytes of the tables used to look up sources.";
    BUILD_INFO = Gauge "trainguard_build_info" ["version"]
        "1, labelled with the version of the daemon.";
    START_TIME = Gauge "trainguard_daemon_start_time_seconds" []
        "Unix time at which the daemon started.";
    CONNECTIONS = Gauge "trainguard_connections" ["socket"]
        "Open API connections.";
}
