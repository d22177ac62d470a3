//! What judges frames: the host and the kernel, each with its limiter state and its counters.

use std::{collections::BTreeMap, fmt::Write as _};

use guard_common::{Action, Verdict, packet::Frame};
use guard_user::{
    attach_mode::Hook,
    bpf::{loader::Generation, pinned_maps::PinnedMaps, test_run::Received},
    policy::{
        compiled::{CompiledPolicy, HostTables},
        limiter::HostLimiter,
    },
    system_error::SystemError,
};

use crate::split::Split;

/// The secret of hashed buckets: the same for both, so that sources share the same buckets.
pub const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

/// Frames and bytes by verdict, as [`describe`] names it.
pub type Counts = BTreeMap<String, (u64, u64)>;

/// Judges frames, one after the other.
pub trait Backend {
    /// Judges a frame at a time in nanoseconds.
    fn evaluate(&mut self, frame: &[u8], now_ns: u64) -> Verdict;

    /// What was counted so far.
    fn counts(&self) -> Counts;

    /// Whether it can be handed this frame. Those that it cannot are sent over a wire by
    /// `kernel/interfaces/tcx.rs`.
    fn takes(&self, _frame: &[u8]) -> bool {
        true
    }
}

/// `drop not_allowed scheduler`: action, reason and the name of the service, if there is one.
pub fn describe(policy: &CompiledPolicy, verdict: Verdict) -> String {
    let action = match verdict.action {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::WouldDrop => "would_drop",
    };
    let mut text = format!("{action} {}", verdict.reason.name());
    if let Some(slot) = verdict.service {
        let name = policy.service_in(slot).map_or("?", |service| service.name.as_str());
        write!(text, " {name}").expect("a string takes it");
    }
    text
}

/// The host.
#[derive(Debug)]
pub struct Host<'p> {
    policy: &'p CompiledPolicy,
    tables: HostTables<'p>,
    limiter: HostLimiter,
    counts: Counts,
}

impl<'p> Host<'p> {
    /// A policy on the host, nothing charged yet.
    pub fn new(policy: &'p CompiledPolicy) -> Self {
        let limiter = HostLimiter::new(KEY);
        Self { policy, tables: policy.host(), limiter, counts: Counts::new() }
    }
}

impl Backend for Host<'_> {
    fn evaluate(&mut self, frame: &[u8], now_ns: u64) -> Verdict {
        self.limiter.set_now_ns(now_ns);
        let verdict = self.tables.verdict(&Frame::new(frame), &self.limiter);
        let (packets, bytes) = self.counts.entry(describe(self.policy, verdict)).or_default();
        *packets += 1;
        *bytes += frame.len() as u64;
        verdict
    }

    fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

/// The program in the kernel.
#[expect(missing_debug_implementations, reason = "the shared maps have none")]
pub struct Kernel<'p> {
    policy: &'p CompiledPolicy,
    generation: Generation,
    shared: PinnedMaps,
    hook: Hook,
    judged: usize,
}

/// Index of the loopback interface: where a test run says that it comes from
/// (`bpf_prog_test_run_xdp`, `net/bpf/test_run.c`).
const LOOPBACK: u32 = 1;

impl<'p> Kernel<'p> {
    /// A policy in the kernel at the XDP hook, nothing charged yet.
    pub fn new(policy: &'p CompiledPolicy) -> Result<Self, SystemError> {
        Self::at(Hook::Xdp, policy)
    }

    /// The same at a hook. At that of tc every other frame whose tag is whole comes without it, as
    /// the kernel hands it over; the rest as no kernel does: it must not matter.
    pub fn at(hook: Hook, policy: &'p CompiledPolicy) -> Result<Self, SystemError> {
        let mut generation = Generation::for_tests_of(hook, policy, KEY)?;
        let mut shared = generation.shared()?;
        shared.set_interface(LOOPBACK, "lo", false)?;
        for service in &policy.services {
            shared.set_service(service.slot, &service.label)?;
        }
        Ok(Self { policy, generation, shared, hook, judged: 0 })
    }

    /// Tells the program that each frame lies in one buffer.
    pub fn say_one_buffer(mut self) -> Result<Self, SystemError> {
        self.shared.set_interface(LOOPBACK, "lo", true)?;
        Ok(self)
    }

    /// The same program for frames in several buffers; limiter state and counters are shared.
    pub fn split(&self) -> Split {
        Split::of(&self.generation)
    }
}

impl Backend for Kernel<'_> {
    fn evaluate(&mut self, frame: &[u8], now_ns: u64) -> Verdict {
        self.judged += 1;
        let judged = match untagged(frame) {
            Some((frame, tag)) if self.hook == Hook::Tc && self.judged.is_multiple_of(2) => {
                self.generation.judge_received(&frame, Received { tag, packets: 1 }, now_ns)
            }
            _ => self.generation.evaluate(frame, now_ns),
        };
        judged.unwrap_or_else(|error| panic!("{error}"))
    }

    fn takes(&self, frame: &[u8]) -> bool {
        let untagged = untagged(frame);
        self.hook == Hook::Xdp
            || (is_packet(frame) && untagged.is_none_or(|(frame, _)| is_packet(&frame)))
    }

    fn counts(&self) -> Counts {
        let counters = self.shared.counters().expect("the counters can be read");
        let named = counters.into_iter().map(|(interface, verdict, counter)| {
            assert_eq!(interface, "lo", "the row of the interface that the frame came from");
            (describe(self.policy, verdict), (counter.packets, counter.bytes))
        });
        named.collect()
    }
}

/// Whether a test run takes a frame for a packet of the network stack. It wants what its `EtherType`
/// promises (`bpf_prog_test_run_skb`, `net/bpf/test_run.c`), and puts all of it into one page.
fn is_packet(frame: &[u8]) -> bool {
    let shortest = match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 15,
    };
    (shortest..=3_500).contains(&frame.len())
}

/// A frame without its first VLAN tag, and that tag; none if it has no whole one.
fn untagged(frame: &[u8]) -> Option<(Vec<u8>, u32)> {
    let (addresses, rest) = frame.split_at_checked(12)?;
    let (tag, rest) = rest.split_first_chunk::<4>()?;
    let is_tag = matches!(tag, [0x81, 0x00, ..] | [0x88, 0xa8, ..]);
    (is_tag && rest.len() >= 2).then(|| ([addresses, rest].concat(), u32::from_be_bytes(*tag)))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}
