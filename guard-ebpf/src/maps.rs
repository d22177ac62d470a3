//! The maps and read-only globals, and the policy's tables over them.
//!
//! Names and layouts are those of `guard_common::{names, layout}`.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
    macros::btf_map,
};
use guard_common::{
    Addr, Tables,
    event::Event,
    flow::Transport,
    layout::{
        self, BucketStates, COUNTERS, Counter, EVENT_RING_BYTES, LABELS, Label, MAX_INTERFACES,
        MAX_MEMBER_BUCKETS, MAX_PREFIXES, MemberKey, Sampling, SourceEntry, TransportPorts,
    },
    limit::HASHED_BUCKETS,
    tables::{Port, Service, Settings, Source},
    verdict::{MAX_SERVICES, Reason},
};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

// Of one generation: filled before the program is attached, never changed after.

#[btf_map]
static TG_PORTS: Array<TransportPorts, { Transport::ALL.len() }> = Array::new();
#[btf_map]
static TG_SERVICES: Array<Service, { MAX_SERVICES as usize }> = Array::new();
// Keys in network byte order: the trie compares the first byte first.
#[btf_map]
static TG_SOURCES4: LpmTrie<u32, SourceEntry, { MAX_PREFIXES as usize }> = LpmTrie::new();
#[btf_map]
static TG_SOURCES6: LpmTrie<[u64; 2], SourceEntry, { MAX_PREFIXES as usize }> = LpmTrie::new();

// Shared by all generations, pinned.

#[btf_map]
pub(crate) static TG_COUNTERS: PerCpuArray<Counter, { COUNTERS as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static TG_INTERFACES: HashMap<u32, u32, { MAX_INTERFACES as usize }> = HashMap::new();
#[btf_map]
pub(crate) static TG_MEMBERS: HashMap<
    MemberKey,
    BucketStates,
    { MAX_MEMBER_BUCKETS as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map]
pub(crate) static TG_HASHED: Array<BucketStates, { HASHED_BUCKETS as usize }> = Array::new();
#[btf_map]
pub(crate) static TG_TOTALS: Array<BucketStates, { MAX_SERVICES as usize }> = Array::new();
/// Not read here: what the slots and rows are, for whoever reads the counters.
#[btf_map]
static TG_LABELS: Array<Label, { LABELS as usize }> = Array::new();
#[btf_map]
pub(crate) static TG_EVENTS: RingBuf<Event, { EVENT_RING_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub(crate) static TG_SAMPLING: PerCpuArray<Sampling, { Reason::COUNT as usize }> =
    PerCpuArray::new();

// Constants of one generation. The verifier knows their values and removes what they rule out.

#[unsafe(no_mangle)]
static TG_GUARDED: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_ENFORCING: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_ANY: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TG_LIMITS: Global<u64> = Global::new(0);
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
static TG_SAMPLING_ON: Global<u64> = Global::new(0);

/// The secret key of hashed buckets.
#[inline(always)]
pub(crate) fn hash_key() -> [u64; 2] {
    [TG_KEY0.load(), TG_KEY1.load()]
}

/// Whether drop events are wanted.
#[inline(always)]
pub(crate) fn sampling() -> bool {
    TG_SAMPLING_ON.load() != 0
}

/// The policy of the generation that this program belongs to.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn settings(&self) -> Settings {
        Settings {
            guarded: TG_GUARDED.load(),
            enforcing: TG_ENFORCING.load(),
            any: TG_ANY.load(),
            limits: TG_LIMITS.load(),
        }
    }

    #[inline(always)]
    fn port(&self, transport: Transport, port: u16) -> Port {
        let Some(table) = TG_PORTS.get(transport as u32) else {
            return Port::Unguarded;
        };
        let entry = table.get(usize::from(port));
        layout::port_entry(entry.copied().unwrap_or(layout::PORT_UNGUARDED))
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
    fn source(&self, addr: &Addr) -> Source {
        let found = match *addr {
            Addr::V4(addr) => TG_SOURCES4.get(&Key::new(32, addr.to_be())),
            Addr::V6([high, low]) => TG_SOURCES6.get(&Key::new(128, [high.to_be(), low.to_be()])),
        };
        found.copied().unwrap_or_default().into()
    }

    #[inline(always)]
    fn service(&self, slot: u8) -> Option<&Service> {
        TG_SERVICES.get(slot.into())
    }
}
