//! Events of a daemon on a real interface: refused packets, suppressed events, and members that are
//! missing from the manifest.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::unix::net::UnixStream,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use guard_tests::{
    node::{
        FREE_PORT, MANIFEST, MEMBER, NODE, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT, binary,
        enforcing, moved,
    },
    packet::{self, Ipv4, Layer, Ports},
};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// Outside of every network in the manifest.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

fn started(test: &str) -> Option<Node> {
    let mut node = Node::new(test)?;
    node.start(&[]);
    node.wait("enforcing", enforcing);
    Some(node)
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn events(node: &Node, flags: &[&str]) -> Vec<Value> {
    let output = node.trainguard(&[&["events"], flags].concat()).output().expect("events");
    assert!(output.status.success(), "{output:?}");
    lines(&output)
}

/// Queries until the events satisfy a condition, and returns them.
fn until(node: &Node, flags: &[&str], what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let found = events(node, flags);
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "not {what}: {found:#?}\n{}", node.log());
        thread::sleep(Duration::from_millis(100));
    }
}

/// Sends segments that open connections, each with a given source address, source port and destination
/// port. The source address may be forged.
fn send(node: &Node, segments: impl Iterator<Item = (Ipv4Addr, u16, u16)> + Send) {
    let IpAddr::V4(to) = NODE[0] else { panic!("an IPv4 address") };
    node.at_peer(move || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).expect("a socket");
        socket.set_header_included_v4(true).expect("own headers");
        for (from, source_port, port) in segments {
            let ports = Ports { protocol: 6, from: source_port, to: port, flags: 2, len: None };
            let frame = packet::frame(&[Layer::Ipv4(Ipv4::new(from, to)), Layer::Ports(ports)]);
            socket.send_to(&frame, &SocketAddrV4::new(to, 0).into()).expect("sending");
        }
    });
}

fn unlisted() -> Ipv4Addr {
    let IpAddr::V4(addr) = UNLISTED[0] else { panic!("an IPv4 address") };
    addr
}

fn sum(events: &[Value], field: &str) -> u64 {
    events.iter().filter_map(|event| event[field].as_u64()).sum()
}

/// Returns events as the command prints them.
fn stream(events: &[Value]) -> Vec<u8> {
    let lines = events.iter().flat_map(|event| [event.to_string(), "\n".to_owned()]);
    lines.collect::<String>().into_bytes()
}

/// Runs the binary with the given standard input.
fn piped(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(binary())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("the standard input");
    stdin.write_all(input).expect("writing to standard input");
    drop(stdin);
    child.wait_with_output().expect("the binary ends")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn refused_packets_are_reported_with_names_ports_and_flags() {
    let Some(node) = started("events/refused") else { return };
    for family in 0..2 {
        assert!(!node.answers(UNLISTED[family], PORT));
        assert!(node.answers(MEMBER[family], PORT));
    }
    let flags = ["--reason", "not_allowed"];
    let found = until(&node, &flags, "both families", |found| {
        UNLISTED.iter().all(|addr| found.iter().any(|event| event["source"] == addr.to_string()))
    });
    for (addr, to) in UNLISTED.iter().zip(NODE) {
        let event = found.iter().find(|event| event["source"] == addr.to_string());
        let event = event.expect("an event");
        for (field, expected) in [
            ("schema", "trainguard/event/v1".into()),
            ("kind", "packet".into()),
            ("node", "node".into()),
            ("verdict", "drop".into()),
            ("service", "scheduler".into()),
            ("transport", "tcp".into()),
            ("port", PORT.into()),
            ("flags", "S".into()),
            ("interface", "eth0".into()),
            ("destination", Value::from(to.to_string())),
            ("source_node", Value::Null),
            ("count", 1.into()),
        ] {
            assert_eq!(event[field], expected, "{field}: {event}");
        }
        assert!(event["source_port"].as_u64() > Some(1024), "{event}");
        // Ethernet, IP, and TCP up to its flags.
        let headers = 14 + if addr.is_ipv4() { 20 } else { 40 } + 14;
        assert_eq!(event["frame"].as_str().map(str::len), Some(2 * headers), "{event}");
    }
    assert!(found.iter().all(|event| event["source_node"].is_null()), "a member is refused");

    // A member by its name, under a policy that admits no member.
    let closed = POLICY.replace("[worker]\n    mode", "[scheduler]\n    mode");
    node.write("policy.yaml", &closed);
    node.wait("the other policy", |status| status["generation"] == 2);
    assert!(!node.answers(MEMBER[0], PORT));
    let named = ["--source", "member-0"];
    let by_name = until(&node, &named, "the member", |found| !found.is_empty());
    assert_eq!(by_name[0]["source"], MEMBER[0].to_string());
    let unknown =
        events(&node, &["--source", "!member-0", "--source", "unknown", "--kind", "packet"]);
    assert!(unknown.iter().all(|event| event["source_node"].is_null()), "{unknown:?}");
    assert!(!unknown.is_empty());

    // The compact format: one line each.
    let output = node.trainguard(&["events", "--format", "compact", "--source", "unknown"]);
    let output = { output }.output().expect("events");
    let printed = text(&output);
    let expected = format!("(not in the manifest) -> {}:{PORT} tcp S scheduler len ", NODE[0]);
    assert!(printed.lines().any(|line| line.contains(&expected)), "{printed}");
    assert!(
        printed.starts_with("-- 20") && printed.contains(" eth0 DROP not_allowed "),
        "{printed}"
    );

    // Events since a time.
    let last = events(&node, &["-n", "1", "--kind", "packet"]);
    let [last] = last.as_slice() else { panic!("{last:?}") };
    let since = events(&node, &["--since", last["time"].as_str().expect("a time")]);
    assert!(since.contains(last), "{since:?}");
    let later = humantime(SystemTime::now() + Duration::from_hours(1));
    assert_eq!(events(&node, &["--since", &later]), [Value::Null; 0]);
    assert!(events(&node, &["--since", "1h"]).contains(last));
}

fn humantime(at: SystemTime) -> String {
    guard_user::text::time(at)
}

#[test]
fn a_burst_is_folded_and_suppressed_events_are_counted_exactly() {
    let Some(node) = started("events/burst") else { return };
    // Resolve the neighbours' addresses first.
    assert!(node.answers(MEMBER[0], FREE_PORT));
    let before = node.stats();
    send(&node, (0..5000).map(|nth| (unlisted(), 20_000 + nth, PORT)));
    let after = node.stats();
    let dropped = moved(&before, &after);
    let [(reason, dropped)] = dropped.as_slice() else { panic!("{dropped:?}") };
    assert_eq!(reason, "not_allowed");
    assert!(*dropped > 1000, "{dropped}");
    let flags = ["--source", &unlisted().to_string()];
    let found = until(&node, &flags, "all of them", |found| {
        let fields = ["count", "suppressed", "lost", "not_kept"];
        fields.iter().map(|field| sum(found, field)).sum::<u64>() == *dropped
    });
    // The counts agree with the kernel's: emitted and suppressed.
    let counts = node.stats()["events"].clone();
    let counter = |field: &str| counts[field].as_u64().expect("a number");
    assert_eq!(
        sum(&found, "suppressed"),
        counter("suppressed") - before["events"]["suppressed"].as_u64().expect("a number")
    );
    assert_eq!(
        sum(&found, "count"),
        counter("emitted") - before["events"]["emitted"].as_u64().expect("a number")
    );
    assert!(found.len() < 50, "{} records", found.len());
    let folded = found.iter().find(|event| event["count"].as_u64() > Some(1)).expect("a fold");
    assert!(folded["first"].is_string() && folded["last"].is_string(), "{folded}");
    assert!(sum(&found, "packets") >= sum(&found, "count"));
}

#[test]
fn changes_of_policies_and_interfaces_are_reported() {
    let Some(node) = started("events/other") else { return };
    let kinds = ["--kind", "policy"];
    let found = until(&node, &kinds, "in force", |found| !found.is_empty());
    assert_eq!((&found[0]["what"], &found[0]["generation"]), (&"in_force".into(), &1.into()));
    node.write("policy.yaml", &POLICY.replace("[worker]", "[wroker]"));
    let found =
        until(&node, &kinds, "refused", |found| found.iter().any(|e| e["what"] == "refused"));
    let refused = found.iter().find(|event| event["what"] == "refused").expect("the event");
    assert!(refused["text"].as_str().is_some_and(|text| text.contains("wroker")), "{refused}");
    assert_eq!(refused["generation"], 1, "the policy in force stays: {refused}");
    node.write("policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let found = until(&node, &kinds, "the next", |found| {
        found.iter().any(|event| event["what"] == "in_force" && event["generation"] == 2)
    });
    let hash = node.status().expect("a status")["policy_hash"].clone();
    assert_eq!(found.last().map(|event| &event["policy_hash"]), Some(&hash));

    node.ip(&["link", "del", "eth0"]);
    let kinds = ["--interface", "eth0", "--kind", "interface"];
    until(&node, &kinds, "lost", |found| found.iter().any(|event| event["what"] == "lost"));
    node.add_link("eth0");
    let found = until(&node, &kinds, "guarded again", |found| {
        found.iter().filter(|event| event["what"] == "guarded").count() == 2
    });
    let whats: Vec<&str> = found.iter().filter_map(|event| event["what"].as_str()).collect();
    assert_eq!((whats.first(), whats.last()), (Some(&"guarded"), Some(&"guarded")), "{whats:?}");
    let output = node.trainguard(&["detach"]).arg("--bpf-dir").arg(node.pins()).output();
    assert!(output.expect("detach").status.success());
    until(&node, &kinds, "detached", |found| found.iter().any(|event| event["what"] == "detached"));
}

#[test]
fn replayed_events_get_the_same_verdicts_and_become_tests_that_pass() {
    let Some(node) = started("events/again") else { return };
    for addr in UNLISTED {
        assert!(!node.answers(addr, PORT));
    }
    send(&node, [(Ipv4Addr::new(127, 0, 0, 9), 40_000, PORT), (OUTSIDE, 1, PORT)].into_iter());
    let found = until(&node, &[], "all of them", |found| {
        ["martian", "not_allowed"].iter().all(|reason| found.iter().any(|e| e["reason"] == *reason))
            && found.iter().filter(|event| event["kind"] == "packet").count() >= 3
    });
    let packets: Vec<&Value> = found.iter().filter(|event| event["kind"] == "packet").collect();
    let printed = stream(&found);
    let manifest = node.path("cluster.yaml");
    let manifest = manifest.to_str().expect("UTF-8");
    let replay = ["replay", "--manifest", manifest, "--node", "node", "--format", "json", "-"];
    let output = piped(&replay, &printed);
    assert!(output.status.success(), "{}", text(&output));
    let replayed = lines(&output);
    assert_eq!(replayed.len(), packets.len());
    for (replayed, event) in replayed.iter().zip(packets) {
        for (again, field) in [
            ("action", "verdict"),
            ("reason", "reason"),
            ("service", "service"),
            ("source", "source"),
            ("transport", "transport"),
            ("destination_port", "port"),
        ] {
            assert_eq!(replayed[again], event[field], "{field}: {event}");
        }
        assert!(replayed.get("truncated").is_none() && replayed["time_ns"].is_u64(), "{replayed}");
    }
    // A test cannot be about a martian, so the filter leaves it out.
    let refused = events(&node, &["--reason", "not_allowed"]);
    let printed = stream(&refused);
    let file = node.path("refused.test.yaml");
    let file = file.to_str().expect("UTF-8");
    let output = piped(&["test", "--record", "--manifest", manifest, file], &printed);
    assert!(output.status.success(), "{}", text(&output));
    let output = piped(&["test", file], b"");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains('3'), "{}", text(&output));
}

#[test]
fn following_survives_a_crash_and_ends_without_a_reader() {
    let Some(mut node) = started("events/follow") else { return };
    let out = File::create(node.path("out")).expect("a file");
    let err = File::create(node.path("err")).expect("a file");
    let mut follower =
        node.trainguard(&["events", "-f"]).stdout(out).stderr(err).spawn().expect("events");
    let mut quiet = node.trainguard(&["events", "-f", "--kind", "policy", "--kind", "!lost"]);
    let mut quiet = quiet.stdout(Stdio::piped()).spawn().expect("events");
    assert!(!node.answers(UNLISTED[0], PORT));
    wait_for(&node, &UNLISTED[0].to_string());
    node.signal("KILL");
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert!(!node.answers(UNLISTED[1], PORT));
    wait_for(&node, &UNLISTED[1].to_string());
    let read = |name: &str| std::fs::read_to_string(node.path(name)).unwrap_or_default();
    assert!(read("err").contains("the daemon was restarted"), "{}", read("err"));
    let numbers: Vec<u64> = read("out")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"))
        .filter_map(|event| event["seq"].as_u64())
        .collect();
    // The sequence starts again at 1 once; within each daemon it has no gap and no repetition.
    let again = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert_eq!(again, 1, "{numbers:?}");
    // An interrupt is the usual way to end it.
    let status = Command::new("kill").args(["-s", "INT", &follower.id().to_string()]).status();
    assert!(status.expect("kill").success());
    assert_eq!(follower.wait().expect("waiting for the process").code(), Some(0));

    // The reader has closed the pipe, and no event occurs that would be written.
    let mut output = BufReader::new(quiet.stdout.take().expect("the standard output"));
    output.read_line(&mut String::new()).expect("the first policy");
    drop(output);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let ended = loop {
        match quiet.try_wait().expect("a child") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = quiet.kill();
                panic!("`events -f` runs on without a reader");
            }
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    assert_eq!(ended.code(), Some(0));
    node.signal("TERM");
    let output = node.trainguard(&["events", "-f"]).output().expect("events");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

/// Waits until the follower has written `text`.
fn wait_for(node: &Node, text: &str) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let read = |name: &str| std::fs::read_to_string(node.path(name)).unwrap_or_default();
    while !read("out").contains(text) {
        assert!(Instant::now() < deadline, "{}\n{}", read("out"), read("err"));
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn invalid_queries_are_refused_and_pages_are_bounded() {
    let Some(node) = started("events/questions") else { return };
    let ask = |path: &str| {
        let mut stream = UnixStream::connect(node.path("run/stats.sock")).expect("a socket");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("writing");
        std::io::read_to_string(stream).expect("an answer")
    };
    let good = ask("/v1/events?after=0&limit=1");
    let (head, body) = good.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let page: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(page["schema"], "trainguard/events/v1");
    assert_eq!(page["events"].as_array().map(Vec::len), Some(1));
    assert_eq!((&page["first"], &page["events"][0]["seq"]), (&1.into(), &1.into()));
    for bad in ["after=x", "limit=0", "limit=1001", "since=1", "after=1&after=1"] {
        let answer = ask(&format!("/v1/events?{bad}"));
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("expected"), "{answer}");
    }
    // Clients that send a request and never read do not affect other clients.
    let silent: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(node.path("run/stats.sock")).expect("a socket");
            write!(stream, "GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").expect("writing");
            stream
        })
        .collect();
    assert!(!events(&node, &[]).is_empty());
    drop(silent);
}

/// Returns the manifest with more lines under `nodes`.
fn manifest_with(lines: &str) -> String {
    MANIFEST.replace("policies:", &format!("{lines}\npolicies:"))
}

#[test]
fn a_missing_member_is_found_and_its_lines_admit_it() {
    let Some(node) = started("events/missing") else { return };
    let policy = POLICY.replace("tcp/9091", "tcp/9000-9199");
    node.write("policy.yaml", &policy);
    node.wait("the other policy", |status| status["generation"] == 2);
    assert!(node.answers(MEMBER[0], FREE_PORT));
    let view = |flags: &[&str]| {
        let args = [&["events", "--missing-members"], flags].concat();
        node.trainguard(&args).output().expect("events")
    };
    let empty = view(&[]);
    assert_eq!(empty.status.code(), Some(0), "{}", text(&empty));
    assert!(text(&empty).starts_with("no refused source"), "{}", text(&empty));

    // A scanner outside of the networks sends as often, to 200 ports.
    let scan = || send(&node, (9000..9200).map(|port| (OUTSIDE, 50_000, port)));
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let found = loop {
        // During a scan the kernel samples events, and a single segment might not be sampled; so send it
        // first.
        assert!(!node.answers(UNLISTED[0], PORT));
        scan();
        let output = view(&["--format", "json"]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        if output.status.code() == Some(1) && found["not_near"] == 1 {
            break found;
        }
        assert!(Instant::now() < deadline, "{found}\n{}", node.log());
        thread::sleep(Duration::from_secs(1));
    };
    let members = found["members"].as_array().expect("members");
    let [member] = members.as_slice() else { panic!("{found:#}") };
    assert_eq!(member["address"], UNLISTED[0].to_string());
    assert!(member["attempts"].as_u64() >= Some(3) && member["slots"].as_u64() >= Some(2));
    assert_eq!(member["tried"][0]["port"], format!("tcp/{PORT}"));
    assert_eq!(member["roles"], serde_json::json!(["worker"]));
    assert!(
        member["neighbours"].as_array().is_some_and(|names| names.contains(&"member-0".into()))
    );
    let printed = text(&view(&[]));
    assert!(
        printed.contains("An attacker inside the cluster's networks looks the same"),
        "{printed}"
    );
    assert!(
        printed.contains("shares its /24 with") && printed.contains("cluster.yaml:5"),
        "{printed}"
    );
    let lines = member["lines"].as_str().expect("lines");
    assert!(printed.contains(lines), "{printed}");
    assert_eq!(std::fs::read_to_string(node.path("cluster.yaml")).expect("the manifest"), MANIFEST);

    // With the proposed lines, the member is admitted.
    let generation = node.generation();
    node.write("cluster.yaml", &manifest_with(lines));
    node.wait("the next", |status| status["generation"].as_u64() > Some(generation));
    assert!(node.answers(UNLISTED[0], PORT), "{lines}");
    assert!(!node.answers(UNLISTED[1], PORT));
    let empty = view(&[]);
    assert_eq!(empty.status.code(), Some(0), "{}", text(&empty));
    // A manifest that cannot be read is an error.
    let wrong = view(&["--manifest", "/nowhere.yaml"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
}
