//! A sampled drop, as the kernel reports it to user space.

use crate::{flow::Addr, verdict::Verdict};

/// One frame that was dropped, or that enforcing would have dropped. Counters are exact; events are
/// a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Source address as [`Addr::mapped`]; zero if the frame had no readable one.
    pub source: [u64; 2],
    /// The packed [`Verdict`].
    pub verdict: u32,
    /// Index of the interface that received the frame.
    pub ifindex: u32,
    /// Length of the frame on the wire in bytes, without the frame check sequence.
    pub len: u32,
    /// Destination port; 0 if there is none.
    pub port: u16,
    /// IP protocol; 0 if there is none.
    pub protocol: u8,
    /// [`Event::IPV4`] or [`Event::IPV6`]; 0 if there is no source.
    pub family: u8,
    /// Number of refused frames that this event represents, on average.
    pub weight: u32,
    /// Number of valid bytes in `head`; the bytes after them are undefined.
    pub head_len: u32,
    /// The first bytes of the frame, from the Ethernet header on.
    pub head: [u8; HEAD_LEN],
}

/// Maximum number of bytes of a frame in an event: enough for its headers, including IPv6 extension
/// headers of usual length.
pub const HEAD_LEN: usize = 128;

impl Default for Event {
    fn default() -> Self {
        Self {
            source: [0; 2],
            verdict: 0,
            ifindex: 0,
            len: 0,
            port: 0,
            protocol: 0,
            family: 0,
            weight: 1,
            head_len: 0,
            head: [0; HEAD_LEN],
        }
    }
}

impl Event {
    /// Family: the source is an IPv4 address.
    pub const IPV4: u8 = 4;
    /// Family: the source is an IPv6 address.
    pub const IPV6: u8 = 6;

    /// Returns the source address, or `None` if there is no source.
    #[expect(clippy::cast_possible_truncation, reason = "the low half of a mapped address")]
    pub fn source(&self) -> Option<Addr> {
        let [_, low] = self.source;
        match self.family {
            Self::IPV4 => Some(Addr::V4(low as u32)),
            Self::IPV6 => Some(Addr::V6(self.source)),
            _ => None,
        }
    }

    /// Returns the verdict, or `None` if the record does not contain a valid one.
    pub fn verdict(&self) -> Option<Verdict> {
        Verdict::unpack(self.verdict)
    }
}
