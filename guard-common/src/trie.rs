//! Longest-prefix match over a compiled set of prefixes, in a few loads from memory.
//!
//! The structure is a poptrie (Asai and Ohara, SIGCOMM 2015) with path compression. A lookup goes
//! through these steps:
//!
//! 1. The bits that all prefixes share are compared at once.
//! 2. A direct table resolves the next 16 bits of the address. Each entry also records which
//!    eighths of its range contain no prefix; the lookup of most unlisted sources ends here.
//! 3. Each node resolves six more bits. The content of a slot is found by counting bits, so nodes
//!    and leaves are packed in plain arrays.
//! 4. Where only one prefix is left, or all that are left share some bits, a leaf holds this prefix
//!    and it is compared in full. The depth therefore depends on the number of branchings and not
//!    on the length of the prefixes.
//!
//! User space builds the arrays, and they never change afterwards. Kernel and host search them with
//! the same code, [`find`]. The search ends whatever the arrays contain, and an address whose
//! entries cannot be followed is unknown.
//!
//! Decision: `docs/decisions/0004-sources-are-compiled.md`.

/// Bits that the direct table resolves, after the bits that all prefixes share.
pub const ROOT_BITS: u32 = 16;
/// Number of entries of the direct table.
pub const ROOT_LEN: usize = 1 << ROOT_BITS;
/// Bits after those of the direct table that select one of the eighths of an entry.
pub const PEEK_BITS: u32 = 3;
/// Bits that one node resolves.
pub const STRIDE: u32 = 6;
/// Number of slots of a node.
pub const SLOTS: usize = 1 << STRIDE;

/// An address of one family. The first octet is the most significant.
pub trait Key: Copy + Eq {
    /// Number of bits of an address.
    const BITS: u32;
    /// Padding that makes the size of a [`Leaf`] of this family a power of two.
    type Padding: Copy + Eq + Default + core::fmt::Debug;
    /// Number of nodes on the longest path.
    const NODES: u32 = (Self::BITS - ROOT_BITS).div_ceil(STRIDE);

    /// Returns the first `LEN` bits, at most 32, as an integer.
    fn first<const LEN: u32>(self) -> u32;

    /// Returns the key without its first `bits`, at most [`Key::BITS`]. The bits that move in at
    /// the end are unspecified: a node that extends beyond the end of the address gives the same
    /// result for all of their values.
    #[must_use]
    fn skip(self, bits: u32) -> Self;

    /// Returns whether the first `len` bits, at most [`Key::BITS`], are equal to those of another
    /// address.
    fn agrees(self, other: Self, len: u32) -> bool;
}

impl Key for u32 {
    const BITS: u32 = 32;
    type Padding = [u8; 1];

    #[inline(always)]
    fn first<const LEN: u32>(self) -> u32 {
        self.wrapping_shr(Self::BITS.wrapping_sub(LEN))
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "what is skipped is cut off")]
    fn skip(self, bits: u32) -> Self {
        u64::from(self).wrapping_shl(bits) as u32
    }

    #[inline(always)]
    fn agrees(self, other: Self, len: u32) -> bool {
        u64::from(self ^ other).wrapping_shr(32_u32.wrapping_sub(len)) == 0
    }
}

impl Key for [u64; 2] {
    const BITS: u32 = 128;
    type Padding = [u8; 5];

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits are left")]
    fn first<const LEN: u32>(self) -> u32 {
        let [high, _] = self;
        high.wrapping_shr(64_u32.wrapping_sub(LEN)) as u32
    }

    #[inline(always)]
    fn skip(self, bits: u32) -> Self {
        let [high, low] = self;
        // A rotation and not a shift, because the verifier tracks the zeros that a shift brings in
        // on every path.
        let (high, low) = if bits & 64 == 0 { (high, low) } else { (low, high) };
        let bits = bits & 63;
        // In two steps, because `wrapping_shr` by 64 does not shift at all.
        let over = |word: u64| (word >> 1).wrapping_shr(63_u32.wrapping_sub(bits));
        [high.wrapping_shl(bits) | over(low), low.wrapping_shl(bits) | over(high)]
    }

    #[inline(always)]
    fn agrees(self, other: Self, len: u32) -> bool {
        let [high, low] = [self[0] ^ other[0], self[1] ^ other[1]];
        if len <= 64 {
            (high >> 1).wrapping_shr(63_u32.wrapping_sub(len)) == 0 && (len < 64 || high == 0)
        } else {
            high == 0 && low.wrapping_shr(128_u32.wrapping_sub(len)) == 0
        }
    }
}

/// The continuation of a search: at a node, at a leaf, or nowhere because the class is found.
///
/// From the lowest bit: class or index (22), occupied eighths (8), kind (2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Entry(u32);

const KIND_BIT: u32 = 30;
const OCCUPIED_BIT: u32 = 22;
/// Largest index of a node or a leaf.
pub const MAX_INDEX: u32 = (1 << OCCUPIED_BIT) - 1;
const CLASS: u32 = 0;
const LEAF: u32 = 1;
const NODE: u32 = 2;

impl Entry {
    /// No address here is known.
    pub const UNKNOWN: Self = Self(0);

    /// Ends the search: all addresses here are of this class.
    pub fn class(class: u16) -> Self {
        Self(CLASS << KIND_BIT | u32::from(class))
    }

    /// Returns the entry with the occupied eighths set, for the direct table: bit `n` is set if the
    /// `n`th eighth of the addresses of this entry contains a prefix. Addresses in the other
    /// eighths are unknown.
    #[must_use]
    pub fn occupied(self, eighths: u8) -> Self {
        Self(self.0 | u32::from(eighths) << OCCUPIED_BIT)
    }

    /// Continues at the leaf with this index, at most [`MAX_INDEX`].
    pub fn leaf(index: u32) -> Self {
        Self(LEAF << KIND_BIT | index & MAX_INDEX)
    }

    /// Continues at the node with this index, at most [`MAX_INDEX`].
    pub fn node(index: u32) -> Self {
        Self(NODE << KIND_BIT | index & MAX_INDEX)
    }

    #[inline(always)]
    fn kind(self) -> u32 {
        self.0 >> KIND_BIT
    }

    #[inline(always)]
    fn is_occupied(self, eighth: u32) -> bool {
        (self.0 >> OCCUPIED_BIT).wrapping_shr(eighth) & 1 != 0
    }

    #[inline(always)]
    fn index(self) -> u32 {
        self.0 & MAX_INDEX
    }
}

/// A branching by six bits, with one slot for each of their values.
///
/// The bits of a slot in `children` and `leaves` define its content:
///
/// - neither: the class of the node;
/// - `children` only: a child; the children are numbered in the order of the slots;
/// - `leaves` only: a leaf; the leaves are numbered likewise;
/// - both: the same leaf as the last `leaves`-only slot before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Node {
    /// Bit `n` belongs to slot `n`; see [`Node`].
    pub children: u64,
    /// Bit `n` belongs to slot `n`; see [`Node`].
    pub leaves: u64,
    /// Index of the first child.
    pub first_child: u32,
    /// Index of the first leaf.
    pub first_leaf: u32,
    /// Class of the addresses in slots without child or leaf.
    pub class: u32,
    /// Explicit padding, always zero.
    pub padding: u32,
}

/// A prefix to compare an address with, and the result for both outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Leaf<K: Key> {
    /// The prefix; host bits are zero.
    pub prefix: K,
    /// For addresses in the prefix: their class, or the node at which the search continues.
    pub inside: Entry,
    /// For addresses in it: [`Found::buckets`].
    pub buckets: u32,
    /// Class of all other addresses.
    pub outside: u16,
    /// Length of the prefix in bits; 0 for a leaf that contains all addresses.
    pub len: u8,
    /// Explicit padding, always zero.
    pub padding: K::Padding,
}

/// The result of a lookup. The default is an unknown address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Class of the longest prefix that contains the address; 0 for an unknown address.
    pub class: u16,
    /// Number of the address's first limiter bucket, if the source is a member.
    pub buckets: u32,
}

/// The start of a trie: the bits that all prefixes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Root<K> {
    /// The shared bits at the top; the other bits are zero.
    pub shared: K,
    /// Number of shared bits, at most [`Key::BITS`] - [`ROOT_BITS`].
    pub skip: u32,
}

/// The arrays of a trie. An index beyond the end of an array returns `None`.
pub trait Arrays<K: Key> {
    /// Returns the bits that all prefixes share.
    fn begin(&self) -> Root<K>;
    /// Returns an entry of the direct table.
    fn root(&self, index: usize) -> Option<Entry>;
    /// Returns a node.
    fn node(&self, index: u32) -> Option<&Node>;
    /// Returns a leaf.
    fn leaf(&self, index: u32) -> Option<&Leaf<K>>;
}

/// Returns the class of the longest prefix that contains an address, and the number of its first
/// bucket. An address whose entries cannot be followed is unknown and so has access to nothing by
/// its source; the builder makes no such entries.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "classes are 16 bits wide")]
pub fn find<K: Key>(arrays: &impl Arrays<K>, key: K) -> Found {
    let Root { shared, skip } = arrays.begin();
    if skip != 0 && !key.agrees(shared, skip) {
        return Found::default();
    }
    let mut entry = arrays.root(key.skip(skip).first::<ROOT_BITS>() as usize).unwrap_or_default();
    // The bits that are not resolved yet. Not a depth, because the verifier would track its value
    // on every path.
    let mut rest = key.skip(skip.wrapping_add(ROOT_BITS));
    if !entry.is_occupied(rest.first::<PEEK_BITS>()) {
        return Found::default();
    }
    // One iteration more than nodes, because a leaf can follow the last node.
    for _ in 0..=K::NODES {
        if entry.kind() == LEAF {
            let Some(leaf) = arrays.leaf(entry.index()) else { break };
            if !key.agrees(leaf.prefix, leaf.len.into()) {
                return Found { class: leaf.outside, buckets: 0 };
            }
            entry = leaf.inside;
            rest = key.skip(leaf.len.into());
            if entry.kind() != NODE {
                return Found { class: entry.0 as u16, buckets: leaf.buckets };
            }
        }
        if entry.kind() == CLASS {
            return Found { class: entry.0 as u16, buckets: 0 };
        }
        let Some(node) = arrays.node(entry.index()) else { break };
        let bit = 1_u64.wrapping_shl(rest.first::<STRIDE>());
        rest = rest.skip(STRIDE);
        let below = bit.wrapping_sub(1);
        let (is_child, is_leaf) = (node.children & bit != 0, node.leaves & bit != 0);
        if is_leaf {
            let starts = (node.leaves & !node.children) & (below | bit);
            let nth = starts.count_ones().wrapping_sub(1);
            entry = Entry(LEAF << KIND_BIT | node.first_leaf.wrapping_add(nth) & MAX_INDEX);
        } else if is_child {
            let nth = ((node.children & !node.leaves) & below).count_ones();
            entry = Entry(NODE << KIND_BIT | node.first_child.wrapping_add(nth) & MAX_INDEX);
        } else {
            return Found { class: node.class as u16, buckets: 0 };
        }
    }
    Found::default()
}
