//! `doctor` on fabricated facts of a machine: each check at its boundaries, and the complete output.

use std::path::PathBuf;

use guard_user::{
    api::{
        events::{Event, EventKind, Packet},
        status::{NodeMode, OpenPort, OpenPorts, Status},
    },
    attach_mode::DeviceMode,
    doctor::{
        Check, Diagnosis, State,
        facts::{
            BpfFs, Directory, Interface, Kernel, KernelFeatures, MachineFacts, MaybeHidden,
            Network, Owned, Policy, PolicyFile, Program, Rdma, Refusal, Rights, RootService,
            ServicePorts, Unit, Unmet,
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

fn owned(uid: u32, mode: u32) -> Owned {
    Owned { uid, mode }
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
    ServicePorts { service: service.to_owned(), transport: "tcp", first, last }
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
    let said = [Some(&check.found), check.why.as_ref(), check.fix.as_ref()];
    let said: Vec<&str> = said.into_iter().flatten().map(String::as_str).collect();
    if check.state == State::Failed {
        assert!(check.fix.is_some(), "{check:?} says not what to do");
    }
    (check.id, check.state, said.join(" | "))
}

#[test]
fn a_healthy_machine_has_nothing_to_do() {
    let healthy = diagnosis(|_| {});
    let odd: Vec<&Check> = healthy.checks.iter().filter(|it| it.state != State::Ok).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    assert!(healthy.checks.iter().all(|check| check.why.is_none() && check.fix.is_none()));
    assert_eq!(healthy.summary.ok, healthy.checks.len());
    let mut names: Vec<_> = healthy.checks.iter().map(|it| (it.id, &it.subject)).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "two checks of one name");
}

#[test]
fn kernels_are_judged_by_what_they_do() {
    let (id, state, said) = one(|facts| facts.abilities.frags = Err(refusal(libc::EINVAL)));
    assert_eq!((id, state), ("xdp-frags", State::Failed));
    assert!(said.contains("5.18"), "{said}");

    let (id, state, _) = one(|facts| facts.kernel.release = "5.15.0-91-generic".to_owned());
    assert_eq!((id, state), ("kernel", State::Warning));
    let (id, _, said) = one(|facts| facts.kernel.version = "#1 SMP PREEMPT_RT".to_owned());
    assert_eq!(id, "kernel");
    assert!(said.contains("PREEMPT_RT"));

    let refused =
        Err(Refusal { errno: Some(libc::EINVAL), message: "loading: R3 !read_ok".to_owned() });
    let (id, state, said) = one(|facts| facts.abilities.guard = Some(refused));
    assert_eq!((id, state), ("guard-program", State::Failed));
    assert!(said.contains("R3 !read_ok") && said.contains("--report"), "{said}");
    assert_eq!(one(|facts| facts.abilities.guard = None).1, State::Failed);

    // The drivers of virtual devices (veth) say nothing about the driver of a network card.
    let (id, state, _) = one(|facts| facts.abilities.native = Err(refusal(libc::ERANGE)));
    assert_eq!((id, state), ("bpf-link", State::Warning));
    let (id, state, _) = one(|facts| facts.abilities.switch = Err(refusal(libc::EINVAL)));
    assert_eq!((id, state), ("bpf-link", State::Failed));
}

/// Cases 91 and 150: `doctor` distinguishes hardened kernels from open ones; neither is a failure.
#[test]
fn case_91_and_150_what_hardens_or_opens_the_kernel_is_said() {
    let (id, state, said) = one(|facts| facts.abilities.compiled = known(0));
    assert_eq!((id, state), ("jit", State::Warning));
    assert!(said.contains("sysctl -w net.core.bpf_jit_enable=1"), "{said}");
    let (id, state, _) = one(|facts| facts.kernel.jit_harden = known(2));
    assert_eq!((id, state), ("jit", State::Note));

    let (id, state, said) = one(|facts| facts.kernel.unprivileged_bpf_disabled = known(0));
    assert_eq!((id, state), ("unprivileged-bpf", State::Warning));
    assert!(said.contains("sysctl -w kernel.unprivileged_bpf_disabled=2"), "{said}");
    let locked = "none integrity [confidentiality]".to_owned();
    let (id, state, said) = one(|facts| facts.kernel.lockdown = known(locked));
    assert_eq!((id, state), ("lockdown", State::Note));
    assert!(said.contains("confidentiality"), "{said}");
    assert_eq!(one(|facts| facts.kernel.lockdown = hidden()).1, State::Note);
}

#[test]
fn what_cannot_be_seen_without_rights_is_unknown_and_not_failed() {
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
fn root_of_a_container_without_rights_is_told_which_to_add() {
    let all_but = |missing: u32| ALL_RIGHTS & !(1 << missing) & !(1 << 21);
    let (id, state, said) = one(|facts| facts.rights.capabilities = all_but(38));
    assert_eq!((id, state), ("rights", State::Failed));
    assert!(said.contains("lacks CAP_PERFMON |"), "{said}");
    // `CAP_SYS_ADMIN` (21) includes the two newer capabilities, `CAP_PERFMON` and `CAP_BPF`.
    let checks = changed(|facts| facts.rights.capabilities = 1 << 21 | 1 << 12);
    assert_eq!(checks, []);
}

/// Case 103: a bpf file system that is missing, read-only, or accessible to other users.
#[test]
fn case_103_pins_need_a_bpf_file_system_that_keeps_others_out() {
    for (what, said) in [
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
        assert!(text.contains(said), "{what}: {text}");
    }
}

/// Cases 87 and 88: conditions that would make attaching fail are found beforehand, each with its
/// remedy.
#[test]
fn case_87_and_88_drivers_that_refuse_are_known_before_they_do() {
    let driver = |native, several_buffers| {
        one(|facts| facts.interfaces[0].xdp = known(XdpSupport { native, several_buffers }))
    };
    let (id, state, said) = driver(false, false);
    assert_eq!((id, state), ("xdp-driver", State::Warning));
    assert!(said.contains("--mode generic"), "{said}");
    // Case 82: packets that tc redirects.
    assert!(said.contains("tc redirects"), "{said}");
    let (id, state, said) = driver(true, false);
    assert_eq!((id, state), ("xdp-driver", State::Failed));
    assert!(said.contains("ip link set dev rail0 mtu 1500"), "{said}");
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
    let (id, state, said) = one(|facts| facts.interfaces[0].program = Some(program(known(false))));
    assert_eq!((id, state), ("xdp-foreign", State::Failed));
    assert!(said.contains("id 812") && said.contains("bpftool prog show id 812"), "{said}");
    assert_eq!(one(|it| it.interfaces[0].program = Some(program(known(true)))).1, State::Ok);
    assert_eq!(one(|it| it.interfaces[0].program = Some(program(hidden()))).1, State::Unknown);
}

/// Case 89, before attaching: offloads that hide or merge frames.
#[test]
fn case_89_offloads_that_merge_frames_are_told_with_the_command() {
    let with = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        one(|facts| facts.interfaces[0].offloads = known(names))
    };
    let (id, state, said) = with(&["rx-lro", "rx-gro-hw"]);
    assert_eq!((id, state), ("offloads", State::Warning));
    assert!(said.contains("ethtool -K rail0 lro off rx-gro-hw off"), "{said}");
    let (id, state, _) = with(&["rx-vlan-hw-parse"]);
    assert_eq!((id, state), ("offloads", State::Note));
}

#[test]
fn devices_that_lie_on_others_are_guarded_at_the_right_place() {
    let bond = Some(("bond0".to_owned(), "bond".to_owned()));
    let (id, state, said) = one(|facts| {
        facts.interfaces[0].controller = bond.clone();
        facts.interfaces[0].siblings_unguarded = vec!["rail1".to_owned()];
    });
    assert_eq!((id, state), ("stacked", State::Warning));
    assert!(said.contains("rail1") && said.contains("`bond0` itself"), "{said}");
    let (_, state, said) = one(|facts| {
        facts.interfaces[0].controller = bond.clone();
        facts.interfaces[0].controller_guarded = true;
    });
    assert_eq!(state, State::Warning);
    assert!(said.contains("twice"), "{said}");
    assert_eq!(one(|facts| facts.interfaces[0].controller = bond).1, State::Ok);

    let vlan = |facts: &mut MachineFacts| {
        facts.interfaces[0].kind = Some("vlan".to_owned());
        facts.interfaces[0].lower = Some("eth0".to_owned());
    };
    let (id, state, said) = one(vlan);
    assert_eq!((id, state), ("stacked", State::Warning));
    assert!(said.contains("guard `eth0` instead"), "{said}");
    // The other end of a veth pair is not a lower device.
    let pair = changed(|facts| {
        vlan(facts);
        facts.interfaces[0].kind = Some("veth".to_owned());
    });
    assert_eq!(pair, []);
}

/// Case 81: traffic that bypasses the network stack.
#[test]
fn case_81_rdma_and_virtual_functions_are_said_to_go_past() {
    let (id, state, said) = one(|facts| {
        facts.rdma = known(vec![Rdma {
            name: "mlx5_0".to_owned(),
            netdevs: vec!["rail0".to_owned()],
            link_layer: Some("Ethernet".to_owned()),
        }]);
    });
    assert_eq!((id, state), ("rdma", State::Warning));
    assert!(said.contains("mlx5_0 (Ethernet, rail0)") && said.contains("udp/4791"), "{said}");
    let (id, state, said) = one(|facts| facts.interfaces[0].virtual_functions = 8);
    assert_eq!((id, state), ("sr-iov", State::Warning));
    assert!(said.contains("8 virtual functions"), "{said}");

    let (id, state, _) = one(|facts| facts.unmet.not_ethernet = vec!["ib0".to_owned()]);
    assert_eq!((id, state), ("interface", State::Failed));
    let (id, state, said) = one(|facts| facts.unguarded = vec!["mgmt0".to_owned()]);
    assert_eq!((id, state), ("unguarded", State::Warning));
    assert!(said.contains("mgmt0"), "{said}");
    let (id, state, _) = one(|facts| facts.tunnels = vec!["vx0 (vxlan, udp/4789)".to_owned()]);
    assert_eq!((id, state), ("tunnels", State::Note));
    assert_eq!(one(|facts| facts.unmet.missing = vec!["ib*".to_owned()]).1, State::Warning);
    assert_eq!(one(|facts| facts.interfaces[0].up = false).1, State::Note);
    let alone = changed(|facts| facts.interfaces.clear());
    assert!(alone.iter().any(|check| check.state == State::Failed), "{alone:?}");
}

#[test]
fn settings_of_the_network_that_open_ways_in_are_told() {
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
        "the interface's own counts"
    );
}

#[test]
fn a_pinned_port_that_the_kernel_gives_away_is_to_be_reserved() {
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
    assert_eq!(check.fix.as_deref(), Some(fix), "what was reserved stays so");
    assert_eq!(with(ports("torch/store", 40_000, 40_003), vec![(40_000, 50_000)]), []);
    assert_eq!(with(ports("all", 1024, 65535), vec![]), [], "it was meant to meet the range");
    assert_eq!(with(ports("below", 32_000, 32_767), vec![]), []);
}

#[test]
fn who_listens_is_told() {
    let (id, state, said) = one(|facts| {
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
    assert!(said.contains("tcp/22 (sshd), 3 more"), "{said}");
    let (id, state, said) = one(|facts| {
        facts.root_services =
            vec![RootService { port: "tcp/9091".to_owned(), command: "python3".to_owned() }];
    });
    assert_eq!((id, state), ("root-services", State::Warning));
    assert!(said.contains("tcp/9091 (python3)"), "{said}");
}

/// Cases 128, 145 and 147, as far as files are concerned: who may change the policy files.
#[test]
fn case_145_and_147_files_that_others_may_change_are_named() {
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
        let (id, state, said) = with(wrong);
        assert_eq!((id, state), ("policy-files", State::Failed), "{said}");
        assert!(said.ends_with(fix), "{said}");
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
    assert!(none.iter().all(|check| check.state == State::Ok), "the daemon makes it: {none:?}");
}

#[test]
fn manifest_unit_and_daemon_are_told() {
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
fn case_149_a_hostile_name_is_no_command() {
    let (_, _, said) = one(|facts| {
        facts.interfaces[0].offloads = known(vec!["rx-lro".to_owned()]);
        facts.interfaces[0].name = "rail0".to_owned();
    });
    assert!(said.contains("ethtool -K rail0 "), "{said}");
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
fn a_report_holds_no_secret_and_stays_readable() {
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
    assert!(about.contains("Not in it: policies"), "{about}");
    assert_eq!(report, report_of_secrets(), "the same findings, the same report");
}
