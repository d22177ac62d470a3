//! Properties that hold for every frame and policy, on the host. The differential test extends them to
//! the kernel.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use guard_common::{Action, Reason, Verdict, layout::event::HEAD_LEN, packet::Frame};
use guard_tests::{
    backend::{Backend as _, Host, describe, hex},
    generate::Generator,
    packet::{self, Ethernet, Extension, Ipv4, Ipv6, Kind, Layer, Ports, Vlan},
    random, world,
};
use guard_user::{
    capture::headers,
    policy::{compiled::CompiledPolicy, limiter::HostLimiter},
};
use proptest::prelude::*;

/// Time of frames for which it does not matter.
const NOW_NS: u64 = 1_000_000_000;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() }
}

fn compiled(name: &str) -> CompiledPolicy {
    world::named(name).compile()
}

/// The worlds without limits: their verdict depends on the frame alone.
static UNLIMITED: LazyLock<Vec<CompiledPolicy>> = LazyLock::new(|| {
    let names = ["enforce", "observe", "mixed", "overlap", "tunnels", "nested", "nothing-guarded"];
    names.map(compiled).into()
});
static ENFORCE: LazyLock<CompiledPolicy> = LazyLock::new(|| compiled("enforce"));

/// Edits of the world `tunnels` that remove a source from a list.
const SHORTENED: [(&str, &str); 5] = [
    ("[scheduler, server, worker]", "[server, worker]"),
    ("[scheduler, server, worker]", "[scheduler, server]"),
    (", networks: [management]", ""),
    ("198.51.100.64/26, ", ""),
    (", \"2001:db8:9::/48\"", ""),
];
static TUNNELS: LazyLock<CompiledPolicy> = LazyLock::new(|| compiled("tunnels"));
static SHORTER: LazyLock<Vec<CompiledPolicy>> = LazyLock::new(|| {
    let edited = |(listed, left): (&str, &str)| {
        world::named("tunnels").compile_edited(|text| text.replace(listed, left))
    };
    SHORTENED.map(edited).into()
});
/// Worlds that observe, each paired with the same world in enforce mode.
static OBSERVING: LazyLock<Vec<[CompiledPolicy; 2]>> = LazyLock::new(|| {
    let both = |name: &str| {
        let enforcing = world::named(name)
            .compile_edited(|text| text.replace("mode: observe", "mode: enforce"));
        [compiled(name), enforcing]
    };
    ["observe", "tunnels-observed", "limits-observed"].map(both).into()
});

fn verdict(policy: &CompiledPolicy, frame: &[u8]) -> Verdict {
    Host::new(policy).evaluate(frame, NOW_NS)
}

/// Returns frames aimed at a policy, generated from a seed, with the host's verdict on each.
fn evaluated(policy: &CompiledPolicy, seed: u64) -> Vec<(Vec<u8>, Verdict)> {
    let mut generator = Generator::new(policy, seed);
    let mut host = Host::new(policy);
    let frames = (0..100).map(|_| generator.any());
    frames.map(|frame| (frame.clone(), host.evaluate(&frame, NOW_NS))).collect()
}

/// A valid frame: all its lengths are right.
#[derive(Debug, Clone)]
struct Shape {
    tags: usize,
    from: IpAddr,
    to: u32,
    headers: Vec<(Kind, u8)>,
    options: usize,
    more: bool,
    transport: u8,
    port: u16,
    flags: u8,
    payload: usize,
}

impl Shape {
    fn frame(&self) -> Vec<u8> {
        let ethernet = Ethernet { to: [2; 6], ethertype: None };
        let mut layers = vec![Layer::Ethernet(ethernet)];
        let tag = Vlan { kind: 0x8100, tag: 5, ethertype: None };
        layers.extend(std::iter::repeat_n(Layer::Vlan(tag), self.tags));
        match self.from {
            IpAddr::V4(from) => {
                let ip = Ipv4::new(from, Ipv4Addr::from_bits(self.to));
                layers.push(Layer::Ipv4(Ipv4 { options: self.options, more: self.more, ..ip }));
            }
            IpAddr::V6(from) => {
                let to = Ipv6Addr::from_bits(0xfd77_u128 << 112 | u128::from(self.to));
                layers.push(Layer::Ipv6(Ipv6::new(from, to)));
                for (nth, (kind, units)) in self.headers.iter().enumerate() {
                    let more = self.more && nth == 0;
                    let new = Extension::new(*kind);
                    layers.push(Layer::Extension(Extension { units: *units, more, ..new }));
                }
            }
        }
        let (protocol, to, flags) = (self.transport, self.port, self.flags);
        layers.push(Layer::Ports(Ports { protocol, from: 40000, to, flags, len: None }));
        layers.push(Layer::Bytes(vec![0; self.payload]));
        packet::frame(&layers)
    }
}

/// Generates a transport and a port that the world `enforce` guards.
fn guarded() -> impl Strategy<Value = (u8, u16)> {
    prop::sample::select(vec![(6, 9091), (17, 8125), (17, 8128), (136, 8129), (132, 5000)])
}

/// Generates a transport and a port that the world `enforce` does not guard.
fn unguarded() -> impl Strategy<Value = (u8, u16)> {
    let guarded = |(transport, port): &(u8, u16)| match transport {
        6 => *port == 9091,
        132 => *port == 5000,
        _ => *port == 8125 || (8127..=8129).contains(port),
    };
    let near = prop::sample::select(vec![5000, 8125, 8128, 9090, 9091, 9092]);
    let port = prop_oneof![any::<u16>(), near];
    (prop::sample::select(vec![6, 17, 132, 136]), port)
        .prop_filter("an unguarded port", move |chosen| !guarded(chosen))
}

/// Generates sources that no world allows: documentation prefixes, and addresses that cannot be sources.
fn unlisted() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u8>().prop_map(|host| Ipv4Addr::new(192, 0, 2, host).into()),
        any::<u8>().prop_map(|host| Ipv4Addr::new(127, 0, 0, host).into()),
        any::<[u16; 6]>().prop_map(|[a, b, c, d, e, f]| {
            Ipv6Addr::new(0x2001, 0xdb8, a | 0x8000, b, c, d, e, f).into()
        }),
        any::<u32>().prop_map(|v4| Ipv4Addr::from_bits(v4).to_ipv6_mapped().into()),
    ]
}

fn member() -> impl Strategy<Value = IpAddr> {
    let number = prop::sample::select(vec![10_u8, 20, 21, 30, 37]);
    (number, any::<bool>()).prop_map(|(number, six)| of_family(number, six))
}

/// Returns the address of the manifest's host with this number: the IPv4 address, or the IPv6 address
/// with the same digits.
fn of_family(number: u8, six: bool) -> IpAddr {
    if six {
        let digits = u16::from(number / 10 * 16 + number % 10);
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits).into()
    } else {
        Ipv4Addr::new(10, 77, 0, number).into()
    }
}

fn shape(
    from: impl Strategy<Value = IpAddr>,
    to: impl Strategy<Value = (u8, u16)>,
) -> impl Strategy<Value = Shape> {
    let kind = prop::sample::select(vec![
        Kind::HopByHop,
        Kind::Routing,
        Kind::Fragment,
        Kind::Authentication,
        Kind::Destination,
    ]);
    let headers = prop::collection::vec((kind, 0_u8..4), 0..=8);
    let ip = (0_usize..=2, from, any::<u32>(), headers, 0_usize..=10, any::<bool>());
    (ip, to, any::<u8>(), 0_usize..200).prop_map(|(ip, (transport, port), flags, payload)| {
        let (tags, from, to, headers, options, more) = ip;
        let options = options * 4;
        Shape { tags, from, to, headers, options, more, transport, port, flags, payload }
    })
}

/// Reports whether a verdict on a packet with the extension headers of a shape agrees with that on the
/// same packet without any. Behind extension headers, a segment of a source that is not allowed does not
/// count as one of an established connection.
fn agree(shape: &Shape, with: Verdict, without: Verdict) -> bool {
    let is_refused_segment = !shape.headers.is_empty()
        && with.service == without.service
        && (with.reason, without.reason) == (Reason::NotAllowed, Reason::Established);
    with == without || is_refused_segment
}

proptest! {
    #![proptest_config(config())]

    /// Holds for any encapsulation, also if the frame is truncated at any length.
    #[test]
    fn an_unlisted_source_never_reaches_an_enforced_port(
        shape in shape(unlisted(), guarded()),
        cut in any::<prop::sample::Index>(),
    ) {
        let frame = shape.frame();
        prop_assert_eq!(verdict(&ENFORCE, &frame).action, Action::Drop, "{}", hex(&frame));
        let cut = &frame[..cut.index(frame.len())];
        prop_assert_eq!(verdict(&ENFORCE, cut).action, Action::Drop, "{}", hex(cut));
    }

    /// Holds for any source and destination.
    #[test]
    fn packets_to_an_unguarded_port_pass(
        shape in shape(prop_oneof![unlisted(), member()], unguarded()),
    ) {
        let frame = shape.frame();
        let expected = Verdict::of_node(Action::Pass, Reason::Unguarded);
        prop_assert_eq!(verdict(&ENFORCE, &frame), expected, "{}", hex(&frame));
    }

    /// The destination, VLAN tags and IP options do not affect which sources may reach a port; extension
    /// headers only as [`agree`] says.
    #[test]
    fn only_source_port_and_flags_matter(
        shape in shape(prop_oneof![unlisted(), member()], prop_oneof![guarded(), unguarded()]),
        to in any::<u32>(),
        tags in 0_usize..=2,
    ) {
        let other = Shape { to, tags, options: 0, headers: Vec::new(), more: false, ..shape.clone() };
        for policy in UNLIMITED.iter() {
            let (one, other) = (verdict(policy, &shape.frame()), verdict(policy, &other.frame()));
            prop_assert!(agree(&shape, one, other), "{one:?}, {other:?}");
        }
    }

    /// Policies that are equal for both families give equal verdicts.
    #[test]
    fn both_families_get_the_same_verdicts(
        number in prop::sample::select(vec![10_u8, 20, 21, 30, 37, 90, 99]),
        shape in shape(member(), prop_oneof![guarded(), unguarded()]),
    ) {
        let [four, six] = [false, true].map(|six| Shape { from: of_family(number, six), ..shape.clone() });
        for policy in UNLIMITED.iter() {
            let (six, four) = (verdict(policy, &six.frame()), verdict(policy, &four.frame()));
            prop_assert!(agree(&shape, six, four), "{six:?}, {four:?}");
        }
    }

    /// Bytes after the IP packet do not affect the verdict.
    #[test]
    fn padding_changes_nothing(seed: u64, byte: u8, len in 1_usize..200) {
        for policy in UNLIMITED.iter() {
            for (frame, before) in evaluated(policy, seed) {
                // A header that claims more bytes than there are may find them in the padding.
                if matches!(before.reason, Reason::Undecodable | Reason::MalformedIp) {
                    continue;
                }
                let mut padded = frame.clone();
                padded.resize(frame.len() + len, byte);
                prop_assert_eq!(verdict(policy, &padded), before, "{}", hex(&frame));
            }
        }
    }

    /// Removing a source from a list never admits more frames.
    #[test]
    fn a_shorter_list_admits_no_more(seed: u64, which in 0..SHORTENED.len()) {
        let (longer, shorter) = (&*TUNNELS, &SHORTER[which]);
        prop_assert_ne!(shorter.hash, longer.hash);
        for (frame, before) in evaluated(longer, seed) {
            if before.action == Action::Drop {
                prop_assert_eq!(verdict(shorter, &frame).action, Action::Drop, "{}", hex(&frame));
            }
        }
    }

    /// A policy in observe mode drops nothing, and its verdict states what enforce mode would do.
    #[test]
    fn observe_mode_reports_the_verdicts_of_enforce_mode(seed: u64) {
        for [observing, enforcing] in OBSERVING.iter() {
            let mut enforced = Host::new(enforcing);
            for (frame, seen) in evaluated(observing, seed) {
                let done = enforced.evaluate(&frame, NOW_NS);
                prop_assert_ne!(seen.action, Action::Drop);
                let expected = match done.action {
                    Action::Drop => Verdict { action: Action::WouldDrop, ..done },
                    _ => done,
                };
                prop_assert_eq!(seen, expected, "{} {}", describe(observing, seen), hex(&frame));
            }
        }
    }
}

/// The headers that events keep of a frame get the same verdict as the frame, and are its first bytes
/// except for padding, which is zero.
#[test]
fn headers_get_the_verdict_of_the_whole_frame() {
    let seed = random::seed();
    let mut refused = 0;
    for (nth, policy) in (0..).zip(UNLIMITED.iter()) {
        let (tables, limiter) = (policy.host(), HostLimiter::new([1, 2]));
        let verdict = |frame: &Frame<'_>| tables.verdict(frame, &limiter);
        let mut generator = Generator::new(policy, seed.wrapping_add(nth));
        for _ in 0..20_000 {
            let frame = generator.any();
            let len = u32::try_from(frame.len()).expect("a short frame");
            let head = frame.get(..HEAD_LEN).unwrap_or(&frame);
            let headers = headers::of(head, len);
            let place = || format!("TRAINGUARD_SEED={seed}: {}", hex(&frame));
            let kept = Frame::cut(&headers.bytes, len);
            assert_eq!(verdict(&kept), verdict(&Frame::cut(head, len)), "{}", place());
            let mut bytes = headers.bytes.iter().zip(head);
            assert!(bytes.all(|(kept, original)| kept == original || *kept == 0), "{}", place());
            assert!(headers.bytes.len() <= head.len(), "{}", place());
            refused += usize::from(verdict(&kept).reason.is_refusal());
        }
    }
    assert!(refused > 1_000, "{refused}");
}
