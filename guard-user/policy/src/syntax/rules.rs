//! The rules of lint. `TG0xx`: the YAML dialect. `TG1xx`: the shape of a document. `TG2xx`: the meaning
//! of a document. `TG3xx`: lock-out. `TG4xx`: the cluster as a whole. `TG5xx`: capacity. `TG9xx`:
//! hygiene.
//!
//! A new rule needs a line in `rules!`, a page in `guard-user/explain`, and a check that reports it.

use std::fmt;

/// Stable number of a rule, written `TGnnn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

impl std::str::FromStr for Code {
    type Err = ();

    /// Parses the number of an existing rule, such as `TG204`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = text.strip_prefix("TG").filter(|number| number.len() == 3).ok_or(())?;
        let code = Self(number.parse().map_err(|_invalid| ())?);
        if ALL.contains(&code) { Ok(code) } else { Err(()) }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TG{:03}", self.0)
    }
}

impl Code {
    /// Reports whether a comment may silence findings of this rule that are not errors. Rules about
    /// hidden text and about lock-out cannot be silenced by a comment next to the line that breaks
    /// them.
    pub fn is_ignorable(self) -> bool {
        !matches!(self.0, 0..100 | 300..400 | 900..)
    }

    /// Reports whether this rule needs the whole cluster: a policy checked by itself does not break it.
    pub fn needs_cluster(self) -> bool {
        NEEDS_CLUSTER.contains(&self) || matches!(self.0, 300..600)
    }
}

/// Declares the rules: a constant for each, [`ALL`], and `NEEDS_CLUSTER` for those that need a cluster
/// although their number does not imply it.
macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $number:literal $(needs $cluster:ident)?;)*) => {
        $($(#[$doc])* pub const $name: Code = Code($number);)*

        /// All rules, by number.
        pub const ALL: &[Code] = &[$($name),*];

        /// Rules about one document that need the cluster to be checked.
        const NEEDS_CLUSTER: &[Code] = &[$($({
            stringify!($cluster);
            $name
        },)?)*];
    };
}

rules! {
    // The dialect.
    /// Not YAML.
    SYNTAX = 1;
    /// A key twice in one mapping.
    DUPLICATE_KEY = 2;
    /// An anchor, an alias or a merge key.
    ANCHOR = 3;
    /// An explicit tag.
    TAG = 4;
    /// A character that hides or reorders text, or bytes that are not UTF-8.
    CHARACTER = 5;
    /// A scalar that YAML readers understand differently.
    AMBIGUOUS = 6;
    /// An empty document, or null.
    NULL = 7;
    /// More than one document, or a directive.
    DOCUMENTS = 8;
    /// Too big or nested too deep.
    BUDGET = 9;
    /// A file that cannot be read.
    UNREADABLE = 10;

    // The shape of a document.
    /// A field that does not exist.
    UNKNOWN_FIELD = 101;
    /// A field that must be written.
    MISSING_FIELD = 102;
    /// A prefix whose address has bits beyond its length.
    HOST_BITS = 103;
    /// Not an address or prefix.
    ADDRESS = 104;
    /// Not a port or range of ports.
    PORT = 105;
    /// Not an interface pattern.
    INTERFACE = 106;
    /// An unknown `apiVersion` or an unexpected `kind`.
    API_VERSION = 107;
    /// A value of the wrong type, such as a list instead of a mapping.
    TYPE = 109;
    /// Not a name.
    NAME = 110;
    /// Not a rate or an amount, or out of range.
    AMOUNT = 111;
    /// Not one of the possible words.
    CHOICE = 112;
    /// Not a host list.
    HOST_LIST = 113;
    /// Not a path of a file.
    PATH = 114;

    // The meaning of a document.
    /// A prefix that covers all addresses.
    EVERYTHING = 201;
    /// Sources of one address family at nodes of both.
    ONE_FAMILY = 202 needs cluster;
    /// Two fields that contradict each other.
    CONTRADICTION = 203;
    /// Something that never has an effect.
    NO_EFFECT = 204 needs cluster;
    /// A duplicate name.
    DUPLICATE_NAME = 205;
    /// An `allow` that admits no source.
    EMPTY_ALLOW = 206;
    /// Two services that claim a port with equally wide entries.
    OVERLAP = 207;
    /// A role or network that nothing uses.
    UNUSED = 208 needs cluster;
    /// A service with `match: all` on ephemeral ports.
    EPHEMERAL = 209;
    /// A limit on the packets of each source, which stalls training.
    PACKET_LIMIT = 210;
    /// A limit too low to be useful.
    TIGHT_LIMIT = 211;
    /// A service that enforces nothing, because it admits every source without a limit.
    ENFORCES_NOTHING = 212;
    /// Prefixes that together cover half of the IPv4 or IPv6 addresses or more.
    NEARLY_EVERYTHING = 213 needs cluster;
    /// A limit that is too low for the start of a job of this size.
    STARTUP = 214 needs cluster;
    /// A range that contains UDP ports of DHCP or NTP, which ranges leave alone.
    LEFT_ALONE = 215;
    /// A wide service with `match: all` on ports that sockets of the node or NAT may use as source ports.
    SOURCE_PORTS = 216;

    // Lock-out.
    /// An ssh port that no host outside the cluster may reach.
    SSH = 301;
    /// An ssh port that the management network may not reach.
    MANAGEMENT = 302;
    /// A member that a service of its own policy refuses.
    MEMBER = 303;

    // The cluster as a whole.
    /// A duplicate node name.
    DUPLICATE_NODE = 401;
    /// An address that no node can have.
    MARTIAN = 402;
    /// A duplicate address.
    DUPLICATE_ADDRESS = 403;
    /// A port of a framework that no service covers.
    UNCOVERED = 404;
    /// A file that the manifest names and that does not exist.
    MISSING_FILE = 405;
    /// A role that no node has.
    UNKNOWN_ROLE = 407;
    /// A network that the manifest does not define.
    UNKNOWN_NETWORK = 408;
    /// A policy file that is named twice.
    DUPLICATE_FILE = 409;
    /// Host lists of different lengths.
    LENGTH_MISMATCH = 410;
    /// A node without addresses.
    NO_ADDRESS = 411;
    /// An address outside the cluster's own prefixes.
    OUTSIDE = 412;
    /// A prefix that another entry of the list already contains.
    LISTED_TWICE = 413;
    /// A node or an address of a node that is not in the manifest.
    UNKNOWN_NODE = 414;
    /// A policy that is not signed, or that differs from what was signed.
    SIGNATURE = 415;

    // Capacity.
    /// More prefixes than fit.
    PREFIXES = 501;
    /// A host list that expands too far.
    EXPANSION = 502;
    /// More services than a node can run.
    SERVICES = 503;
    /// More limiter states than fit.
    MEMBER_BUCKETS = 504;
    /// More classes of sources than fit.
    CLASSES = 505;

    // Hygiene.
    /// A comment that silences nothing.
    UNUSED_IGNORE = 901;
    /// A comment that silences a rule without a reason.
    NO_REASON = 902;
    /// A comment for a rule that comments cannot silence, or that does not exist.
    NOT_IGNORABLE = 903;
}
