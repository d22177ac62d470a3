//! Frames of a capture file.

use std::{fs::File, path::Path};

use pcap_parser::{LegacyPcapReader, PcapBlockOwned, PcapError, traits::PcapReaderIterator as _};

/// A captured frame.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Time since the epoch in nanoseconds.
    pub ns: u64,
    /// The frame at its length on the wire. What the capture cut off is zero: payload, which
    /// nobody judges.
    pub bytes: Vec<u8>,
}

/// All frames of a file with microsecond time stamps.
pub fn read(path: &Path) -> Vec<Captured> {
    let file = File::open(path).expect("the capture can be opened");
    let mut reader = LegacyPcapReader::new(1 << 16, file).expect("a pcap file");
    let mut frames = Vec::new();
    loop {
        match reader.next() {
            Ok((consumed, block)) => {
                if let PcapBlockOwned::Legacy(packet) = block {
                    let mut bytes = packet.data.to_vec();
                    bytes.resize(packet.origlen as usize, 0);
                    let us = u64::from(packet.ts_sec) * 1_000_000 + u64::from(packet.ts_usec);
                    frames.push(Captured { ns: us * 1000, bytes });
                }
                reader.consume(consumed);
            }
            Err(PcapError::Eof) => return frames,
            Err(PcapError::Incomplete(_)) => reader.refill().expect("the file can be read"),
            Err(error) => panic!("{}: {error:?}", path.display()),
        }
    }
}
