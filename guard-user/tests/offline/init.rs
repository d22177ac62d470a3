//! `trainguard init`: the files that it writes load and mean exactly what the host list says; input that
//! it cannot use is refused, with every line named.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Output,
};

use guard_common::Addr;
use proptest::prelude::*;

use guard_user::{
    init::{
        self, Draft, Findings,
        HostsFormat::{Addresses, Auto, Dmlc, Mpi, Ray, Slurm},
        Input, Request,
        profiles::{self, PROFILES, Profile, RoleHolders},
    },
    policy::{self, Bundle, Disk, Loaded, Placement},
};

const SCHEDULER: &str = "172.16.0.1,fd00:5::1";

fn mxnet() -> &'static Profile {
    profiles::find("mxnet").expect("mxnet is built in")
}

/// Returns a policy that lets hosts of all its roles reach each other.
fn members_only(name: &str, roles: &str) -> &'static str {
    let text = format!(
        "apiVersion: trainguard/v1\nkind: Policy\nname: {name}\nservices:\n  - name: members\n    \
         roles: {roles}\n    ports: [tcp/any]\n    except: [tcp/22]\n    match: \
         new-connections\n    allow: {{ roles: {roles} }}\n    mode: enforce\n"
    );
    Box::leak(text.into_boxed_str())
}

fn request<'r>(profile: &'r Profile, text: &'r str) -> Request<'r> {
    Request {
        profile,
        hosts: Input { source: "hosts", is_option: false, text },
        format: Auto,
        resolve: None,
        scheduler: None,
        servers: None,
        name: None,
        interfaces: &[],
        networks: &[],
        command: &[],
    }
}

/// Returns the draft and the notes about it.
fn draft(request: &Request<'_>) -> (Draft, Vec<String>) {
    let mut findings = Findings::default();
    let draft = init::draft(request, &mut findings);
    (draft.unwrap_or_else(|| panic!("{:#?}", findings.problems)), findings.notes)
}

/// Returns the problems, each with its hint, of a request that is refused.
fn refused(request: &Request<'_>) -> Vec<String> {
    let mut findings = Findings::default();
    assert!(init::draft(request, &mut findings).is_none(), "{findings:#?}");
    assert_eq!(findings.more, 0);
    let problems = findings.problems.into_iter();
    problems.map(|p| format!("{} / {}", p.message, p.hint.unwrap_or_default())).collect()
}

fn load(draft: &Draft) -> Loaded {
    let texts = [(init::MANIFEST, &*draft.manifest), (&*draft.policy_name, &*draft.policy)];
    policy::load(Path::new(init::MANIFEST), &Bundle::new(init::MANIFEST, texts))
        .unwrap_or_else(|error| panic!("{error}\n{}", draft.manifest))
}

/// Returns name, addresses and roles of every node, as the daemon reads them.
fn nodes(draft: &Draft) -> Vec<(String, Vec<IpAddr>, Vec<String>)> {
    let loaded = load(draft);
    let nodes = loaded.cluster.nodes.iter();
    nodes
        .map(|node| {
            let addresses = node.addresses.iter().map(|address| IpAddr::from(*address));
            (node.name.clone(), addresses.collect(), node.roles.to_vec())
        })
        .collect()
}

/// Returns `NAME ADDRESS ROLES` for every node.
fn brief(draft: &Draft) -> Vec<String> {
    let brief = |(name, addresses, roles): (String, Vec<IpAddr>, Vec<String>)| {
        let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        format!("{name} {} {}", addresses.join(","), roles.join("+"))
    };
    nodes(draft).into_iter().map(brief).collect()
}

#[test]
fn every_profile_gives_a_cluster_that_compiles_on_every_node() {
    let hosts = "10.77.0.20 fd77::20\n10.77.0.21 fd77::21\n10.77.0.22 fd77::22\n";
    for profile in PROFILES {
        for scheduler in [Some(SCHEDULER), Some("10.77.0.21"), None] {
            let apart = [RoleHolders::Scheduler, RoleHolders::First, RoleHolders::Named];
            let takes = profile.roles.iter().any(|(_, which)| apart.contains(which));
            let needs = profile.roles.iter().any(|(_, which)| *which == RoleHolders::Scheduler);
            if scheduler.is_some() != takes && (scheduler.is_some() || needs) {
                continue;
            }
            let (draft, _) = draft(&Request { scheduler, ..request(profile, hosts) });
            let loaded = load(&draft);
            assert_eq!(loaded.report.to_string(), "", "{}", profile.name);
            for node in &loaded.cluster.nodes {
                policy::compile(&loaded, node, &Placement::default()).expect("the policy fits");
            }
        }
    }
}

#[test]
fn the_manifest_is_compact_and_readable() {
    let hosts = "10.77.0.30 fd77::30\n10.77.0.31 fd77::31\n10.77.0.32 fd77::32\n";
    let interfaces = ["eth0".to_owned(), "rail*".to_owned()];
    let command = ["trainguard", "init", "--name", "two words\nand a line"].map(str::to_owned);
    let request = Request {
        scheduler: Some("10.77.0.10,fd77::10"),
        servers: Some(1),
        interfaces: &interfaces,
        command: &command,
        name: Some("0x10"),
        ..request(mxnet(), hosts)
    };
    let (draft, _) = draft(&request);
    let (comment, document) = draft.manifest.split_once("apiVersion").expect("a document");
    assert!(comment.starts_with(&init::schema_modeline("cluster")), "{comment}");
    assert!(draft.policy.starts_with(&init::schema_modeline("policy")));
    assert!(comment.contains("init --name 'two words\\u{a}and a line'"), "{comment}");
    assert!(comment.lines().all(|line| line.starts_with('#')), "{comment}");
    assert_eq!(
        document,
        r#": trainguard/v1
kind: Cluster
name: "0x10"
interfaces: [eth0, "rail*"]
nodes:
  - name: scheduler-0
    addresses: [10.77.0.10, "fd77::10"]
    roles: [scheduler]
  - name: worker-0
    addresses: [10.77.0.30, "fd77::30"]
    roles: [server, worker]
  - name: worker-[1-2]
    addresses: ["10.77.0.[31-32]", "fd77::[31-32]"]
    roles: [worker]
policies: [mxnet.yaml]
"#
    );
}

#[test]
fn equal_hosts_in_each_format_give_equal_nodes() {
    let expected = [
        "scheduler-0 172.16.0.1,fd00:5::1 scheduler",
        "worker-0 10.0.0.1 server+worker",
        "worker-1 10.0.0.2 server+worker",
    ];
    for (text, formats) in [
        ("10.0.0.1\n# a comment\n\n10.0.0.2 # another\n", &[Auto, Addresses, Dmlc, Mpi, Slurm][..]),
        ("10.0.0.1\r\n10.0.0.2\r\n", &[Auto, Addresses, Dmlc, Mpi]),
        ("10.0.0.1:22\n10.0.0.2:2222\n", &[Auto, Dmlc, Mpi]),
        ("10.0.0.1 slots=4\n10.0.0.2 slots=4 max_slots=8", &[Auto, Dmlc, Mpi]),
        ("10.0.0.1:4\n10.0.0.2\n", &[Auto, Dmlc, Mpi]),
        ("10.0.0.[1-2]", &[Auto, Slurm]),
        ("10.0.0.1,10.0.0.2", &[Slurm]),
        (
            "cluster_name: default\nmax_workers: 2\nprovider:\n  type: local\n  head_ip: 10.0.0.1\n  \
             worker_ips: [10.0.0.2]\nfile_mounts: {}\nsetup_commands:\n",
            &[Auto, Ray],
        ),
    ] {
        for format in formats {
            let request =
                Request { scheduler: Some(SCHEDULER), format: *format, ..request(mxnet(), text) };
            let (draft, notes) = draft(&request);
            assert_eq!(brief(&draft), expected, "{text} as {format:?}");
            let guessed = notes.iter().any(|note| note.contains("is read as"));
            assert_eq!(guessed, *format == Auto, "{notes:?}");
        }
    }
}

#[test]
fn ipv6_addresses_with_ports() {
    let text = "[fd77::1]:22\nfd77::2\n[fd77::3]\n";
    let request = Request { scheduler: Some("fd77::9"), format: Dmlc, ..request(mxnet(), text) };
    let addresses: Vec<IpAddr> = nodes(&draft(&request).0).into_iter().flat_map(|n| n.1).collect();
    let expected: Vec<IpAddr> =
        ["fd77::9", "fd77::1", "fd77::2", "fd77::3"].map(|a| a.parse().unwrap()).into();
    assert_eq!(addresses, expected);
}

#[test]
fn names_come_from_a_file_and_keep_their_padding() {
    let etc = "127.0.0.1 localhost\n127.0.1.1 gpu01\n10.0.0.1 gpu01 g1\n10.0.0.2 GPU02\n\
               fd77::1 gpu01\nfd77::2 gpu02\n10.0.0.7 gpu07\nfd77::7 gpu07\n10.9.9.300 other\n\
               10.0.0.50 login1\n";
    let request = Request {
        scheduler: Some("login1"),
        resolve: Some(Input { source: "etc", is_option: false, text: etc }),
        ..request(mxnet(), "gpu[01-02,07]")
    };
    let (draft, notes) = draft(&request);
    assert_eq!(
        brief(&draft),
        [
            "login1 10.0.0.50 scheduler",
            "gpu01 10.0.0.1,fd77::1 server+worker",
            "gpu02 10.0.0.2,fd77::2 server+worker",
            "gpu07 10.0.0.7,fd77::7 server+worker",
        ]
    );
    assert!(draft.manifest.contains("- name: gpu[01-02,07]\n"), "{}", draft.manifest);
    assert!(notes.iter().any(|note| note.contains("etc:2") && note.contains("127.0.1.1")));
}

#[test]
fn all_names_without_addresses_are_named_at_once() {
    let text = "10.0.0.1\ngpu1\nbig.example.com slots=4\n";
    let etc = "10.0.0.300 gpu7\n127.0.1.1 gpu1\n";
    let resolve = Some(Input { source: "etc", is_option: false, text: etc });
    for resolve in [None, resolve] {
        let request =
            Request { scheduler: Some("sub"), format: Mpi, resolve, ..request(mxnet(), text) };
        let [problem] = refused(&request).try_into().expect("one message");
        let named = "gpu1 (line 2), big.example.com (line 3), sub (--scheduler)";
        assert!(problem.contains(named) && problem.contains("not looked up in DNS"), "{problem}");
    }
    let request = Request { scheduler: Some("gpu7"), resolve, ..request(mxnet(), "10.0.0.1") };
    let [problem] = refused(&request).try_into().expect("one message");
    assert!(problem.starts_with("etc:1: `gpu7`: `10.0.0.300`"), "{problem}");
}

#[test]
fn every_bad_line_is_reported() {
    let text = "10.0.0.256\n10.0.0.1\n10.0.0.0/24\n127.0.0.1\n10.0.0.2 fe80::1%eth0\na b\n\
                10.0.0.9\u{202e}\n10.0.0.010\n::ffff:10.0.0.1\n-x\n10.0.0.3\r10.0.0.4\n\0\n";
    let lines = Request {
        scheduler: Some("10.0.0.1 10.0.0.5/32"),
        format: Addresses,
        name: Some("a b"),
        servers: Some(1),
        ..request(mxnet(), text)
    };
    let found = refused(&lines);
    let places: Vec<&str> = found.iter().filter_map(|p| p.split(": ").next()).collect();
    let lines: Vec<String> =
        [7, 11, 12, 1, 3, 4, 5, 6, 8, 9, 10].map(|n| format!("hosts:{n}")).into();
    let mut expected = vec!["--name".to_owned()];
    expected.extend(lines);
    expected.push("--scheduler".to_owned());
    assert_eq!(places, expected, "{found:#?}");

    for (format, text, bad) in [
        (Mpi, "10.0.0.1:x\n10.0.0.2 slots=\n10.0.0.3 4\n[fd77::1\n", 4),
        (Slurm, "gpu[1-\ngpu[3-1]\nw[0-99999999]\n10.0.0.[250-260]\n", 4),
        (Ray, "provider: {type: aws}\n", 1),
        (Ray, "provider: {type: local, worker_ips: 10.0.0.1}\n", 2),
        (Ray, "a: 1\n", 1),
        (Ray, "- 1\n", 1),
    ] {
        let request = Request { scheduler: Some(SCHEDULER), format, ..request(mxnet(), text) };
        let found = refused(&request);
        assert_eq!(found.len(), bad, "{found:#?}");
        assert!(found.iter().all(|problem| problem.starts_with("hosts:")), "{found:#?}");
    }
}

#[test]
fn ray_files_outside_the_dialect_get_a_hint() {
    let text = "provider: &p\n  type: local\n  head_ip: 10.0.0.1\nauth: *p\n";
    let request = Request { scheduler: Some(SCHEDULER), format: Ray, ..request(mxnet(), text) };
    let found = refused(&request);
    assert!(found[0].starts_with("hosts:1: an anchor"), "{found:#?}");
    let last = found.last().expect("a problem");
    assert!(last.contains("strict dialect") && last.contains("files that Ray accepts"), "{last}");
}

#[test]
fn nothing_to_read_is_an_error() {
    for text in ["", "\n\n", "# only a comment\n", "   \t\n"] {
        let found = refused(&Request { scheduler: Some(SCHEDULER), ..request(mxnet(), text) });
        assert_eq!(found, ["`hosts` lists no host / "], "{text:?}");
    }
}

#[test]
fn options_without_effect_are_refused() {
    let trainer = Profile {
        name: "trainer",
        policy: members_only("trainer", "[trainer]"),
        roles: &[("trainer", RoleHolders::Listed)],
    };
    let hosts = "10.0.0.1\n10.0.0.2\n";
    assert_eq!(brief(&draft(&request(&trainer, hosts)).0).len(), 2);
    for (scheduler, servers) in [(Some(SCHEDULER), None), (None, Some(2))] {
        let found = refused(&Request { scheduler, servers, ..request(&trainer, hosts) });
        assert_eq!(found.len(), 1, "{found:#?}");
    }
    let [needed] = refused(&request(mxnet(), hosts)).try_into().expect("one message");
    assert!(needed.contains("--scheduler") && needed.contains("launching machine"), "{needed}");
    let interfaces = ["a/b".to_owned()];
    let networks = ["users".to_owned(), "users=10.0.0.1/8".to_owned(), "=10.0.0.0/8".to_owned()];
    let request =
        Request { interfaces: &interfaces, networks: &networks, ..request(&trainer, hosts) };
    assert_eq!(refused(&request).len(), 4);
}

#[test]
fn lines_about_one_host_are_merged() {
    for (text, expected) in [
        ("10.0.0.1 slots=1\n10.0.0.2\n10.0.0.1\n", 2),
        ("gpu1 10.0.0.1\ngpu1 fd77::1\ngpu2 10.0.0.2\n", 2),
        ("gpu1 10.0.0.1 10.1.0.1\n10.1.0.1\n", 1),
        ("10.1.0.1\ngpu1 10.0.0.1 10.1.0.1\n", 1),
        ("gpu1\ngpu1 10.0.0.1\n", 1),
        ("10.0.0.1 10.0.0.1\n", 1),
    ] {
        let format = if text.contains('=') { Mpi } else { Addresses };
        let request = Request { scheduler: Some(SCHEDULER), format, ..request(mxnet(), text) };
        let (draft, notes) = draft(&request);
        assert_eq!(nodes(&draft).len(), expected + 1, "{text}");
        let merged = notes.iter().any(|note| note.contains("more than once"));
        assert_eq!(merged, text.lines().count() > expected, "{notes:?}");
    }
    for text in [
        "gpu1 10.0.0.1\ngpu2 10.0.0.1\n",
        "gpu1 10.0.0.1\ngpu1 10.0.0.2\n",
        "10.0.0.1\n10.0.0.2\n10.0.0.1 10.0.0.2\n",
        "gpu1 10.0.0.1 fd77::1\ngpu2 10.0.0.2 fd77::1\n",
    ] {
        let last = text.lines().count();
        let [found] = refused(&Request { scheduler: Some(SCHEDULER), ..request(mxnet(), text) })
            .try_into()
            .expect("one message");
        assert!(found.starts_with(&format!("hosts:{last}: ")), "{found}");
    }
}

#[test]
fn servers_are_the_hosts_that_the_tracker_uses() {
    let of = |text: &str, servers| {
        let format = Dmlc;
        let scheduler = Some(SCHEDULER);
        let (draft, _) = draft(&Request { servers, format, scheduler, ..request(mxnet(), text) });
        let servers = nodes(&draft).into_iter().filter(|n| n.2.contains(&"server".to_owned()));
        servers.map(|n| n.1[0].to_string()).collect::<Vec<_>>()
    };
    let three = "10.0.0.1\n10.0.0.2\n10.0.0.3\n";
    assert_eq!(of(three, None), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(of(three, Some(2)), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(of(three, Some(7)), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    // A host that is listed twice takes two server processes before the next host takes one.
    assert_eq!(of("10.0.0.1\n10.0.0.1\n10.0.0.2\n", Some(2)), ["10.0.0.1"]);
}

#[test]
fn one_host_gets_the_role_of_a_single_host() {
    let ray = Profile {
        name: "tiny",
        policy: members_only("tiny", "[head, worker]"),
        roles: &[("head", RoleHolders::First), ("worker", RoleHolders::Others)],
    };
    let text = "10.0.0.1\n10.0.0.2\n10.0.0.3\n";
    let roles = |scheduler, text: &str| {
        let (draft, notes) = draft(&Request { scheduler, ..request(&ray, text) });
        (brief(&draft), notes)
    };
    let (first, notes) = roles(None, text);
    assert_eq!(
        first,
        ["head-0 10.0.0.1 head", "worker-0 10.0.0.2 worker", "worker-1 10.0.0.3 worker"]
    );
    assert!(notes.iter().any(|note| note.contains("first host")), "{notes:?}");
    let (named, _) = roles(Some("10.0.0.2"), text);
    assert_eq!(
        named,
        ["worker-0 10.0.0.1 worker", "head-0 10.0.0.2 head", "worker-1 10.0.0.3 worker"]
    );
    let (other, _) = roles(Some("10.0.0.9"), text);
    assert_eq!(other.len(), 4);
    assert_eq!(other[0], "head-0 10.0.0.9 head");
    // A single host gets all roles.
    let (alone, _) = roles(None, "10.0.0.1\n");
    assert_eq!(alone, ["worker-0 10.0.0.1 head+worker"]);
    let file = "provider: {type: local, head_ip: 10.0.0.2, worker_ips: [10.0.0.1, 10.0.0.2]}\n";
    let (from_file, _) = draft(&Request { format: Ray, ..request(&ray, file) });
    assert_eq!(brief(&from_file), ["head-0 10.0.0.2 head", "worker-0 10.0.0.1 worker"]);

    let slurm = Profile {
        name: "small",
        policy: members_only("small", "[controller, compute, login]"),
        roles: &[
            ("controller", RoleHolders::Scheduler),
            ("compute", RoleHolders::Others),
            ("login", RoleHolders::Named),
        ],
    };
    let text = "gpu1 10.0.0.1\nlogin1 10.0.0.8\nLogin2 10.0.0.9\n";
    let (with, _) = draft(&Request { scheduler: Some("ctl,10.0.0.5"), ..request(&slurm, text) });
    assert_eq!(
        brief(&with),
        [
            "ctl 10.0.0.5 controller",
            "gpu1 10.0.0.1 compute",
            "login1 10.0.0.8 login",
            "Login2 10.0.0.9 login",
        ]
    );
    let without = "gpu1 10.0.0.1\n";
    let request = Request { scheduler: Some("ctl,10.0.0.5"), ..request(&slurm, without) };
    let (without, notes) = draft(&request);
    assert_eq!(brief(&without), ["ctl 10.0.0.5 controller+login", "gpu1 10.0.0.1 compute"]);
    let request = Request { scheduler: Some("10.0.0.5"), ..request };
    assert!(brief(&draft(&request).0)[0].starts_with("controller-0 "));
    assert!(notes.iter().any(|note| note.contains("`login`")), "{notes:?}");
}

#[test]
fn a_network_without_a_value_gets_placeholder_prefixes() {
    let policy = members_only("net", "[node]")
        .replace("{ roles: [node] }", "{ roles: [node], networks: [users] }");
    let profile = Profile {
        name: "net",
        policy: Box::leak(policy.into_boxed_str()),
        roles: &[("node", RoleHolders::Listed)],
    };
    let hosts = "10.0.0.1 fd77::1\n10.0.0.2 fd77::2\n";
    let (unset, notes) = draft(&request(&profile, hosts));
    assert!(unset.manifest.contains("  users: [\"192.0.2.0/24\", \"2001:db8::/32\"]\n"));
    assert!(notes.iter().any(|note| note.contains("--network users=")), "{notes:?}");
    load(&unset);
    let networks = ["users=10.9.0.0/24,fd99::/64".to_owned()];
    let (named, notes) = draft(&Request { networks: &networks, ..request(&profile, hosts) });
    assert!(named.manifest.contains("  users: [\"10.9.0.0/24\", \"fd99::/64\"]\n"));
    assert!(!notes.iter().any(|note| note.contains("users")), "{notes:?}");
    load(&named);
}

#[test]
fn long_lines_and_many_lines_end_quickly() {
    let scheduler = Some(SCHEDULER);
    let texts = |bytes: usize| ["x", "1", "[", "a "].map(|piece| piece.repeat(bytes / piece.len()));
    let check = |text: &str, format| {
        let found = refused(&Request { scheduler, format, ..request(mxnet(), text) });
        assert!(found.iter().all(|problem| problem.len() < 1000), "{format:?}");
    };
    for text in texts(10 << 20) {
        check(&text, Auto);
    }
    for text in texts(1 << 20) {
        for format in [Addresses, Dmlc, Mpi, Slurm, Ray] {
            check(&text, format);
        }
    }
    let mut findings = Findings::default();
    let many = "10.0.0.300\n".repeat(1000);
    init::draft(&Request { scheduler, ..request(mxnet(), &many) }, &mut findings);
    assert_eq!(findings.problems.len() + findings.more, 1000, "every problem is counted");
}

/// Generates hosts in blocks whose numbers and addresses increase in step, or do not.
fn blocks() -> impl Strategy<Value = Vec<(String, Vec<IpAddr>)>> {
    let block = (
        prop::sample::select(vec!["", "w", "gpu-", "r1n", "0x", "e"]),
        0_u32..200,
        0_usize..4,
        (any::<u32>(), any::<u128>(), any::<bool>()),
        1_u32..12,
        prop::sample::select(vec![0_u32, 1, 1, 1, 2, 7]),
        0_u8..4,
    );
    prop::collection::vec(block, 1..8).prop_map(|blocks| {
        let mut names = HashSet::new();
        let mut taken: HashSet<IpAddr> = HashSet::new();
        let mut hosts = Vec::new();
        for (prefix, first, width, (four, six, near), count, step, families) in blocks {
            let four = if near { 0x0a00_0000 | (four % 600) } else { four };
            let six = if near { (0xfd77 << 112) | (six % 600) } else { six };
            for number in 0..count {
                let offset = number * step;
                let v4: IpAddr = Ipv4Addr::from_bits(four.wrapping_add(offset)).into();
                let v6: IpAddr = Ipv6Addr::from_bits(six.wrapping_add(offset.into())).into();
                let mut addresses = match families {
                    0 => vec![v4],
                    1 => vec![v6],
                    2 => vec![v4, v6],
                    _ => vec![v6, v4],
                };
                addresses.retain(|a| !Addr::from(*a).is_martian() && taken.insert(*a));
                let name = match prefix {
                    "" => String::new(),
                    _ => format!("{prefix}{:0width$}", first + number),
                };
                if !addresses.is_empty() && (name.is_empty() || names.insert(name.clone())) {
                    hosts.push((name, addresses));
                }
            }
        }
        hosts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// The manifest expands to exactly the listed addresses, each under its own host.
    #[test]
    fn the_manifest_expands_to_the_listed_hosts(hosts in blocks(), servers in prop::option::of(1_usize..20)) {
        prop_assume!(!hosts.is_empty());
        let mut text = String::new();
        for (name, addresses) in &hosts {
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            writeln!(text, "{name} {}", addresses.join(" ")).unwrap();
        }
        let apart: IpAddr = "198.51.100.1".parse().unwrap();
        prop_assume!(hosts.iter().all(|(_, addresses)| !addresses.contains(&apart)));
        let request = Request {
            scheduler: Some("apart 198.51.100.1"),
            servers,
            format: Addresses,
            ..request(mxnet(), &text)
        };
        let (draft, _) = draft(&request);
        let found = nodes(&draft);
        let of_draft: Vec<_> = draft
            .members
            .iter()
            .map(|m| {
                let mut roles: Vec<String> = m.roles.iter().map(|r| (*r).to_owned()).collect();
                roles.sort();
                (m.name.clone(), m.addresses.clone(), roles)
            })
            .collect();
        prop_assert_eq!(&found, &of_draft);
        let by_addresses: BTreeMap<&Vec<IpAddr>, (&String, &Vec<String>)> =
            found.iter().map(|(name, addresses, roles)| (addresses, (name, roles))).collect();
        prop_assert_eq!(by_addresses.len(), hosts.len() + 1);
        for (at, (name, addresses)) in hosts.iter().enumerate() {
            let (found, roles) = by_addresses.get(addresses).copied().expect("a node for each host");
            if !name.is_empty() {
                prop_assert_eq!(found, name);
            }
            let serves = servers.is_none_or(|servers| at < servers);
            let expected: &[&str] = if serves { &["server", "worker"] } else { &["worker"] };
            prop_assert_eq!(roles, expected);
        }
        let names: BTreeSet<&String> = found.iter().map(|(name, ..)| name).collect();
        prop_assert_eq!(names.len(), found.len());
    }

    /// Any input gives either a manifest that loads, or a reason.
    #[test]
    fn anything_gives_a_manifest_or_a_reason(
        text in "([a-c0-2:.,= #\\-\\[\\]{}&*\t]{0,12}|10\\.0\\.0\\.[0-9]|gpu\\[[0-3]-[0-3]\\]|provider: \\{head_ip: 10\\.0\\.0\\.1\\}|\\PC{0,6})(\n[a-c0-2:.,= #\\-\\[\\]]{0,9}){0,4}",
        format in prop::sample::select(vec![
            Auto, Addresses, Dmlc, Mpi,
            Slurm, Ray,
        ]),
    ) {
        let etc = Input { source: "etc", is_option: false, text: "10.8.0.1 a\n10.8.0.2 b c gpu1\n" };
        let request = Request {
            scheduler: Some(SCHEDULER),
            format,
            resolve: Some(etc),
            ..request(mxnet(), &text)
        };
        let mut findings = Findings::default();
        match init::draft(&request, &mut findings) {
            Some(draft) => {
                prop_assert!(!findings.is_bad());
                load(&draft);
            }
            None => prop_assert!(findings.is_bad()),
        }
    }
}

fn trainguard(args: &[&str], stdin: &[u8]) -> Output {
    let args = [&["init", "--framework", "mxnet"], args].concat();
    super::binary::trainguard(Path::new("."), &args, stdin)
}

#[test]
fn existing_files_are_not_overwritten_without_force() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = directory.path().join("deep/er");
    let output = output.to_str().expect("UTF-8");
    let args = ["--hosts", "-", "--scheduler", SCHEDULER, "--output", output];
    let first = trainguard(&args, b"10.0.0.1\n10.0.0.2\n");
    let printed = String::from_utf8_lossy(&first.stderr).into_owned();
    assert_eq!((first.status.code(), first.stdout.len()), (Some(0), 0), "{printed}");
    assert!(printed.contains(&format!("trainguard lint {output}")) && printed.contains("observe"));
    let manifest = Path::new(output).join(init::MANIFEST);
    let loaded = policy::load(&manifest, &Disk).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.cluster.nodes.len(), 3);
    let again = trainguard(&args, b"10.0.0.7\n");
    let printed = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(2));
    assert!(printed.contains("mxnet.yaml") && printed.contains("--force"), "{printed}");
    fs::remove_file(Path::new(output).join("mxnet.yaml")).expect("the policy exists");
    assert_eq!(
        trainguard(&args, b"10.0.0.7\n").status.code(),
        Some(2),
        "one existing file is enough to refuse"
    );
    assert!(!Path::new(output).join("mxnet.yaml").exists());
    let forced = trainguard(&[&args[..], &["--force"]].concat(), b"10.0.0.7\n");
    assert_eq!(forced.status.code(), Some(0));
    assert!(fs::read_to_string(&manifest).expect("the manifest exists").contains("10.0.0.7"));
    let left: BTreeSet<_> =
        fs::read_dir(output).expect("a directory").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, BTreeSet::from(["cluster.yaml".into(), "mxnet.yaml".into()]));
}

#[test]
fn both_texts_go_to_standard_output() {
    let args = ["--nodelist", "10.0.0.[1-3]", "--scheduler", SCHEDULER, "--output", "-"];
    let output = trainguard(&args, b"");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (manifest, policy) = text.split_once("---\n").expect("two texts");
    assert!(manifest.starts_with("# ==== cluster.yaml ====\n"), "{manifest}");
    assert!(policy.starts_with("# ==== mxnet.yaml ====\n"), "{policy}");
    let texts = [("m.yaml", manifest), ("mxnet.yaml", policy)];
    let loaded = policy::load(Path::new("m.yaml"), &Bundle::new("m.yaml", texts));
    assert_eq!(loaded.unwrap_or_else(|error| panic!("{error}")).cluster.nodes.len(), 4);
    assert!(manifest.contains("--nodelist '10.0.0.[1-3]'"), "{manifest}");
}

#[test]
fn unreadable_input_exits_with_2() {
    let output = tempfile::tempdir().expect("a directory");
    let output = output.path().to_str().expect("UTF-8");
    let tail = ["--scheduler", SCHEDULER, "--output", output];
    for (args, stdin, expected) in [
        (&["--hosts", "-"][..], &b""[..], "lists no host"),
        (&["--hosts", "-"], b"10.0.0.1\n\xff\n", "-:2: not UTF-8"),
        (&["--hosts", "-"], b"10.0.0.1\n10.0.0.\x1b[2J\n", "standard input:2: a control character"),
        (&["--hosts", "/nowhere/hosts"], b"", "/nowhere/hosts"),
        (&["--hosts", "-", "--resolve", "/nowhere/hosts"], b"10.0.0.1\n", "/nowhere/hosts"),
        (&["--nodelist", "gpu[1-2"], b"", "--nodelist: "),
        (&["--nodelist", "gpu1", "--hosts", "-"], b"", "cannot be used with"),
        (&[], b"", "--hosts"),
        (&["--hosts", "-", "--servers", "0"], b"10.0.0.1\n", "at least 1"),
        (&["--hosts", "-", "--hosts-format", "csv"], b"10.0.0.1\n", "csv"),
    ] {
        let answer = trainguard(&[args, &tail].concat(), stdin);
        let printed = String::from_utf8_lossy(&answer.stderr);
        assert_eq!(answer.status.code(), Some(2), "{args:?}: {printed}");
        assert!(printed.contains(expected) && !printed.contains('\x1b'), "{args:?}: {printed}");
    }
    assert_eq!(fs::read_dir(output).expect("a directory").count(), 0);
}
