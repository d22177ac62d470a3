//! Hashed buckets, which sources share that are not members.

use std::net::{Ipv4Addr, SocketAddr};

use guard_common::{Action, Reason};
use guard_tests::{
    backend::{Backend, Host, Kernel},
    node::{MANIFEST, NODE},
    packet, skip, world,
};
use guard_user::{attach_mode::Hook, policy::Bundle};

use super::site::{policy, service};

/// A port for all sources, with a high limit on connections.
const PUBLIC: u16 = 8000;
/// A port for some sources, with a low limit.
const LIMITED: u16 = 9999;
/// The number of connections that the low limit has room for.
const BURST: usize = 60;
/// Number of sources of the flood: six for each bucket of a service.
const FLOOD: u32 = 6 << 14;
/// The time of all packets in nanoseconds: no bucket is refilled by the clock.
const NOW: u64 = 1_000_000_000;

fn syn(from: Ipv4Addr, port: u16) -> Vec<u8> {
    packet::segment((from, 1234), SocketAddr::new(NODE[0], port), packet::SYN, 0)
}

/// Packets of many sources at a service with a high limit do not refill the bucket of a source at
/// another service, with which they would share it if buckets were not those of a service.
#[test]
fn a_flood_at_one_service_refills_no_bucket_of_another() {
    if skip::kernel("traffic/buckets").is_none() {
        return;
    }
    let connections = |rate: u32, burst: usize| {
        let limit = format!("{{ rate: {rate}/s, burst: {burst} }}");
        format!("limits:\n      perSource:\n        newConnections: {limit}")
    };
    let policy = policy(&[
        service("public", "tcp/8000", "all", "any: true", &connections(200, 1000)),
        service("limited", "tcp/9999", "all", "cidrs: [10.9.0.0/16]", &connections(1, BURST)),
    ]);
    let texts = [("cluster.yaml", MANIFEST.to_owned()), ("policy.yaml", policy)];
    let compiled = world::compile(&world::load(&Bundle::new("cluster.yaml", texts)), "node");
    let kernel = |hook| Kernel::at(hook, &compiled).expect("a loaded program");
    let backends: [(&str, Box<dyn Backend + '_>); 3] = [
        ("host", Box::new(Host::new(&compiled))),
        ("XDP", Box::new(kernel(Hook::Xdp))),
        ("tc", Box::new(kernel(Hook::Tc))),
    ];
    let source = Ipv4Addr::new(10, 9, 0, 1);
    for (name, mut backend) in backends {
        let mut passed = |from, port, count: usize| {
            let frame = syn(from, port);
            let verdicts = (0..count).map(|_| backend.evaluate(&frame, NOW));
            verdicts.filter(|verdict| verdict.action == Action::Pass).count()
        };
        assert_eq!(passed(source, LIMITED, BURST + 40), BURST, "{name}: the limit");
        for number in 0..FLOOD {
            // From 45.0.0.0 on.
            let from = Ipv4Addr::from_bits(0x2d00_0000 + number);
            assert_eq!(passed(from, PUBLIC, 1), 1, "{name}: {from}");
        }
        assert_eq!(passed(source, LIMITED, 100), 0, "{name}: refilled");
        // The source has another bucket there, which an earlier one of the flood may share.
        assert_eq!(passed(source, PUBLIC, 100), 100, "{name}: the other service");
        let counted = |what: &str| backend.counts().get(what).map_or(0, |(packets, _)| *packets);
        assert_eq!(counted("pass allowed limited"), BURST as u64, "{name}");
        let refused = format!("drop {} limited", Reason::LimitNewConnections.name());
        assert_eq!(counted(&refused), 140, "{name}");
        assert_eq!(counted("pass allowed public"), u64::from(FLOOD) + 100, "{name}");
        assert_eq!(backend.counts().len(), 3, "{name}: {:?}", backend.counts());
    }
}
