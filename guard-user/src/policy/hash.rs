//! The hash that names a policy.

use guard_common::{
    flow::Transport,
    layout,
    tables::{Limits, Source},
};
use sha2::{Digest as _, Sha256};

use super::compiled::CompiledPolicy;

/// SHA-256 over the tables by rank: independent of slots, of the order of lists, and of how
/// anything was written.
pub(super) fn hash(compiled: &CompiledPolicy) -> [u8; 32] {
    let mut hash = Sha256::new();
    let text = |hash: &mut Sha256, text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    let number = |hash: &mut Sha256, number: u64| hash.update(number.to_be_bytes());
    text(&mut hash, "trainguard policy 1");
    text(&mut hash, &compiled.node);
    number(&mut hash, compiled.services.len() as u64);
    for service in &compiled.services {
        text(&mut hash, &service.label);
        number(&mut hash, service.service.flags);
        for limits in [&service.service.per_source, &service.service.total] {
            let Limits { new_connections, packets, bytes } = limits;
            for limit in [new_connections, packets, bytes] {
                number(&mut hash, limit.rate);
                number(&mut hash, limit.unit);
                number(&mut hash, limit.depth);
            }
        }
    }
    for transport in Transport::ALL {
        let first = layout::port_index(transport, 0);
        let last = layout::port_index(transport, u16::MAX);
        hash.update(compiled.ports.get(first..=last).unwrap_or_default());
    }
    number(&mut hash, compiled.sources4.len() as u64);
    for (prefix, source) in &compiled.sources4 {
        hash.update(prefix.addr);
        hash_source(&mut hash, prefix.len, source);
    }
    number(&mut hash, compiled.sources6.len() as u64);
    for (prefix, source) in &compiled.sources6 {
        hash.update(prefix.addr);
        hash_source(&mut hash, prefix.len, source);
    }
    hash.finalize().into()
}

fn hash_source(hash: &mut Sha256, len: u8, source: &Source) {
    hash.update([len]);
    hash.update(source.services.to_be_bytes());
    hash.update(source.flags.to_be_bytes());
}
