//! A compiled set of prefixes: longest-prefix match in a few loads.
//!
//! A poptrie (Asai and Ohara, SIGCOMM 2015) with path compression. The bits that all prefixes share
//! are compared at once. A direct table resolves the next 16 bits of an address, and knows which
//! eighths of an entry are empty: most strangers end there. Then each node resolves six bits more;
//! what a slot of a node holds is found by counting bits, so nodes and leaves lie packed in plain
//! arrays. Where only one prefix is left, or all that are left share some bits, a leaf says so and
//! is compared in full at once: the depth follows the number of branchings and not the length of
//! the prefixes.
//!
//! The arrays are built in user space and never change. Kernel and host walk them with the same
//! code, [`find`]. Whatever they hold, the walk ends, and what cannot be followed is unknown.

/// Bits that the direct table resolves, behind those that all prefixes share.
pub const ROOT_BITS: u32 = 16;
/// Entries of the direct table.
pub const ROOT_LEN: usize = 1 << ROOT_BITS;
/// Bits behind those, of which an entry of the direct table says whether there is anything.
pub const PEEK_BITS: u32 = 3;
/// Bits that a node resolves.
pub const STRIDE: u32 = 6;
/// Slots of a node.
pub const SLOTS: usize = 1 << STRIDE;

/// An address of one family, the first octet the most significant.
pub trait Key: Copy + Eq {
    /// Bits of an address.
    const BITS: u32;
    /// What makes a [`Leaf`] of this family a power of two in size.
    type Padding: Copy + Eq + Default + core::fmt::Debug;
    /// Nodes on the longest way.
    const NODES: u32 = (Self::BITS - ROOT_BITS).div_ceil(STRIDE);

    /// The first `LEN` bits, at most 32.
    fn first<const LEN: u32>(self) -> u32;

    /// Without its first `bits`, at most [`Key::BITS`]. What comes in from behind may be anything:
    /// a node that reaches beyond the end of the address says the same whatever is there.
    #[must_use]
    fn skip(self, bits: u32) -> Self;

    /// Whether the first `len` bits, at most [`Key::BITS`], are those of another address.
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
        // A rotation: the verifier follows known zeros through every way there is.
        let (high, low) = if bits & 64 == 0 { (high, low) } else { (low, high) };
        let bits = bits & 63;
        // In two steps, because a shift by 64 is none.
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

/// Where a walk goes on: at a node, at a leaf, or nowhere, with the class that was found.
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
    /// Nothing is known of anything here.
    pub const UNKNOWN: Self = Self(0);

    /// Everything here is of this class.
    pub fn class(class: u16) -> Self {
        Self(CLASS << KIND_BIT | u32::from(class))
    }

    /// The same entry, for the direct table: bit `n` is set if there is anything in the `n`th
    /// eighth of the addresses that come here. Of the others nothing is known.
    #[must_use]
    pub fn occupied(self, eighths: u8) -> Self {
        Self(self.0 | u32::from(eighths) << OCCUPIED_BIT)
    }

    /// On at a leaf, at most [`MAX_INDEX`].
    pub fn leaf(index: u32) -> Self {
        Self(LEAF << KIND_BIT | index & MAX_INDEX)
    }

    /// On at a node.
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

/// Six bits of addresses that agree so far.
///
/// What a slot holds is said by one bit of each map. Neither: the class of the node. `children`
/// only: a child, the next one. `leaves` only: a leaf, the next one. Both: the leaf before once
/// more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Node {
    /// See [`Node`].
    pub children: u64,
    /// See [`Node`].
    pub leaves: u64,
    /// Index of the first child.
    pub first_child: u32,
    /// Index of the first leaf.
    pub first_leaf: u32,
    /// Class of whatever no slot says more about.
    pub class: u32,
    /// Zero.
    pub padding: u32,
}

/// A prefix to be compared with, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Leaf<K: Key> {
    /// The prefix; host bits are zero.
    pub prefix: K,
    /// For addresses in it: a class, or on at a node.
    pub inside: Entry,
    /// For addresses in it: [`Found::buckets`].
    pub buckets: u32,
    /// Class of the others.
    pub outside: u16,
    /// Length of the prefix in bits. 0 for a leaf that holds for all.
    pub len: u8,
    /// Zero.
    pub padding: K::Padding,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Its class; 0 for an address of which nothing is known.
    pub class: u16,
    /// Number of the first limiter bucket of a member.
    pub buckets: u32,
}

/// Where a trie begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Root<K> {
    /// What all prefixes begin with; the other bits are zero.
    pub shared: K,
    /// How many bits they share, at most [`Key::BITS`] - [`ROOT_BITS`].
    pub skip: u32,
}

/// The arrays of a trie.
pub trait Arrays<K: Key> {
    /// Where it begins.
    fn begin(&self) -> Root<K>;
    /// An entry of the direct table.
    fn root(&self, index: usize) -> Option<Entry>;
    /// A node.
    fn node(&self, index: u32) -> Option<&Node>;
    /// A leaf.
    fn leaf(&self, index: u32) -> Option<&Leaf<K>>;
}

/// The class of the longest prefix that holds an address. What cannot be followed is unknown: the
/// builder makes nothing of the kind, and nobody is let in by it.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "classes are 16 bits wide")]
pub fn find<K: Key>(arrays: &impl Arrays<K>, key: K) -> Found {
    let Root { shared, skip } = arrays.begin();
    if skip != 0 && !key.agrees(shared, skip) {
        return Found::default();
    }
    let mut entry = arrays.root(key.skip(skip).first::<ROOT_BITS>() as usize).unwrap_or_default();
    // What is not resolved yet. Not a depth, which the verifier would follow through every way.
    let mut rest = key.skip(skip.wrapping_add(ROOT_BITS));
    if !entry.is_occupied(rest.first::<PEEK_BITS>()) {
        return Found::default();
    }
    // A leaf can follow the last node.
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
