//! Compiles prefixes to the arrays that [`guard_common::trie`] searches.

use guard_common::trie::{
    self, Entry, Found, Key, Leaf, Node, PEEK_BITS, ROOT_BITS, ROOT_LEN, Root, SLOTS, STRIDE,
};

/// A prefix and the result for addresses whose longest match it is.
#[derive(Debug, Clone, Copy)]
pub struct Item<K> {
    /// The prefix; bits beyond the length are zero.
    pub prefix: K,
    /// Prefix length in bits.
    pub len: u32,
    /// The result of the search.
    pub found: Found,
}

/// A compiled set of prefixes of one address family.
///
/// # Examples
///
/// ```
/// use guard_common::trie::Found;
/// use guard_tables::trie::{Item, Trie};
///
/// let found = Found { class: 1, buckets: 0 };
/// let ten = Item { prefix: 0x0a00_0000_u32, len: 8, found };
/// let trie = Trie::new(&[ten]);
/// assert_eq!(trie.find(0x0a01_0203), found, "10.1.2.3 is in 10.0.0.0/8");
/// assert_eq!(trie.find(0xc000_0201), Found::default(), "192.0.2.1 is not");
/// ```
#[derive(Debug, Clone)]
pub struct Trie<K: Key> {
    begin: Root<K>,
    root: Box<[Entry]>,
    nodes: Vec<Node>,
    leaves: Vec<Leaf<K>>,
}

/// Operations on addresses that compiling needs and searching does not.
pub trait Family: Key + Default {
    /// Returns the number of leading bits that two addresses share.
    fn shared_bits(self, other: Self) -> u32;
    /// Returns the first `len` bits; the rest is zero.
    #[must_use]
    fn first_bits(self, len: u32) -> Self;
    /// The body of [`Trie::new`], compiled in this crate, which is optimised, instead of in the
    /// caller's.
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

    // Inlining would compile it in the caller's crate.
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

    // Inlining would compile it in the caller's crate.
    #[inline(never)]
    fn compile(items: &[Item<Self>]) -> Trie<Self> {
        Trie::compile(items)
    }
}

/// Returns an IPv6 address as tries represent it: the high and the low 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
pub fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

fn whole([high, low]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

impl<K: Family> Trie<K> {
    /// Compiles prefixes, which must be sorted by address and then by length, without duplicates.
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
        // All entries are initialised to unknown, so only the others are written.
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

    /// Returns the result of the longest prefix that covers an address.
    pub fn find(&self, key: K) -> Found {
        trie::find(self, key)
    }

    /// Returns the leading bits that all prefixes share.
    pub fn begin(&self) -> Root<K> {
        self.begin
    }

    /// Returns the direct table.
    pub fn root(&self) -> &[Entry] {
        &self.root
    }

    /// Returns the inner nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the leaves.
    pub fn leaves(&self) -> &[Leaf<K>] {
        &self.leaves
    }

    /// Returns the size of all arrays in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.root) + size_of_val(&*self.nodes) + size_of_val(&*self.leaves)
    }

    fn add_node(&mut self, region: Region<'_, K>) -> usize {
        let at = self.nodes.len();
        self.nodes.push(Node::default());
        self.fill(at, region);
        at
    }

    /// Fills a node. The children of a node must be adjacent, and so must its leaves, so places are
    /// reserved first and filled afterwards.
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

    /// Adds a leaf for a slot. If it equals the leaf of the slot before, that one is used again.
    fn add_leaf(&mut self, node: &mut Node, bit: u64, leaf: Leaf<K>, last: &mut Option<Leaf<K>>) {
        node.leaves |= bit;
        if *last == Some(leaf) {
            node.children |= bit;
        } else {
            self.leaves.push(leaf);
            *last = Some(leaf);
        }
    }

    /// Makes a leaf continue at a node for the prefixes within its own prefix.
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

/// Returns the leading bits that all these prefixes share.
fn begin<K: Family>(items: &[Item<K>]) -> Root<K> {
    let (Some(first), Some(last)) = (items.first(), items.last()) else {
        return Root::default();
    };
    // The items are sorted, so the bits that the first and the last share are shared by all.
    let shortest = items.iter().map(|item| item.len).min().unwrap_or_default();
    let skip = first.prefix.shared_bits(last.prefix).min(shortest).min(K::BITS - ROOT_BITS);
    Root { shared: first.prefix.first_bits(skip), skip }
}

/// Prefixes that share their first `depth` bits, within a prefix of this class.
struct Region<'a, K> {
    items: &'a [Item<K>],
    depth: u32,
    class: u16,
}

impl<K> Region<'_, K> {
    /// Removes the prefix that is the region itself, if any: its class becomes the class of the region.
    fn entered(self) -> Self {
        match self.items.split_first() {
            Some((first, items)) if first.len == self.depth => {
                Self { items, class: first.found.class, ..self }
            }
            _ => self,
        }
    }
}

/// One slot of a node or of the direct table.
#[derive(Clone, Copy)]
struct Slot<'a, K> {
    /// Result of the longest prefix that covers the whole slot.
    cover: Found,
    /// Prefixes within the slot.
    inside: &'a [Item<K>],
}

/// What to store for a slot.
enum Content<'a, K: Key> {
    /// The whole slot has this class.
    Class(u16),
    /// A leaf, and the region that follows it.
    Leaf(Leaf<K>, Option<Region<'a, K>>),
    /// The prefixes diverge within this node's bits.
    Node(Region<'a, K>),
}

impl<'a, K: Family> Slot<'a, K> {
    /// Reports whether no prefix covers the slot and none is within it.
    fn is_unknown(&self) -> bool {
        self.inside.is_empty() && self.cover == Found::default()
    }

    /// Returns what to store for the slot. `depth` is the number of bits resolved when the search
    /// reaches it.
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
        // The prefixes share more bits than one node resolves: one comparison replaces several nodes.
        let leaf = Leaf {
            prefix: first.prefix.first_bits(shared),
            outside: class,
            len: length(shared),
            ..Leaf::default()
        };
        Content::Leaf(leaf, Some(Region { items: self.inside, depth: shared, class }))
    }
}

/// Returns which eighths of a slot of the direct table contain known addresses, as a bit mask. `depth`
/// is the number of bits that the direct table resolves.
fn occupied<K: Family>(slot: &Slot<'_, K>, depth: u32) -> u8 {
    if slot.cover != Found::default() {
        return u8::MAX;
    }
    let eighths = slot.inside.iter().map(|item| {
        // A prefix shorter than `depth + PEEK_BITS` covers several eighths. Its bits beyond the length
        // are arbitrary here and are cleared.
        let free = (depth + PEEK_BITS).saturating_sub(item.len);
        let first = (item.prefix.skip(depth).first::<PEEK_BITS>() >> free) << free;
        let count = 1 << free;
        (first..first + count).fold(0, |eighths, eighth| eighths | 1_u8 << eighth)
    });
    eighths.fold(0, |all, some| all | some)
}

/// Returns a leaf that matches every address.
fn constant<K: Key + Default>(found: Found) -> Leaf<K> {
    Leaf { inside: Entry::class(found.class), buckets: found.buckets, ..Leaf::default() }
}

/// Sorts prefixes into slots; `depth` is the number of bits resolved when the search reaches a slot.
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
        // Number of leading items that this iteration handles.
        let mut done = 1;
        if let Some(host_bits) = depth.checked_sub(item.len) {
            let covered = slots.iter_mut().skip(slot).take(1 << host_bits);
            covered.for_each(|slot| slot.cover = item.found);
        } else {
            // A prefix that covers the whole slot sorts before all prefixes within it.
            done = rest.partition_point(|item| slot_of(item.prefix) <= slot);
            if let Some(slot) = slots.get_mut(slot) {
                slot.inside = rest.get(..done).unwrap_or_default();
            }
        }
        rest = rest.get(done..).unwrap_or_default();
    }
    slots
}

/// Converts an index to 32 bits; there are at most 2^22 entries of any kind (`MAX_LEAVES`).
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Converts a prefix length, at most 128, to 8 bits.
fn length(bits: u32) -> u8 {
    u8::try_from(bits).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hosts that differ in bit 112: the direct table resolves up to bit 127, and the bits that are
    /// peeked at beyond the end wrap around from the front of the address, here `11`.
    #[test]
    fn bits_beyond_the_end_of_an_address_are_ignored() {
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
