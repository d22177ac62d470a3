//! Reads the frames of a capture file at their full length.

use std::{fs::File, ops::ControlFlow, path::Path};

/// A captured frame.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Time since the epoch in nanoseconds.
    pub ns: u64,
    /// The frame at its length on the wire. Bytes that the capture cut off are zero: they are payload,
    /// which does not affect verdicts.
    pub bytes: Vec<u8>,
}

/// Reads all frames of a file.
pub fn read(path: &Path) -> Vec<Captured> {
    let file = File::open(path).expect("the capture can be opened");
    let mut frames = Vec::new();
    guard_user::capture::read(file, |frame| {
        let mut bytes = frame.bytes.to_vec();
        bytes.resize(frame.wire_len as usize, 0);
        frames.push(Captured { ns: frame.time_ns.unwrap_or_default(), bytes });
        ControlFlow::Continue(())
    })
    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    frames
}
