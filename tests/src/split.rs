//! Runs a program on frames whose headers lie in several buffers, with a first buffer as short as the
//! test wants. The kernel supports this from 6.18 on (`bpf_prog_test_run_xdp`, `net/bpf/test_run.c`).

use aya::{
    TestRun as _,
    programs::{TestRunOptions, Xdp, loaded_programs},
};
use aya_obj::programs::XdpAttachType;
use guard_common::{Verdict, bucket::TICKS_PER_NS, names};
use guard_user::{bpf::loader::Generation, system_error::SystemError};

/// The XDP program of a generation.
#[derive(Debug)]
pub struct Split(Xdp);

impl Split {
    /// Opens the program of a generation made for tests.
    pub fn of(generation: &Generation) -> Self {
        let program = loaded_programs()
            .filter_map(Result::ok)
            .find(|program| program.id() == generation.program_id())
            .expect("the program is loaded");
        let name = names::PROGRAM_VERDICT.into();
        let xdp = Xdp::from_program_info(program, name, XdpAttachType::Interface);
        Self(xdp.expect("an XDP program"))
    }

    /// Returns the verdict on a frame of which only `first` bytes are in the first buffer; `None` if the
    /// kernel does not support that.
    pub fn evaluate(&self, frame: &[u8], first: usize, now_ns: u64) -> Option<Verdict> {
        let clock = (now_ns * TICKS_PER_NS).to_ne_bytes();
        let input = [&clock, frame].concat();
        let context = context(clock.len(), clock.len() + first);
        let options = TestRunOptions {
            data_in: Some(&input),
            ctx_in: Some(&context),
            repeat: 1,
            ..TestRunOptions::default()
        };
        match self.0.test_run(options) {
            Ok(result) => Some(Verdict::unpack(result.return_value).expect("a verdict")),
            Err(error) => {
                let error = SystemError::of("a test run", error);
                assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
                None
            }
        }
    }
}

/// Returns a `struct xdp_md` (`include/uapi/linux/bpf.h`) with the offsets of the frame and of the end
/// of its first buffer.
fn context(data: usize, data_end: usize) -> Vec<u8> {
    let word = |value: usize| u32::try_from(value).expect("a short frame").to_ne_bytes();
    let mut bytes = [word(data), word(data_end)].concat();
    bytes.resize(24, 0);
    bytes
}
