//! A node with one service that admits a given number of addresses, and addresses on and off its list.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use guard_test_support::bundle;
use guard_user::policy::{Bundle, compiled::CompiledPolicy};

use crate::{random::Random, world};

/// The guarded port.
pub const PORT: u16 = 9091;
/// The node's addresses.
pub const NODE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 77, 0, 10), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10));
/// Name of the service in counters.
pub const SERVICE: &str = "scheduler";

/// Distinct addresses of both families, scattered over unicast space.
#[derive(Debug, Default)]
pub struct Addresses {
    /// IPv4.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6.
    pub v6: Vec<Ipv6Addr>,
}

impl Addresses {
    /// Returns addresses to list, and others that are not listed, as many of each family as given.
    pub fn listed_and_not(listed: usize, unlisted: usize) -> (Self, Self) {
        let mut random = Random::new(listed as u64);
        let mut seen = BTreeSet::new();
        let mut some = |count| {
            let mut fresh = |make: fn(&mut Random) -> IpAddr| loop {
                let address = make(&mut random);
                if seen.insert(address) {
                    return address;
                }
            };
            let mut addresses = Self::default();
            for _ in 0..count {
                for make in [ipv4, ipv6] {
                    match fresh(make) {
                        IpAddr::V4(address) => addresses.v4.push(address),
                        IpAddr::V6(address) => addresses.v6.push(address),
                    }
                }
            }
            addresses
        };
        (some(listed), some(unlisted))
    }
}

fn ipv4(random: &mut Random) -> IpAddr {
    // From 11.0.0.0 to 126.255.255.255: excludes the node and addresses that cannot be sources.
    let first = 11 + random.below(116);
    let bits = (first as u64) << 24 | random.word() >> 40;
    Ipv4Addr::from(u32::try_from(bits).unwrap_or(0)).into()
}

fn ipv6(random: &mut Random) -> IpAddr {
    let bits = u128::from(random.word()) << 64 | u128::from(random.word());
    // 2000::/3
    Ipv6Addr::from(bits >> 3 | 1 << 125).into()
}

/// Fields of the service besides its list of sources.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Value of the field `match`.
    pub matching: &'static str,
    /// Further lines; empty, or each with its line break.
    pub more: &'static str,
}

/// Compiles the policy of a node that admits these addresses to [`PORT`].
pub fn compile(device: &str, listed: &Addresses, service: Service) -> CompiledPolicy {
    let texts = [("cluster.yaml", manifest(device, listed)), ("policy.yaml", policy(service))];
    world::compile(&world::load(&Bundle::new("cluster.yaml", texts)), "node")
}

fn manifest(device: &str, listed: &Addresses) -> String {
    let (v4, v6) = NODE;
    let addresses = listed.v4.iter().copied().map(IpAddr::from);
    let addresses = addresses.chain(listed.v6.iter().copied().map(IpAddr::from));
    // One line each, because there may be a million.
    let lines = addresses.fold(String::new(), |mut text, address| {
        let _ = write!(text, "\n    - \"{address}\"");
        text
    });
    bundle::cluster("bench")
        .interfaces(device)
        .node("node", &format!("{v4}, {v6}"), "scheduler")
        .network("listed", &lines)
        .policies("policy.yaml")
        .to_string()
}

fn policy(service: Service) -> String {
    let Service { matching, more } = service;
    let port = format!("tcp/{PORT}");
    let text = bundle::service(SERVICE, "scheduler", &port, "networks: [listed]");
    let text = text.replacen("match: all", &format!("match: {matching}"), 1);
    bundle::policy("bench", [text + more])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_benchmarks_compile() {
        let (listed, _) = Addresses::listed_and_not(2, 0);
        for matching in ["all", "new-connections"] {
            for more in ["", "    limits: { perSource: { packets: { rate: 9/s, burst: 9 } } }\n"] {
                let compiled = compile("eth0", &listed, Service { matching, more });
                assert_eq!(compiled.services.len(), 1, "{matching} {more}");
            }
        }
    }
}
