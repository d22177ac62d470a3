//! Addresses of the packets: usual ones, and those that hosts do not send from or to.

use std::net::IpAddr;

use super::Builder;
use crate::oracle::{ELSEWHERE, Ends, FAR, LINK_LOCAL, NODE, SENDER};

/// What the source address of a case is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An address that the open node's policy allows.
    Usual,
    /// An address of the node itself.
    Own,
    /// An address from which no packet can come over a wire: loopback, multicast, broadcast,
    /// unspecified or IPv4-mapped.
    Impossible,
}

impl Source {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Usual, Self::Own, Self::Impossible];
}

/// Sources that are odd, by family.
const SOURCES: [&[(&str, Source)]; 2] = [
    &[
        ("127.0.0.1", Source::Impossible),
        ("0.0.0.0", Source::Impossible),
        ("0.1.2.3", Source::Impossible),
        ("255.255.255.255", Source::Impossible),
        ("224.0.0.9", Source::Impossible),
        ("240.0.0.1", Source::Usual),
        ("100.64.0.1", Source::Usual),
        ("10.77.0.255", Source::Usual),
        ("10.77.0.0", Source::Usual),
    ],
    &[
        ("::", Source::Impossible),
        ("::1", Source::Impossible),
        ("::ffff:10.77.0.99", Source::Impossible),
        ("ff02::1", Source::Impossible),
        ("::10.77.0.99", Source::Usual),
        ("64:ff9b::10.77.0.99", Source::Usual),
        ("2002:a4d:63::1", Source::Usual),
        ("fec0::1", Source::Usual),
        ("fd77::", Source::Usual),
    ],
];

/// Destinations that are odd, by family.
const DESTINATIONS: [&[&str]; 2] = [
    &[
        "10.77.0.255",
        "255.255.255.255",
        "198.51.100.1",
        "198.51.100.255",
        "198.51.100.0",
        "198.51.100.7",
        "127.0.0.1",
        "127.1.2.3",
        "224.0.0.1",
        "224.0.0.251",
        "239.1.2.3",
        "10.77.0.0",
        "10.77.0.77",
        "0.0.0.0",
        "240.0.0.9",
        "203.0.113.50",
    ],
    &[
        "ff02::1",
        "ff01::1",
        "ff02::2",
        "ff05::1:3",
        "ff02::1:ff00:10",
        "fd77::",
        "fd77::77",
        "fd78::1",
        "fd78::",
        "fd78::7",
        "fe80::10",
        "::1",
        "::",
        "::ffff:10.77.0.10",
        "2001:db8::50",
    ],
];

impl Builder {
    /// Returns the source and the destination of a packet.
    pub(super) fn ends(&mut self) -> Ends {
        let family = usize::from(self.random.chance(45));
        let (mut ends, mut source) =
            (Ends { from: SENDER[family], to: NODE[family] }, Source::Usual);
        match self.random.below(100) {
            0..8 => {
                let (text, kind) = *self.random.pick(SOURCES[family]);
                (ends.from, source) = (parsed(text), kind);
            }
            8..10 => {
                let own = *self.random.pick(&[NODE, ELSEWHERE]);
                (ends.from, source) = (own[family], Source::Own);
            }
            10..13 => ends.from = FAR[family],
            13..15 if family == 1 => ends.from = LINK_LOCAL,
            15..30 => ends.to = parsed(self.random.pick::<&str>(DESTINATIONS[family])),
            _ => {}
        }
        self.facts.source = source;
        self.say(format!("{} > {}", ends.from, ends.to));
        ends
    }
}

fn parsed(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
