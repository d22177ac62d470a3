//! The maps and read-only globals, and the tables of the policy that are made of them.
//!
//! Names and layouts are those of `guard_common::{names, layout}`.

use core::cell::UnsafeCell;

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};

use guard_common::{
    Addr, Tables,
    layout::{
        About, BucketStates, CARRIED, Carried, Counter, EVENT_RING_BYTES, LABELS, Label,
        MAX_CLASSES, MAX_LEAVES, MAX_MEMBER_BUCKETS, MAX_NODES, MemberKey, Sampling, TALLIES,
        counters::{COUNTERS, INTERFACE_SLOTS, InterfaceRow},
        event::Event,
        node::{BOUND_WORDS, DeviceKey, MAX_DEVICES, MAX_OWN, NodeState},
    },
    limit::{self, HASHED_BUCKETS},
    port_table::{self, PORT_TABLE_LEN, Port},
    tables::{Service, Setting, Source, Unit},
    trie::{self, Arrays, Entry, Found, Leaf, Node, ROOT_LEN, Root},
    verdict::{MAX_SERVICES, Reason},
};

/// Global data of one generation, written by the loader.
#[repr(transparent)]
struct Data<T, const N: usize>(UnsafeCell<[T; N]>);

// SAFETY: the programs only read; user space writes before any program runs.
unsafe impl<T: Sync, const N: usize> Sync for Data<T, N> {}

impl<T: Copy, const N: usize> Data<T, N> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new([value; N]))
    }

    /// Returns an entry. The read is volatile because the compiler would otherwise use the initial
    /// value that it sees here.
    #[inline(always)]
    fn get(&self, index: usize) -> Option<T> {
        if index >= N {
            return None;
        }
        // SAFETY: the index is within the array, as was just checked, and nothing writes the array
        // while programs run.
        Some(unsafe { self.0.get().cast::<T>().add(index).read_volatile() })
    }
}

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

// Of one generation: filled before the program is attached, never changed after.

/// A global and not a map, because even a map of one entry costs a lookup.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss")]
static TG_PORTS: Data<u8, PORT_TABLE_LEN> = Data::new(0);
#[btf_map]
static TG_SERVICES: Array<Service, { MAX_SERVICES as usize }> = Array::new();
#[btf_map]
static TG_CLASSES: Array<Source, { MAX_CLASSES as usize }> = Array::new();
#[btf_map]
static TG_NODES4: Array<Node, { MAX_NODES as usize }> = Array::new();
#[btf_map]
static TG_LEAVES4: Array<Leaf<u32>, { MAX_LEAVES as usize }> = Array::new();
#[btf_map]
static TG_NODES6: Array<Node, { MAX_NODES as usize }> = Array::new();
#[btf_map]
static TG_LEAVES6: Array<Leaf<[u64; 2]>, { MAX_LEAVES as usize }> = Array::new();
#[btf_map]
pub(crate) static TG_MEMBER_SLOTS: Array<u32, { MAX_MEMBER_BUCKETS as usize }> = Array::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss")]
static TG_ROOT4: Data<Entry, ROOT_LEN> = Data::new(Entry::UNKNOWN);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss")]
static TG_ROOT6: Data<Entry, ROOT_LEN> = Data::new(Entry::UNKNOWN);

// Shared by all generations, pinned.

#[btf_map]
pub(crate) static TG_COUNTERS: PerCpuArray<Counter, { COUNTERS as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static TG_INTERFACES: Array<InterfaceRow, { INTERFACE_SLOTS as usize }> = Array::new();
#[btf_map]
pub(crate) static TG_MEMBERS: Array<BucketStates, { MAX_MEMBER_BUCKETS as usize }> = Array::new();
/// Not used by the programs: the member to which an entry of [`TG_MEMBERS`] belongs.
#[btf_map]
static TG_MEMBER_KEYS: HashMap<MemberKey, u32, { MAX_MEMBER_BUCKETS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static TG_HASHED: Array<BucketStates, { HASHED_BUCKETS as usize }> = Array::new();
#[btf_map]
pub(crate) static TG_TOTALS: Array<BucketStates, { MAX_SERVICES as usize }> = Array::new();
#[btf_map]
pub(crate) static TG_CREDITS: PerCpuArray<BucketStates, { MAX_SERVICES as usize }> =
    PerCpuArray::new();
#[btf_map]
pub(crate) static TG_LISTENER: Array<u64, 1> = Array::new();
/// Not used by the programs: names of slots and rows for programs that read the counters.
#[btf_map]
static TG_LABELS: Array<Label, { LABELS as usize }> = Array::new();
/// Not used by the programs: counts of the daemon.
#[btf_map]
static TG_TALLIES: Array<u64, { TALLIES as usize }> = Array::new();
/// Not used by the programs: counts of guards with another layout.
#[btf_map]
static TG_CARRIED: Array<Carried, { CARRIED as usize }> = Array::new();
/// Not used by the programs: the description of the layout.
#[btf_map]
static TG_ABOUT: Array<About, 1> = Array::new();
#[btf_map]
pub(crate) static TG_EVENTS: RingBuf<Event, { EVENT_RING_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub(crate) static TG_SAMPLING: PerCpuArray<Sampling, { Reason::COUNT as usize }> =
    PerCpuArray::new();

// State of the node, shared by all generations, pinned. Written while programs run.

#[btf_map]
pub(crate) static TG_NODE: Array<NodeState, 1> = Array::new();
#[btf_map]
pub(crate) static TG_OWN: HashMap<[u64; 2], u32, { MAX_OWN as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static TG_DEVICES: HashMap<DeviceKey, u32, { MAX_DEVICES as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static TG_BOUND: Array<u64, { BOUND_WORDS as usize }> = Array::new();

// Constants of one generation. The verifier knows their values and removes what they rule out.

#[unsafe(no_mangle)]
static TG_GUARDED: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_ENFORCING: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_ANY: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_NEW_CONNS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_LIMITS_CONNS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_LIMITS_VOL: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_PER_SOURCE: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_KINDS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_FORWARDED: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_TCP: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_UDP: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_SCTP: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_LOOKUPS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_SHARED4: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_SKIP4: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_SHARED6A: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_SHARED6B: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_SKIP6: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_KEY0: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_KEY1: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_UNPACKS0: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_UNPACKS1: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_UNPACKS2: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_UNPACKS3: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_JIFFY: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_SAMPLING_ON: Global<u64> = Global::new(0);

/// Returns the secret key of the hashed buckets.
#[inline(always)]
pub(crate) fn hash_key() -> [u64; 2] {
    [TG_KEY0.load(), TG_KEY1.load()]
}

/// Returns the ticks of the limiter's clock in one timer tick of the kernel.
#[inline(always)]
pub(crate) fn ticks_in_a_jiffy() -> u64 {
    TG_JIFFY.load()
}

/// Returns whether some service limits bytes.
#[inline(always)]
pub(crate) fn limits_bytes() -> bool {
    let both = 1 << Unit::Bytes as u64;
    TG_KINDS.load() & (both | both << limit::TOTAL_KINDS_BIT) != 0
}

/// Returns which lookups in the network stack are made.
#[inline(always)]
pub(crate) fn lookups() -> u64 {
    TG_LOOKUPS.load()
}

/// Returns whether refused frames are sampled as events.
#[inline(always)]
pub(crate) fn sampling() -> bool {
    TG_SAMPLING_ON.load() != 0
}

/// The policy of the generation to which this program belongs.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn setting(&self, setting: Setting) -> u64 {
        match setting {
            Setting::Guarded => TG_GUARDED.load(),
            Setting::Enforcing => TG_ENFORCING.load(),
            Setting::Any => TG_ANY.load(),
            Setting::NewConnections => TG_NEW_CONNS.load(),
            Setting::LimitsConnections => TG_LIMITS_CONNS.load(),
            Setting::LimitsVolume => TG_LIMITS_VOL.load(),
            Setting::PerSource => TG_PER_SOURCE.load(),
            Setting::Kinds => TG_KINDS.load(),
            Setting::GuardsForwarded => TG_FORWARDED.load(),
            Setting::Tcp => TG_TCP.load(),
            Setting::Udp => TG_UDP.load(),
            Setting::Sctp => TG_SCTP.load(),
        }
    }

    #[inline(always)]
    fn port_at(&self, index: usize) -> Port {
        port_table::port_entry(TG_PORTS.get(index).unwrap_or(port_table::PORT_UNGUARDED))
    }

    #[inline(always)]
    fn unpacks(&self, protocol: u8) -> bool {
        let word = match protocol >> 6 {
            0 => TG_UNPACKS0.load(),
            1 => TG_UNPACKS1.load(),
            2 => TG_UNPACKS2.load(),
            _ => TG_UNPACKS3.load(),
        };
        word >> (protocol & 63) & 1 != 0
    }

    #[inline(always)]
    fn find(&self, addr: &Addr) -> Found {
        match *addr {
            Addr::V4(addr) => trie::find(&Trie4, addr),
            Addr::V6(halves) => trie::find(&Trie6, halves),
        }
    }

    #[inline(always)]
    fn class(&self, class: u16) -> Source {
        TG_CLASSES.get(class.into()).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn service(&self, slot: u8) -> Option<&Service> {
        TG_SERVICES.get(slot.into())
    }
}

struct Trie4;

impl Arrays<u32> for Trie4 {
    #[inline(always)]
    fn begin(&self) -> Root<u32> {
        Root { shared: TG_SHARED4.load() as u32, skip: TG_SKIP4.load() as u32 }
    }

    #[inline(always)]
    fn root(&self, index: usize) -> Option<Entry> {
        TG_ROOT4.get(index)
    }

    #[inline(always)]
    fn node(&self, index: u32) -> Option<&Node> {
        TG_NODES4.get(index)
    }

    #[inline(always)]
    fn leaf(&self, index: u32) -> Option<&Leaf<u32>> {
        TG_LEAVES4.get(index)
    }
}

struct Trie6;

impl Arrays<[u64; 2]> for Trie6 {
    #[inline(always)]
    fn begin(&self) -> Root<[u64; 2]> {
        Root { shared: [TG_SHARED6A.load(), TG_SHARED6B.load()], skip: TG_SKIP6.load() as u32 }
    }

    #[inline(always)]
    fn root(&self, index: usize) -> Option<Entry> {
        TG_ROOT6.get(index)
    }

    #[inline(always)]
    fn node(&self, index: u32) -> Option<&Node> {
        TG_NODES6.get(index)
    }

    #[inline(always)]
    fn leaf(&self, index: u32) -> Option<&Leaf<[u64; 2]>> {
        TG_LEAVES6.get(index)
    }
}
