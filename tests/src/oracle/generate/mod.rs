//! Generates cases: odd packets to the node's sockets. A case depends on the seed and its number only,
//! so both reproduce it.

mod addresses;
mod fragments;
mod ipv4;
mod ipv6;
mod link;
mod transport;

use std::net::IpAddr;

use super::{Ends, bytes};
use crate::random::Random;
pub use addresses::Source;

/// Maximum length of a frame, for a device with an MTU of 9000.
const LONGEST: usize = 9_000;
/// Source ports of segments: the first, and how many.
const SOURCE_PORTS: (u16, u16) = (10_000, 55_000);

/// A packet, in one frame or several fragments.
#[derive(Debug, Clone)]
pub struct Case {
    /// Number of the case; the sockets of the node report it.
    pub number: u32,
    /// How the packet carries its number.
    pub carrier: Carrier,
    /// The frames to send, in order.
    pub frames: Vec<Vec<u8>>,
    /// What is unusual about the packet.
    pub facts: Facts,
    /// Describes the packet.
    pub text: String,
}

/// How a packet carries the number of its case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// In the data of a datagram of UDP or UDP-Lite.
    Datagram,
    /// As the source port of a TCP segment, see [`source_port`].
    Segment,
}

/// What is unusual about a packet. The classes of expected differences refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub struct Facts {
    /// Number of VLAN tags.
    pub tags: usize,
    /// Number of extension headers of the longest fragment, the fragment header included.
    pub extensions: usize,
    /// What the source address is.
    pub source: Source,
    /// Whether the packet comes in fragments.
    pub fragmented: bool,
    /// Whether the packet contains an IP packet in another protocol.
    pub encapsulated: bool,
    /// Whether a length or version in an IP header is false.
    pub false_ip_header: bool,
    /// Whether the IPv6 header gives a length of 0.
    pub without_length: bool,
    /// Whether a frame was truncated, or one of its bytes changed.
    pub damaged: bool,
}

/// Returns the source port by which segments carry the number of a case.
pub fn source_port(number: u32) -> u16 {
    let (first, count) = SOURCE_PORTS;
    first + bytes::low(u64::from(number % u32::from(count)))
}

/// Returns the data by which datagrams carry the number of a case: the number, and its complement, so
/// that a changed byte does not make it the number of another case.
fn mark(number: u32) -> Vec<u8> {
    [number, !number].map(u32::to_be_bytes).concat()
}

/// Returns the number of the case whose data a socket received, or `None` if the data is another's.
/// Data that was cut behind the number has it, too.
pub fn number_in(data: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(*data.first_chunk()?);
    let mark = mark(number);
    let len = data.len().min(mark.len());
    (data[..len] == mark[..len]).then_some(number)
}

/// Returns the case with this number.
pub fn case(seed: u64, number: u32) -> Case {
    fitting(seed, number, |mut builder| {
        let ends = builder.ends();
        let (carrier, protocol, payload) = if builder.random.chance(45) {
            (Carrier::Segment, 6, builder.segment(&ends))
        } else {
            let (protocol, payload) = builder.datagram(&ends);
            (Carrier::Datagram, protocol, payload)
        };
        let (ends, protocol, payload) = builder.encapsulate(&ends, protocol, payload);
        builder.case(carrier, &ends, protocol, payload)
    })
}

/// Returns a case with a segment that acknowledges a SYN cookie, which opens a connection. `number` is
/// also that of the cookie's request, see [`request`].
pub fn acknowledgement(seed: u64, number: u32, cookie: u32) -> Case {
    let (ends, port) = Builder::new(seed, number, 0).request();
    fitting(seed, number, |mut builder| {
        let payload = builder.acknowledgement(&ends, port, cookie);
        builder.case(Carrier::Segment, &ends, 6, payload)
    })
}

/// Returns the first case of a number whose frames fit the device.
fn fitting(seed: u64, number: u32, build: impl Fn(Builder) -> Case) -> Case {
    let fits = |case: &Case| case.frames.iter().all(|frame| frame.len() <= LONGEST);
    let mut cases = (0..).map(|attempt| build(Builder::new(seed, number, attempt)));
    cases.find(fits).expect("one of endless attempts")
}

/// Returns a plain SYN from the source, and to the port, of the acknowledgement with this number.
pub fn request(seed: u64, number: u32) -> Case {
    let mut builder = Builder::new(seed, number, 0);
    let (ends, port) = builder.request();
    let payload = builder.plain_syn(&ends, port);
    builder.plain(&ends, &payload)
}

/// Returns a frame with a plain SYN between two addresses.
pub fn syn(number: u32, ends: &Ends, source_port: u16, port: u16) -> Vec<u8> {
    let segment = bytes::Segment {
        ports: [source_port, port],
        sequence: number,
        flags: bytes::flag::SYN,
        ..bytes::Segment::default()
    };
    link::plain(ends, &segment.bytes(ends))
}

/// Builds one case.
#[derive(Debug)]
struct Builder {
    random: Random,
    number: u32,
    facts: Facts,
    words: Vec<String>,
}

impl Builder {
    fn new(seed: u64, number: u32, attempt: u64) -> Self {
        let facts = Facts {
            tags: 0,
            extensions: 0,
            source: Source::Usual,
            fragmented: false,
            encapsulated: false,
            false_ip_header: false,
            without_length: false,
            damaged: false,
        };
        // Two steps, so that the sequences of neighbouring seeds and numbers do not overlap.
        let number_and_attempt = u64::from(number) << 32 | attempt;
        let words = [seed, number_and_attempt].map(|seed| Random::new(seed).word());
        let random = Random::new(words[0] ^ words[1].rotate_left(17));
        Self { random, number, facts, words: Vec::new() }
    }

    /// Adds to the description.
    fn say(&mut self, word: impl Into<String>) {
        self.words.push(word.into());
    }

    /// Wraps the transport's data into packets and frames, perhaps damaged.
    fn case(mut self, carrier: Carrier, ends: &Ends, protocol: u8, payload: Vec<u8>) -> Case {
        let packets = match ends.from {
            IpAddr::V4(_) => self.ipv4(ends, protocol, &payload),
            IpAddr::V6(_) => self.ipv6(ends, protocol, payload),
        };
        let mut frames = self.link(ends, packets);
        self.damage(&mut frames);
        let Self { number, facts, words, .. } = self;
        Case { number, carrier, frames, facts, text: words.join("; ") }
    }

    /// Returns a case with a segment in a plain packet.
    fn plain(self, ends: &Ends, payload: &[u8]) -> Case {
        let Self { number, facts, .. } = self;
        let frames = vec![link::plain(ends, payload)];
        Case { number, carrier: Carrier::Segment, frames, facts, text: "plain SYN".to_owned() }
    }

    /// Truncates a frame, or changes one of its first bytes.
    fn damage(&mut self, frames: &mut [Vec<u8>]) {
        let which = self.random.below(frames.len());
        let frame = &mut frames[which];
        match self.random.below(100) {
            // A packet socket sends no frame that is shorter than the Ethernet header.
            0..4 => {
                let len = 14 + self.random.below(frame.len() - 13);
                frame.truncate(len);
                self.say(format!("truncated to {len}"));
            }
            4..9 => {
                let at = self.random.below(frame.len().min(100));
                frame[at] = self.random.byte();
                self.say(format!("byte {at} is {:#04x}", frame[at]));
            }
            _ => return,
        }
        self.facts.damaged = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{FREE_PORT, MEMBER, NEW_PORT, PORT};

    const CASES: u32 = 4_000;

    #[test]
    fn a_seed_and_a_number_give_the_same_case() {
        for number in 0..CASES {
            let (first, second) = (case(7, number), case(7, number));
            assert_eq!(first.frames, second.frames);
            assert_eq!(first.text, second.text);
            assert_eq!(first.facts, second.facts);
        }
        let differing = (0..CASES).filter(|n| case(7, *n).frames != case(8, *n).frames);
        assert!(differing.count() > CASES as usize * 9 / 10, "the seed changes the cases");
    }

    #[test]
    fn every_frame_can_be_sent() {
        for number in 0..CASES {
            let case = case(1, number);
            assert!(!case.frames.is_empty(), "{}", case.text);
            for frame in case.frames {
                assert!((14..=LONGEST).contains(&frame.len()), "{}: {}", case.text, frame.len());
            }
        }
    }

    /// Each unusual fact occurs, so that a test with few cases tries all of them.
    #[test]
    fn all_kinds_of_cases_occur() {
        let cases: Vec<Case> = (0..CASES).map(|number| case(1, number)).collect();
        let count = |is: &dyn Fn(&Case) -> bool| cases.iter().filter(|case| is(case)).count();
        for (kind, found) in [
            ("segments", count(&|case| case.carrier == Carrier::Segment)),
            ("datagrams", count(&|case| case.carrier == Carrier::Datagram)),
            ("three tags", count(&|case| case.facts.tags == 3)),
            ("many extensions", count(&|case| case.facts.extensions > 8)),
            ("fragments", count(&|case| case.facts.fragmented)),
            ("encapsulation", count(&|case| case.facts.encapsulated)),
            ("false headers", count(&|case| case.facts.false_ip_header)),
            ("no length", count(&|case| case.facts.without_length)),
            ("damage", count(&|case| case.facts.damaged)),
        ] {
            assert!(found > 10, "{kind}: {found}");
        }
        for source in Source::ALL {
            assert!(count(&|case| case.facts.source == source) > 3, "{source:?}");
        }
        for word in [
            "UDP-Lite",
            "jumbo",
            "AH",
            "SNAP",
            "MPLS",
            "PPPoE",
            "overlap",
            "reversed",
            "duplicate",
            "padded",
            "options",
            "checksum 0",
        ] {
            assert!(count(&|case| case.text.contains(word)) > 3, "{word}");
        }
    }

    #[test]
    fn the_number_is_found_again() {
        for number in [0, 1, 54_999, 55_000, u32::MAX] {
            assert_eq!(number_in(&mark(number)), Some(number));
            assert_eq!(number_in(&[&mark(number)[..], &[1]].concat()), Some(number));
            assert_eq!(number_in(&mark(number)[..5]), Some(number), "cut");
            assert!(![PORT, NEW_PORT, FREE_PORT].contains(&source_port(number)));
        }
        assert_eq!(number_in(&mark(5)[..3]), None);
        for at in 0..8 {
            let mut changed = mark(5);
            changed[at] ^= 1;
            assert_eq!(number_in(&changed), None);
        }
        assert_eq!(source_port(0), source_port(55_000), "the ports are used again");
    }

    /// A case with the member's address would be delivered at the closed node.
    #[test]
    fn no_case_comes_from_a_member() {
        for number in 0..CASES {
            for frame in case(3, number).frames {
                for member in MEMBER.map(bytes::octets) {
                    let found = frame.windows(member.len()).any(|window| window == member);
                    assert!(!found, "case {number}");
                }
            }
        }
    }

    #[test]
    fn an_acknowledgement_has_the_ports_of_its_request() {
        for number in 0..200 {
            let [frame] = &request(5, number).frames[..] else { panic!("one frame") };
            let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
            assert_eq!(frame[at..at + 2], source_port(number).to_be_bytes());
            assert!(
                [PORT, NEW_PORT].map(u16::to_be_bytes).iter().any(|p| frame[at + 2..at + 4] == *p)
            );
            let answer = acknowledgement(5, number, 0x0102_0304);
            assert!(!answer.facts.encapsulated);
            assert_eq!(answer.carrier, Carrier::Segment);
        }
    }
}
