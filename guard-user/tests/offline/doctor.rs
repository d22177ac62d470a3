//! `doctor` on fabricated facts of a machine: each check at its boundaries, and the complete output.

use std::path::PathBuf;

use guard_user::{
    api::{
        events::{Event, EventKind, Packet},
        status::{NodeMode, OpenPort, OpenPorts, ServiceStatus, Status},
    },
    attach_mode::DeviceMode,
    doctor::{
        Check, Diagnosis, State,
        facts::{
            BpfFs, Directory, Interface, Kernel, KernelFeatures, MachineFacts, MaybeHidden,
            Network, Ownership, Policy, PolicyFile, Program, Rdma, Refusal, Rights, RootService,
            ServicePorts, Traffic, Unit, Unmet,
        },
        redact::{self, Names, Records},
    },
    file_permissions::EntryKind,
    netlink::ethtool::XdpSupport,
};
use serde_json::Value;

/// A check's id, the expected state, and the change of the facts that causes it.
type Case = (&'static str, State, fn(&mut MachineFacts));

const ALL_RIGHTS: u64 = u64::MAX;

fn known<T>(value: T) -> MaybeHidden<T> {
    MaybeHidden::Known(value)
}

fn hidden<T>() -> MaybeHidden<T> {
    MaybeHidden::Hidden("Permission denied (os error 13)".to_owned())
}

fn owned(uid: u32, mode: u32) -> Ownership {
    Ownership { uid, mode }
}

fn interface(name: &str) -> Interface {
    Interface {
        name: name.to_owned(),
        up: true,
        mtu: 9000,
        kind: None,
        driver: Some("mlx5_core".to_owned()),
        xdp: known(XdpSupport { native: true, several_buffers: true }),
        program: None,
        offloads: known(vec!["rx-checksum".to_owned()]),
        queues: Some(8),
        virtual_functions: 0,
        controller: None,
        bridged: None,
        bridged_vlans: Vec::new(),
        controller_guarded: false,
        siblings_unguarded: Vec::new(),
        lower: None,
        lower_guarded: false,
        rp_filter: known(1),
        route_localnet: known(0),
    }
}

/// Returns facts of a machine on which every check passes.
fn healthy() -> MachineFacts {
    let directory = |path: &str| Directory {
        path: path.into(),
        owned: Some(known(owned(0, 0o755))),
        free: Some(1 << 30),
    };
    MachineFacts {
        kernel: Kernel {
            release: "6.18.4-1-amd64".to_owned(),
            version: "#1 SMP PREEMPT_DYNAMIC".to_owned(),
            architecture: "x86_64",
            jit_harden: known(0),
            lockdown: known("[none] integrity confidentiality".to_owned()),
            unprivileged_bpf_disabled: known(2),
        },
        rights: Rights { uid: 0, capabilities: ALL_RIGHTS },
        abilities: KernelFeatures {
            maps: vec![("array", Ok(())), ("ring buffer", Ok(()))],
            xdp: Ok(()),
            frags: Ok(()),
            compiled: known(59),
            has_namespace: true,
            native: Ok(()),
            generic: Ok(()),
            switch: Ok(()),
            guard: Some(Ok(())),
        },
        bpffs: BpfFs {
            path: "/sys/fs/bpf/trainguard".into(),
            existing: "/sys/fs/bpf/trainguard".into(),
            is_bpf: known(true),
            read_only: false,
            writable: true,
            directory: Some(known(owned(0, 0o700))),
        },
        policy: Some(Policy {
            manifest: "/etc/trainguard/cluster.yaml".into(),
            errors: (0, None),
            warnings: 0,
            node: Some("sched-0".to_owned()),
            node_problem: None,
            ports: vec![ports("mxnet/scheduler", 9091, 9091), ports("mxnet/members", 1, 65535)],
            files: known(vec![
                file("/", EntryKind::Directory, 0, 0o755),
                file("/etc/trainguard/cluster.yaml", EntryKind::File, 0, 0o644),
            ]),
            trusted: vec![0, 990],
        }),
        interfaces: vec![interface("rail0")],
        unmet: Unmet::default(),
        interfaces_chosen: true,
        unguarded: Vec::new(),
        tunnels: Vec::new(),
        rdma: known(Vec::new()),
        network: Network {
            syncookies: known(1),
            rp_filter: known(1),
            route_localnet: known(0),
            ephemeral: known((32768, 60999)),
            reserved: known(Vec::new()),
        },
        traffic: Traffic::default(),
        open_ports: OpenPorts::default(),
        root_services: Vec::new(),
        state_dir: directory("/var/lib/trainguard"),
        run_dir: directory("/run/trainguard"),
        unit: Some(known(unit("loaded", "active", "enabled"))),
        daemon: known(Box::new(Status {
            enforcing: true,
            mode: Some(NodeMode::Enforce),
            daemon: true,
            ..Status::default()
        })),
        cpus: 16,
    }
}

fn unit(load: &str, active: &str, file: &str) -> Unit {
    Unit { load: load.to_owned(), active: active.to_owned(), file: file.to_owned() }
}

fn ports(service: &str, first: u16, last: u16) -> ServicePorts {
    ServicePorts { service: service.to_owned(), transport: "tcp", first, last, every_packet: false }
}

fn file(path: &str, kind: EntryKind, uid: u32, mode: u32) -> PolicyFile {
    PolicyFile { path: path.into(), kind, owned: owned(uid, mode), names: 1, read_only: false }
}

fn refusal(errno: i32) -> Refusal {
    Refusal { errno: Some(errno), message: "trying: no".to_owned() }
}

fn diagnosis(change: impl FnOnce(&mut MachineFacts)) -> Diagnosis {
    let mut facts = healthy();
    change(&mut facts);
    Diagnosis::of(&facts)
}

/// Returns the checks whose result differs from that on the healthy machine.
fn changed(change: impl FnOnce(&mut MachineFacts)) -> Vec<Check> {
    let healthy = diagnosis(|_| {}).checks;
    diagnosis(change).checks.into_iter().filter(|check| !healthy.contains(check)).collect()
}

/// Returns the only check that differs from the healthy machine: its id, its state and its full text.
fn one(change: impl FnOnce(&mut MachineFacts)) -> (&'static str, State, String) {
    let checks = changed(change);
    let [check] = &checks[..] else { panic!("{checks:#?}") };
    let message = [Some(&check.found), check.why.as_ref(), check.fix.as_ref()];
    let message: Vec<&str> = message.into_iter().flatten().map(String::as_str).collect();
    if check.state == State::Failed {
        assert!(check.fix.is_some(), "{check:?} failed and has no fix");
    }
    (check.id, check.state, message.join(" | "))
}

#[test]
fn a_healthy_machine_passes_every_check() {
    let healthy = diagnosis(|_| {});
    let odd: Vec<&Check> = healthy.checks.iter().filter(|it| it.state != State::Ok).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    assert!(healthy.checks.iter().all(|check| check.why.is_none() && check.fix.is_none()));
    assert_eq!(healthy.summary.ok, healthy.checks.len());
    let mut names: Vec<_> = healthy.checks.iter().map(|it| (it.id, &it.subject)).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "two checks have the same id and subject");
}

#[test]
fn kernels_are_checked_by_trying_features() {
    let (id, state, message) = one(|facts| facts.abilities.frags = Err(refusal(libc::EINVAL)));
    assert_eq!((id, state), ("xdp-frags", State::Failed));
    assert!(message.contains("5.18"), "{message}");

    let (id, state, _) = one(|facts| facts.kernel.release = "5.15.0-91-generic".to_owned());
    assert_eq!((id, state), ("kernel", State::Warning));
    let (id, _, message) = one(|facts| facts.kernel.version = "#1 SMP PREEMPT_RT".to_owned());
    assert_eq!(id, "kernel");
    assert!(message.contains("PREEMPT_RT"));

    let refused =
        Err(Refusal { errno: Some(libc::EINVAL), message: "loading: R3 !read_ok".to_owned() });
    let (id, state, message) = one(|facts| facts.abilities.guard = Some(refused));
    assert_eq!((id, state), ("guard-program", State::Failed));
    assert!(message.contains("R3 !read_ok") && message.contains("--report"), "{message}");
    assert_eq!(one(|facts| facts.abilities.guard = None).1, State::Failed);

    // The drivers of virtual devices (veth) say nothing about the driver of a network card.
    let (id, state, _) = one(|facts| facts.abilities.native = Err(refusal(libc::ERANGE)));
    assert_eq!((id, state), ("bpf-link", State::Warning));
    let (id, state, _) = one(|facts| facts.abilities.switch = Err(refusal(libc::EINVAL)));
    assert_eq!((id, state), ("bpf-link", State::Failed));
}

/// Cases 91 and 150: `doctor` distinguishes hardened kernels from open ones; neither is a failure.
#[test]
fn case_91_and_150_hardening_settings_of_the_kernel_are_reported() {
    let (id, state, message) = one(|facts| facts.abilities.compiled = known(0));
    assert_eq!((id, state), ("jit", State::Warning));
    assert!(message.contains("sysctl -w net.core.bpf_jit_enable=1"), "{message}");
    let (id, state, _) = one(|facts| facts.kernel.jit_harden = known(2));
    assert_eq!((id, state), ("jit", State::Note));

    let (id, state, message) = one(|facts| facts.kernel.unprivileged_bpf_disabled = known(0));
    assert_eq!((id, state), ("unprivileged-bpf", State::Warning));
    assert!(message.contains("sysctl -w kernel.unprivileged_bpf_disabled=2"), "{message}");
    let locked = "none integrity [confidentiality]".to_owned();
    let (id, state, message) = one(|facts| facts.kernel.lockdown = known(locked));
    assert_eq!((id, state), ("lockdown", State::Note));
    assert!(message.contains("confidentiality"), "{message}");
    assert_eq!(one(|facts| facts.kernel.lockdown = hidden()).1, State::Note);
}

#[test]
fn checks_that_lack_privileges_are_unknown_and_not_failed() {
    let checks = changed(|facts| {
        facts.rights = Rights { uid: 1000, capabilities: 0 };
        facts.abilities = KernelFeatures {
            maps: vec![("array", Err(refusal(libc::EPERM)))],
            xdp: Err(refusal(libc::EPERM)),
            frags: Err(refusal(libc::EPERM)),
            compiled: hidden(),
            has_namespace: true,
            native: Err(refusal(libc::EPERM)),
            generic: Err(refusal(libc::EPERM)),
            switch: Err(refusal(libc::EPERM)),
            guard: Some(Err(refusal(libc::EPERM))),
        };
        facts.bpffs.writable = false;
        facts.state_dir.owned = Some(hidden());
    });
    assert!(checks.len() > 6);
    for check in &checks {
        assert_eq!(check.state, State::Unknown, "{check:?}");
        assert!(check.fix.as_ref().is_some_and(|fix| fix.contains("as root")), "{check:?}");
    }
    let rights = checks.iter().find(|check| check.id == "rights").expect("rights");
    assert_eq!(rights.found, "user 1000 lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON");
}

#[test]
fn root_in_a_container_gets_the_missing_capabilities() {
    let all_but = |missing: u32| ALL_RIGHTS & !(1 << missing) & !(1 << 21);
    let (id, state, message) = one(|facts| facts.rights.capabilities = all_but(38));
    assert_eq!((id, state), ("rights", State::Failed));
    assert!(message.contains("lacks CAP_PERFMON |"), "{message}");
    // `CAP_SYS_ADMIN` (21) includes the two newer capabilities, `CAP_PERFMON` and `CAP_BPF`.
    let checks = changed(|facts| facts.rights.capabilities = 1 << 21 | 1 << 12);
    assert_eq!(checks, []);
}

/// Case 103: a bpf file system that is missing, read-only, or accessible to other users.
#[test]
fn case_103_pins_need_a_bpf_file_system_closed_to_other_users() {
    for (what, message) in [
        ("missing", "mount -t bpf bpf /sys/fs/bpf"),
        ("read-only", "mount -o remount,rw"),
        ("open", "chmod 0700 /sys/fs/bpf/trainguard"),
        ("unwritable", "user 0 may not write"),
    ] {
        let (id, state, text) = one(|facts| match what {
            "missing" => facts.bpffs.is_bpf = known(false),
            "read-only" => facts.bpffs.read_only = true,
            "open" => facts.bpffs.directory = Some(known(owned(0, 0o750))),
            _ => facts.bpffs.writable = false,
        });
        assert_eq!((id, state), ("bpffs", State::Failed), "{what}");
        assert!(text.contains(message), "{what}: {text}");
    }
}

/// Cases 87 and 88: conditions that would make attaching fail are found beforehand, each with its
/// remedy.
#[test]
fn case_87_and_88_unsuitable_drivers_are_found_before_attaching() {
    let driver = |native, several_buffers| {
        one(|facts| facts.interfaces[0].xdp = known(XdpSupport { native, several_buffers }))
    };
    let (id, state, message) = driver(false, false);
    assert_eq!((id, state), ("xdp-driver", State::Warning));
    assert!(message.contains("--mode generic"), "{message}");
    // Case 82: packets that tc redirects.
    assert!(message.contains("tc redirects"), "{message}");
    let (id, state, message) = driver(true, false);
    assert_eq!((id, state), ("xdp-driver", State::Failed));
    assert!(message.contains("ip link set dev rail0 mtu 1500"), "{message}");
    let at = |mtu| {
        let checks = diagnosis(|facts| {
            facts.interfaces[0].xdp = known(XdpSupport { native: true, several_buffers: false });
            facts.interfaces[0].mtu = mtu;
        });
        checks.checks.into_iter().find(|check| check.id == "xdp-driver").expect("a check").state
    };
    assert_eq!(
        [1500, 1501, 4095, 4096].map(at),
        [State::Ok, State::Warning, State::Warning, State::Failed]
    );
    assert_eq!(one(|facts| facts.interfaces[0].xdp = hidden()).1, State::Note);
    let virtio_before_6_3 = |mode: Option<DeviceMode>| {
        let checks = changed(|facts| {
            let interface = &mut facts.interfaces[0];
            interface.xdp = hidden();
            interface.driver = Some("virtio_net".to_owned());
            interface.mtu = 9000;
            interface.program = mode.map(|mode| Program { id: 812, mode, ours: known(true) });
        });
        checks.into_iter().find(|check| check.id == "xdp-driver").expect("a check")
    };
    let check = virtio_before_6_3(None);
    assert_eq!(check.state, State::Failed);
    assert!(check.fix.is_some_and(|fix| fix.contains("`--mode generic`")));
    assert!(check.why.is_some_and(|why| why.contains("are lost")));
    assert_eq!(virtio_before_6_3(Some(DeviceMode::Native)).state, State::Failed);

    let program = |ours| Program { id: 812, mode: DeviceMode::Native, ours };
    let (id, state, message) =
        one(|facts| facts.interfaces[0].program = Some(program(known(false))));
    assert_eq!((id, state), ("xdp-foreign", State::Failed));
    assert!(
        message.contains("id 812") && message.contains("bpftool prog show id 812"),
        "{message}"
    );
    assert_eq!(one(|it| it.interfaces[0].program = Some(program(known(true)))).1, State::Ok);
    assert_eq!(one(|it| it.interfaces[0].program = Some(program(hidden()))).1, State::Unknown);
}

/// Case 89, before attaching: offloads that hide or merge frames.
#[test]
fn case_89_offloads_that_merge_frames_are_reported_with_the_command() {
    let with = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        one(|facts| facts.interfaces[0].offloads = known(names))
    };
    let (id, state, message) = with(&["rx-lro", "rx-gro-hw"]);
    assert_eq!((id, state), ("offloads", State::Warning));
    assert!(message.contains("ethtool -K rail0 lro off rx-gro-hw off"), "{message}");
    let (id, state, _) = with(&["rx-vlan-hw-parse"]);
    assert_eq!((id, state), ("offloads", State::Note));
}

#[test]
fn stacked_devices_are_guarded_at_the_right_device() {
    let bond = Some(("bond0".to_owned(), "bond".to_owned()));
    let (id, state, message) = one(|facts| {
        facts.interfaces[0].controller = bond.clone();
        facts.interfaces[0].siblings_unguarded = vec!["rail1".to_owned()];
    });
    assert_eq!((id, state), ("stacked", State::Warning));
    assert!(message.contains("rail1") && message.contains("`bond0` itself"), "{message}");
    let (_, state, message) = one(|facts| {
        facts.interfaces[0].controller = bond.clone();
        facts.interfaces[0].controller_guarded = true;
    });
    assert_eq!(state, State::Warning);
    assert!(message.contains("twice"), "{message}");
    assert_eq!(one(|facts| facts.interfaces[0].controller = bond).1, State::Ok);

    let vlan = |facts: &mut MachineFacts| {
        facts.interfaces[0].kind = Some("vlan".to_owned());
        facts.interfaces[0].lower = Some("eth0".to_owned());
    };
    let (id, state, message) = one(vlan);
    assert_eq!((id, state), ("stacked", State::Warning));
    assert!(message.contains("guard `eth0` instead"), "{message}");
    // The other end of a veth pair is not a lower device.
    let pair = changed(|facts| {
        vlan(facts);
        facts.interfaces[0].kind = Some("veth".to_owned());
    });
    assert_eq!(pair, []);
}

#[test]
fn ports_of_bridges_cannot_be_guarded() {
    let problem = ("a port of the bridge `br0`".to_owned(), "write `interfaces: [br0]`".to_owned());
    let (id, state, message) = one(|facts| {
        facts.interfaces[0].controller = Some(("br0".to_owned(), "bridge".to_owned()));
        facts.interfaces[0].bridged = Some(problem);
    });
    assert_eq!((id, state), ("stacked", State::Failed));
    assert!(message.contains("br0") && message.contains("`interfaces: [br0]`"), "{message}");
    let vlan = ("rail0.5".to_owned(), "br5".to_owned());
    let (id, state, message) = one(|facts| facts.interfaces[0].bridged_vlans = vec![vlan]);
    assert_eq!((id, state), ("bridged-vlans", State::Warning));
    assert!(message.contains("rail0.5 of br5"), "{message}");
}

#[test]
fn what_the_node_forwards_and_translates_is_told() {
    let forwards = |facts: &mut MachineFacts| facts.traffic.forwards_ipv4 = true;
    let (id, state, message) = one(forwards);
    assert_eq!((id, state), ("forwarding", State::Note));
    assert!(message.contains("forwards IPv4: ") && message.contains("`forwarded: guard`"));
    assert!(!message.contains("not read"), "{message}");
    let counted = |facts: &mut MachineFacts| {
        forwards(facts);
        facts.traffic.incomplete = vec!["the rules".to_owned()];
        let service = ServiceStatus {
            name: "store".to_owned(),
            forwarded_packets: 7,
            ..ServiceStatus::default()
        };
        let status = Status { services: vec![service], ..Status::default() };
        facts.daemon = known(Box::new(Status { enforcing: true, daemon: true, ..status }));
    };
    let checks = changed(counted);
    let check = checks.iter().find(|check| check.id == "forwarding").expect("a check");
    assert!(check.found.ends_with("; passed so far: 7 packets past store"), "{check:?}");
    assert!(check.why.as_ref().is_some_and(|why| why.ends_with("; not read: the rules")));
    let (_, state, message) = one(|facts| {
        facts.traffic.forwards_ipv6 = true;
        facts.traffic.obstacles = vec!["a routing rule by firewall mark".to_owned()];
    });
    assert_eq!(state, State::Warning);
    assert!(message.contains("no packet counts as forwarded: a routing rule"), "{message}");

    let mixed = |facts: &mut MachineFacts| facts.traffic.mixed_ipv6 = vec!["rail0".to_owned()];
    let (id, state, _) = one(mixed);
    assert_eq!((id, state), ("ipv6-forwarding", State::Note));
    let checks = changed(|facts| {
        mixed(facts);
        facts.traffic.forwards_ipv6 = true;
    });
    let check = checks.iter().find(|check| check.id == "ipv6-forwarding").expect("a check");
    assert_eq!(check.state, State::Warning);
    assert!(check.fix.as_ref().is_some_and(|fix| fix.contains("conf.rail0.forwarding=1")));

    let [(id, ..), (_, note, _)] = [
        one(|facts| facts.traffic.dnat = true),
        one(|facts| facts.traffic.bound_listeners = vec!["tcp/22 on br0".to_owned()]),
    ];
    assert_eq!((id, note), ("published-ports", State::Note));
}

/// Replies meet ranges of ports from which clients take their source ports.
#[test]
fn wide_ranges_that_meet_replies_are_reported() {
    let with = |transport, first, last, every_packet| {
        let mut checks = changed(|facts| {
            facts.traffic.masquerade = true;
            let ports = ServicePorts { transport, every_packet, ..ports("mpi/ranks", first, last) };
            facts.policy.as_mut().expect("a policy").ports = vec![ports];
        });
        checks.retain(|check| matches!(check.id, "nat-replies" | "udp-replies"));
        checks.into_iter().map(|check| (check.id, check.state)).collect::<Vec<_>>()
    };
    let nat = |state| ("nat-replies", state);
    assert_eq!(with("tcp", 1, 65535, true), [nat(State::Warning)]);
    assert_eq!(with("tcp", 1, 65535, false), [nat(State::Ok)], "only new connections");
    assert_eq!(with("tcp", 9091, 9099, true), [nat(State::Ok)], "few ports");
    assert_eq!(with("tcp", 1, 1023, true), [nat(State::Ok)], "no port of NAT");
    let both = [nat(State::Warning), ("udp-replies", State::Note)];
    assert_eq!(with("udp", 1024, 65535, true), both);
    assert_eq!(with("udp", 2000, 3000, true), [nat(State::Warning)], "no ephemeral ports");
}

/// Case 81: traffic that bypasses the network stack.
#[test]
fn case_81_rdma_and_virtual_functions_that_bypass_the_guard_are_reported() {
    let (id, state, message) = one(|facts| {
        facts.rdma = known(vec![Rdma {
            name: "mlx5_0".to_owned(),
            netdevs: vec!["rail0".to_owned()],
            link_layer: Some("Ethernet".to_owned()),
        }]);
    });
    assert_eq!((id, state), ("rdma", State::Warning));
    assert!(
        message.contains("mlx5_0 (Ethernet, rail0)") && message.contains("udp/4791"),
        "{message}"
    );
    let (id, state, message) = one(|facts| facts.interfaces[0].virtual_functions = 8);
    assert_eq!((id, state), ("sr-iov", State::Warning));
    assert!(message.contains("8 virtual functions"), "{message}");

    let (id, state, _) = one(|facts| facts.unmet.not_ethernet = vec!["ib0".to_owned()]);
    assert_eq!((id, state), ("interface", State::Failed));
    let (id, state, message) = one(|facts| facts.unguarded = vec!["mgmt0".to_owned()]);
    assert_eq!((id, state), ("unguarded", State::Warning));
    assert!(message.contains("mgmt0"), "{message}");
    let (id, state, _) = one(|facts| facts.tunnels = vec!["vx0 (vxlan, udp/4789)".to_owned()]);
    assert_eq!((id, state), ("tunnels", State::Note));
    assert_eq!(one(|facts| facts.unmet.missing = vec!["ib*".to_owned()]).1, State::Warning);
    assert_eq!(one(|facts| facts.interfaces[0].up = false).1, State::Note);
    let alone = changed(|facts| facts.interfaces.clear());
    assert!(alone.iter().any(|check| check.state == State::Failed), "{alone:?}");
}

#[test]
fn the_reason_why_no_interface_is_selected_is_the_right_one() {
    let found = |change: fn(&mut MachineFacts)| {
        let checks = diagnosis(|facts| {
            facts.interfaces_chosen = false;
            change(facts);
        });
        let check = checks.checks.into_iter().find(|check| check.id == "unguarded");
        check.expect("a check").found
    };
    let none = found(|facts| facts.policy = None);
    assert!(none.contains("neither a manifest nor a flag"), "{none}");
    let other = found(|facts| {
        let policy = facts.policy.as_mut().expect("a policy");
        policy.node = None;
        policy.node_problem = Some("not in the manifest".to_owned());
    });
    assert!(other.contains("this node was not found in it"), "{other}");
    let wrong = found(|facts| facts.policy.as_mut().expect("a policy").errors.0 = 1);
    assert!(wrong.contains("the manifest has errors"), "{wrong}");
}

#[test]
fn unsafe_network_settings_are_reported() {
    let sets: [Case; 6] = [
        ("syncookies", State::Warning, |facts| facts.network.syncookies = known(0)),
        ("syncookies", State::Note, |facts| facts.network.syncookies = hidden()),
        ("route-localnet", State::Warning, |facts| facts.network.route_localnet = known(1)),
        ("route-localnet", State::Warning, |it| it.interfaces[0].route_localnet = known(1)),
        // The kernel uses the larger of the global and the interface's value.
        ("rp-filter", State::Note, |facts| facts.network.rp_filter = known(2)),
        ("rp-filter", State::Warning, |facts| {
            facts.network.rp_filter = known(0);
            facts.interfaces[0].rp_filter = known(0);
        }),
    ];
    for (id, state, change) in sets {
        let found = one(change);
        assert_eq!((found.0, found.1), (id, state), "{}", found.2);
    }
    assert_eq!(
        changed(|facts| facts.network.rp_filter = known(0)),
        [],
        "the interface's own setting is in force"
    );
}

#[test]
fn pinned_ports_in_the_ephemeral_range_should_be_reserved() {
    let with = |pinned: ServicePorts, reserved: Vec<(u16, u16)>| {
        changed(|facts| {
            facts.network.reserved = known(reserved);
            facts.policy.as_mut().expect("a policy").ports.push(pinned);
        })
    };
    let found = with(ports("torch/store", 40_000, 40_003), vec![(9091, 9091)]);
    let [check] = &found[..] else { panic!("{found:?}") };
    assert_eq!((check.id, check.state), ("port-range", State::Warning));
    assert!(check.found.contains("torch/store (tcp/40000-40003)"), "{check:?}");
    let fix = "sysctl -w net.ipv4.ip_local_reserved_ports=9091,40000-40003";
    assert_eq!(check.fix.as_deref(), Some(fix), "the ports reserved before stay in the list");
    assert_eq!(with(ports("torch/store", 40_000, 40_003), vec![(40_000, 50_000)]), []);
    assert_eq!(
        with(ports("all", 1024, 65535), vec![]),
        [],
        "a service of all unprivileged ports is not pinned"
    );
    assert_eq!(with(ports("below", 32_000, 32_767), vec![]), []);
}

#[test]
fn listening_processes_are_reported() {
    let (id, state, message) = one(|facts| {
        facts.open_ports = OpenPorts {
            ports: vec![OpenPort {
                port: "tcp/22".to_owned(),
                command: Some("sshd".to_owned()),
                ..OpenPort::default()
            }],
            more: 3,
            problem: None,
        };
    });
    assert_eq!((id, state), ("open-ports", State::Note));
    assert!(message.contains("tcp/22 (sshd), 3 more"), "{message}");
    let (id, state, message) = one(|facts| {
        facts.root_services =
            vec![RootService { port: "tcp/9091".to_owned(), command: "python3".to_owned() }];
    });
    assert_eq!((id, state), ("root-services", State::Warning));
    assert!(message.contains("tcp/9091 (python3)"), "{message}");
}

/// Cases 128, 145 and 147, as far as files are concerned: who may change the policy files.
#[test]
fn case_145_and_147_files_that_other_users_can_change_are_reported() {
    let with = |wrong: PolicyFile| {
        one(move |facts| {
            facts.policy.as_mut().expect("a policy").files = known(vec![wrong]);
        })
    };
    for (wrong, fix) in [
        (file("/etc/trainguard", EntryKind::Directory, 0, 0o775), "chmod go-w /etc/trainguard"),
        (file("/etc/a b.yaml", EntryKind::File, 0, 0o646), "chmod go-w '/etc/a b.yaml'"),
        (file("/etc/x.yaml", EntryKind::File, 1001, 0o644), "chown -h root /etc/x.yaml"),
        (file("/etc/x.yaml", EntryKind::Link, 1001, 0o777), "chown -h root /etc/x.yaml"),
        (
            file("/etc/x.yaml", EntryKind::Other, 0, 0o600),
            "rm /etc/x.yaml, and put a file in its place",
        ),
        (
            PolicyFile { names: 2, ..file("/etc/x", EntryKind::File, 0, 0o600) },
            "cp -p /etc/x /etc/x.new && mv /etc/x.new /etc/x",
        ),
    ] {
        let (id, state, message) = with(wrong);
        assert_eq!((id, state), ("policy-files", State::Failed), "{message}");
        assert!(message.ends_with(fix), "{message}");
    }
    for fine in [
        file("/tmp", EntryKind::Directory, 0, 0o1777),
        file("/etc/x.yaml", EntryKind::Link, 0, 0o777),
        file("/etc/x.yaml", EntryKind::File, 990, 0o644),
        // A mounted `ConfigMap` looks like this.
        PolicyFile { read_only: true, ..file("/etc/trainguard", EntryKind::Directory, 0, 0o777) },
    ] {
        let checks = diagnosis(|facts| {
            facts.policy.as_mut().expect("a policy").files = known(vec![fine]);
        });
        assert_eq!(checks.summary.ok, checks.checks.len(), "{:?}", checks.checks);
    }
    let open = Some(known(owned(0, 0o777)));
    assert_eq!(one(|facts| facts.run_dir.owned = open.clone()).1, State::Failed);
    assert_eq!(one(|facts| facts.state_dir.owned = open.clone()).1, State::Failed);
    assert_eq!(one(|facts| facts.state_dir.free = Some(1 << 20)).1, State::Warning);
    let none = changed(|facts| facts.run_dir.owned = None);
    assert!(
        none.iter().all(|check| check.state == State::Ok),
        "the daemon creates the directory: {none:?}"
    );
}

#[test]
fn problems_of_manifest_unit_and_daemon_are_reported() {
    fn policy(facts: &mut MachineFacts) -> &mut Policy {
        facts.policy.as_mut().expect("a policy")
    }
    let sets: [Case; 9] = [
        ("manifest", State::Failed, |it| policy(it).errors = (2, Some("no such role".to_owned()))),
        ("manifest", State::Failed, |it| policy(it).node_problem = Some("not in it".to_owned())),
        ("manifest", State::Note, |it| policy(it).warnings = 1),
        ("unit", State::Failed, |it| it.unit = Some(known(unit("loaded", "failed", "enabled")))),
        ("unit", State::Warning, |it| it.unit = Some(known(unit("loaded", "active", "disabled")))),
        ("unit", State::Note, |it| it.unit = Some(known(unit("not-found", "inactive", "")))),
        ("daemon", State::Note, |it| it.daemon = hidden()),
        ("daemon", State::Failed, |it| {
            it.daemon =
                known(Box::new(Status { problems: vec!["x".to_owned()], ..Status::default() }));
        }),
        ("daemon", State::Note, |it| {
            it.daemon =
                known(Box::new(Status { mode: Some(NodeMode::Observe), ..Status::default() }));
        }),
    ];
    for (id, state, change) in sets {
        let found = one(change);
        assert_eq!((found.0, found.1), (id, state), "{}", found.2);
    }
}

/// Case 149: a command copied from the output must not become another command because of a hostile name.
#[test]
fn case_149_hostile_names_are_quoted_in_commands() {
    let (_, _, message) = one(|facts| {
        facts.interfaces[0].offloads = known(vec!["rx-lro".to_owned()]);
        facts.interfaces[0].name = "rail0".to_owned();
    });
    assert!(message.contains("ethtool -K rail0 "), "{message}");
    let checks = diagnosis(|facts| {
        facts.interfaces[0].name = "a;reboot".to_owned();
        facts.interfaces[0].offloads = known(vec!["rx-lro".to_owned()]);
    });
    let fix = checks.checks.iter().find(|it| it.id == "offloads").and_then(|it| it.fix.clone());
    assert_eq!(fix.as_deref(), Some("ethtool -K 'a;reboot' lro off"));
}

/// Values that identify people or machines; the report of secrets contains them wherever it can.
const SECRETS: [&str; 9] = [
    "10.31.7.9",
    "fd31::7:9",
    "02:fc:31:07:09:01",
    "acme-gpu",
    "worker-0317",
    "alice",
    "10.31.[4-7].[0-255]",
    "0a1f0709",
    "10.31.7.",
];

fn report_of_secrets() -> Value {
    let mut facts = healthy();
    let secret = format!(
        "{} [{}]:80 {} {}.example {} /home/{}/x {}",
        SECRETS[0], SECRETS[1], SECRETS[2], SECRETS[3], SECRETS[4], SECRETS[5], SECRETS[6]
    );
    facts.daemon = known(Box::new(Status {
        problems: vec![secret.clone()],
        node: "worker-0317".to_owned(),
        cluster: "acme-gpu".to_owned(),
        manifest: "/home/alice/cluster.yaml".to_owned(),
        ..Status::default()
    }));
    facts.open_ports.ports = vec![OpenPort {
        addresses: vec!["10.31.7.9".to_owned()],
        command: Some(secret.clone()),
        ..OpenPort::default()
    }];
    facts.abilities.guard = Some(Err(Refusal { errno: None, message: secret.clone() }));
    let policy = facts.policy.as_mut().expect("a policy");
    policy.node = Some("worker-0317".to_owned());
    policy.errors = (1, Some(secret.clone()));
    policy.files = known(vec![file("/home/alice", EntryKind::Directory, 1001, 0o755)]);
    facts.tunnels = vec![secret.clone()];
    "enx02fc31070901".clone_into(&mut facts.interfaces[0].name);
    facts.state_dir.path = PathBuf::from("/home/alice/state");
    let packet = Packet {
        source: "10.31.7.9".parse().ok(),
        source_node: Some("worker-0317".to_owned()),
        destination: "fd31::7:9".parse().ok(),
        frame: Some("0a1f0709".to_owned()),
        ..Packet::default()
    };
    let event = Event {
        schema: String::new(),
        time: None,
        seq: None,
        node: Some("worker-0317".to_owned()),
        what: EventKind::packet(packet),
    };
    let mut names = Names::default();
    for (name, kind) in [("acme-gpu", "cluster"), ("worker-0317", "host"), ("alice", "user")] {
        names.add(name, kind);
    }
    let records = Records { events: vec![event], log: vec![secret] };
    redact::report(&Diagnosis::of(&facts), &facts, records, names)
}

#[test]
fn a_report_contains_no_secret_and_stays_readable() {
    let report = report_of_secrets();
    let text = report.to_string();
    for secret in SECRETS.iter().chain(&["02fc31070901"]) {
        assert!(!text.contains(secret), "{secret} is in {report:#}");
    }
    assert_eq!(report["schema"], redact::SCHEMA);
    // The same secret gets the same replacement everywhere in the document.
    let source = &report["events"][0]["source"];
    assert_eq!(source, &report["facts"]["open_ports"]["ports"][0]["addresses"][0]);
    assert_eq!(report["events"][0]["source_node"], report["facts"]["daemon"]["known"]["node"]);
    let about = report["about"].to_string();
    assert!(about.contains("Not included: policies"), "{about}");
    assert_eq!(report, report_of_secrets(), "equal findings give equal reports");
}
