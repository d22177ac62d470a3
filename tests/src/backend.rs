//! Back ends that decide about frames: the host and the kernel, each with its own limiter state and
//! counters.

use std::{collections::BTreeMap, fmt::Write as _};

use guard_common::{Action, Verdict, packet::Frame};
use guard_user::{
    attach_mode::Hook,
    bpf::{
        loader::{Generation, Maps, Options},
        pinned_maps::PinnedMaps,
        test_run::Received,
    },
    policy::{
        compiled::{CompiledPolicy, HostTables},
        limiter::HostLimiter,
    },
    system_error::SystemError,
};

use crate::split::Split;

/// The key for hashed buckets; the same for both back ends, so that the same sources share a bucket.
pub const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

/// Frames and bytes by verdict, under the names that [`describe`] returns.
pub type Counts = BTreeMap<String, (u64, u64)>;

/// Decides about frames, one after the other.
pub trait Backend {
    /// Returns the verdict on a frame at a time in nanoseconds.
    fn evaluate(&mut self, frame: &[u8], now_ns: u64) -> Verdict;

    /// Returns the counts so far.
    fn counts(&self) -> Counts;

    /// Reports whether the back end can take this frame. Frames that it cannot take are sent over a wire
    /// by `kernel/interfaces/tcx.rs`.
    fn takes(&self, _frame: &[u8]) -> bool {
        true
    }
}

/// Formats a verdict as `drop not_allowed scheduler`: action, reason, and the service's name if it has
/// one.
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

/// The decision on the host.
#[derive(Debug)]
pub struct Host<'p> {
    policy: &'p CompiledPolicy,
    tables: HostTables<'p>,
    limiter: HostLimiter,
    counts: Counts,
}

impl<'p> Host<'p> {
    /// Creates the host back end for a policy, with full buckets.
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
    evaluated: usize,
}

/// Index of the loopback interface, which a test run uses as the ingress interface
/// (`bpf_prog_test_run_xdp`, `net/bpf/test_run.c`).
const LOOPBACK: u32 = 1;

impl<'p> Kernel<'p> {
    /// Loads a policy at the XDP hook, with full buckets.
    pub fn new(policy: &'p CompiledPolicy) -> Result<Self, SystemError> {
        Self::at(Hook::Xdp, policy)
    }

    /// Loads a policy at a hook, with full buckets.
    ///
    /// At the tc hook, every second frame with a complete VLAN tag is passed without the tag, as the
    /// kernel does. The others keep it, which no kernel does; the verdict must be the same.
    pub fn at(hook: Hook, policy: &'p CompiledPolicy) -> Result<Self, SystemError> {
        let generation = Generation::for_tests_of(hook, policy, KEY)?;
        // Otherwise the verifier has refused the program as it is used.
        assert_eq!(generation.without_lookups(), None);
        Self::of(hook, policy, generation)
    }

    /// Loads a policy at a hook, with full buckets. The program makes no lookups in the network stack,
    /// as on a kernel that has none.
    pub fn without_lookups(hook: Hook, policy: &'p CompiledPolicy) -> Result<Self, SystemError> {
        let options = Options { lookups: 0, ..Options::new(Maps::Private, KEY, false) };
        Self::of(hook, policy, Generation::for_tests_with(hook, policy, &options)?)
    }

    fn of(
        hook: Hook,
        policy: &'p CompiledPolicy,
        mut generation: Generation,
    ) -> Result<Self, SystemError> {
        let mut shared = generation.shared()?;
        shared.set_interface(LOOPBACK, "lo", false)?;
        for service in &policy.services {
            shared.set_service(service.slot, &service.label)?;
        }
        Ok(Self { policy, generation, shared, hook, evaluated: 0 })
    }

    /// Sets the flag that each frame lies in one buffer.
    pub fn set_one_buffer(mut self) -> Result<Self, SystemError> {
        self.shared.set_interface(LOOPBACK, "lo", true)?;
        Ok(self)
    }

    /// Returns the same program for frames in several buffers. Limiter state and counters are shared.
    pub fn split(&self) -> Split {
        Split::of(&self.generation)
    }
}

impl Backend for Kernel<'_> {
    fn evaluate(&mut self, frame: &[u8], now_ns: u64) -> Verdict {
        self.evaluated += 1;
        let evaluated = match untagged(frame) {
            Some((frame, tag)) if self.hook == Hook::Tc && self.evaluated.is_multiple_of(2) => {
                self.generation.evaluate_received(&frame, Received { tag, packets: 1 }, now_ns)
            }
            _ => self.generation.evaluate(frame, now_ns),
        };
        evaluated.unwrap_or_else(|error| panic!("{error}"))
    }

    fn takes(&self, frame: &[u8]) -> bool {
        let untagged = untagged(frame);
        self.hook == Hook::Xdp
            || (is_packet(frame) && untagged.is_none_or(|(frame, _)| is_packet(&frame)))
    }

    fn counts(&self) -> Counts {
        let counters = self.shared.counters().expect("the counters can be read");
        let named = counters.into_iter().map(|(interface, verdict, counter)| {
            assert_eq!(interface, "lo", "the counters belong to the interface of the frame");
            (describe(self.policy, verdict), (counter.packets, counter.bytes))
        });
        named.collect()
    }
}

/// Reports whether a test run accepts a frame as a packet of the network stack. It requires the header
/// that the `EtherType` announces (`bpf_prog_test_run_skb`, `net/bpf/test_run.c`), and copies the frame
/// into one page.
fn is_packet(frame: &[u8]) -> bool {
    let shortest = match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 15,
    };
    (shortest..=3_500).contains(&frame.len())
}

/// Returns a frame without its first VLAN tag, and the tag; `None` without a complete tag.
fn untagged(frame: &[u8]) -> Option<(Vec<u8>, u32)> {
    let (addresses, rest) = frame.split_at_checked(12)?;
    let (tag, rest) = rest.split_first_chunk::<4>()?;
    let is_tag = matches!(tag, [0x81, 0x00, ..] | [0x88, 0xa8, ..]);
    (is_tag && rest.len() >= 2).then(|| ([addresses, rest].concat(), u32::from_be_bytes(*tag)))
}

/// Formats bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}
