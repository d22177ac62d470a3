//! The daemon's life on a real interface: attach, crash, adoption, reload, release, refusals.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::UdpSocket,
    os::unix::{fs::chown, net::UnixStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{
    FREE_PORT, MANIFEST, MEMBER, MEMBER_TOO, NODE, Node, PATIENCE, POLICY, PORT, STRANGER,
};
use serde_json::{Value, json};

fn enforcing(status: &Value) -> bool {
    status["enforcing"] == true
}

/// The whole table of reasons, so that what is not named has not moved. Neighbour discovery and the
/// like come when they want: `not_ip` and `unguarded` are left out.
fn moved(before: &Value, after: &Value) -> Vec<(String, u64)> {
    let reasons = after["reasons"].as_object().expect("reasons");
    reasons
        .iter()
        .filter(|(name, _)| *name != "not_ip" && *name != "unguarded")
        .map(|(name, entry)| {
            let count = |entry: &Value| entry["packets"].as_u64().expect("a count");
            (name.clone(), count(entry) - count(&before["reasons"][name]))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn assert_guarded(node: &Node) {
    for family in 0..2 {
        assert!(!node.answers(STRANGER[family], PORT), "a stranger gets in: {}", node.log());
        assert!(node.answers(MEMBER[family], PORT), "a member does not: {}", node.log());
    }
}

#[test]
fn members_get_in_and_strangers_do_not_at_mtu_9000_in_native_mode() {
    let Some(mut node) = Node::new("lifecycle/native") else { return };
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let [interface] = status["interfaces"].as_array().expect("interfaces").as_slice() else {
        panic!("one interface: {status}");
    };
    assert_eq!(interface["mode"], "native");
    assert_eq!(interface["name"], "eth0");
    let before = node.stats();
    for family in 0..2 {
        assert!(node.answers(MEMBER[family], PORT));
        assert!(node.answers(STRANGER[family], FREE_PORT), "an unguarded port was touched");
    }
    assert_eq!(moved(&before, &node.stats()), [("allowed".to_owned(), 2)]);

    // Datagrams that fill the MTU: frames of several buffers.
    let before = node.stats();
    node.at_peer(|| {
        for (from, family) in [(MEMBER[0], 0), (STRANGER[0], 0), (MEMBER[1], 1), (STRANGER[1], 1)] {
            let socket = UdpSocket::bind((from, 0)).expect("an address of the peer");
            socket.send_to(&[0; 8900], (NODE[family], PORT)).expect("sending");
        }
    });
    thread::sleep(Duration::from_millis(200));
    let after = node.stats();
    let expected = [("allowed".to_owned(), 2), ("not_allowed".to_owned(), 2)];
    assert_eq!(moved(&before, &after), expected);
    let bytes = |stats: &Value| stats["reasons"]["not_allowed"]["bytes"].as_u64().expect("bytes");
    // Ethernet 14, IPv4 20 or IPv6 40, UDP 8.
    assert_eq!(bytes(&after) - bytes(&before), 2 * (8900 + 8 + 14) + 20 + 40);
    let stranger = after["top_sources"].as_array().expect("top sources");
    assert!(
        stranger.iter().any(|source| source["address"] == "10.77.0.99"
            && source["node"] == Value::Null
            && source["service"] == "scheduler"),
        "{stranger:?}"
    );
}

#[test]
fn a_killed_daemon_leaves_the_guard_and_the_next_one_takes_it_over() {
    let Some(mut node) = Node::new("lifecycle/kill") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_guarded(&node);
    node.signal("KILL");
    assert_guarded(&node);
    let counted = node.packets("not_allowed");
    assert!(counted >= 4, "the counters can be read without the daemon: {counted}");

    // A stranger knocks all the time while the next daemon starts: no frame may slip through.
    let knocks = thread::scope(|scope| {
        let listener = node.at_node(|| {
            let socket = UdpSocket::bind((NODE[0], PORT)).expect("a port of the node");
            socket.set_nonblocking(true).expect("not blocking");
            socket
        });
        let knocking = scope.spawn(|| {
            node.at_peer(|| {
                let socket = UdpSocket::bind((STRANGER[0], 0)).expect("an address of the peer");
                for _ in 0..500 {
                    socket.send_to(b"knock", (NODE[0], PORT)).expect("sending");
                    thread::sleep(Duration::from_millis(2));
                }
            });
        });
        let mut next = node.daemon_command(&[]).spawn().expect("the next daemon");
        knocking.join().expect("knocking");
        let mut buffer = [0; 16];
        assert!(listener.recv(&mut buffer).is_err(), "a stranger's datagram arrived");
        let status = node.wait("enforcing", enforcing);
        assert_eq!(status["generation"], 2);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(next.id()).expect("a process id")),
            nix::sys::signal::Signal::SIGTERM,
        )
        .expect("the daemon is there");
        assert!(next.wait().expect("the daemon ends").success());
        node.packets("not_allowed") - counted
    });
    assert_eq!(knocks, 500, "each frame was judged once, over crash and adoption");
    assert_guarded(&node);
}

#[test]
fn no_frame_is_judged_by_neither_or_both_of_two_generations() {
    let Some(mut node) = Node::new("lifecycle/reload") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let policies = [POLICY.to_owned(), POLICY.replace("name: scheduler", "name: other")];
    let before = node.packets("not_allowed");
    let listener = node.at_node(|| {
        let socket = UdpSocket::bind((NODE[0], PORT)).expect("a port of the node");
        socket.set_nonblocking(true).expect("not blocking");
        socket
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            node.at_peer(|| {
                let socket = UdpSocket::bind((STRANGER[0], 0)).expect("an address of the peer");
                let mut sent = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for _ in 0..20 {
                        sent += u64::from(socket.send_to(b"knock", (NODE[0], PORT)).is_ok());
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                sent
            })
        });
        for round in 0..10_usize {
            let generation = node.generation();
            node.write("policy.yaml", &policies[(round + 1) % 2]);
            node.wait("the next generation", |status| {
                status["generation"].as_u64() == Some(generation + 1)
            });
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        sending.join().expect("sending")
    });
    thread::sleep(Duration::from_millis(200));
    // What the virtual wire lost, no program saw.
    let lost = node.at_peer(|| {
        let listing = Command::new("cat").arg("/proc/net/dev").output().expect("cat");
        let text = String::from_utf8_lossy(&listing.stdout).into_owned();
        let line = text.lines().find(|line| line.trim_start().starts_with("eth0:"));
        let fields = line.and_then(|line| line.split(':').nth(1)).expect("eth0");
        // Twelfth field: transmit drops.
        fields.split_whitespace().nth(11).and_then(|n| n.parse::<u64>().ok()).expect("drops")
    });
    let mut buffer = [0; 16];
    assert!(listener.recv(&mut buffer).is_err(), "a stranger's datagram arrived");
    assert_eq!(node.packets("not_allowed") - before, sent - lost, "{sent} sent, {lost} lost");
    let stats = node.stats();
    let services = stats["services"].as_array().expect("services");
    let dropped: Vec<u64> =
        services.iter().map(|service| service["dropped"].as_u64().expect("a count")).collect();
    assert!(dropped.iter().all(|count| *count > 0), "both generations judged: {services:?}");
}

#[test]
fn a_reload_refills_no_bucket_and_a_comment_is_no_new_generation() {
    let Some(mut node) = Node::new("lifecycle/limits") else { return };
    let limited = format!(
        "{POLICY}    limits:\n      perSource:\n        newConnections: {{ rate: 1/s, burst: 3 }}\n"
    );
    node.write("policy.yaml", &limited);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let through = (0..8).filter(|_| node.answers(MEMBER[0], PORT)).count();
    // A token or two come back meanwhile: five refusals take two seconds.
    assert!((3..=7).contains(&through), "{through} of 8");
    let generation = node.generation();
    node.write("policy.yaml", &format!("# nothing new\n{limited}"));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(node.generation(), generation, "a comment changes no meaning");

    while node.answers(MEMBER[0], PORT) {}
    node.write("policy.yaml", &limited.replace("udp/9091", "udp/9092"));
    node.wait("the next generation", |status| status["generation"].as_u64() > Some(generation));
    let through = (0..3).filter(|_| node.answers(MEMBER[0], PORT)).count();
    assert!(through < 3, "the reload refilled the bucket");
    assert!(node.answers(MEMBER_TOO[0], PORT), "another member has a bucket of its own");
}

#[test]
fn observing_counts_and_drops_nothing() {
    let Some(mut node) = Node::new("lifecycle/observe") else { return };
    node.write("policy.yaml", &POLICY.replace("mode: enforce", "mode: observe"));
    node.start(&[]);
    let status = node.wait("in force", |status| status["generation"] == 1);
    assert_eq!(status["enforcing"], false, "observing is not enforcing");
    assert!(node.answers(STRANGER[0], PORT));
    let counted = node.stats();
    assert_eq!(counted["services"][0]["would_drop"], 1);
    assert_eq!(counted["services"][0]["dropped"], 0);
    let code = node.trainguard(&["status"]).output().expect("status").status.code();
    assert_eq!(code, Some(1), "a definite no");
}

#[test]
fn a_foreign_program_stays_and_is_named_by_its_id() {
    let Some(mut node) = Node::new("lifecycle/foreign") else { return };
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let id = status["interfaces"][0]["program_id"].as_u64().expect("an id");
    // Another guard, with pins of its own, is as foreign as any program.
    let own = ["bpf/other", "other-state", "other-run"].map(|name| node.path(name));
    let [bpf, state, run] = own.each_ref().map(|path| path.to_str().expect("UTF-8"));
    let output = node.start_in_vain(&["--bpf-dir", bpf, "--state-dir", state, "--run-dir", run]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("id {id}")) && said.contains("eth0"), "{said}");
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"][0]["program_id"], id);
}

#[test]
fn two_daemons_do_not_share_pins() {
    let Some(mut node) = Node::new("lifecycle/two") else { return };
    node.start(&[]);
    let output = node.start_in_vain(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("another trainguard daemon uses"), "{said}");
    assert_guarded(&node);
}

#[test]
fn pins_of_another_layout_are_refused_with_every_difference() {
    let Some(mut node) = Node::new("lifecycle/layout") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("TERM");
    // As an older version might have left them.
    let pins = node.pins().join("v1");
    fs::rename(pins.join("TG_TOTALS"), pins.join("swap")).expect("renaming a pin");
    fs::rename(pins.join("TG_LABELS"), pins.join("TG_TOTALS")).expect("renaming a pin");
    fs::rename(pins.join("swap"), pins.join("TG_LABELS")).expect("renaming a pin");
    let output = node.start_in_vain(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for difference in ["TG_LABELS: value size 24, expected 128", "TG_TOTALS: value size 128"] {
        assert!(said.contains(difference), "{said}");
    }
    assert_guarded(&node);
}

#[test]
fn a_live_guard_of_another_layout_version_is_not_thrown_out() {
    let Some(mut node) = Node::new("lifecycle/version") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("TERM");
    fs::rename(node.pins().join("v1"), node.pins().join("v0")).expect("renaming the pins");
    let output = node.start_in_vain(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("guarded by another version"), "{said}");
    assert_guarded(&node);
}

#[test]
fn a_missing_interface_is_waited_for_if_there_are_others() {
    let Some(mut node) = Node::new("lifecycle/missing") else { return };
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, eth7]"));
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(
        status["interfaces"][1],
        json!({
            "name": "eth7", "mode": null, "program_id": null, "state": "missing",
            "problem": "there is no such interface; waiting for it"
        })
    );
    assert_guarded(&node);
    node.add_link("eth7");
    let guarded = |status: &Value| status["interfaces"][1]["state"] == "guarded";
    node.wait("guarded on both", guarded);
    node.ip(&["link", "del", "eth7"]);
    node.wait("missing again", |status| status["interfaces"][1]["state"] == "missing");
    // It comes back, and is guarded again.
    node.add_link("eth7");
    node.wait("guarded on both", guarded);
    assert_guarded(&node);
}

#[test]
fn without_any_interface_the_daemon_does_not_start() {
    let Some(node) = Node::new("lifecycle/none") else { return };
    let output = node.start_in_vain(&["--interface", "eth9"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("eth9: there is no such interface"), "{said}");
    assert!(!node.pins().join("v1").exists(), "nothing is left behind");
}

#[test]
fn an_interface_with_a_dot_in_its_name_can_be_guarded() {
    let Some(mut node) = Node::new("lifecycle/dot") else { return };
    node.add_link("eth0.7");
    node.start(&["--interface", "eth0*"]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"][1]["name"], "eth0.7");
    assert_eq!(status["interfaces"][1]["state"], "guarded");
    node.signal("TERM");
    node.start(&["--interface", "eth0.7"]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"].as_array().map(Vec::len), Some(1), "{status}");
    assert!(node.answers(STRANGER[0], PORT), "eth0 is wanted no longer, and released");
}

#[test]
fn what_was_taken_away_is_put_back() {
    let Some(mut node) = Node::new("lifecycle/mend") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_guarded(&node);
    let counted = node.packets("not_allowed");
    let link = node.pins().join("v1/link-eth0");
    for everything in [false, true] {
        if everything {
            fs::remove_dir_all(node.pins()).expect("removing all pins");
        } else {
            fs::remove_file(&link).expect("removing the pin");
        }
        let deadline = Instant::now() + PATIENCE;
        while !link.exists() {
            assert!(Instant::now() < deadline, "not pinned again: {}", node.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
    // The same maps: a new generation goes on counting.
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let status = node.wait("the next generation", |status| status["generation"] == 2);
    assert_eq!(status["problems"], json!([]));
    assert_eq!(node.packets("not_allowed"), counted);
    // And they are there for the time after us.
    node.signal("KILL");
    assert_guarded(&node);
}

#[test]
fn maps_without_pins_are_pinned_before_the_next_generation() {
    let Some(mut node) = Node::new("lifecycle/maps") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_guarded(&node);
    let counted = node.packets("not_allowed");
    for map in ["TG_COUNTERS", "TG_LABELS", "TG_MEMBERS"] {
        fs::remove_file(node.pins().join("v1").join(map)).expect("removing a pin");
    }
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    node.wait("the next generation", |status| status["generation"] == 2);
    assert_eq!(node.packets("not_allowed"), counted);
}

#[test]
fn a_renamed_interface_stays_guarded_under_its_name() {
    let Some(mut node) = Node::new("lifecycle/rename") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.ip(&["link", "set", "eth0", "name", "gx"]);
    let status = node.wait("aware of the name", |status| status["interfaces"][1]["name"] == "gx");
    assert_eq!(status["interfaces"][0]["name"], "eth0");
    assert_eq!(status["interfaces"][0]["state"], "missing");
    assert_eq!(status["interfaces"][1]["state"], "guarded");
    assert_eq!(status["unguarded"], json!([]));
    assert_guarded(&node);
    // The next daemon finds it by its device, not by its name.
    node.signal("KILL");
    node.ip(&["link", "set", "gx", "name", "eth0"]);
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["interfaces"].as_array().map(Vec::len), Some(1), "{status}");
    assert!(node.log().contains("taken over"), "{}", node.log());
    assert_guarded(&node);
}

#[test]
fn a_daemon_that_nobody_could_ask_guards_nothing() {
    let Some(node) = Node::new("lifecycle/sockets") else { return };
    fs::write(node.path("run"), "no directory").expect("writing");
    let output = node.start_in_vain(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("opening the sockets"), "{said}");
    assert!(node.answers(STRANGER[0], PORT), "nothing was attached");
}

#[test]
fn without_a_state_directory_the_node_is_guarded_and_the_problem_told() {
    let Some(mut node) = Node::new("lifecycle/state") else { return };
    node.start(&["--state-dir", "/dev/null/state"]);
    let status = node.wait("enforcing", enforcing);
    assert!(status["problems"].to_string().contains("/dev/null/state"), "{status}");
    assert_guarded(&node);
}

#[test]
fn idle_connections_keep_nobody_else_out() {
    let Some(mut node) = Node::new("lifecycle/idle") else { return };
    node.start(&[]);
    let idle: Vec<UnixStream> = (0..200)
        .map(|_| {
            let mut stream = UnixStream::connect(node.path("run/stats.sock")).expect("a socket");
            stream.write_all(b"GET /v1").expect("half a request");
            stream
        })
        .collect();
    assert!(node.status().is_some(), "{}", node.log());
    drop(idle);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let Some(mut node) = Node::new("lifecycle/requests") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let ask = |socket: &str, request: &str| {
        let mut stream = UnixStream::connect(node.path("run").join(socket)).expect("a socket");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        // What was no request may be answered by closing.
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let detach = |body: &str| {
        let length = body.len();
        format!("POST /v1/detach HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    for body in ["[]", "null", "", "{", "{\"interface\": []}", "\"eth0\"", "7"] {
        let answer = ask("control.sock", &detach(body));
        assert!(answer.starts_with("HTTP/1.1 400"), "{body}: {answer}");
    }
    let answer = ask("stats.sock", &detach("{}"));
    assert!(answer.starts_with("HTTP/1.1 404"), "the statistics socket commands nothing: {answer}");
    ask("control.sock", "\u{0}\u{1} nonsense\r\n\r\n");
    assert_guarded(&node);
}

#[test]
fn detaching_works_with_and_without_the_daemon() {
    let Some(mut node) = Node::new("lifecycle/detach") else { return };
    let detach = |node: &Node| {
        let mut command = node.trainguard(&["detach"]);
        command.arg("--bpf-dir").arg(node.pins()).output().expect("detach").status.code()
    };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert_eq!(detach(&node), Some(0));
    assert!(node.answers(STRANGER[0], PORT));
    let status = node.wait("detached", |status| status["interfaces"][0]["state"] == "detached");
    assert_eq!(status["enforcing"], false);
    // A new policy is no reason to attach again; a restart is.
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    node.wait("the next generation", |status| status["generation"] == 2);
    assert!(node.answers(STRANGER[0], PORT));
    node.signal("TERM");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("INT");
    assert_guarded(&node);
    assert_eq!(detach(&node), Some(0));
    assert!(node.answers(STRANGER[0], PORT));
    assert!(!node.pins().join("v1").exists(), "the maps are gone, too");
    let code = node.trainguard(&["status"]).output().expect("status").status.code();
    assert_eq!(code, Some(3), "nobody to ask");
}

#[test]
fn a_tunnel_device_closes_the_way_around() {
    let Some(mut node) = Node::new("lifecycle/tunnel") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let knock = |node: &Node| {
        node.at_peer(|| {
            for from in [STRANGER[0], MEMBER[0]] {
                let socket = UdpSocket::bind((from, 0)).expect("an address of the peer");
                socket.send_to(&[8; 60], (NODE[0], 4789)).expect("sending");
            }
        });
        thread::sleep(Duration::from_millis(200));
    };
    let before = node.stats();
    knock(&node);
    assert_eq!(moved(&before, &node.stats()), [], "without a device it is only UDP");
    let add = ["link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789"];
    node.ip(&[&add[..], &["local", "10.77.0.10"]].concat());
    node.wait("aware of the device", |status| status["tunnels"][0] == "vx0 (vxlan, udp/4789)");
    node.wait("the next generation", |status| status["generation"] == 2);
    let before = node.stats();
    knock(&node);
    assert_eq!(moved(&before, &node.stats()), [("tunnel".to_owned(), 1)]);
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let Some(node) = Node::new("lifecycle/rights") else { return };
    let elsewhere = node.path("no-bpffs");
    let output = node.start_in_vain(&["--bpf-dir", elsewhere.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("not on a bpf file system") && said.contains("mount -t bpf"), "{said}");

    let state = node.path("nobodys-state");
    fs::create_dir(&state).expect("a directory");
    chown(&state, Some(65534), Some(65534)).expect("giving it away");
    let whole = node.daemon_command(&["--state-dir", state.to_str().expect("UTF-8")]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    // Without `ip netns exec`, which needs rights itself.
    let words: Vec<_> = whole.get_args().collect();
    let output = command.args(&words[3..]).output().expect("setpriv");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("CAP_BPF"), "{said}");
}
