//! The daemon's life cycle: crash, takeover, reload, detaching, requests.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::UdpSocket,
    os::unix::net::UnixStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use guard_test_support::repetitions;
use guard_tests::node::{
    MEMBER, MEMBER_TOO, NODE, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT, enforcing,
};
use serde_json::json;

#[test]
fn a_killed_daemon_leaves_the_guard_and_the_next_one_takes_it_over() {
    let Some(mut node) = Node::new("lifecycle/kill") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.assert_guarded();
    node.signal("KILL");
    node.assert_guarded();
    let counted = node.packets("not_allowed");
    assert!(counted >= 4, "the counters can be read without the daemon: {counted}");

    // An unlisted host sends continuously while the next daemon starts: no frame may get through.
    let probes = thread::scope(|scope| {
        let listener = node.at_node(|| {
            let socket = UdpSocket::bind((NODE[0], PORT)).expect("a port of the node");
            socket.set_nonblocking(true).expect("not blocking");
            socket
        });
        let sending = scope.spawn(|| {
            node.at_peer(|| {
                let socket = UdpSocket::bind((UNLISTED[0], 0)).expect("an address of the peer");
                for _ in 0..500 {
                    socket.send_to(b"probe", (NODE[0], PORT)).expect("sending");
                    thread::sleep(Duration::from_millis(2));
                }
            });
        });
        let mut next = node.daemon_command(&[]).spawn().expect("the next daemon");
        sending.join().expect("sending");
        let mut buffer = [0; 16];
        assert!(listener.recv(&mut buffer).is_err(), "a datagram of an unlisted source arrived");
        let status = node.wait("enforcing", enforcing);
        assert_eq!(status["generation"], 2);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(next.id()).expect("a process id")),
            nix::sys::signal::Signal::SIGTERM,
        )
        .expect("signalling the daemon");
        assert!(next.wait().expect("the daemon ends").success());
        node.packets("not_allowed") - counted
    });
    assert_eq!(probes, 500, "each frame is counted once across crash and takeover");
    node.assert_guarded();
}

#[test]
fn each_frame_is_decided_by_exactly_one_of_two_generations() {
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
                let socket = UdpSocket::bind((UNLISTED[0], 0)).expect("an address of the peer");
                let mut sent = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for _ in 0..20 {
                        sent += u64::from(socket.send_to(b"probe", (NODE[0], PORT)).is_ok());
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                sent
            })
        });
        for round in 0..repetitions(4, 10_usize) {
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
    // Frames that the virtual wire lost never reached a program.
    let lost = node.at_peer(|| {
        let listing = Command::new("cat").arg("/proc/net/dev").output().expect("cat");
        let text = String::from_utf8_lossy(&listing.stdout).into_owned();
        let line = text.lines().find(|line| line.trim_start().starts_with("eth0:"));
        let fields = line.and_then(|line| line.split(':').nth(1)).expect("eth0");
        // Twelfth field: transmit drops.
        fields.split_whitespace().nth(11).and_then(|n| n.parse::<u64>().ok()).expect("drops")
    });
    let mut buffer = [0; 16];
    assert!(listener.recv(&mut buffer).is_err(), "a datagram of an unlisted source arrived");
    assert_eq!(node.packets("not_allowed") - before, sent - lost, "{sent} sent, {lost} lost");
    let stats = node.stats();
    let services = stats["services"].as_array().expect("services");
    let dropped: Vec<u64> =
        services.iter().map(|service| service["dropped"].as_u64().expect("a count")).collect();
    assert!(dropped.iter().all(|count| *count > 0), "both generations decided: {services:?}");
}

#[test]
fn a_reload_refills_no_bucket_and_a_comment_is_no_new_generation() {
    let Some(mut node) = Node::new("lifecycle/limits") else { return };
    // The burst is larger than what refills while a policy is loaded, also in an emulated machine that
    // shares two CPUs, where loading took 12 s.
    let burst = 60;
    let limited = format!(
        "{POLICY}    limits:\n      perSource:\n        newConnections: {{ rate: 1/s, burst: {burst} }}\n"
    );
    node.write("policy.yaml", &limited);
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let started = Instant::now();
    let emptied = |from: Instant| {
        let through = (0..300).take_while(|_| node.answers(MEMBER[0], PORT)).count() as u64;
        // One token per second refills, plus one for the partial second.
        (through, from.elapsed().as_secs() + 1)
    };
    let (through, back) = emptied(started);
    assert!((burst..=burst + back).contains(&through), "{through} in {back} s");
    let generation = node.generation();
    node.write("policy.yaml", &format!("# nothing new\n{limited}"));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(node.generation(), generation, "a comment is not a change");

    emptied(Instant::now());
    let since = Instant::now();
    node.write("policy.yaml", &limited.replace("udp/9091", "udp/9092"));
    node.wait("the next generation", |status| status["generation"].as_u64() > Some(generation));
    let (through, back) = emptied(since);
    assert!(
        through <= back.min(burst - 1),
        "the reload refilled the bucket: {through} in {back} s"
    );
    assert!(node.answers(MEMBER_TOO[0], PORT), "another member has a bucket of its own");
}

#[test]
fn removed_pins_are_restored() {
    let Some(mut node) = Node::new("lifecycle/restore") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.assert_guarded();
    let counted = node.packets("not_allowed");
    let link = node.own_pins().join("link-eth0");
    for everything in [false, true] {
        if everything {
            fs::remove_dir_all(node.pins()).expect("removing all pins");
        } else {
            fs::remove_file(&link).expect("removing the pin");
        }
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !link.exists() {
            assert!(Instant::now() < deadline, "not pinned again: {}", node.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
    // The maps are the same: a new generation continues the counters.
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let status = node.wait("the next generation", |status| status["generation"] == 2);
    assert_eq!(status["problems"], json!([]));
    assert_eq!(node.packets("not_allowed"), counted);
    // The pins outlive the daemon.
    node.signal("KILL");
    node.assert_guarded();
}

#[test]
fn maps_without_pins_are_pinned_before_the_next_generation() {
    let Some(mut node) = Node::new("lifecycle/maps") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.assert_guarded();
    let counted = node.packets("not_allowed");
    for map in ["TG_COUNTERS", "TG_LABELS", "TG_MEMBERS"] {
        fs::remove_file(node.own_pins().join(map)).expect("removing a pin");
    }
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    node.wait("the next generation", |status| status["generation"] == 2);
    assert_eq!(node.packets("not_allowed"), counted);
    assert!(node.log().contains("the pins of 3 maps were removed: pinned again"), "{}", node.log());
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
    assert!(node.answers(UNLISTED[0], PORT));
    let status = node.wait("detached", |status| status["interfaces"][0]["state"] == "detached");
    assert_eq!(status["enforcing"], false);
    // A new policy does not attach the program again; a restart does.
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    node.wait("the next generation", |status| status["generation"] == 2);
    assert!(node.answers(UNLISTED[0], PORT));
    node.signal("TERM");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.signal("INT");
    node.assert_guarded();
    assert_eq!(detach(&node), Some(0));
    assert!(node.answers(UNLISTED[0], PORT));
    assert!(!node.own_pins().exists(), "the maps are removed, too");
    let code = node.trainguard(&["status"]).output().expect("status").status.code();
    assert_eq!(code, Some(3), "no daemon answers");
}

#[test]
fn idle_connections_lock_no_client_out() {
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
fn malformed_requests_are_refused() {
    let Some(mut node) = Node::new("lifecycle/requests") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let ask = |socket: &str, request: &str| {
        let mut stream = UnixStream::connect(node.path("run").join(socket)).expect("a socket");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        // The daemon may answer an invalid request by closing the connection.
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
    assert!(
        answer.starts_with("HTTP/1.1 404"),
        "the statistics socket accepts no commands: {answer}"
    );
    ask("control.sock", "\u{0}\u{1} nonsense\r\n\r\n");
    node.assert_guarded();
}
