//! Names of programs, maps and globals in the kernel object. At most 15 bytes, the kernel cuts the
//! rest (`BPF_OBJ_NAME_LEN`, include/uapi/linux/bpf.h).

use crate::tables::Setting;

/// The XDP program.
pub const PROGRAM: &str = "guard";
/// The program that returns the packed verdict; for test-run, never attached.
pub const PROGRAM_VERDICT: &str = "guard_verdict";
/// The program that decides without limits and counts nothing, for the self-test of a generation.
pub const PROGRAM_SELF_TEST: &str = "guard_self_test";

/// The program for the tc hook.
pub const PROGRAM_TC: &str = "guard_tc";
/// The same, returning the packed verdict, as [`PROGRAM_VERDICT`].
pub const PROGRAM_TC_VERDICT: &str = "tc_verdict";

/// Policy map: slot to [`crate::tables::Service`]. Of a generation.
pub const MAP_SERVICES: &str = "TG_SERVICES";
/// Policy map: class number to [`crate::tables::Source`]. Of a generation.
pub const MAP_CLASSES: &str = "TG_CLASSES";
/// Policy map: nodes of the IPv4 trie. Of a generation.
pub const MAP_NODES4: &str = "TG_NODES4";
/// Policy map: leaves of the IPv4 trie. Of a generation.
pub const MAP_LEAVES4: &str = "TG_LEAVES4";
/// Policy map: nodes of the IPv6 trie. Of a generation.
pub const MAP_NODES6: &str = "TG_NODES6";
/// Policy map: leaves of the IPv6 trie. Of a generation.
pub const MAP_LEAVES6: &str = "TG_LEAVES6";
/// Policy map: number of a member's bucket in this generation to its place in [`MAP_MEMBERS`].
pub const MAP_MEMBER_SLOTS: &str = "TG_MEMBER_SLOTS";

/// Shared map: counters per CPU, by interface and verdict (see [`crate::layout::counters::counter`]).
pub const MAP_COUNTERS: &str = "TG_COUNTERS";
/// Shared map: where the counters of each interface are.
pub const MAP_INTERFACES: &str = "TG_INTERFACES";
/// Shared map: bucket states of members.
pub const MAP_MEMBERS: &str = "TG_MEMBERS";
/// Shared map: [`crate::layout::MemberKey`] to the place of its state in [`MAP_MEMBERS`], which it
/// keeps as long as generations know it. For user space alone.
pub const MAP_MEMBER_KEYS: &str = "TG_MEMBER_KEYS";
/// Shared map: bucket states of other sources, by keyed hash.
pub const MAP_HASHED: &str = "TG_HASHED";
/// Shared map: bucket states of whole services, by slot.
pub const MAP_TOTALS: &str = "TG_TOTALS";
/// Shared map: what the slots are, written by user space for whoever reads the counters.
pub const MAP_LABELS: &str = "TG_LABELS";
/// Shared map: what the daemon counts (see [`crate::layout::TALLIES`]). For user space alone.
pub const MAP_TALLIES: &str = "TG_TALLIES";
/// Shared map: what guards of other layouts have counted, by the same index as in [`MAP_COUNTERS`].
/// For user space alone.
pub const MAP_CARRIED: &str = "TG_CARRIED";
/// Shared map: what the layout is, in a text that guards of other layouts read. Its name and its form
/// are the same in all layouts from the fourth on. For user space alone.
pub const MAP_ABOUT: &str = "TG_ABOUT";
/// Shared map: ring buffer of sampled [`crate::layout::event::Event`] records.
pub const MAP_EVENTS: &str = "TG_EVENTS";
/// Shared map: until when somebody listens to events, in nanoseconds of the monotonic clock.
pub const MAP_LISTENER: &str = "TG_LISTENER";
/// Shared map: what each CPU has drawn from the buckets of [`MAP_TOTALS`] and not yet charged.
pub const MAP_CREDITS: &str = "TG_CREDITS";
/// Shared map: per-CPU sampling budget and losses of events.
pub const MAP_SAMPLING: &str = "TG_SAMPLING";

/// The maps that all generations share; they are pinned.
pub const SHARED_MAPS: [&str; 14] = [
    MAP_COUNTERS,
    MAP_INTERFACES,
    MAP_MEMBERS,
    MAP_MEMBER_KEYS,
    MAP_HASHED,
    MAP_TOTALS,
    MAP_CREDITS,
    MAP_LABELS,
    MAP_TALLIES,
    MAP_CARRIED,
    MAP_ABOUT,
    MAP_EVENTS,
    MAP_LISTENER,
    MAP_SAMPLING,
];

/// Read-only globals of a generation, `u64` each: the [`crate::tables::Setting`]s, in the order of
/// their numbers.
pub const GLOBAL_SETTINGS: [&str; Setting::ALL.len()] = [
    "TG_GUARDED",
    "TG_ENFORCING",
    "TG_ANY",
    "TG_NEW_CONNS",
    "TG_LIMITS_CONNS",
    "TG_LIMITS_VOL",
    "TG_PER_SOURCE",
    "TG_KINDS",
];
/// Global: the [`crate::port_table::PortTable`] of a generation.
pub const GLOBAL_PORTS: &str = "TG_PORTS";
/// Global: the direct table of the IPv4 trie of a generation.
pub const GLOBAL_ROOT4: &str = "TG_ROOT4";
/// Global: the direct table of the IPv6 trie of a generation.
pub const GLOBAL_ROOT6: &str = "TG_ROOT6";
/// Read-only globals, `u64` each: where the IPv4 trie of a generation begins: what is shared, and
/// how many bits that is (see [`crate::trie::Root`]).
pub const GLOBAL_BEGIN4: [&str; 2] = ["TG_SHARED4", "TG_SKIP4"];
/// The same for IPv6, whose shared bits are two words.
pub const GLOBAL_BEGIN6: [&str; 3] = ["TG_SHARED6A", "TG_SHARED6B", "TG_SKIP6"];
/// Read-only globals, `u64` each: the two words of the secret key of the hashed buckets.
pub const GLOBAL_KEY: [&str; 2] = ["TG_KEY0", "TG_KEY1"];
/// Read-only globals, `u64` each: bit `n % 64` of word `n / 64` is set if a device of this node
/// unpacks IP protocol `n`.
pub const GLOBAL_UNPACKS: [&str; 4] = ["TG_UNPACKS0", "TG_UNPACKS1", "TG_UNPACKS2", "TG_UNPACKS3"];
/// Read-only global, `u64`: ticks of the limiter's clock (see [`crate::bucket`]) in a timer tick of
/// the kernel.
pub const GLOBAL_JIFFY: &str = "TG_JIFFY";
/// Read-only global, `u64`: whether drop events are sampled.
pub const GLOBAL_SAMPLING: &str = "TG_SAMPLING_ON";
