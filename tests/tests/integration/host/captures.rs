//! A real training job, replayed to the guard of each of its hosts: the shipped policy must not drop a
//! frame of the job, and must not let an unlisted host in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use guard_common::{Action, NoTrace, Reason, flow::Parsed, packet::Frame, parse};
use guard_tests::{
    backend::{Backend, Host},
    pcap::{self, Captured},
    world::{self, data},
};

use guard_user::policy;
use guard_user::policy::{Disk, Loaded, compiled::CompiledPolicy};

const CAPTURES: [(&str, usize); 2] =
    [("mxnet-baseline.pcap", 2067), ("mxnet-late-scheduler.pcap", 1606)];
const NODES: [&str; 5] = ["sched-0", "worker-0", "worker-1", "server-0", "server-1"];

/// Offsets in an IPv4 packet without VLAN tags: its first byte, and its addresses.
const IP_AT: usize = 14;
const SOURCE: std::ops::Range<usize> = 26..30;
const DESTINATION: std::ops::Range<usize> = 30..34;

const UNLISTED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);

/// Loads the hosts of the captures with the shipped policy.
fn cluster() -> Loaded {
    policy::load(&data("captures/cluster.yaml"), &Disk).unwrap_or_else(|error| panic!("{error}"))
}

fn captures() -> Vec<(&'static str, Vec<Captured>)> {
    let read = |(file, count): (&'static str, usize)| {
        let frames = pcap::read(&data("captures").join(file));
        assert_eq!(frames.len(), count, "{file}");
        (file, frames)
    };
    CAPTURES.map(read).into()
}

/// Returns the frames of a capture that the host `address` receives, with times that start at one
/// second.
fn received(frames: &[Captured], address: Ipv4Addr) -> Vec<Captured> {
    let start = frames[0].ns;
    let to_host = frames.iter().filter(|frame| frame.bytes[DESTINATION] == address.octets());
    to_host
        .map(|frame| Captured { ns: frame.ns - start + 1_000_000_000, bytes: frame.bytes.clone() })
        .collect()
}

fn address(loaded: &Loaded, node: &str) -> Ipv4Addr {
    match IpAddr::from(loaded.cluster.node(node).expect("a node").addresses[0]) {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}"),
    }
}

/// Reports whether the node guards the segment: its pinned ports always, other ports only for segments
/// that open a connection.
fn guarded(policy: &CompiledPolicy, frame: &[u8]) -> bool {
    let Ok(Parsed::Flow(flow)) = parse(&Frame::new(frame), &mut NoTrace).parsed() else {
        panic!("a captured frame without ports");
    };
    let pinned = if policy.node == "sched-0" { 9091..=9091 } else { 9200..=9299 };
    pinned.contains(&flow.port) || (flow.opening && flow.port != 22)
}

pub(crate) fn replay<'p, B: Backend>(
    policy: &'p CompiledPolicy,
    address: Ipv4Addr,
    new: impl Fn(&'p CompiledPolicy) -> B,
) {
    for (file, frames) in captures() {
        let place = format!("{file} at {}", policy.node);
        let frames = received(&frames, address);
        assert!(frames.len() > 100, "{place}: {} frames", frames.len());

        let mut backend = new(policy);
        for frame in &frames {
            let verdict = backend.evaluate(&frame.bytes, frame.ns);
            let passed = [Reason::Allowed, Reason::Established].contains(&verdict.reason);
            assert!(verdict.action == Action::Pass && passed, "{place}: {verdict:?}");
        }

        let mut backend = new(policy);
        let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
        for frame in &frames {
            let mut forged = frame.bytes.clone();
            forged[SOURCE].copy_from_slice(&UNLISTED.octets());
            let verdict = backend.evaluate(&forged, frame.ns);
            let expected = if guarded(policy, &forged) {
                (Action::Drop, Reason::NotAllowed)
            } else {
                (Action::Pass, Reason::Established)
            };
            assert_eq!((verdict.action, verdict.reason), expected, "{place}: an unlisted source");
            *reasons.entry(verdict.reason).or_default() += 1;
        }
        // Each host accepted connections, and got replies to connections of its own.
        assert_eq!(
            reasons.into_keys().collect::<BTreeSet<_>>(),
            [Reason::Established, Reason::NotAllowed].into(),
            "{place}"
        );
    }
}

/// Asserts that unlisted hosts pass like members on ports that no service guards.
pub(crate) fn replay_unguarded(address: Ipv4Addr, backend: &mut impl Backend) {
    for (_, frames) in captures() {
        for frame in received(&frames, address) {
            let mut forged = frame.bytes;
            forged[SOURCE].copy_from_slice(&UNLISTED.octets());
            let verdict = backend.evaluate(&forged, frame.ns);
            assert_eq!((verdict.action, verdict.reason), (Action::Pass, Reason::Unguarded));
        }
    }
}

pub(crate) fn nodes() -> Vec<(CompiledPolicy, Ipv4Addr)> {
    let loaded = cluster();
    NODES.map(|node| (world::compile(&loaded, node), address(&loaded, node))).into()
}

#[test]
fn the_captures_are_of_the_hosts_in_the_manifest() {
    let loaded = cluster();
    let members: BTreeSet<[u8; 4]> =
        NODES.iter().map(|node| address(&loaded, node).octets()).collect();
    for (file, frames) in captures() {
        for range in [SOURCE, DESTINATION] {
            let found: BTreeSet<[u8; 4]> =
                frames.iter().map(|frame| frame.bytes[range.clone()].try_into().unwrap()).collect();
            assert_eq!(found, members, "{file}");
        }
        assert!(frames.iter().all(|frame| frame.bytes[IP_AT] == 0x45), "{file}");
    }
}

#[test]
fn the_job_runs_and_an_unlisted_host_is_refused_on_the_host() {
    for (policy, address) in nodes() {
        replay(&policy, address, Host::new);
    }
}

/// Returns a policy that guards TCP ports that do not occur in the captures.
pub(crate) fn other_ports() -> CompiledPolicy {
    world::named("nested").compile()
}

#[test]
fn a_policy_for_other_ports_affects_no_frame_on_the_host() {
    let policy = other_ports();
    for (_, address) in nodes() {
        replay_unguarded(address, &mut Host::new(&policy));
    }
}
