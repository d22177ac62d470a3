//! `diff` and the decision agree about every packet; and the output of `diff` as text and as JSON.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use guard_common::{
    Addr, NoTrace, Verdict, evaluate, packet::Frame, port_table::Transport, stack::Offline,
    verdict::Action,
};
use guard_test_support::{bundle, repetitions};
use proptest::{prelude::*, sample::select};

use crate::binary::trainguard;
use guard_user::{
    policy::{
        self, Bundle, Loaded, Placement,
        compiled::CompiledPolicy,
        diff::{self, Change, Difference, Direction, PacketPath, Traffic},
        limiter::HostLimiter,
        syntax::scalars,
    },
    probe::{FLAGS_ESTABLISHED, FLAGS_OPENING, Probe, UNREADABLE, UNREADABLE_PACKET},
};

/// A service of a random policy.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of a service, each by itself")]
struct Service {
    roles: Vec<&'static str>,
    transport: &'static str,
    first: u16,
    except: Option<u16>,
    new_connections: bool,
    any: bool,
    allow_roles: Vec<&'static str>,
    cidrs: Vec<&'static str>,
    observe: bool,
    guards_forwarded: bool,
}

const ROLES: [&str; 3] = ["a", "b", "c"];
const CIDRS: [&str; 10] = [
    "10.0.0.0/24",
    "10.0.0.0/25",
    "10.0.0.7/32",
    "10.0.1.0/24",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "\"fd00::/64\"",
    "\"fd00::1/128\"",
    "\"8000::/1\"",
    "\"::/1\"",
];

fn subset<T: Clone + std::fmt::Debug + 'static>(
    of: &[T],
    least: usize,
) -> impl Strategy<Value = Vec<T>> + use<T> {
    proptest::sample::subsequence(of.to_vec(), least..=of.len())
}

fn service() -> impl Strategy<Value = Service> {
    let port = || prop_oneof![Just(1_u16), 60_u16..80, Just(65_000)];
    (
        subset(&ROLES, 1),
        select(vec!["tcp", "tcp", "udp", "sctp"]),
        port(),
        proptest::option::weighted(0.3, port()),
        any::<bool>(),
        prop::bool::weighted(0.1),
        subset(&ROLES, 0),
        subset(&CIDRS, 0),
        (prop::bool::weighted(0.3), prop::bool::weighted(0.2)),
    )
        .prop_map(
            |(roles, transport, first, except, opening, any, allow_roles, cidrs, last)| {
                let (observe, guards_forwarded) = last;
                Service {
                    roles,
                    transport,
                    first,
                    except,
                    new_connections: opening && transport == "tcp",
                    any,
                    allow_roles,
                    cidrs,
                    observe,
                    guards_forwarded,
                }
            },
        )
}

/// Roles of the nodes, and the services.
#[derive(Debug, Clone)]
struct World {
    roles: Vec<Vec<&'static str>>,
    services: Vec<Service>,
}

fn world() -> impl Strategy<Value = World> {
    let roles = prop::collection::vec(subset(&ROLES, 0), 3);
    let services = prop::collection::vec(service(), 1..5);
    (roles, services).prop_map(|(roles, services)| World { roles, services })
}

impl World {
    fn load(&self) -> Loaded {
        let mut manifest = bundle::cluster("c");
        for (number, roles) in self.roles.iter().enumerate() {
            let addresses = format!("10.0.0.{number}, fd00::{number}");
            manifest = manifest.node(&format!("n{number}"), &addresses, &roles.join(", "));
        }
        // A role that no node has would be an error.
        let manifest = manifest.node("all", "10.0.0.99", &ROLES.join(", ")).to_string();
        let mut policy = bundle::policy("p", [""; 0]);
        for (number, service) in self.services.iter().enumerate() {
            // Each service has ports of another width: overlapping services of equal width would be an
            // error.
            let last = service.first + u16::try_from(number * 7).expect("few services");
            let mut allow = Vec::new();
            if service.any || (service.allow_roles.is_empty() && service.cidrs.is_empty()) {
                allow.push("any: true".to_owned());
            } else {
                for (field, values) in [("roles", &service.allow_roles), ("cidrs", &service.cidrs)]
                {
                    if !values.is_empty() {
                        allow.push(format!("{field}: [{}]", values.join(", ")));
                    }
                }
            }
            let except = match service.except {
                Some(port) if number > 0 => format!("    except: [{}/{port}]\n", service.transport),
                _ => String::new(),
            };
            let _ = writeln!(
                policy,
                "  - name: s{number}\n    roles: [{}]\n    ports: [{}/{}-{last}]\n{except}    match: {}\n    \
                 allow: {{ {} }}\n    mode: {}\n    forwarded: {}",
                service.roles.join(", "),
                service.transport,
                service.first,
                if service.new_connections { "new-connections" } else { "all" },
                allow.join(", "),
                if service.observe { "observe" } else { "enforce" },
                if service.guards_forwarded { "guard" } else { "pass" },
            );
        }
        load(&manifest, &policy)
    }
}

fn load(manifest: &str, policy: &str) -> Loaded {
    let texts = [("m.yaml", manifest), ("p.yaml", policy)];
    policy::load("m.yaml".as_ref(), &Bundle::new("m.yaml", texts))
        .unwrap_or_else(|error| panic!("{error}\n{manifest}\n{policy}"))
}

fn compile(loaded: &Loaded, node: &str) -> CompiledPolicy {
    let node = loaded.cluster.node(node).expect("the node");
    policy::compile(loaded, node, &Placement::default()).expect("the policy fits")
}

fn verdict(policy: &CompiledPolicy, frame: &[u8], forwards: bool) -> Verdict {
    let limiter = HostLimiter::new([0; 2]);
    evaluate(&Frame::new(frame), &policy.host(), &Offline { forwards }, &limiter, &mut NoTrace)
}

/// Generates sources at the edges of every prefix in the worlds, and arbitrary ones.
fn source() -> impl Strategy<Value = IpAddr> {
    let near = |edges: Vec<u128>| {
        (select(edges), -2_i128..3).prop_map(|(edge, by)| edge.saturating_add_signed(by))
    };
    let four = vec![
        0,
        0x0a00_0000,
        0x0a00_0007,
        0x0a00_0063,
        0x0a00_0080,
        0x0a00_0100,
        0x0a00_0200,
        1 << 24,
        127 << 24,
        128 << 24,
        224 << 24,
        240 << 24,
        u32::MAX.into(),
    ];
    let six: Vec<u128> = vec![
        0,
        2,
        0xffff << 32,
        0x1_0000 << 32,
        0xfd00 << 112,
        (0xfd00 << 112) + 3,
        (0xfd00 << 112) + (1 << 64),
        0x8000 << 112,
        0xff00 << 112,
        u128::MAX,
    ];
    let to_four = |number: u128| Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into();
    prop_oneof![
        near(four).prop_map(to_four),
        near(six).prop_map(|number| Ipv6Addr::from(number).into()),
        any::<u32>().prop_map(|number| Ipv4Addr::from(number).into()),
        any::<u128>().prop_map(|number| Ipv6Addr::from(number).into()),
    ]
}

fn matching<'d>(
    difference: &'d Difference,
    node: &str,
    applies: impl Fn(&Change) -> bool,
) -> Vec<&'d Change> {
    let changes = difference.changes.iter();
    changes.filter(|change| change.nodes.iter().any(|n| n == node) && applies(change)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(repetitions(50, 300)))]

    #[test]
    fn diff_and_decision_agree(
        old in world(),
        new in world(),
        packets in prop::collection::vec(
            (
                source(),
                select(Transport::ALL.to_vec()),
                prop_oneof![0_u16..3, 58_u16..110, 64_998_u16..65_030],
                any::<bool>(),
                any::<bool>(),
            ),
            200,
        ),
    ) {
        let (old, new) = (old.load(), new.load());
        let difference = diff::compare(&old.cluster, &new.cluster).expect("the policy fits");
        for name in ["n0", "n1", "n2", "all"] {
            let own = &new.cluster.node(name).expect("the node").addresses;
            let sides = [compile(&old, name), compile(&new, name)];
            let check = |what: String, forwards: bool, frame: &[u8], found: Vec<&Change>| {
                let of_path = |change: &&Change| {
                    change.path != if forwards { PacketPath::Received } else { PacketPath::Forwarded }
                };
                let found: Vec<&Change> = found.into_iter().filter(of_path).collect();
                let what = format!("{what}, forwarded: {forwards}");
                let [before, after] = [0, 1].map(|side: usize| verdict(&sides[side], frame, forwards));
                if before.action == after.action {
                    prop_assert!(found.is_empty(), "{name}: {what}: {found:?}");
                    return Ok(());
                }
                let [change] = found.as_slice() else {
                    return Err(TestCaseError::fail(format!("{name}: {what}: {before:?} {after:?} {found:?}")));
                };
                for (verdict, stated, policy) in [(before, &change.old, &sides[0]), (after, &change.new, &sides[1])] {
                    prop_assert_eq!((verdict.action, verdict.reason), (stated.action, stated.reason));
                    let label = verdict.service.and_then(|slot| policy.service_in(slot)).map(|s| s.label.clone());
                    prop_assert_eq!(&label, &stated.service);
                }
                Ok(())
            };
            for (source, transport, port, opening, forwards) in &packets {
                let addr = Addr::from(*source);
                if own.contains(&addr) {
                    continue;
                }
                // The kernel forwards no packet from such an address.
                let forwards = &(*forwards && !addr.is_martian());
                let flags = if *opening { FLAGS_OPENING } else { FLAGS_ESTABLISHED };
                let found = matching(&difference, name, |change| {
                    let traffic = match change.traffic {
                        Traffic::All => true,
                        Traffic::Opening => *opening,
                        Traffic::Established => !opening,
                        _ => false,
                    };
                    let at = |range: &scalars::PortRange| {
                        range.transport == *transport && (range.first..=range.last).contains(port)
                    };
                    traffic && change.sources.holds(&addr) && change.ports.iter().any(at)
                });
                let frame = Probe::new(*source, *transport, *port, flags).frame();
                check(format!("{source} to {}/{port} {flags:#x}", transport.name()), *forwards, &frame, found)?;
                let found = matching(&difference, name, |change| {
                    change.traffic == Traffic::Fragments
                        && change.sources.holds(&addr)
                        && change.transports.contains(transport)
                });
                let frame = Probe::fragment_of(*source, *transport).frame();
                let what = format!("{} fragment from {source}", transport.name());
                check(what, *forwards, &frame, found)?;
            }
            let found = matching(&difference, name, |change| change.traffic == Traffic::Unreadable);
            check("unreadable".to_owned(), false, &UNREADABLE, found.clone())?;
            check("unreadable".to_owned(), true, &UNREADABLE_PACKET, found)?;
            // Every example is a packet of its region, and gets the verdict that `diff` states.
            for change in &difference.changes {
                if let Some((source, Some(port))) = change.example
                    && change.nodes.iter().any(|node| node == name)
                {
                    prop_assert!(change.sources.holds(&Addr::from(source)));
                    if own.contains(&Addr::from(source)) {
                        continue;
                    }
                    let flags = if change.traffic == Traffic::Established { FLAGS_ESTABLISHED } else { FLAGS_OPENING };
                    let frame = Probe::new(source, port.transport, port.first, flags).frame();
                    let forwards = change.path == PacketPath::Forwarded;
                    let [before, after] =
                        [0, 1].map(|side: usize| verdict(&sides[side], &frame, forwards).action);
                    prop_assert_eq!((before, after), (change.old.action, change.new.action));
                }
            }
        }
        let same = diff::compare(&new.cluster, &new.cluster).expect("the policy fits");
        prop_assert!(same.is_empty(), "{same:?}");
    }
}

const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: demo
interfaces: [eth0]
nodes:
  - { name: sched, addresses: [10.0.0.1], roles: [scheduler] }
  - { name: \"worker-[0-2]\", addresses: [\"10.0.1.[0-2]\"], roles: [worker] }
networks:
  office: [10.9.0.0/24]
policies: [p.yaml]
";

const POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: p
services:
  - name: s
    roles: [scheduler]
    ports: [tcp/9091]
    match: all
    allow: { roles: [scheduler] }
    mode: enforce
    limits: { perSource: { newConnections: { rate: 200/s, burst: 1000 } } }
";

fn compare(old: [&str; 2], new: [&str; 2]) -> Difference {
    let [old, new] = [old, new].map(|[manifest, policy]| load(manifest, policy));
    diff::compare(&old.cluster, &new.cluster).expect("the policy fits")
}

#[test]
fn each_kind_of_change_has_its_direction() {
    let wider = POLICY.replace("[scheduler] }", "[scheduler, worker], networks: [office] }");
    let difference = compare([MANIFEST, POLICY], [MANIFEST, &wider]);
    let [change, fragments] = difference.changes.as_slice() else { panic!("{difference:?}") };
    assert_eq!(fragments.traffic, Traffic::Fragments);
    assert_eq!((&fragments.sources, fragments.direction()), (&change.sources, Direction::Wider));
    assert_eq!(change.direction(), Direction::Wider);
    assert_eq!(change.nodes, ["sched"]);
    let sources: Vec<String> = change.sources.prefixes().iter().map(ToString::to_string).collect();
    assert_eq!(sources, ["10.0.1.0/31", "10.0.1.2/32", "10.9.0.0/24"]);
    assert!(difference.is_wider());
    let back = compare([MANIFEST, &wider], [MANIFEST, POLICY]);
    assert_eq!(back.changes[0].direction(), Direction::Narrower);
    assert!(!back.is_wider());

    let observed = POLICY.replace("mode: enforce", "mode: observe");
    let difference = compare([MANIFEST, POLICY], [MANIFEST, &observed]);
    assert!(difference.changes.iter().all(|change| {
        (change.old.action, change.new.action) == (Action::Drop, Action::WouldDrop)
    }));
    let traffic: Vec<Traffic> = difference.changes.iter().map(|change| change.traffic).collect();
    for expected in [Traffic::All, Traffic::Fragments, Traffic::Unreadable] {
        assert!(traffic.contains(&expected), "{traffic:?}");
    }

    // A limit that is raised or removed is wider; one that is lowered or added is not.
    let limit = |text: &str| POLICY.replace("{ rate: 200/s, burst: 1000 }", text);
    let raised = limit("{ rate: 200/s, burst: 1001 }");
    let lower = limit("{ rate: 100/s, burst: 1000 }");
    let none = POLICY.replace(
        "    limits: { perSource: { newConnections: { rate: 200/s, burst: 1000 } } }\n",
        "",
    );
    for (old, new, wider) in [
        (POLICY, raised.as_str(), true),
        (POLICY, &lower, false),
        (POLICY, &none, true),
        (&none, POLICY, false),
    ] {
        let difference = compare([MANIFEST, old], [MANIFEST, new]);
        assert!(difference.changes.is_empty());
        let [change] = difference.limits.as_slice() else { panic!("{difference:?}") };
        assert_eq!((change.is_wider(), difference.is_wider()), (wider, wider), "{change:?}");
    }

    // Packets that the node only forwards: guarding them is narrower, also where only limits change.
    let guard = |text: &str| text.replace("mode: enforce", "mode: enforce\n    forwarded: guard");
    let difference = compare([MANIFEST, POLICY], [MANIFEST, &guard(POLICY)]);
    assert!(!difference.is_wider());
    assert!(difference.changes.iter().all(|change| {
        (change.path, change.direction()) == (PacketPath::Forwarded, Direction::Narrower)
    }));
    let traffic: Vec<Traffic> = difference.changes.iter().map(|change| change.traffic).collect();
    assert_eq!(traffic, [Traffic::All, Traffic::Fragments, Traffic::Unreadable], "{difference:?}");
    let [limit] = difference.limits.as_slice() else { panic!("{difference:?}") };
    assert_eq!((limit.path, limit.is_wider()), (PacketPath::Forwarded, false));
    assert!(compare([MANIFEST, &guard(POLICY)], [MANIFEST, POLICY]).is_wider());
    // The same change for received and forwarded packets is one change.
    let difference = compare([MANIFEST, &guard(POLICY)], [MANIFEST, &guard(&wider)]);
    assert_eq!(difference.changes.len(), 2, "{difference:?}");
    assert!(difference.changes.iter().all(|change| change.path == PacketPath::Both));

    // An interface that is no longer guarded counts as opened.
    let other = MANIFEST.replace("[eth0]", "[eth1]");
    let more = MANIFEST.replace("[eth0]", "[eth0, eth1]");
    assert!(compare([MANIFEST, POLICY], [&other, POLICY]).is_wider());
    let difference = compare([MANIFEST, POLICY], [&more, POLICY]);
    assert!(!difference.is_wider() && !difference.is_empty());

    let grown = MANIFEST.replace("worker-[0-2]", "worker-[1-3]");
    let difference = compare([MANIFEST, POLICY], [&grown, POLICY]);
    assert_eq!(
        (difference.added.as_slice(), difference.removed.as_slice()),
        (["worker-3".to_owned()].as_slice(), ["worker-0".to_owned()].as_slice())
    );
}

#[test]
fn bursts_in_bytes_are_shown_as_written() {
    for burst in ["10000kB", "10MB", "100MiB", "12345678B"] {
        let bytes = format!(
            "    limits: {{ perSource: {{ bytes: {{ rate: 1GB/s, burst: {burst} }} }} }}\n"
        );
        let before =
            "    limits: { perSource: { newConnections: { rate: 200/s, burst: 1000 } } }\n";
        let difference = compare(
            [MANIFEST, &POLICY.replace(before, "")],
            [MANIFEST, &POLICY.replace(before, &bytes)],
        );
        let limit = difference.limits[0].each().next().expect("a limit");
        let unit = burst.trim_start_matches(|c: char| c.is_ascii_digit());
        let number: u64 = burst[..burst.len() - unit.len()].parse().expect("a number");
        let factor = match unit {
            "kB" => 1000,
            "MB" => 1_000_000,
            "MiB" => 1 << 20,
            _ => 1,
        };
        // The limiter's clock may round the burst down by less than a frame.
        let (rate, shown) = limit.new.expect("a limit");
        assert_eq!(rate, 1_000_000_000);
        assert!(shown.abs_diff(number * factor) <= 1, "{burst}: {shown}");
    }
}

fn run(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = trainguard(dir, &[&["diff"], args].concat(), "");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn output_and_exit_codes() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
    let wider = POLICY.replace("[scheduler] }", "[scheduler, worker], networks: [office] }");
    write("m.yaml", MANIFEST);
    write("p.yaml", POLICY);
    write("new.yaml", &wider);
    let (code, out, _) = run(dir.path(), &["p.yaml", "new.yaml", "--manifest", "m.yaml"]);
    assert_eq!(code, Some(0));
    let expected = "\
WIDER    tcp/9091 on sched: was drop (not_allowed by p/s), now pass (allowed by p/s)
           from 10.0.1.0/31, 10.0.1.2/32, 10.9.0.0/24
           3 nodes of the manifest among them: worker-0, worker-1, worker-2
           e.g. 10.0.1.0:40000 (worker-0) -> sched: `trainguard trace --manifest m.yaml --node sched --from 10.0.1.0 --to 10.0.0.1:9091 --proto tcp`
WIDER    later fragments of tcp on sched: was drop (fragment), now pass (fragment)
           from 10.0.1.0/31, 10.0.1.2/32, 10.9.0.0/24
           3 nodes of the manifest among them: worker-0, worker-1, worker-2
           e.g. 10.0.1.0 (worker-0) -> sched: a later fragment
unchanged for all other packets
";
    assert_eq!(out, expected);
    let guard = POLICY.replace("mode: enforce", "mode: enforce\n    forwarded: guard");
    write("guard.yaml", &guard);
    let (_, out, _) = run(dir.path(), &["guard.yaml", "p.yaml", "--manifest", "m.yaml"]);
    let first = "WIDER    forwarded packets to tcp/9091 on sched: was drop (not_allowed by p/s), now \
                 pass (forwarded by p/s)\n";
    assert!(out.starts_with(first), "{out}");
    assert!(out.contains("--proto tcp --forwarded`\n"), "{out}");
    assert!(
        out.contains("WIDER    limits on forwarded packets of p/s at tcp/9091 on sched\n"),
        "{out}"
    );
    // Read the old version from standard input, as from `git show`.
    let from_git = ["diff", "-", "new.yaml", "--manifest", "m.yaml"];
    let piped = trainguard(dir.path(), &from_git, POLICY);
    assert_eq!(String::from_utf8(piped.stdout).expect("UTF-8"), expected);
    let gate = |args: &[&str]| run(dir.path(), &[args, &["--deny-wider"]].concat()).0;
    assert_eq!(gate(&["p.yaml", "new.yaml", "--manifest", "m.yaml"]), Some(1));
    assert_eq!(gate(&["new.yaml", "p.yaml", "--manifest", "m.yaml"]), Some(0));
    let (code, out, _) = run(dir.path(), &["m.yaml", "m.yaml", "--deny-wider"]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("no difference"), "{out}");
    let (_, out, _) =
        run(dir.path(), &["p.yaml", "new.yaml", "--manifest", "m.yaml", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["schema"], "trainguard/diff/v1");
    assert_eq!(json["wider"], true);
    assert_eq!(
        json["changes"][0]["source_nodes"],
        serde_json::json!(["worker-0", "worker-1", "worker-2"])
    );
    // Documents that cannot be compared.
    write("q.yaml", &POLICY.replace("name: p", "name: q"));
    write("bad.yaml", &POLICY.replace("mode: enforce", "mode: maybe"));
    for args in [
        &["p.yaml", "new.yaml"][..],
        &["m.yaml", "p.yaml"],
        &["m.yaml", "m.yaml", "--manifest", "m.yaml"],
        &["q.yaml", "q.yaml", "--manifest", "m.yaml"],
        &["p.yaml", "bad.yaml", "--manifest", "m.yaml"],
        &["p.yaml", "gone.yaml", "--manifest", "m.yaml"],
        &["-", "-"],
    ] {
        let (code, out, err) = run(dir.path(), args);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
        assert!(err.contains("error"), "{args:?}: {err}");
    }
}
