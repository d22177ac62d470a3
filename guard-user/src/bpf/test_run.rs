//! Evaluating frames with the program in the kernel, by test runs (`BPF_PROG_TEST_RUN`).

use aya::{
    TestRun,
    programs::{Program, ProgramError, SchedClassifier, TestRunOptions, TestRunResult, Xdp},
};
use guard_common::{bucket::TICKS_PER_NS, verdict::Verdict};

use super::loader::{Generation, missing};
use crate::{attach_mode::Hook, system_error::SystemError};

/// Changes that the kernel made to a packet before the program of the tc hook sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// The VLAN tag that was removed: EtherType in the upper 16 bits, priority and VLAN in the lower;
    /// 0 if there was none.
    pub tag: u32,
    /// Number of packets that were merged into this one; 0 or 1 if none were.
    pub packets: u32,
}

impl Generation {
    /// Evaluates a frame of at least [`MIN_FRAME_LEN`](super::loader::MIN_FRAME_LEN) bytes.
    /// `now_ns` is the time of the limiter's clock, in nanoseconds. Only for generations from
    /// [`Generation::for_tests`].
    ///
    /// # Errors
    /// The kernel rejects the test run, or the program returns no verdict.
    pub fn evaluate(&self, frame: &[u8], now_ns: u64) -> Result<Verdict, SystemError> {
        self.evaluate_received(frame, Received::default(), now_ns)
    }

    /// As [`Generation::evaluate`], for a packet that the kernel has changed before. The XDP hook
    /// ignores `received`.
    pub fn evaluate_received(
        &self,
        frame: &[u8],
        received: Received,
        now_ns: u64,
    ) -> Result<Verdict, SystemError> {
        let now = now_ns.saturating_mul(TICKS_PER_NS);
        let result = match self.hook() {
            Hook::Xdp => {
                // The program reads the clock from the XDP metadata in front of the frame.
                let input = [&now.to_ne_bytes(), frame].concat();
                let context = xdp_context(size_of_val(&now), input.len());
                self.run::<Xdp>(&input, &context)
            }
            Hook::Tc => self.run::<SchedClassifier>(frame, &skb_context(now, received)),
        };
        let returned = result.map_err(|error| {
            let what = format!("running the program on a frame of {} bytes", frame.len());
            SystemError::of(what, error)
        })?;
        Verdict::unpack(returned).ok_or_else(|| {
            SystemError::new(format!("the program returned {returned:#x}, which is not a verdict"))
        })
    }

    /// Runs the program once, and returns its return value.
    fn run<'a, P>(&'a self, frame: &[u8], context: &[u8]) -> Result<u32, SystemError>
    where
        P: 'a + for<'o> TestRun<Opts<'o> = TestRunOptions<'o>, Result = TestRunResult>,
        &'a P: TryFrom<&'a Program, Error = ProgramError>,
    {
        let name = self.hook().verdict_program();
        let program = self.ebpf().program(name).ok_or_else(|| missing(name))?;
        let program: &P = program.try_into().map_err(|error| SystemError::of(name, error))?;
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context),
            repeat: 1,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).map_err(|error| SystemError::of(name, error))?;
        Ok(result.return_value)
    }
}

/// Returns a `struct xdp_md` (include/uapi/linux/bpf.h): the offsets in the input at which the frame
/// begins, after the metadata, and ends.
fn xdp_context(data: usize, data_end: usize) -> [u8; 24] {
    let word = |value| u32::try_from(value).unwrap_or(u32::MAX);
    let mut context = [0; 24];
    put(&mut context, 0, word(data));
    put(&mut context, 4, word(data_end));
    context
}

/// Byte offsets of fields in `struct __sk_buff` (include/uapi/linux/bpf.h).
const CB: usize = 48;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;
/// Payload length of merged segments, in bytes. Any non-zero value marks the packet as merged.
const SEGMENT: u32 = 1448;

/// Returns a `struct __sk_buff` with the clock and the VLAN tag in the control buffer.
fn skb_context(now: u64, received: Received) -> [u8; 192] {
    let mut context = [0; 192];
    if let Some(field) = context.get_mut(CB..CB + 8) {
        field.copy_from_slice(&now.to_ne_bytes());
    }
    put(&mut context, CB + 8, received.tag);
    if received.packets > 1 {
        put(&mut context, GSO_SEGS, received.packets);
        put(&mut context, GSO_SIZE, SEGMENT);
    }
    context
}

/// Writes a 32-bit word at a byte offset.
fn put(context: &mut [u8], at: usize, word: u32) {
    if let Some(field) = context.get_mut(at..at + 4) {
        field.copy_from_slice(&word.to_ne_bytes());
    }
}
