//! Compiling prefixes into the arrays that [`guard_common::trie`] walks.

use guard_common::trie::{
    self, Entry, Found, Key, Leaf, Node, PEEK_BITS, ROOT_BITS, ROOT_LEN, Root, SLOTS, STRIDE,
};

/// A prefix and what is known of the addresses of which it is the longest one.
#[derive(Debug, Clone, Copy)]
pub struct Item<K> {
    /// The prefix; host bits are zero.
    pub prefix: K,
    /// Its length in bits.
    pub len: u32,
    /// What is known.
    pub found: Found,
}

/// A set of prefixes, compiled.
#[derive(Debug, Clone)]
pub struct Trie<K: Key> {
    begin: Root<K>,
    root: Box<[Entry]>,
    nodes: Vec<Node>,
    leaves: Vec<Leaf<K>>,
}

/// What a family needs for compiling and not for walking.
pub trait Family: Key + Default {
    /// Bits that two addresses share at the beginning.
    fn shared_bits(self, other: Self) -> u32;
    /// The first `len` bits, and zeros.
    #[must_use]
    fn first_bits(self, len: u32) -> Self;
    /// [`Trie::new`], compiled here and not, less optimised, where it is called.
    #[doc(hidden)]
    fn compile(items: &[Item<Self>]) -> Trie<Self>;
}

impl Family for u32 {
    fn shared_bits(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }

    fn first_bits(self, len: u32) -> Self {
        self & !Self::MAX.checked_shr(len).unwrap_or(0)
    }

    // Inlined, it would be compiled where it is called after all.
    #[inline(never)]
    fn compile(items: &[Item<Self>]) -> Trie<Self> {
        Trie::compile(items)
    }
}

impl Family for [u64; 2] {
    fn shared_bits(self, other: Self) -> u32 {
        (whole(self) ^ whole(other)).leading_zeros()
    }

    fn first_bits(self, len: u32) -> Self {
        halves(whole(self) & !u128::MAX.checked_shr(len).unwrap_or(0))
    }

    // Inlined, it would be compiled where it is called after all.
    #[inline(never)]
    fn compile(items: &[Item<Self>]) -> Trie<Self> {
        Trie::compile(items)
    }
}

/// An IPv6 address as tries have it.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
pub fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

fn whole([high, low]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

impl<K: Family> Trie<K> {
    /// Compiles prefixes, sorted by address and then by length, none twice.
    pub fn new(items: &[Item<K>]) -> Self {
        K::compile(items)
    }

    fn compile(items: &[Item<K>]) -> Self {
        let begin = begin(items);
        let depth = begin.skip + ROOT_BITS;
        let mut trie = Self {
            begin,
            root: vec![Entry::UNKNOWN; ROOT_LEN].into_boxed_slice(),
            nodes: Vec::new(),
            leaves: Vec::new(),
        };
        if items.is_empty() {
            return trie;
        }
        let slot_of = |key: K| key.skip(begin.skip).first::<ROOT_BITS>() as usize;
        let slots = slots(items, depth, ROOT_LEN, 0, slot_of);
        // Most of the direct table is unknown, as it was made.
        for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| !slot.is_unknown()) {
            let entry = match slot.content(depth) {
                Content::Class(class) => Entry::class(class),
                Content::Leaf(leaf, beyond) => {
                    let at = trie.leaves.len();
                    trie.leaves.push(leaf);
                    trie.follow(at, beyond);
                    Entry::leaf(number(at))
                }
                Content::Node(region) => Entry::node(number(trie.add_node(region))),
            };
            if let Some(at) = trie.root.get_mut(index) {
                *at = entry.occupied(occupied(slot, depth));
            }
        }
        trie
    }

    /// What is known of an address.
    pub fn find(&self, key: K) -> Found {
        trie::find(self, key)
    }

    /// Where it begins.
    pub fn begin(&self) -> Root<K> {
        self.begin
    }

    /// The direct table.
    pub fn root(&self) -> &[Entry] {
        &self.root
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The leaves.
    pub fn leaves(&self) -> &[Leaf<K>] {
        &self.leaves
    }

    /// Bytes of all arrays.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.root) + size_of_val(&*self.nodes) + size_of_val(&*self.leaves)
    }

    fn add_node(&mut self, region: Region<'_, K>) -> usize {
        let at = self.nodes.len();
        self.nodes.push(Node::default());
        self.fill(at, region);
        at
    }

    /// Fills a node. Its leaves and its children lie side by side, so they get their places first
    /// and their contents afterwards.
    fn fill(&mut self, at: usize, region: Region<'_, K>) {
        let Region { items, depth, class } = region.entered();
        let mut node = Node {
            first_child: number(self.nodes.len()),
            first_leaf: number(self.leaves.len()),
            class: class.into(),
            ..Node::default()
        };
        let mut children = Vec::new();
        let mut beyond = Vec::new();
        let mut last = None;
        let slots = slots(items, depth + STRIDE, SLOTS, class, |key| {
            key.skip(depth).first::<STRIDE>() as usize
        });
        for (slot, bit) in slots.iter().zip((0..).map(|nth| 1_u64 << nth)) {
            match slot.content(depth + STRIDE) {
                Content::Class(of_slot) if of_slot == class => {}
                Content::Class(of_slot) => {
                    let found = Found { class: of_slot, buckets: 0 };
                    self.add_leaf(&mut node, bit, constant(found), &mut last);
                }
                Content::Leaf(leaf, None) => self.add_leaf(&mut node, bit, leaf, &mut last),
                Content::Leaf(leaf, Some(region)) => {
                    beyond.push((self.leaves.len(), region));
                    last = None;
                    self.add_leaf(&mut node, bit, leaf, &mut last);
                    last = None;
                }
                Content::Node(region) => {
                    node.children |= bit;
                    children.push(region);
                }
            }
        }
        let first_child = self.nodes.len();
        self.nodes.resize(first_child + children.len(), Node::default());
        if let Some(place) = self.nodes.get_mut(at) {
            *place = node;
        }
        for (nth, region) in children.into_iter().enumerate() {
            self.fill(first_child + nth, region);
        }
        for (leaf, region) in beyond {
            self.follow(leaf, Some(region));
        }
    }

    /// Puts a leaf into a slot: the last one once more, if it is the same.
    fn add_leaf(&mut self, node: &mut Node, bit: u64, leaf: Leaf<K>, last: &mut Option<Leaf<K>>) {
        node.leaves |= bit;
        if *last == Some(leaf) {
            node.children |= bit;
        } else {
            self.leaves.push(leaf);
            *last = Some(leaf);
        }
    }

    /// Lets a leaf lead on to what lies in its prefix.
    fn follow(&mut self, leaf: usize, region: Option<Region<'_, K>>) {
        let Some(region) = region else { return };
        let node = number(self.add_node(region));
        if let Some(leaf) = self.leaves.get_mut(leaf) {
            leaf.inside = Entry::node(node);
        }
    }
}

impl<K: Key> trie::Arrays<K> for Trie<K> {
    fn begin(&self) -> Root<K> {
        self.begin
    }

    fn root(&self, index: usize) -> Option<Entry> {
        self.root.get(index).copied()
    }

    fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(usize::try_from(index).ok()?)
    }

    fn leaf(&self, index: u32) -> Option<&Leaf<K>> {
        self.leaves.get(usize::try_from(index).ok()?)
    }
}

/// Where a trie of these prefixes begins.
fn begin<K: Family>(items: &[Item<K>]) -> Root<K> {
    let (Some(first), Some(last)) = (items.first(), items.last()) else {
        return Root::default();
    };
    // Sorted: what the first and the last share, all share.
    let shortest = items.iter().map(|item| item.len).min().unwrap_or_default();
    let skip = first.prefix.shared_bits(last.prefix).min(shortest).min(K::BITS - ROOT_BITS);
    Root { shared: first.prefix.first_bits(skip), skip }
}

/// Prefixes that agree in their first `depth` bits, within a prefix of this class.
struct Region<'a, K> {
    items: &'a [Item<K>],
    depth: u32,
    class: u16,
}

impl<K> Region<'_, K> {
    /// Without the prefix that is the region itself: it is the class of all that is in it.
    fn entered(self) -> Self {
        match self.items.split_first() {
            Some((first, items)) if first.len == self.depth => {
                Self { items, class: first.found.class, ..self }
            }
            _ => self,
        }
    }
}

/// One slot of a node, or of the direct table.
#[derive(Clone, Copy)]
struct Slot<'a, K> {
    /// Of the shortest prefixes that cover all of it, the longest.
    cover: Found,
    /// The prefixes within it.
    inside: &'a [Item<K>],
}

/// What is to be said of a slot.
enum Content<'a, K: Key> {
    /// All of it is of this class.
    Class(u16),
    /// A leaf, and the region behind it.
    Leaf(Leaf<K>, Option<Region<'a, K>>),
    /// Branches at once.
    Node(Region<'a, K>),
}

impl<'a, K: Family> Slot<'a, K> {
    /// Whether no prefix covers it and none lies in it.
    fn is_unknown(&self) -> bool {
        self.inside.is_empty() && self.cover == Found::default()
    }

    /// `depth`: bits that are resolved where the slot is.
    fn content(&self, depth: u32) -> Content<'a, K> {
        let [first, .., last] = self.inside else {
            return match (self.inside, self.cover) {
                ([item], cover) => Content::Leaf(
                    Leaf {
                        prefix: item.prefix,
                        inside: Entry::class(item.found.class),
                        buckets: item.found.buckets,
                        outside: cover.class,
                        len: length(item.len),
                        ..Leaf::default()
                    },
                    None,
                ),
                (_, Found { class, buckets: 0 }) => Content::Class(class),
                (_, cover) => Content::Leaf(constant(cover), None),
            };
        };
        let shared = first.prefix.shared_bits(last.prefix).min(first.len);
        let class = self.cover.class;
        if shared <= depth + STRIDE {
            return Content::Node(Region { items: self.inside, depth, class });
        }
        // More than one node's worth of bits is the same in all of them: compared, not walked.
        let leaf = Leaf {
            prefix: first.prefix.first_bits(shared),
            outside: class,
            len: length(shared),
            ..Leaf::default()
        };
        Content::Leaf(leaf, Some(Region { items: self.inside, depth: shared, class }))
    }
}

/// Where in a slot of the direct table, which resolves `depth` bits, something is known.
fn occupied<K: Family>(slot: &Slot<'_, K>, depth: u32) -> u8 {
    if slot.cover != Found::default() {
        return u8::MAX;
    }
    let eighths = slot.inside.iter().map(|item| {
        // A prefix shorter than that covers several. What follows its own bits may be anything.
        let free = (depth + PEEK_BITS).saturating_sub(item.len);
        let first = (item.prefix.skip(depth).first::<PEEK_BITS>() >> free) << free;
        let count = 1 << free;
        (first..first + count).fold(0, |eighths, eighth| eighths | 1_u8 << eighth)
    });
    eighths.fold(0, |all, some| all | some)
}

/// A leaf that holds for all addresses.
fn constant<K: Key + Default>(found: Found) -> Leaf<K> {
    Leaf { inside: Entry::class(found.class), buckets: found.buckets, ..Leaf::default() }
}

/// Sorts prefixes into slots, which resolve `depth` bits in all.
fn slots<K: Family>(
    items: &[Item<K>],
    depth: u32,
    count: usize,
    class: u16,
    slot_of: impl Fn(K) -> usize,
) -> Vec<Slot<'_, K>> {
    let outer = Slot { cover: Found { class, buckets: 0 }, inside: &[] };
    let mut slots: Vec<Slot<'_, K>> = vec![outer; count];
    let mut rest = items;
    while let Some(item) = rest.first() {
        let slot = slot_of(item.prefix);
        // How many of the first ones are dealt with.
        let mut done = 1;
        if let Some(host_bits) = depth.checked_sub(item.len) {
            let covered = slots.iter_mut().skip(slot).take(1 << host_bits);
            covered.for_each(|slot| slot.cover = item.found);
        } else {
            // A prefix that covers the slot comes before all that are in it.
            done = rest.partition_point(|item| slot_of(item.prefix) <= slot);
            if let Some(slot) = slots.get_mut(slot) {
                slot.inside = rest.get(..done).unwrap_or_default();
            }
        }
        rest = rest.get(done..).unwrap_or_default();
    }
    slots
}

/// The index of a map: there are at most 2^22 of anything (`MAX_LEAVES`).
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// A length, which is at most 128.
fn length(bits: u32) -> u8 {
    u8::try_from(bits).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hosts that differ in bit 112: the direct table reaches to bit 127, and what is looked at
    /// beyond comes in from the front of the address, here `11`.
    #[test]
    fn what_lies_beyond_an_address_says_nothing() {
        let host = |low: u64| Item {
            prefix: [0xfd00 << 48, low],
            len: 128,
            found: Found { class: 1, buckets: 0 },
        };
        let items = [host(1), host(1 << 16)];
        let depth = begin(&items).skip + ROOT_BITS;
        assert_eq!(depth, 127);
        let inside = |at: usize| Slot { cover: Found::default(), inside: &items[at..=at] };
        assert_eq!(occupied(&inside(0), depth), 0b1111_0000, "the last bit is 1");
        assert_eq!(occupied(&inside(1), depth), 0b0000_1111, "the last bit is 0");
    }
}
