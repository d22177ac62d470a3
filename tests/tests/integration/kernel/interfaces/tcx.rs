//! The tc hook: the same decision, the same counters and the same life cycle as at the XDP hook.

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use guard_tests::{
    backend::{Backend as _, Host, KEY},
    generate::Generator,
    node::{
        FREE_PORT, MANIFEST, MEMBER, NODE, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT, enforcing,
    },
    random, raw, skip, text, world,
};
use guard_user::{
    attach_mode::{Hook, Mode},
    bpf::{
        link::Link,
        loader::{Generation, Maps, Options},
        pinned_maps::PinnedMaps,
        test_run::Received,
    },
    policy::{Bundle, compiled::CompiledPolicy},
};
use nix::net::if_::if_nametoindex;
use serde_json::Value;

const TCX: &[&str] = &["--mode", "tcx"];

fn policy() -> CompiledPolicy {
    let texts = [("cluster.yaml", MANIFEST.to_owned()), ("policy.yaml", POLICY.to_owned())];
    world::compile(&world::load(&Bundle::new("cluster.yaml", texts)), "node")
}

fn mode(status: &Value) -> &str {
    status["interfaces"][0]["mode"].as_str().unwrap_or("none")
}

#[test]
fn members_get_in_and_unlisted_sources_do_not() {
    let Some(mut node) = Node::new("tcx/attach") else { return };
    node.start(TCX);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(mode(&status), "tcx");
    assert_eq!(status["problems"], serde_json::json!([]));
    assert_eq!(status["program"]["name"], "guard_tc");
    assert_eq!(status["program"]["id"], status["interfaces"][0]["program_id"]);
    node.assert_guarded();
    assert!(node.answers(UNLISTED[0], FREE_PORT), "an unguarded port is closed");
    node.assert_evaluates_long_frames();
}

/// Returns packets and bytes by reason, without the reasons of traffic that comes at any time.
fn counted(stats: &Value) -> BTreeMap<String, (u64, u64)> {
    let reasons = stats["reasons"].as_object().expect("reasons");
    let count = |entry: &Value, what: &str| entry[what].as_u64().expect("a count");
    reasons
        .iter()
        .filter(|(name, _)| *name != "not_ip" && *name != "unguarded")
        .map(|(name, entry)| (name.clone(), (count(entry, "packets"), count(entry, "bytes"))))
        .filter(|(_, (packets, _))| *packets > 0)
        .collect()
}

/// Frames over a real wire: VLAN tags that the kernel removes before the tc hook, and tags that it
/// leaves in; frames that are too short or too long for test runs; headers outside of the first buffer.
/// In every mode the counts agree with the host's decisions.
#[test]
fn every_mode_gives_frames_on_a_wire_the_same_verdicts() {
    const FRAMES: usize = 3_000;
    let policy = policy();
    let seed = random::seed();
    let mut generator = Generator::new(&policy, seed);
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for tags in 0..4 {
        for length in [0, 4, 100, 4_200, 8_000] {
            let tags = "vlan tag=0 / ".repeat(tags);
            let from = ["10.77.0.99", "10.77.0.20"];
            let line =
                |from| format!("{tags}ipv4 from={from} to=10.77.0.10 / udp to=9091 / pad {length}");
            frames.extend(from.map(|from| text::frame(&line(from)).expect("a frame")));
        }
    }
    frames.extend((0..FRAMES).map(|_| generator.any()));
    // The stack drops frames that end inside a tag (`skb_vlan_untag`) before the hook.
    let is_tagged = |frame: &[u8]| matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]);
    frames.retain(|frame| (14..9_000).contains(&frame.len()));
    frames.retain(|frame| !is_tagged(frame) || frame.len() >= 20);
    for frame in &mut frames {
        // An unused destination, so that the stack does not respond.
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    }
    let mut host = Host::new(&policy);
    let mut expected: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for frame in &frames {
        let reason = host.evaluate(frame, 0).reason.name();
        let (packets, bytes) = expected.entry(reason.to_owned()).or_default();
        *packets += 1;
        *bytes += frame.len() as u64;
    }
    expected.retain(|name, _| name != "not_ip" && name != "unguarded");
    for reason in ["undecodable", "malformed_ip", "not_allowed", "allowed", "martian"] {
        assert!(expected.contains_key(reason), "{expected:?}");
    }
    for mode in ["native", "tcx", "generic"] {
        let Some(mut node) = Node::new("tcx/wire") else { return };
        node.start(&["--mode", mode]);
        node.wait("enforcing", enforcing);
        let sent = node.at_peer(|| raw::send("eth0", &frames)).expect("sending");
        assert_eq!(sent, frames.len(), "TRAINGUARD_SEED={seed}");
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while counted(&node.stats()) != expected {
            let stats = counted(&node.stats());
            assert!(
                Instant::now() < deadline,
                "TRAINGUARD_SEED={seed}, {mode}: {stats:?}, not {expected:?}"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Segments of a stream reach the tc hook merged, and are counted as the segments that they were.
#[test]
fn merged_segments_are_counted_one_by_one() {
    const SENT: usize = 8 << 20;
    let Some(mut node) = Node::new("tcx/merged") else { return };
    node.start(TCX);
    node.wait("enforcing", enforcing);
    let listener = node.at_node(|| TcpListener::bind((NODE[0], PORT)).expect("a port of the node"));
    let before = node.stats();
    let received = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            std::io::copy(&mut stream, &mut std::io::sink()).expect("reading")
        });
        node.at_peer(|| {
            use std::io::Write as _;
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                .expect("a socket");
            socket.bind(&std::net::SocketAddr::new(MEMBER[0], 0).into()).expect("an address");
            socket.connect(&std::net::SocketAddr::new(NODE[0], PORT).into()).expect("connecting");
            std::net::TcpStream::from(socket).write_all(&vec![0; SENT]).expect("sending");
        });
        reading.join().expect("reading")
    });
    assert_eq!(received, SENT as u64);
    let (before, after) = (counted(&before), counted(&node.stats()));
    let (packets, bytes) = after["allowed"];
    let (packets_before, bytes_before) = before.get("allowed").copied().unwrap_or_default();
    let (packets, bytes) = (packets - packets_before, bytes - bytes_before);
    // At an MTU of 9000 a segment carries at most 8960 bytes.
    assert!(packets >= (SENT / 8_960) as u64, "{packets} packets");
    assert!(bytes >= SENT as u64 && bytes < SENT as u64 * 11 / 10, "{bytes} bytes");
}

/// The length field of a merged packet that is too long for it is 0, and the packet is decided by its
/// port. Any other packet with a wrong length is refused.
#[test]
fn a_packet_merged_beyond_its_length_field_is_not_malformed() {
    let Some(()) = skip::kernel("tcx/big") else { return };
    let generation =
        Generation::for_tests_of(Hook::Tc, &policy(), KEY).expect("loading the generation");
    for (from, to, verdict) in [
        ("10.77.0.20", "10.77.0.10", "allowed"),
        ("10.77.0.99", "10.77.0.10", "not_allowed"),
        ("fd77::20", "fd77::10", "allowed"),
        ("fd77::99", "fd77::10", "not_allowed"),
    ] {
        let family = if from.contains(':') { "ipv6" } else { "ipv4" };
        let line = format!("{family} from={from} to={to} / tcp to=9091 flags=A / pad 1000");
        let mut frame = text::frame(&line).expect("a frame");
        let length_at = 14 + if family == "ipv4" { 2 } else { 4 };
        frame[length_at..length_at + 2].fill(0);
        let reason = |packets| {
            let received = Received { packets, ..Received::default() };
            generation.evaluate_received(&frame, received, 0).expect("a verdict").reason.name()
        };
        assert_eq!(reason(45), verdict, "{line}");
        assert!(reason(1).starts_with("malformed"), "{line}: {}", reason(1));
    }
}

/// The modes in which a running guard is restarted, one after the other, back to the first.
const MODES: [&str; 6] = ["tcx", "native", "generic", "tcx", "generic", "native"];

#[test]
fn a_change_of_mode_opens_nothing() {
    let Some(mut node) = Node::new("tcx/change") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let listener = node.at_node(|| {
        let socket = UdpSocket::bind((NODE[0], PORT)).expect("a port of the node");
        socket.set_nonblocking(true).expect("not blocking");
        socket
    });
    let before = node.packets("not_allowed");
    let stop = AtomicBool::new(false);
    let namespace = node.peer().to_owned();
    let sent = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            guard_tests::node::inside(&namespace, || {
                let socket = UdpSocket::bind((UNLISTED[0], 0)).expect("an address of the peer");
                let mut sent = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..20 {
                        sent += u64::from(socket.send_to(b"probe", (NODE[0], PORT)).is_ok());
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                sent
            })
        });
        for wanted in MODES {
            node.signal("TERM");
            node.start(&["--mode", wanted]);
            let status = node.wait("in the mode", |status| mode(status) == wanted);
            assert_eq!(status["enforcing"], true, "{wanted}: {status}");
            assert_eq!(status["problems"], serde_json::json!([]), "{wanted}");
            let links = fs::read_dir(node.own_pins()).expect("pins");
            let links =
                links.filter_map(|entry| entry.expect("a pin").file_name().into_string().ok());
            assert_eq!(links.filter(|name| name.starts_with("link-")).count(), 1, "{wanted}");
        }
        stop.store(true, Ordering::Relaxed);
        sending.join().expect("sending")
    });
    thread::sleep(Duration::from_millis(200));
    let mut buffer = [0; 16];
    assert!(
        listener.recv(&mut buffer).is_err(),
        "a datagram of an unlisted source arrived: {}",
        node.log()
    );
    let counted = node.packets("not_allowed") - before;
    assert!(counted * 100 >= sent * 99, "{counted} of {sent}");
    assert!(!node.log().contains("not guarded while the mode changes"), "{}", node.log());
    node.assert_guarded();
}

#[test]
fn a_killed_daemon_leaves_the_guard_and_a_reload_keeps_counting() {
    let Some(mut node) = Node::new("tcx/life") else { return };
    node.start(TCX);
    node.wait("enforcing", enforcing);
    node.signal("KILL");
    node.assert_guarded();
    // Without the daemon, the status comes from pins and devices.
    let (status, _) = node.status_and_code().expect("a status");
    assert_eq!(mode(&status), "tcx", "{status}");
    assert_eq!(status["interfaces"][0]["state"], "guarded", "{status}");
    let counted = node.packets("not_allowed");
    assert!(counted > 0);
    node.start(TCX);
    node.wait("enforcing", enforcing);
    assert!(node.log().contains("taken over"), "{}", node.log());
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    node.wait("the next generation", |status| status["generation"] == 3);
    assert_eq!(node.packets("not_allowed"), counted);
    node.assert_guarded();
    // Renamed, set down and up, with another Ethernet address: it stays guarded.
    node.ip(&["link", "set", "eth0", "down"]);
    node.ip(&["link", "set", "eth0", "name", "gx"]);
    node.ip(&["link", "set", "gx", "address", "02:00:00:00:00:07"]);
    node.ip(&["link", "set", "gx", "up"]);
    node.ip(&["addr", "replace", "fd77::10/64", "dev", "gx"]);
    node.wait("aware of the name", |status| status["interfaces"][1]["name"] == "gx");
    node.forget_neighbours();
    node.assert_guarded();
    let mut detach = node.trainguard(&["detach"]);
    let code = detach.arg("--bpf-dir").arg(node.pins()).output().expect("detach").status.code();
    assert_eq!(code, Some(0));
    assert!(node.answers(UNLISTED[0], PORT), "the program is detached");
}

/// Case 102: an administrator detaches the link, as with `bpftool link detach`.
#[test]
fn a_detached_link_is_attached_again_with_an_alarm() {
    for mode in ["native", "tcx"] {
        let Some(mut node) = Node::new("tcx/detached") else { return };
        node.start(&["--mode", mode]);
        node.wait("enforcing", enforcing);
        let suffix = if mode == "tcx" { ":tcx" } else { "" };
        let pin = node.own_pins().join(format!("link-eth0{suffix}"));
        let link = Link::open(&pin).expect("the pinned link");
        // The system call that bpftool makes; the pin stays.
        guard_user::sys::link_detach(link.fd()).expect("detaching");
        node.wait("noticed", |_| node.log().contains("the interface or its link is gone"));
        node.wait("enforcing again", enforcing);
        node.assert_guarded();
        let events = node.trainguard(&["events", "--format", "json"]).output().expect("events");
        let events = String::from_utf8_lossy(&events.stdout).into_owned();
        assert!(
            events.contains("\"lost\"") && events.contains("the interface or its link is gone"),
            "{events}"
        );
    }
}

/// Another software's program at the tc hook, in front of all others.
struct ForeignProgram {
    generation: Generation,
    shared: PinnedMaps,
    link: Link,
}

fn foreign_in_front(node: &Node, nth: usize) -> ForeignProgram {
    let options = Options::new(Maps::Private, KEY, false);
    let mut generation =
        Generation::load_for(Hook::Tc, &policy(), &options).expect("loading the generation");
    let mut shared = generation.shared().expect("maps");
    let pin = node.path("bpf").join(format!("other-{nth}"));
    let link = node.at_node(|| {
        let index = if_nametoindex("eth0").expect("an index");
        shared.set_interface(index, "eth0", false).expect("a row");
        let program = generation.program(Hook::Tc).expect("a program");
        Link::attach(program, "eth0", index, Mode::Tcx, &pin).expect("attaching")
    });
    ForeignProgram { generation, shared, link }
}

/// Case 88 at the tc hook: foreign programs stay attached and run. Those in front of ours are reported;
/// those behind it see the packets that it passes.
#[test]
fn foreign_tc_programs_run_and_are_named() {
    let Some(mut node) = Node::new("tcx/others") else { return };
    let behind = foreign_in_front(&node, 0);
    node.start(TCX);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["problems"], serde_json::json!([]), "trainguard's program is in front");
    node.assert_guarded();
    let counters = behind.shared.counters().expect("counters");
    let passed: u64 = counters.iter().map(|(_, _, counter)| counter.packets).sum();
    assert!(passed > 0, "passed packets reach the next program");
    assert!(
        counters.iter().all(|(_, verdict, _)| verdict.reason.name() != "not_allowed"),
        "dropped packets do not reach the next program"
    );
    let in_front = foreign_in_front(&node, 1);
    let id = format!("id {}", in_front.generation.program_id());
    let named = |status: &Value| status["problems"].to_string().contains(&id);
    let status = node.wait("the foreign program reported", named);
    assert_eq!(status["interfaces"][0]["state"], "guarded");
    // The kernel sends no notification of such a change, so the next check finds it.
    node.wait("an event", |_| {
        let events = node.trainguard(&["events", "--format", "json"]).output().expect("events");
        let events = String::from_utf8_lossy(&events.stdout).into_owned();
        events.contains("\"warning\"") && events.contains(&id)
    });
    in_front.link.detach().expect("detaching");
    node.wait("quiet again", |status| status["problems"] == serde_json::json!([]));
}

/// Case 87: an interface accepts 63 tc programs (`bpf_mprog_attach`, `kernel/bpf/mprog.c`).
#[test]
fn an_interface_with_too_many_programs_is_reported() {
    let Some(node) = Node::new("tcx/many") else { return };
    let others: Vec<_> = (0..63).map(|nth| foreign_in_front(&node, nth)).collect();
    let output = node.start_expecting_exit(TCX);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("has the maximum number of tc programs"), "{stderr}");
    drop(others);
}

/// With `auto`, an interface without native XDP gets the next best mode, with the reason.
#[test]
fn auto_takes_the_best_supported_mode() {
    let Some(mut node) = Node::new("tcx/auto") else { return };
    // A bridge has no native XDP.
    node.ip(&["link", "add", "br9", "type", "bridge"]);
    node.ip(&["link", "set", "br9", "up"]);
    node.start(&["--interface", "eth0", "--interface", "br9", "--mode", "auto"]);
    let status = node.wait("enforcing", enforcing);
    let interfaces = status["interfaces"].as_array().expect("interfaces");
    let modes: Vec<_> = interfaces.iter().map(|one| (&one["name"], &one["mode"])).collect();
    assert_eq!(serde_json::json!(modes), serde_json::json!([["br9", "tcx"], ["eth0", "native"]]));
    let problem = interfaces[0]["problem"].as_str().expect("a reason");
    assert!(problem.starts_with("guarded in tcx mode: attaching to `br9` (native)"), "{problem}");
    assert_eq!(interfaces[1]["problem"], Value::Null);
    // The next generation runs at both hooks.
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let status = node.wait("the next generation", |status| status["generation"] == 2);
    assert_eq!(status["enforcing"], true, "{status}");
    node.assert_guarded();
}
