//! The rules. `TG0xx` is the dialect, `TG1xx` the shape, `TG2xx` the meaning of a document, `TG3xx`
//! lock-out, `TG4xx` the cluster as a whole, `TG5xx` capacity, `TG9xx` hygiene.

use super::diagnostic::Code;

impl Code {
    /// Whether a comment or a flag may silence this rule where it is no error. What hides text, or
    /// cuts somebody off, is not silenced beside the line that does it.
    pub fn is_ignorable(self) -> bool {
        !matches!(self.0, 0..100 | 300..400 | 900..)
    }

    /// Whether this rule is about documents together: a policy by itself does not break it.
    pub fn needs_cluster(self) -> bool {
        matches!(self, ONE_FAMILY | NEVER | DISGUISED | STARTUP | UNUSED)
            || matches!(self.0, 300..600)
    }
}

/// Not YAML.
pub const SYNTAX: Code = Code(1);
/// A key twice in one mapping.
pub const DUPLICATE_KEY: Code = Code(2);
/// An anchor, an alias or a merge key.
pub const ANCHOR: Code = Code(3);
/// An explicit tag.
pub const TAG: Code = Code(4);
/// A character that hides or reorders text, or bytes that are no UTF-8.
pub const CHARACTER: Code = Code(5);
/// A scalar that YAML readers understand differently.
pub const AMBIGUOUS: Code = Code(6);
/// An empty document, or null.
pub const NULL: Code = Code(7);
/// More than one document, or a directive.
pub const DOCUMENTS: Code = Code(8);
/// Too big or nested too deep.
pub const BUDGET: Code = Code(9);
/// A file that cannot be read.
pub const UNREADABLE: Code = Code(10);

/// A field that does not exist.
pub const UNKNOWN_FIELD: Code = Code(101);
/// A field that must be written.
pub const MISSING_FIELD: Code = Code(102);
/// A prefix whose address has bits beyond its length.
pub const HOST_BITS: Code = Code(103);
/// Not an address or prefix.
pub const ADDRESS: Code = Code(104);
/// Not a port or range of ports.
pub const PORT: Code = Code(105);
/// Not an interface pattern.
pub const INTERFACE: Code = Code(106);
/// An `apiVersion` or `kind` that is not understood.
pub const API_VERSION: Code = Code(107);
/// A list where a mapping belongs, and the like.
pub const TYPE: Code = Code(109);
/// Not a name.
pub const NAME: Code = Code(110);
/// Not a rate or an amount, or out of range.
pub const AMOUNT: Code = Code(111);
/// Not one of the words that are possible.
pub const CHOICE: Code = Code(112);
/// Not a host list.
pub const HOST_LIST: Code = Code(113);
/// Not a path of a file.
pub const PATH: Code = Code(114);

/// A prefix that is everything.
pub const EVERYTHING: Code = Code(201);
/// Sources of one address family at nodes of both.
pub const ONE_FAMILY: Code = Code(202);
/// Two fields that contradict each other.
pub const CONTRADICTION: Code = Code(203);
/// Something that never has an effect.
pub const NEVER: Code = Code(204);
/// A name twice.
pub const DUPLICATE_NAME: Code = Code(205);
/// An `allow` that allows nobody.
pub const NOBODY: Code = Code(206);
/// Two services that claim a port equally.
pub const OVERLAP: Code = Code(207);
/// A role or network that nothing uses.
pub const UNUSED: Code = Code(208);
/// All packets to ephemeral ports.
pub const EPHEMERAL: Code = Code(209);
/// A limit that stalls training.
pub const PACKET_LIMIT: Code = Code(210);
/// A limit too tight to be useful.
pub const TIGHT_LIMIT: Code = Code(211);
/// A service that enforces nothing: everybody may reach it.
pub const OPEN: Code = Code(212);
/// Prefixes that together are nearly everything.
pub const DISGUISED: Code = Code(213);
/// A limit below what the start of a job of this size needs.
pub const STARTUP: Code = Code(214);

/// ssh that nobody outside the cluster may reach.
pub const SSH: Code = Code(301);
/// ssh that the management network may not reach.
pub const MANAGEMENT: Code = Code(302);
/// A member whom a service of its own policy refuses.
pub const MEMBER: Code = Code(303);

/// A node name twice.
pub const DUPLICATE_NODE: Code = Code(401);
/// An address that no node can have.
pub const MARTIAN: Code = Code(402);
/// An address twice.
pub const DUPLICATE_ADDRESS: Code = Code(403);
/// A port of a framework that no service covers.
pub const UNCOVERED: Code = Code(404);
/// A file that the manifest names and that is not there.
pub const MISSING_FILE: Code = Code(405);
/// A role that no node has.
pub const UNKNOWN_ROLE: Code = Code(407);
/// A network that the manifest does not name.
pub const UNKNOWN_NETWORK: Code = Code(408);
/// A policy file that is named twice.
pub const DUPLICATE_FILE: Code = Code(409);
/// Host lists of different lengths.
pub const COUNTS: Code = Code(410);
/// A node without addresses.
pub const NO_ADDRESS: Code = Code(411);
/// An address outside the cluster's own prefixes.
pub const OUTSIDE: Code = Code(412);
/// A prefix that a list holds already.
pub const LISTED_TWICE: Code = Code(413);
/// A node, or the address of one, that the manifest does not have.
pub const UNKNOWN_NODE: Code = Code(414);
/// A policy that is not as it was signed, or not signed at all.
pub const SIGNATURE: Code = Code(415);

/// More prefixes than fit.
pub const PREFIXES: Code = Code(501);
/// A host list that expands too far.
pub const EXPANSION: Code = Code(502);
/// More services than a node can run.
pub const SERVICES: Code = Code(503);
/// More limiter states than fit.
pub const MEMBER_BUCKETS: Code = Code(504);
/// More classes of sources than fit.
pub const CLASSES: Code = Code(505);

/// A comment that silences nothing.
pub const UNUSED_IGNORE: Code = Code(901);
/// A comment that silences a rule without a reason.
pub const NO_REASON: Code = Code(902);
/// A comment for a rule that is not to be silenced, or that does not exist.
pub const NOT_IGNORABLE: Code = Code(903);

/// All of them, by number.
pub const ALL: &[Code] = &[
    SYNTAX,
    DUPLICATE_KEY,
    ANCHOR,
    TAG,
    CHARACTER,
    AMBIGUOUS,
    NULL,
    DOCUMENTS,
    BUDGET,
    UNREADABLE,
    UNKNOWN_FIELD,
    MISSING_FIELD,
    HOST_BITS,
    ADDRESS,
    PORT,
    INTERFACE,
    API_VERSION,
    TYPE,
    NAME,
    AMOUNT,
    CHOICE,
    HOST_LIST,
    PATH,
    EVERYTHING,
    ONE_FAMILY,
    CONTRADICTION,
    NEVER,
    DUPLICATE_NAME,
    NOBODY,
    OVERLAP,
    UNUSED,
    EPHEMERAL,
    PACKET_LIMIT,
    TIGHT_LIMIT,
    OPEN,
    DISGUISED,
    STARTUP,
    SSH,
    MANAGEMENT,
    MEMBER,
    DUPLICATE_NODE,
    MARTIAN,
    DUPLICATE_ADDRESS,
    UNCOVERED,
    MISSING_FILE,
    UNKNOWN_ROLE,
    UNKNOWN_NETWORK,
    DUPLICATE_FILE,
    COUNTS,
    NO_ADDRESS,
    OUTSIDE,
    LISTED_TWICE,
    UNKNOWN_NODE,
    SIGNATURE,
    PREFIXES,
    EXPANSION,
    SERVICES,
    MEMBER_BUCKETS,
    CLASSES,
    UNUSED_IGNORE,
    NO_REASON,
    NOT_IGNORABLE,
];
