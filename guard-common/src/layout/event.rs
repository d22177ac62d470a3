//! A sampled drop, as the kernel hands it to user space.

use crate::{flow::Addr, verdict::Verdict};

/// One dropped frame, or one that enforcing would have dropped. Sampled: counters are exact, events
/// are examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Source address as [`Addr::mapped`]; zero when the frame had none that could be read.
    pub source: [u64; 2],
    /// The packed [`Verdict`].
    pub verdict: u32,
    /// Index of the interface that received the frame.
    pub ifindex: u32,
    /// Length of the frame in bytes.
    pub len: u32,
    /// Destination port; 0 when there was none.
    pub port: u16,
    /// IP protocol; 0 when there was none.
    pub protocol: u8,
    /// [`Event::IPV4`] or [`Event::IPV6`]; 0 when there is no source.
    pub family: u8,
    /// Frames that this one stands for: it is one of so many, on average.
    pub weight: u32,
    /// Bytes of `head` that are the frame's; what is behind them means nothing.
    pub head_len: u32,
    /// The beginning of the frame.
    pub head: [u8; HEAD_LEN],
}

/// Bytes of a frame that an event holds: its headers, and IPv6 extension headers of usual length.
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
    /// The source is an IPv4 address.
    pub const IPV4: u8 = 4;
    /// The source is an IPv6 address.
    pub const IPV6: u8 = 6;

    /// The source address.
    #[expect(clippy::cast_possible_truncation, reason = "the low half of a mapped address")]
    pub fn source(&self) -> Option<Addr> {
        let [_, low] = self.source;
        match self.family {
            Self::IPV4 => Some(Addr::V4(low as u32)),
            Self::IPV6 => Some(Addr::V6(self.source)),
            _ => None,
        }
    }

    /// The verdict; none when the record is not one of ours.
    pub fn verdict(&self) -> Option<Verdict> {
        Verdict::unpack(self.verdict)
    }
}
