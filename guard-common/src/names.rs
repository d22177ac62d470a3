//! Names of the programs, maps and globals in the kernel object. A name has at most 15 bytes; the
//! kernel truncates longer ones (`BPF_OBJ_NAME_LEN`, include/uapi/linux/bpf.h).

use crate::tables::Setting;

/// The XDP program that is attached to interfaces.
pub const PROGRAM: &str = "guard";
/// The XDP program that returns the packed verdict. Only for `BPF_PROG_TEST_RUN`, never attached.
pub const PROGRAM_VERDICT: &str = "guard_verdict";
/// The XDP program for the self-test of a generation: ignores limits, counts nothing and emits no
/// events.
pub const PROGRAM_SELF_TEST: &str = "guard_self_test";

/// The program for the tc hook (TCX).
pub const PROGRAM_TC: &str = "guard_tc";
/// The tc program that returns the packed verdict, as [`PROGRAM_VERDICT`] does for XDP.
pub const PROGRAM_TC_VERDICT: &str = "tc_verdict";

/// Policy map, one per generation: slot to [`crate::tables::Service`].
pub const MAP_SERVICES: &str = "TG_SERVICES";
/// Policy map, one per generation: class number to [`crate::tables::Source`].
pub const MAP_CLASSES: &str = "TG_CLASSES";
/// Policy map, one per generation: nodes of the IPv4 trie.
pub const MAP_NODES4: &str = "TG_NODES4";
/// Policy map, one per generation: leaves of the IPv4 trie.
pub const MAP_LEAVES4: &str = "TG_LEAVES4";
/// Policy map, one per generation: nodes of the IPv6 trie.
pub const MAP_NODES6: &str = "TG_NODES6";
/// Policy map, one per generation: leaves of the IPv6 trie.
pub const MAP_LEAVES6: &str = "TG_LEAVES6";
/// Policy map, one per generation: number of a member's bucket in this generation to the index of
/// its states in [`MAP_MEMBERS`].
pub const MAP_MEMBER_SLOTS: &str = "TG_MEMBER_SLOTS";

/// Shared map: per-CPU counters, by interface and verdict (see
/// [`crate::layout::counters::counter`]).
pub const MAP_COUNTERS: &str = "TG_COUNTERS";
/// Shared map: interface index to the interface's counters (see
/// [`crate::layout::counters::InterfaceRow`]).
pub const MAP_INTERFACES: &str = "TG_INTERFACES";
/// Shared map: bucket states of members, at the indices of [`MAP_MEMBER_SLOTS`].
pub const MAP_MEMBERS: &str = "TG_MEMBERS";
/// Shared map: [`crate::layout::MemberKey`] to the index of its states in [`MAP_MEMBERS`]. A key
/// keeps its index as long as generations contain it. Used by user space only.
pub const MAP_MEMBER_KEYS: &str = "TG_MEMBER_KEYS";
/// Shared map: bucket states of sources that are not members, by keyed hash (see
/// [`crate::limit::hashed_bucket`]).
pub const MAP_HASHED: &str = "TG_HASHED";
/// Shared map: bucket states of the total limits of services, by slot.
pub const MAP_TOTALS: &str = "TG_TOTALS";
/// Shared map: names of the service slots and counter rows, for programs that read the counters.
/// Written by user space.
pub const MAP_LABELS: &str = "TG_LABELS";
/// Shared map: counters of the daemon (see [`crate::layout::TALLIES`]). Used by user space only.
pub const MAP_TALLIES: &str = "TG_TALLIES";
/// Shared map: counts of guards with another layout, by the index of [`MAP_COUNTERS`]. Used by user
/// space only.
pub const MAP_CARRIED: &str = "TG_CARRIED";
/// Shared map: description of the layout, as text that guards of other layouts read. The name and
/// format of this map are the same in all layouts from version 4 on. Used by user space only.
pub const MAP_ABOUT: &str = "TG_ABOUT";
/// Shared map: ring buffer of sampled [`crate::layout::event::Event`] records.
pub const MAP_EVENTS: &str = "TG_EVENTS";
/// Shared map: the time until which the daemon reads events, in nanoseconds of the monotonic clock.
pub const MAP_LISTENER: &str = "TG_LISTENER";
/// Shared map: ticks that each CPU has drawn from the buckets of [`MAP_TOTALS`] and not charged
/// yet.
pub const MAP_CREDITS: &str = "TG_CREDITS";
/// Shared map: per-CPU sampling state of events, by reason ([`crate::layout::Sampling`]).
pub const MAP_SAMPLING: &str = "TG_SAMPLING";

/// Shared map: what the programs have to know about the node, one [`crate::layout::node::NodeState`].
pub const MAP_NODE: &str = "TG_NODE";
/// Shared map: the addresses that the node holds, as [`crate::Addr::mapped`].
pub const MAP_OWN: &str = "TG_OWN";
/// Shared map: [`crate::layout::node::DeviceKey`] to the index of the device at which the IP stack
/// receives the frame.
pub const MAP_DEVICES: &str = "TG_DEVICES";
/// Shared map: a bit for each TCP port, set if a socket listens on the port that is bound to a device
/// on top of a guarded interface.
pub const MAP_BOUND: &str = "TG_BOUND";

/// The pinned maps, which all generations share.
pub const SHARED_MAPS: [&str; 18] = [
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
    MAP_NODE,
    MAP_OWN,
    MAP_DEVICES,
    MAP_BOUND,
];

/// Read-only globals of a generation, `u64` each: the [`Setting`]s, in the order of their numbers.
pub const GLOBAL_SETTINGS: [&str; Setting::ALL.len()] = [
    "TG_GUARDED",
    "TG_ENFORCING",
    "TG_ANY",
    "TG_NEW_CONNS",
    "TG_LIMITS_CONNS",
    "TG_LIMITS_VOL",
    "TG_PER_SOURCE",
    "TG_KINDS",
    "TG_FORWARDED",
    "TG_TCP",
    "TG_UDP",
    "TG_SCTP",
];
/// Global of a generation: the [`crate::port_table::PortTable`].
pub const GLOBAL_PORTS: &str = "TG_PORTS";
/// Global of a generation: the direct table of the IPv4 trie.
pub const GLOBAL_ROOT4: &str = "TG_ROOT4";
/// Global of a generation: the direct table of the IPv6 trie.
pub const GLOBAL_ROOT6: &str = "TG_ROOT6";
/// Read-only globals of a generation, `u64` each: the start of the IPv4 trie, as the bits that all
/// prefixes share and the number of these bits (see [`crate::trie::Root`]).
pub const GLOBAL_BEGIN4: [&str; 2] = ["TG_SHARED4", "TG_SKIP4"];
/// The start of the IPv6 trie, as [`GLOBAL_BEGIN4`]. The shared bits take two words.
pub const GLOBAL_BEGIN6: [&str; 3] = ["TG_SHARED6A", "TG_SHARED6B", "TG_SKIP6"];
/// Read-only globals, `u64` each: the two words of the secret key of
/// [`crate::limit::hashed_bucket`].
pub const GLOBAL_KEY: [&str; 2] = ["TG_KEY0", "TG_KEY1"];
/// Read-only globals, `u64` each: bit `n % 64` of word `n / 64` is set if a device of this node
/// decapsulates IP protocol `n`.
pub const GLOBAL_UNPACKS: [&str; 4] = ["TG_UNPACKS0", "TG_UNPACKS1", "TG_UNPACKS2", "TG_UNPACKS3"];
/// Read-only global, `u64`: ticks of the limiter's clock (see [`crate::bucket`]) in one jiffy, the
/// timer tick of the kernel.
pub const GLOBAL_JIFFY: &str = "TG_JIFFY";
/// Read-only global, `u64`: which lookups in the network stack the program makes; see
/// [`crate::stack::LOOKUP_ROUTES`].
pub const GLOBAL_LOOKUPS: &str = "TG_LOOKUPS";
/// Read-only global, `u64`: not 0 if refused frames are sampled as events.
pub const GLOBAL_SAMPLING: &str = "TG_SAMPLING_ON";
