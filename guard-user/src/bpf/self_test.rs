//! Self-test of a generation: known packets are evaluated before the generation comes into force.
//!
//! The decision is one function that is compiled twice, and the test suite checks that both results
//! agree. The self-test checks the same on this machine, with the JIT compiler of its kernel and the
//! tables that were just filled. If it fails, the generation is not used and the policy in force
//! stays.
//!
//! Decision: `docs/decisions/0003-generation-is-tested-first.md`.

use std::{collections::BTreeSet, net::IpAddr};

use aya::{
    Ebpf, TestRun as _,
    programs::{TestRunOptions, Xdp},
};
use guard_common::{
    NoTrace, Verdict, evaluate, names, packet::Frame, port_table::Transport, stack::Offline,
    tables::Unlimited,
};

use super::loader::missing;
use crate::{
    policy::{compile::hash::hexadecimal, compiled::CompiledPolicy, limiter::HostLimiter},
    probe::{self, Probe},
    system_error::SystemError,
};

/// Number of sources of each family that are taken from the policy, evenly spaced in its list.
const SOURCES: usize = 4;

/// Runs the self-test program, and compares its verdicts with those of user space.
pub(super) fn run(ebpf: &mut Ebpf, policy: &CompiledPolicy) -> Result<(), SystemError> {
    let name = names::PROGRAM_SELF_TEST;
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    let program: &mut Xdp = program.try_into().map_err(|error| SystemError::of(name, error))?;
    program.load().map_err(|error| SystemError::of("loading the self-test program", error))?;
    let compared = compare(program, policy);
    // The program is only needed for the self-test. A failure to unload it does not make the result
    // wrong.
    if let Err(error) = program.unload() {
        tracing::error!("unloading the self-test program: {error}");
    }
    compared
}

fn compare(program: &Xdp, policy: &CompiledPolicy) -> Result<(), SystemError> {
    let tables = Unlimited(policy.host());
    let limiter = HostLimiter::new([0; 2]);
    let stack = Offline::default();
    for frame in frames(policy) {
        let expected = evaluate(&Frame::new(&frame), &tables, &stack, &limiter, &mut NoTrace);
        let options = TestRunOptions { data_in: Some(&frame), repeat: 1, ..Default::default() };
        let result = program
            .test_run(options)
            .map_err(|error| SystemError::of("testing the policy in the kernel", error))?;
        let found = Verdict::unpack(result.return_value);
        if found != Some(expected) {
            return Err(SystemError::new(format!(
                "wrong verdict of the kernel program: {found:?} ({:#x}), expected {expected:?}, for \
                 the frame {}",
                result.return_value,
                hexadecimal(&frame)
            ))
            .hint("the policy does not come into force; please report this with the frame"));
        }
    }
    Ok(())
}

/// Returns the frames of the test: for the first port of each service, packets from some listed
/// sources, from an unlisted source and from a source that is never valid; and frames without a port.
fn frames(policy: &CompiledPolicy) -> Vec<Vec<u8>> {
    let mut sources: BTreeSet<IpAddr> = BTreeSet::new();
    sources.extend(spread(&policy.sources4, |(prefix, _)| IpAddr::from(prefix.addr)));
    sources.extend(spread(&policy.sources6, |(prefix, _)| IpAddr::from(prefix.addr)));
    // Addresses for documentation (RFC 5737, RFC 3849), and loopback.
    sources.extend([IpAddr::from([203, 0, 113, 7]), IpAddr::from([127, 0, 0, 1])]);
    sources.insert(IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7]));
    let mut frames = vec![probe::UNREADABLE.to_vec()];
    for source in sources {
        frames.push(Probe::fragment(source).frame());
        for (transport, port) in policy.first_ports() {
            for flags in [probe::FLAGS_OPENING, probe::FLAGS_ESTABLISHED] {
                frames.push(Probe::new(source, transport, port, flags).frame());
                if transport != Transport::Tcp {
                    break;
                }
            }
        }
    }
    frames
}

/// Returns the first and the last element of a list, and some in between.
fn spread<T, U>(list: &[T], of: impl Fn(&T) -> U) -> Vec<U> {
    let end = list.len().saturating_sub(1);
    let at = |nth: usize| list.get(end * nth / (SOURCES - 1));
    (0..SOURCES).filter_map(at).map(of).collect()
}
