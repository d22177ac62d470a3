//! Captures (pcap, pcapng) and recorded events, read as `replay` and `learn` do.
#![no_main]

use std::ops::ControlFlow;

use guard_user::capture;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut frames = 0_u64;
    let read = capture::read(data, |frame| {
        assert!(frame.bytes.len() <= data.len(), "a frame is longer than the file");
        frames += 1;
        ControlFlow::Continue(())
    });
    if let Ok(count) = read {
        assert_eq!(count, frames);
    }
});
