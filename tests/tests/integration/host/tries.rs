//! The compiled tries compared with longest-prefix match by definition.
#![expect(clippy::print_stdout, reason = "the printed seed reproduces a failure")]

use std::{collections::BTreeSet, fs};

use guard_common::{
    layout::{MAX_LEAVES, MAX_NODES, MAX_PREFIXES},
    trie::{self, Arrays, Entry, Found, Leaf, Node, ROOT_LEN, Root},
};
use guard_test_support::repetitions;
use guard_tests::random::{self, Random};
use guard_user::policy::trie::{Family, Item, Trie};

/// Returns the number of prefix sets for each family.
fn sets() -> usize {
    repetitions(2_000, 20_000)
}

/// A prefix: its bits from the top of a word, and its length.
pub(crate) type Prefix = (u128, u32);

/// An address family in the tests.
pub(crate) trait Address: Family + std::fmt::Debug {
    /// Returns the address whose bits are the most significant ones of `bits`.
    fn of(bits: u128) -> Self;
}

impl Address for u32 {
    fn of(bits: u128) -> Self {
        u32::try_from(bits >> 96).expect("32 bits")
    }
}

impl Address for [u64; 2] {
    fn of(bits: u128) -> Self {
        [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).expect("64 bits"))
    }
}

fn mask(len: u32) -> u128 {
    !u128::MAX.checked_shr(len).unwrap_or(0)
}

fn bits(random: &mut Random) -> u128 {
    u128::from(random.word()) << 64 | u128::from(random.word())
}

/// Returns a prefix length, mostly near the boundaries at which tries tend to have errors: of the direct
/// table, of nodes, of words and of addresses.
fn length(random: &mut Random, max_len: u32) -> u32 {
    const BOUNDARIES: [u32; 24] = [
        0, 1, 2, 15, 16, 17, 21, 22, 23, 24, 27, 28, 29, 31, 32, 48, 63, 64, 65, 66, 122, 126, 127,
        128,
    ];
    let len = if random.chance(60) {
        *random.pick(&BOUNDARIES)
    } else {
        u32::try_from(random.below(129)).expect("a length")
    };
    len.min(max_len)
}

/// Returns a set of prefixes of one or several kinds: scattered, a cluster under one prefix, a chain of
/// nested ones, neighbours.
pub(crate) fn set(random: &mut Random, max_len: u32) -> BTreeSet<Prefix> {
    let mut set = BTreeSet::new();
    for _ in 0..random.below(4) {
        let base = bits(random);
        let len = length(random, max_len);
        let count = random.below(*random.clone().pick(&[2, 10, 80]));
        let kind = random.below(4);
        for nth in 0..count {
            let (bits, len) = match kind {
                0 => (bits(random), length(random, max_len)),
                1 => {
                    (base & mask(len) | bits(random) & !mask(len), length(random, max_len).max(len))
                }
                2 => (base, length(random, max_len)),
                _ => {
                    let step = 1_u128.checked_shl(128 - len).unwrap_or(0);
                    (base.wrapping_add(step.wrapping_mul(nth as u128)), len)
                }
            };
            set.insert((bits & mask(len), len));
        }
    }
    set
}

/// Assigns few classes, so that neighbours often share one, and buckets to some hosts.
pub(crate) fn items<K: Address>(set: &BTreeSet<Prefix>, random: &mut Random) -> Vec<Item<K>> {
    let mut buckets = 0;
    set.iter()
        .map(|&(bits, len)| {
            let class = u16::try_from(random.below(4)).expect("a class");
            let has_buckets = len == K::BITS && random.chance(50);
            buckets += u32::from(has_buckets);
            let found = Found { class, buckets: if has_buckets { buckets } else { 0 } };
            Item { prefix: K::of(bits), len, found }
        })
        .collect()
}

/// Finds the longest prefix that contains the address, by comparing with all of them.
fn by_definition<K: Address>(items: &[Item<K>], key: K) -> Found {
    let matching = items.iter().filter(|item| item.prefix == key.first_bits(item.len));
    matching.max_by_key(|item| item.len).map_or(Found::default(), |item| item.found)
}

/// Returns addresses at the edges of the prefixes, near them, and arbitrary ones.
pub(crate) fn probes(set: &BTreeSet<Prefix>, random: &mut Random, max_len: u32) -> Vec<u128> {
    let one = 1_u128 << (128 - max_len);
    let mut probes = vec![0, u128::MAX, bits(random)];
    for &(first, len) in set {
        let last = first | !mask(len);
        let near = first ^ 1_u128 << random.below(128);
        probes.extend([first.wrapping_sub(one), first, last, last.wrapping_add(one), near]);
    }
    probes
}

#[test]
fn a_trie_finds_the_longest_prefix() {
    let seed = random::seed();
    println!("TRAINGUARD_SEED={seed}");
    let mut random = Random::new(seed);
    let probed = finds_the_longest::<u32>(&mut random) + finds_the_longest::<[u64; 2]>(&mut random);
    println!("{probed} addresses in {} sets", 2 * sets());
    assert!(probed > 100 * sets(), "only {probed} addresses");
}

fn finds_the_longest<K: Address>(random: &mut Random) -> usize {
    let mut probed = 0;
    for nth in 0..sets() {
        let set = set(random, K::BITS);
        let items = items::<K>(&set, random);
        let trie = Trie::new(&items);
        assert!(trie.nodes().len() <= 2 * items.len(), "set {nth}: {} nodes", trie.nodes().len());
        assert!(
            trie.leaves().len() <= 4 * items.len(),
            "set {nth}: {} leaves",
            trie.leaves().len()
        );
        for probe in probes(&set, random, K::BITS) {
            let key = K::of(probe);
            let expected = by_definition(&items, key);
            assert_eq!(trie.find(key), expected, "set {nth}: {key:?} in {items:?}");
            probed += 1;
        }
    }
    probed
}

/// The maximum number of prefixes in a policy, scattered and of mixed lengths, which is the worst case
/// for storage.
#[test]
fn a_million_prefixes_fit() {
    let mut random = Random::new(1);
    fits::<u32>(&mut random, 8);
    fits::<[u64; 2]>(&mut random, 24);
    let status = fs::read_to_string("/proc/self/status").expect("the process's status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    println!("peak memory of this process: {}", peak.trim());
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 1 << 20, "{kib} KiB");
}

fn fits<K: Address + Ord>(random: &mut Random, shortest: u32) {
    let span = usize::try_from(K::BITS - shortest + 1).expect("a length");
    let mut set = BTreeSet::new();
    while set.len() < MAX_PREFIXES as usize {
        let len = shortest + u32::try_from(random.below(span)).expect("a length");
        set.insert((bits(random) & mask(len), len));
    }
    let items = items::<K>(&set, random);
    drop(set);
    let trie = Trie::new(&items);
    println!(
        "{} prefixes of {} bits: {} nodes, {} leaves, {} KiB",
        items.len(),
        K::BITS,
        trie.nodes().len(),
        trie.leaves().len(),
        trie.bytes() / 1024
    );
    assert!(trie.nodes().len() <= MAX_NODES as usize);
    assert!(trie.leaves().len() <= MAX_LEAVES as usize);
    for item in items.iter().step_by(997) {
        let found = trie.find(item.prefix);
        let longest = items.partition_point(|other| other.prefix <= item.prefix);
        let same = items[..longest].iter().rev().find(|other| other.prefix == item.prefix);
        assert_eq!(Some(found), same.map(|other| other.found));
    }
}

/// Arrays with arbitrary contents.
struct Garbage {
    nodes: Vec<Node>,
    leaves: Vec<Leaf<[u64; 2]>>,
    root: Vec<Entry>,
    begin: Root<[u64; 2]>,
}

impl Arrays<[u64; 2]> for Garbage {
    fn begin(&self) -> Root<[u64; 2]> {
        self.begin
    }
    fn root(&self, index: usize) -> Option<Entry> {
        self.root.get(index % self.root.len()).copied()
    }
    fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(index as usize)
    }
    fn leaf(&self, index: u32) -> Option<&Leaf<[u64; 2]>> {
        self.leaves.get(index as usize)
    }
}

#[test]
fn a_lookup_ends_for_any_contents_of_the_arrays() {
    let mut random = Random::new(random::seed());
    for _ in 0..20_000 {
        let entry = |random: &mut Random| match random.below(3) {
            0 => Entry::class(random.short()),
            1 => Entry::leaf(u32::try_from(random.below(12)).expect("an index")),
            _ => Entry::node(u32::try_from(random.below(12)).expect("an index")),
        };
        let garbage = Garbage {
            nodes: (0..10)
                .map(|_| Node {
                    children: random.word(),
                    leaves: random.word(),
                    first_child: u32::from(random.byte() % 4),
                    first_leaf: random.byte().into(),
                    class: random.short().into(),
                    padding: 0,
                })
                .collect(),
            leaves: (0..10)
                .map(|_| Leaf {
                    prefix: [random.word(), 0],
                    inside: entry(&mut random),
                    buckets: 0,
                    outside: random.short(),
                    len: random.byte(),
                    ..Leaf::default()
                })
                .collect(),
            root: (0..ROOT_LEN.min(64))
                .map(|_| entry(&mut random).occupied(random.byte()))
                .collect(),
            begin: Root {
                shared: [0; 2],
                skip: if random.chance(50) { 0 } else { random.short().into() },
            },
        };
        trie::find(&garbage, [random.word(), random.word()]);
    }
}
