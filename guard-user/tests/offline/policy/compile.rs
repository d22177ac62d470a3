//! The compiler compared with naive reference implementations, and the policy hash under permutation.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf, sync::Arc};

use guard_common::{
    Addr, Tables as _,
    layout::MemberKey,
    port_table::{PORT_UNGUARDED, Port, Transport},
    tables::{FragmentKind, Service},
};
use proptest::prelude::*;

use guard_user::policy::{self, Bundle, Disk, Loaded, Placement, compiled::CompiledPolicy};

fn load(manifest: &str, policy: &str) -> Loaded {
    let texts = [("m.yaml", manifest), ("p.yaml", policy)];
    let bundle = Bundle::new("m.yaml", texts);
    policy::load("m.yaml".as_ref(), &bundle)
        .unwrap_or_else(|error| panic!("{error}\n{manifest}\n{policy}"))
}

fn compile(loaded: &Loaded, node: &str, placement: &Placement) -> CompiledPolicy {
    let node = loaded.cluster.node(node).expect("the node is in the manifest");
    policy::compile(loaded, node, placement).expect("the policy fits")
}

const HEAD: &str = "apiVersion: trainguard/v1\nkind: Cluster\nname: t\ninterfaces: [eth0]\n";
const POLICY_HEAD: &str = "apiVersion: trainguard/v1\nkind: Policy\nname: p\nservices:\n";

fn service(name: &str, ports: &str, allow: &str) -> String {
    format!(
        "  - name: {name}\n    roles: [a]\n    ports: {ports}\n    match: new-connections\n    \
         allow: {allow}\n    mode: enforce\n    limits: {{ perSource: {{ newConnections: \
         {{ rate: 10/s, burst: 20 }} }} }}\n"
    )
}

/// Generates prefixes under `10.0.0.0/16` or `fd00::/112`, few enough that they nest.
fn prefix() -> impl Strategy<Value = (bool, u16, u8)> {
    (any::<bool>(), any::<u16>(), 0_u8..=16).prop_map(|(six, bits, len)| {
        let mask = u16::MAX.checked_shl(16 - u32::from(len)).unwrap_or(0);
        (six, bits & mask, len)
    })
}

fn written((six, bits, len): (bool, u16, u8)) -> String {
    let [high, low] = bits.to_be_bytes();
    if six {
        format!("\"fd00::{bits:x}/{}\"", 112 + len)
    } else {
        format!("10.0.{high}.{low}/{}", 16 + len)
    }
}

fn covers((six, bits, len): (bool, u16, u8), address: (bool, u16)) -> bool {
    let mask = u16::MAX.checked_shl(16 - u32::from(len)).unwrap_or(0);
    six == address.0 && address.1 & mask == bits
}

fn addr((six, bits): (bool, u16)) -> Addr {
    if six {
        Addr::V6([0xfd00 << 48, bits.into()])
    } else {
        Addr::V4(0x0a00_0000 | u32::from(bits))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A source may reach exactly the services with a prefix that covers it.
    #[test]
    fn masks_are_the_union_of_covering_prefixes(
        services in prop::collection::vec(prop::collection::vec(prefix(), 1..12), 1..6),
        members in prop::collection::btree_set((any::<bool>(), any::<u16>()), 1..6),
        probes in prop::collection::vec((any::<bool>(), any::<u16>()), 32),
    ) {
        let mut manifest = format!("{HEAD}nodes:\n");
        for (n, member) in members.iter().enumerate() {
            let written = written((member.0, member.1, 16));
            let address = written.replace("/32", "").replace("/128", "");
            let role = if n == 0 { "a" } else { "b" };
            write!(manifest, "  - name: n{n}\n    addresses: [{address}]\n    roles: [{role}]\n").unwrap();
        }
        manifest.push_str("policies: [p.yaml]\n");
        let mut text = POLICY_HEAD.to_owned();
        for (n, prefixes) in services.iter().enumerate() {
            let cidrs: Vec<String> = prefixes.iter().copied().map(written).collect();
            // Every second service also admits the other members.
            let roles = if n % 2 == 0 && members.len() > 1 { "roles: [b], " } else { "" };
            let allow = format!("{{ {roles}cidrs: [{}] }}", cidrs.join(", "));
            text.push_str(&service(&format!("s{n}"), &format!("[tcp/{}]", n + 1), &allow));
        }
        let loaded = load(&manifest, &text);
        let compiled = compile(&loaded, "n0", &Placement::default());
        let host = compiled.host();
        let edges = services.iter().flatten().map(|p| (p.0, p.1));
        let mut expected_members = BTreeSet::new();
        for probe in probes.into_iter().chain(edges).chain(members.iter().copied()) {
            let at = members.iter().position(|member| *member == probe);
            let mut mask = 0_u64;
            for (n, prefixes) in services.iter().enumerate() {
                let by_role = n % 2 == 0 && at.is_some_and(|at| at > 0);
                if by_role || prefixes.iter().any(|prefix| covers(*prefix, probe)) {
                    mask |= 1 << n;
                    // An address of this node, too: it may be that of a container on it.
                    if at.is_some() {
                        expected_members.insert(MemberKey::new(u8::try_from(n).unwrap(), &addr(probe)));
                    }
                }
            }
            let found = host.source(&addr(probe));
            prop_assert_eq!(found.services, mask, "{:?}", probe);
            prop_assert_eq!(found.is_member(), at.is_some());
            prop_assert_eq!(found.is_own(), at == Some(0));
        }
        let found: BTreeSet<MemberKey> = compiled.members.iter().copied().collect();
        prop_assert_eq!(found.len(), compiled.members.len());
        prop_assert_eq!(found, expected_members);
    }

    /// The narrowest entry that contains a port decides. A port without an entry is not guarded.
    #[test]
    fn the_narrowest_entry_decides(
        entries in prop::collection::btree_map(0_u16..200, 1_u16..200, 1..8),
        holes in prop::collection::vec((0_usize..8, 1_u16..400), 0..4),
    ) {
        // The keys are widths, so no two entries have the same width.
        let entries: Vec<(u16, u16)> =
            entries.into_iter().map(|(width, first)| (first, first + width)).collect();
        let mut text = POLICY_HEAD.to_owned();
        for (n, (first, last)) in entries.iter().enumerate() {
            let except: Vec<String> = holes
                .iter()
                .filter(|(of, port)| *of == n && first <= port && port <= last && first != last)
                .map(|(_, port)| format!("tcp/{port}"))
                .collect();
            let mut service = service(&format!("s{n}"), &format!("[tcp/{first}-{last}]"), "{ any: true }");
            if !except.is_empty() {
                let line = format!("    except: [{}]\n    match", except.join(", "));
                service = service.replacen("    match", &line, 1);
            }
            text.push_str(&service);
        }
        let manifest = format!("{HEAD}nodes:\n  - name: n0\n    addresses: [10.0.0.1]\n    roles: [a]\npolicies: [p.yaml]\n");
        // A service that loses all its ports is refused, so such a case is skipped.
        let all_left = entries.iter().enumerate().all(|(n, (first, last))| {
            (*first..=*last).any(|port| !holes.contains(&(n, port)))
                || first == last
        });
        prop_assume!(all_left);
        let loaded = load(&manifest, &text);
        let compiled = compile(&loaded, "n0", &Placement::default());
        let host = compiled.host();
        for port in 0..500 {
            let naive = entries
                .iter()
                .enumerate()
                .filter(|(n, (first, last))| {
                    let hole = first != last && holes.contains(&(*n, port));
                    (*first..=*last).contains(&port) && !hole
                })
                .min_by_key(|(_, (first, last))| last - first);
            let naive = naive.map_or(Port::Unguarded, |(n, _)| Port::Guarded(u8::try_from(n).unwrap()));
            prop_assert_eq!(host.port(Transport::Tcp, port), naive, "port {}", port);
            prop_assert_eq!(host.port(Transport::Udp, port), Port::Unguarded);
        }
    }

    /// The order of lists, the notation and the slots do not affect the hash.
    #[test]
    fn the_hash_covers_the_meaning_only(seed in any::<[u8; 4]>(), slots in any::<[u8; 2]>()) {
        let rotate = |list: &[&str], by: u8| {
            let mut list = list.to_vec();
            let by = usize::from(by) % list.len();
            list.rotate_left(by);
            list.join(", ")
        };
        let nodes = ["{ name: n0, addresses: [10.0.0.1], roles: [a, b] }",
            "{ name: n1, addresses: [10.0.0.2], roles: [b] }",
            "{ name: n2, addresses: [10.0.0.3], roles: [b] }"];
        let nets = ["10.2.0.0/16", "10.3.0.0/16", "\"fd00::/64\""];
        let base = format!("{HEAD}nodes: [{}]\nnetworks: {{ x: [{}] }}\npolicies: [p.yaml]\n",
            nodes.join(", "), nets.join(", "));
        let moved = format!("# other\n{HEAD}networks: {{ x: [{}, 10.2.4.0/24] }}\nnodes: [{}]\npolicies: [p.yaml]\n",
            rotate(&nets, seed[0]),
            rotate(&[nodes[0], "{ name: \"n[1-2]\", addresses: [\"10.0.0.[2-3]\"], roles: [\"b\"] }"], seed[1]));
        let one = service("one", "[tcp/1, tcp/5-9]", "{ roles: [b], networks: [x] }");
        let other = service("other", "[tcp/any]", "{ roles: [a, b] }");
        let base_policy = format!("{POLICY_HEAD}{one}{other}");
        let moved_policy = format!("{POLICY_HEAD}{}{}", other.replace("a, b", "b, a"),
            one.replace("tcp/1, tcp/5-9", "tcp/5-9, tcp/1"));
        let first = compile(&load(&base, &base_policy), "n0", &Placement::default());
        let placement: Placement =
            [(slots[0] % 64, "p/one".to_owned()), (slots[1] % 64, "p/other".to_owned())].into_iter().collect();
        let second = compile(&load(&moved, &moved_policy), "n0", &placement);
        prop_assert_eq!(first.hash, second.hash);
        prop_assert_eq!(first.sources4.len(), second.sources4.len());
        // A policy with another meaning has another hash.
        let changed = base_policy.replace("burst: 20", "burst: 21");
        prop_assert_ne!(compile(&load(&base, &changed), "n0", &Placement::default()).hash, first.hash);
        let changed = base.replace("10.3.0.0/16", "10.4.0.0/16");
        prop_assert_ne!(compile(&load(&changed, &base_policy), "n0", &Placement::default()).hash, first.hash);
        // Services keep their slots, and the tables use those slots.
        for service in &second.services {
            prop_assert_eq!(placement.slot_of(&service.label).unwrap_or(service.slot), service.slot);
        }
        let slot = second.services.iter().find(|s| s.name == "one").unwrap().slot;
        prop_assert_eq!(second.host().port(Transport::Tcp, 5), Port::Guarded(slot));
        prop_assert_eq!(second.host().source(&Addr::V4(0x0a03_0001)).services, 1 << slot);
    }
}

#[test]
fn slots_are_kept_retired_and_reclaimed() {
    let manifest = format!(
        "{HEAD}nodes: [{{ name: n0, addresses: [10.0.0.1], roles: [a] }}]\npolicies: [p.yaml]\n"
    );
    let policy = |names: std::ops::Range<usize>| {
        let services = names
            .map(|n| service(&format!("s{n:03}"), &format!("[tcp/{}]", n + 1), "{ any: true }"));
        format!("{POLICY_HEAD}{}", services.collect::<String>())
    };
    let first = compile(&load(&manifest, &policy(0..40)), "n0", &Placement::default());
    assert!(first.reclaimed.is_empty());
    let placement = Placement::default().with(&first);
    // 30 services stay, 24 take free slots, 6 take the lowest slots of the 10 services that were
    // removed.
    let second = compile(&load(&manifest, &policy(10..70)), "n0", &placement);
    assert_eq!(second.reclaimed, [0, 1, 2, 3, 4, 5]);
    for service in &second.services {
        let expected = placement.slot_of(&service.label).unwrap_or(service.slot);
        assert_eq!(service.slot, expected);
    }
    let slots: BTreeSet<u8> = second.services.iter().map(|service| service.slot).collect();
    assert_eq!(slots.len(), 60);
    let error = policy::load(
        "m.yaml".as_ref(),
        &Bundle::new(
            "m.yaml",
            [
                (PathBuf::from("m.yaml"), Arc::from(manifest.as_str())),
                (PathBuf::from("p.yaml"), Arc::from(policy(0..65).as_str())),
            ],
        ),
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("TG503") && error.contains("65"), "{error}");
}

/// Returns a service with ports, an allowlist, and limits in the notation of policies.
fn limited(name: &str, ports: &str, allow: &str, limits: &str) -> String {
    format!(
        "  - name: {name}\n    roles: [a]\n    ports: {ports}\n    match: all\n    allow: {allow}\n    \
         mode: enforce\n    limits: {limits}\n"
    )
}

#[test]
fn later_fragments_are_charged_to_the_strictest_service_that_lists_the_source() {
    let manifest = format!(
        "{HEAD}nodes:\n  - {{ name: n0, addresses: [10.0.0.1], roles: [a] }}\n  - {{ name: n1, addresses: \
         [10.0.0.2], roles: [b] }}\nnetworks: {{ x: [10.2.0.0/16], y: [10.2.3.0/24] }}\npolicies: [p.yaml]\n"
    );
    let bytes = |rate: &str| format!("{{ total: {{ bytes: {{ rate: {rate}/s, burst: 1GB }} }} }}");
    let packets = "{ perSource: { packets: { rate: 1k/s, burst: 1k } } }";
    let connections = "{ total: { newConnections: { rate: 1/s, burst: 1 } } }";
    let services = [
        limited("tcp-wide", "[tcp/1-9]", "{ roles: [b], networks: [x] }", &bytes("9MB")),
        limited("tcp-strict", "[tcp/11]", "{ networks: [y] }", &bytes("8MB")),
        limited("tcp-unlimited", "[tcp/12]", "{ networks: [x] }", connections),
        limited("tcp-any", "[tcp/13]", "{ any: true }", &bytes("1kB")),
        // 1000 packets of 1514 bytes.
        limited("udp", "[udp/11]", "{ networks: [y] }", packets),
        limited("udp-also", "[udp/12]", "{ networks: [y] }", &bytes("1514kB")),
        // All its ports belong to narrower entries.
        limited("udp-hidden", "[udp/11-12]", "{ networks: [x, y] }", &bytes("1kB")),
    ];
    let loaded = load(&manifest, &format!("{POLICY_HEAD}{}", services.concat()));
    let slots = ["p/udp-also", "p/udp", "p/tcp-wide"];
    let placement: Placement = (40..).zip(slots).map(|(slot, of)| (slot, of.to_owned())).collect();
    for placement in [Placement::default(), placement] {
        let compiled = compile(&loaded, "n0", &placement);
        let host = compiled.host();
        let charged = |addr: u32| {
            let source = host.source(&Addr::V4(addr));
            FragmentKind::ALL.map(|kind| {
                let slot = source.charges_fragments(kind)?;
                Some(compiled.service_in(slot).expect("a service").name.clone())
            })
        };
        let names =
            |names: [&str; 4]| names.map(|name| (!name.is_empty()).then(|| name.to_owned()));
        // Of two services that are equally strict, the first label counts, whatever the slots.
        assert_eq!(charged(0x0a02_0301), names(["tcp-strict", "udp", "", "udp"]), "in x and y");
        assert_eq!(charged(0x0a02_0401), names(["tcp-wide", "", "", "tcp-wide"]), "in x");
        assert_eq!(charged(0x0a00_0002), names(["tcp-wide", "", "", "tcp-wide"]), "a member");
        assert_eq!(charged(0x0b00_0001), names(["", "", "", ""]), "not listed");
        assert_eq!(compiled.hash, compile(&loaded, "n0", &Placement::default()).hash);
    }
}

#[test]
fn forwarded_packets_are_part_of_the_hash() {
    let node = "nodes: [{ name: n, addresses: [10.0.0.1], roles: [a] }]";
    let manifest = format!("{HEAD}policies: [p.yaml]\n{node}\n");
    let policy = format!("{POLICY_HEAD}{}", service("s", "[tcp/1-2]", "{ roles: [a] }"));
    let of = |word: &str| {
        let field = format!("mode: enforce\n    forwarded: {word}");
        compile(
            &load(&manifest, &policy.replace("mode: enforce", &field)),
            "n",
            &Placement::default(),
        )
    };
    let default = compile(&load(&manifest, &policy), "n", &Placement::default());
    assert_eq!(default.hash, of("pass").hash);
    assert_ne!(default.hash, of("guard").hash);
    let guards =
        |compiled: &CompiledPolicy| compiled.services[0].service.has(Service::GUARDS_FORWARDED);
    assert!(guards(&of("guard")) && !guards(&default));
}

#[test]
fn port_runs_include_both_ends_of_the_table() {
    let node = "nodes: [{ name: n, addresses: [10.0.0.1], roles: [a] }]";
    let manifest = format!("{HEAD}policies: [p.yaml]\n{node}\n");
    let policy = [
        service("low", "[tcp/1-2]", "{ roles: [a] }"),
        service("next", "[tcp/3]", "{ roles: [a] }"),
        service("high", "[tcp/65535]", "{ roles: [a] }"),
    ];
    let loaded = load(&manifest, &format!("{POLICY_HEAD}{}", policy.concat()));
    let compiled = compile(&loaded, "n", &Placement::default());
    let slot = |label: &str| {
        let service = compiled.services.iter().find(|service| service.label.ends_with(label));
        service.expect("a service of this name").slot
    };
    let tcp = [
        (0, PORT_UNGUARDED),
        (1, slot("low")),
        (3, slot("next")),
        (4, PORT_UNGUARDED),
        (65_535, slot("high")),
    ];
    assert_eq!(compiled.port_runs(Transport::Tcp), tcp);
    assert_eq!(compiled.port_runs(Transport::Udp), [(0, PORT_UNGUARDED)]);
    assert_eq!(compiled.port_runs(Transport::Sctp), [(0, PORT_UNGUARDED)]);
}

#[test]
fn a_bundle_loads_again() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/cluster.yaml");
    let loaded = policy::load(&path, &Disk).unwrap();
    let json = serde_json::to_string(&loaded.bundle).unwrap();
    let bundle: Bundle = serde_json::from_str(&json).unwrap();
    assert_eq!(bundle, loaded.bundle);
    let again = policy::load(&bundle.manifest.clone(), &bundle).unwrap();
    let compiled = |loaded: &Loaded| compile(loaded, "worker-3", &Placement::default()).hash;
    assert_eq!(compiled(&again), compiled(&loaded));
    assert_eq!(again.sources, loaded.sources);
}

#[test]
fn the_node_is_found_or_an_error_names_candidates() {
    use policy::{NodeChoice, NodeError};
    let manifest = format!(
        "{HEAD}nodes:\n  - name: worker-[0-3]\n    addresses: [\"10.0.0.[1-4]\"]\n    roles: [a]\npolicies: [p.yaml]\n"
    );
    let text = format!("{POLICY_HEAD}{}", service("s", "[tcp/1]", "{ any: true }"));
    let loaded = load(&manifest, &text);
    let find = |name: Option<&str>, host: &str, addresses: &[&str]| {
        let choice = NodeChoice {
            name: name.map(str::to_owned),
            hostname: Some(host.to_owned()),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        };
        loaded.find_node(&choice).map(|node| node.name.clone())
    };
    assert_eq!(find(Some("worker-2"), "worker-1", &["10.0.0.1"]).unwrap(), "worker-2");
    assert_eq!(find(None, "worker-1.example.org", &["127.0.0.1"]).unwrap(), "worker-1");
    assert_eq!(find(None, "pod-7f", &["127.0.0.1", "10.0.0.4"]).unwrap(), "worker-3");
    assert_eq!(find(None, "worker-1", &["10.0.0.2", "10.0.0.3"]).unwrap(), "worker-1");
    let missing = find(Some("worker-9"), "worker-1", &[]).unwrap_err();
    assert!(matches!(&missing, NodeError::NoSuchName { nearest: Some(_), .. }), "{missing}");
    let absent = find(None, "elsewhere", &["192.0.2.1"]).unwrap_err();
    assert!(absent.to_string().contains("192.0.2.1"), "{absent}");
    let ambiguous = find(None, "worker-1", &["10.0.0.3"]).unwrap_err().to_string();
    assert!(ambiguous.contains("`worker-1`") && ambiguous.contains("`worker-2`"), "{ambiguous}");
    let two = find(None, "x", &["10.0.0.1", "10.0.0.2"]).unwrap_err().to_string();
    assert!(two.contains("`worker-0`") && two.contains("`worker-1`"), "{two}");
}
