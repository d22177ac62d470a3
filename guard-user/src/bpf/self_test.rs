//! Known packets, judged by a generation before it comes into force.
//!
//! The decision is one function, compiled twice, and tests see that both agree. What is seen here
//! is that they do so on this machine, with this kernel's compiler, on the tables that were filled
//! just now: a generation that fails is not switched to, and what was in force stays.

use std::{collections::BTreeSet, net::IpAddr};

use aya::{
    Ebpf, TestRun as _,
    programs::{TestRunOptions, Xdp},
};
use guard_common::{
    NoTrace, Verdict, evaluate, names, packet::Frame, port_table::Transport, tables::Unlimited,
};

use super::loader::missing;
use crate::{
    policy::{compile::hash::hexadecimal, compiled::CompiledPolicy, limiter::HostLimiter},
    probe::{self, Probe},
    system_error::SystemError,
};

/// Sources of each family that are taken from the policy, spread evenly over its list.
const SOURCES: usize = 4;

/// Runs the self-test program, and compares its verdicts with the host's.
pub(super) fn run(ebpf: &mut Ebpf, policy: &CompiledPolicy) -> Result<(), SystemError> {
    let name = names::PROGRAM_SELF_TEST;
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    let program: &mut Xdp = program.try_into().map_err(|error| SystemError::of(name, error))?;
    program.load().map_err(|error| SystemError::of("loading the self-test program", error))?;
    let compared = compare(program, policy);
    // It was loaded for this. Its end is no reason to refuse what it has found to be right.
    if let Err(error) = program.unload() {
        tracing::error!("unloading the self-test program: {error}");
    }
    compared
}

fn compare(program: &Xdp, policy: &CompiledPolicy) -> Result<(), SystemError> {
    let tables = Unlimited(policy.host());
    let limiter = HostLimiter::new([0; 2]);
    for frame in frames(policy) {
        let expected = evaluate(&Frame::new(&frame), &tables, &limiter, &mut NoTrace);
        let options = TestRunOptions { data_in: Some(&frame), repeat: 1, ..Default::default() };
        let result = program
            .test_run(options)
            .map_err(|error| SystemError::of("testing the policy in the kernel", error))?;
        let found = Verdict::unpack(result.return_value);
        if found != Some(expected) {
            return Err(SystemError::new(format!(
                "the kernel judges otherwise than it must: {found:?} ({:#x}), expected \
                 {expected:?}, for the frame {}",
                result.return_value,
                hexadecimal(&frame)
            ))
            .hint("the policy does not come into force; please report this with the frame"));
        }
    }
    Ok(())
}

/// For each service its first port, asked by everybody who is special: some whom the policy lists,
/// a stranger, and one that cannot be; and what has no port.
fn frames(policy: &CompiledPolicy) -> Vec<Vec<u8>> {
    let mut sources: BTreeSet<IpAddr> = BTreeSet::new();
    sources.extend(spread(&policy.sources4, |(prefix, _)| IpAddr::from(prefix.addr)));
    sources.extend(spread(&policy.sources6, |(prefix, _)| IpAddr::from(prefix.addr)));
    // For documentation (RFC 5737, RFC 3849), and loopback.
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

/// The first of a list, the last, and some in between.
fn spread<T, U>(list: &[T], of: impl Fn(&T) -> U) -> Vec<U> {
    let end = list.len().saturating_sub(1);
    let at = |nth: usize| list.get(end * nth / (SOURCES - 1));
    (0..SOURCES).filter_map(at).map(of).collect()
}
