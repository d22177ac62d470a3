//! Classes of frames that the kernel delivers and the guard refuses although the source is allowed.

use guard_common::{Action, Reason, Verdict, wire};

use super::generate::{Facts, Source};

/// A class of expected differences.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// Name of the class.
    pub name: &'static str,
    /// The guard's reason for the refusal.
    pub reason: Reason,
    /// Reports whether a packet is unusual in the way that the class is about.
    pub applies: fn(&Facts) -> bool,
    /// Why the guard refuses what the kernel delivers.
    pub why: &'static str,
}

/// All classes. A difference outside of them is a fault of the guard, or a class to be added with its
/// reason.
pub const CLASSES: [Class; 9] = [
    Class {
        name: "many tags",
        reason: Reason::Undecodable,
        applies: |facts| facts.tags > wire::MAX_VLAN_TAGS as usize,
        why: "the kernel takes off any number of priority tags, the guard follows two tags",
    },
    Class {
        name: "many headers",
        reason: Reason::TooManyHeaders,
        applies: |facts| facts.extensions > wire::MAX_EXTENSION_HEADERS as usize,
        why: "the kernel follows any number of extension headers, the guard eight",
    },
    Class {
        name: "headers across fragments",
        reason: Reason::MalformedIp,
        applies: |facts| facts.fragmented && facts.extensions > 1,
        why: "the first fragment ends within the extension headers, so it has no ports to decide by; \
              the kernel accepts this although RFC 8200 (section 4.5) forbids it",
    },
    Class {
        name: "length of 0",
        reason: Reason::MalformedIp,
        applies: |facts| facts.without_length,
        why: "the kernel takes an IPv6 packet with hop-by-hop options and a length of 0 for a jumbogram, \
              also without the jumbo option",
    },
    Class {
        name: "own source",
        reason: Reason::Martian,
        applies: |facts| facts.source == Source::Own,
        why: "the kernel accepts its own IPv6 addresses as sources of packets from a wire",
    },
    Class {
        name: "impossible source",
        reason: Reason::Martian,
        applies: |facts| facts.source == Source::Impossible,
        why: "the kernel accepts some sources to which no answer can be sent",
    },
    Class {
        name: "changed source",
        reason: Reason::NotAllowed,
        applies: |facts| facts.damaged,
        why: "the changed byte made the source one that is not allowed",
    },
    Class {
        name: "changed source of an encapsulated packet",
        reason: Reason::Tunnel,
        applies: |facts| facts.damaged && facts.encapsulated,
        why: "the changed byte made the outer source one that is not allowed",
    },
    Class {
        name: "fragment of a changed source",
        reason: Reason::Fragment,
        applies: |facts| facts.damaged && facts.fragmented,
        why: "the changed byte made the source of a later fragment one that is not allowed",
    },
];

/// Returns the class that explains why a packet with these facts is refused with one of these verdicts.
pub fn explaining(facts: &Facts, verdicts: &[Verdict]) -> Option<&'static Class> {
    CLASSES.iter().find(|class| {
        let refuses =
            |verdict: &Verdict| verdict.action == Action::Drop && verdict.reason == class.reason;
        (class.applies)(facts) && verdicts.iter().any(refuses)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::generate;

    #[test]
    fn a_class_needs_its_reason_and_its_kind_of_packet() {
        let mut facts = generate::case(1, 0).facts;
        facts.tags = 3;
        let refused = |reason| [Verdict::of_node(Action::Drop, reason)];
        let class = explaining(&facts, &refused(Reason::Undecodable)).expect("a class");
        assert_eq!(class.name, "many tags");
        assert!(explaining(&facts, &refused(Reason::LimitBytes)).is_none());
        assert!(explaining(&facts, &[Verdict::of_node(Action::Pass, class.reason)]).is_none());
        facts.tags = 2;
        assert!(explaining(&facts, &refused(Reason::Undecodable)).is_none());
    }

    #[test]
    fn each_class_has_a_name_of_its_own_and_a_text() {
        for (index, class) in CLASSES.iter().enumerate() {
            assert!(class.reason.is_refusal() && !class.why.is_empty(), "{}", class.name);
            assert!(CLASSES[..index].iter().all(|other| other.name != class.name));
        }
    }
}
