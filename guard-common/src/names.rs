//! Names of programs, maps and globals in the kernel object. At most 15 bytes, the kernel cuts the
//! rest (`BPF_OBJ_NAME_LEN`, include/uapi/linux/bpf.h).

/// The XDP program.
pub const PROGRAM: &str = "guard";
/// The program that returns the packed verdict; for test-run, never attached.
pub const PROGRAM_VERDICT: &str = "guard_verdict";

/// Policy map: transport number to [`crate::layout::TransportPorts`]. Of a generation.
pub const MAP_PORTS: &str = "TG_PORTS";
/// Policy map: slot to [`crate::tables::Service`]. Of a generation.
pub const MAP_SERVICES: &str = "TG_SERVICES";
/// Policy map: IPv4 prefix to [`crate::tables::Source`]. Of a generation.
pub const MAP_SOURCES4: &str = "TG_SOURCES4";
/// Policy map: IPv6 prefix to [`crate::tables::Source`]. Of a generation.
pub const MAP_SOURCES6: &str = "TG_SOURCES6";

/// Shared map: counters per CPU, by interface and verdict (see [`crate::layout::counter_index`]).
pub const MAP_COUNTERS: &str = "TG_COUNTERS";
/// Shared map: interface index to counter row.
pub const MAP_INTERFACES: &str = "TG_INTERFACES";
/// Shared map: bucket states of members. Keys are written by user space only.
pub const MAP_MEMBERS: &str = "TG_MEMBERS";
/// Shared map: bucket states of other sources, by keyed hash.
pub const MAP_HASHED: &str = "TG_HASHED";
/// Shared map: bucket states of whole services, by slot.
pub const MAP_TOTALS: &str = "TG_TOTALS";
/// Shared map: what the slots are, written by user space for whoever reads the counters.
pub const MAP_LABELS: &str = "TG_LABELS";
/// Shared map: ring buffer of sampled [`crate::event::Event`] records.
pub const MAP_EVENTS: &str = "TG_EVENTS";
/// Shared map: per-CPU sampling budget and losses of events.
pub const MAP_SAMPLING: &str = "TG_SAMPLING";

/// The maps that all generations share; they are pinned.
pub const SHARED_MAPS: [&str; 8] = [
    MAP_COUNTERS,
    MAP_INTERFACES,
    MAP_MEMBERS,
    MAP_HASHED,
    MAP_TOTALS,
    MAP_LABELS,
    MAP_EVENTS,
    MAP_SAMPLING,
];

/// Read-only globals of a generation, `u64` each: the fields of [`crate::tables::Settings`].
pub const GLOBAL_GUARDED: &str = "TG_GUARDED";
/// See [`GLOBAL_GUARDED`].
pub const GLOBAL_ENFORCING: &str = "TG_ENFORCING";
/// See [`GLOBAL_GUARDED`].
pub const GLOBAL_ANY: &str = "TG_ANY";
/// See [`GLOBAL_GUARDED`].
pub const GLOBAL_LIMITS: &str = "TG_LIMITS";
/// Read-only globals, `u64` each: the two words of the secret key of the hashed buckets.
pub const GLOBAL_KEY: [&str; 2] = ["TG_KEY0", "TG_KEY1"];
/// Read-only globals, `u64` each: bit `n % 64` of word `n / 64` is set if a device of this node
/// unpacks IP protocol `n`.
pub const GLOBAL_UNPACKS: [&str; 4] = ["TG_UNPACKS0", "TG_UNPACKS1", "TG_UNPACKS2", "TG_UNPACKS3"];
/// Read-only global, `u64`: whether drop events are sampled.
pub const GLOBAL_SAMPLING: &str = "TG_SAMPLING_ON";
