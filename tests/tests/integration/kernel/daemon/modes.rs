//! `mode` with a real daemon: which ports an override opens and closes, and what ends it.

use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{MANIFEST, MEMBER, Node, POLICY, PORT, STRANGER, enforcing};
use guard_user::api::control::{Consent, ModeChange, RequestedMode};
use serde_json::Value;

/// Allows overrides shorter than the command line accepts.
const SHORT: [&str; 2] = ["--timing", "shortest=1s,files=50ms"];

fn mode(node: &Node, words: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        node.trainguard(&[&["mode"], words].concat()).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// Sets all services to observe for a time that may be shorter than the command line accepts.
fn observe_for(node: &Node, seconds: u64) {
    let change = ModeChange {
        mode: RequestedMode::Observe,
        services: Vec::new(),
        seconds: Some(seconds),
        consent: Consent::default(),
    };
    node.client().mode(&change).expect("it is changed");
}

fn stranger_gets_in(node: &Node) -> bool {
    let answers = node.answers(STRANGER[0], PORT);
    assert_eq!(answers, node.answers(STRANGER[1], PORT), "both families alike");
    assert!(node.answers(MEMBER[0], PORT), "a member always gets in");
    answers
}

fn by_hand(status: &Value) -> bool {
    status["mode_override"].is_object()
}

#[test]
fn observe_opens_the_node_for_a_time_and_the_daemon_shuts_it() {
    let Some(mut node) = Node::new("modes/observe") else { return };
    node.start(&SHORT);
    let before = node.wait("enforcing", enforcing);
    assert!(!stranger_gets_in(&node));
    // It opens the node, so the duration must be given explicitly.
    let (code, _, told) = mode(&node, &["observe"]);
    assert_eq!(code, Some(2));
    assert!(told.contains("--for") && told.contains("--until-changed"), "{told}");
    assert!(!stranger_gets_in(&node));

    let (code, said, told) = mode(&node, &["observe", "--for", "1h"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(said.starts_with("observe, by hand: generation 2"), "{said}");
    assert!(told.contains("opened by hand"), "{told}");
    let dropped = node.packets("not_allowed");
    assert!(stranger_gets_in(&node));
    assert!(node.packets("not_allowed") > dropped, "what it would drop is counted");
    let (status, code) = node.status_and_code().expect("a status");
    assert_eq!(code, Some(1), "a node that only observes is not enforcing");
    assert!(by_hand(&status), "{status}");
    assert_eq!(status["mode"], "observe");
    assert_eq!(status["mode_override"]["mode"], "observe");
    let left = status["mode_override"]["seconds_left"].as_u64().expect("a time");
    assert!((3000..=3600).contains(&left), "{status}");
    assert_ne!(status["policy_hash"], before["policy_hash"], "what is enforced is another thing");
    assert_eq!(status["files_hash"], before["files_hash"]);
    assert_eq!(status["up_to_date"], true);
    assert!(status["problems"].to_string().contains("opened by hand"), "{status}");
    let shown = node.trainguard(&["status"]).output().expect("status");
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("all services: observe, by hand since"), "{shown}");

    // A reload within the time keeps the override.
    node.write("policy.yaml", &format!("{POLICY}# touched\n"));
    node.wait("followed", |next| next["files_hash"] != before["files_hash"]);
    assert!(stranger_gets_in(&node));

    // Again, until the time expires.
    let began = Instant::now();
    observe_for(&node, 2);
    let status = node.wait("back", |status| !by_hand(status));
    assert!(began.elapsed() >= Duration::from_secs(2), "it was over early");
    assert_eq!(
        (&status["policy_hash"], &status["enforcing"]),
        (&before["policy_hash"], &true.into())
    );
    assert!(!stranger_gets_in(&node));
    assert!(node.log().contains("the time of the mode by hand is over"), "{}", node.log());
    let events = node.trainguard(&["events", "--kind", "policy"]).output().expect("events");
    let events = String::from_utf8_lossy(&events.stdout);
    assert!(events.contains("mode_by_hand") && events.contains("mode_of_policy"), "{events}");
}

#[test]
fn a_mode_by_hand_outlives_the_daemon_and_its_time_does_not_stop() {
    let Some(mut node) = Node::new("modes/crash") else { return };
    node.start(&SHORT);
    node.wait("enforcing", enforcing);
    // On a busy machine the time may expire before the next daemon has answered; then try a longer one.
    let goes_on = [3, 8, 20, 40].into_iter().any(|seconds| {
        observe_for(&node, seconds);
        node.signal("KILL");
        node.start(&SHORT);
        let status = node.status().expect("a status");
        assert_eq!(by_hand(&status), status["mode"] == "observe", "{status}");
        status["mode_override"]["seconds_left"].as_u64() >= Some(1)
    });
    assert!(goes_on, "{}", node.log());
    assert!(stranger_gets_in(&node));
    node.wait("back", |status| !by_hand(status) && enforcing(status));
    assert!(!stranger_gets_in(&node));

    // The time expires while no daemon runs.
    observe_for(&node, 2);
    node.signal("KILL");
    thread::sleep(Duration::from_millis(2200));
    node.start(&[]);
    assert!(!by_hand(&node.wait("enforcing", enforcing)));
    assert!(!stranger_gets_in(&node));

    // Without a time, the override lasts. A deadline from another boot does not count.
    let (code, ..) = mode(&node, &["observe", "--until-changed"]);
    assert_eq!(code, Some(0));
    node.signal("TERM");
    node.start(&[]);
    let status = node.wait("by hand", by_hand);
    assert!(status["mode_override"]["until"].is_null());
    assert!(status["problems"].to_string().contains("until somebody changes it"), "{status}");
    let (code, ..) = mode(&node, &["observe", "--for", "1h"]);
    assert_eq!(code, Some(0));
    node.signal("TERM");
    let file = node.path("state/mode.json");
    let text = std::fs::read_to_string(&file).expect("the state");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    std::fs::write(&file, text.replace(boot.trim(), "another")).expect("writing");
    node.start(&[]);
    assert!(!by_hand(&node.wait("enforcing", enforcing)));
    assert!(!file.exists());

    // A damaged file is not an override.
    node.signal("TERM");
    std::fs::write(&file, "{\"mode\": \"open\"}").expect("writing");
    node.start(&[]);
    assert!(!by_hand(&node.wait("enforcing", enforcing)));
    assert!(!stranger_gets_in(&node));
}

#[test]
fn services_are_chosen_by_name_and_enforcing_is_checked() {
    let Some(mut node) = Node::new("modes/services") else { return };
    let second = "  - name: second\n    roles: [scheduler]\n    ports: [tcp/9200]\n    match: all\n    \
                  allow: { roles: [worker] }\n    mode: observe\n";
    node.write("policy.yaml", &format!("{POLICY}{second}"));
    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    assert_eq!(status["mode"], "mixed");
    let gets_in = |port| node.answers(STRANGER[0], port);
    assert_eq!((gets_in(PORT), gets_in(9200)), (false, true));

    let (code, _, told) = mode(&node, &["enforce", "--service", "thrid"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("thrid") && told.contains("scheduler, second"), "{told}");
    // An unlisted host has a connection that the change would cut: consent is required first.
    let listener = node.at_node(|| std::net::TcpListener::bind("10.77.0.10:9200").expect("a port"));
    let inside = node.at_peer(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&std::net::SocketAddr::new(STRANGER[0], 0).into()).expect("an address");
        let to: std::net::SocketAddr = "10.77.0.10:9200".parse().expect("an address");
        socket.connect(&to.into()).expect("a connection");
        socket
    });
    let accepted = listener.accept().expect("accepting");
    let (code, _, told) = mode(&node, &["enforce", "--service", "second"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("10.77.0.99 (not in the manifest) to tcp/9200 (second)"), "{told}");
    assert!(!by_hand(&node.status().expect("a status")));
    drop((inside, accepted, listener));
    let arguments = ["enforce", "--service", "second", "--for", "1h", "--cut-connections"];
    let (code, _, told) = mode(&node, &arguments);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!((gets_in(PORT), gets_in(9200)), (false, false));
    assert_eq!(node.status().expect("a status")["mode"], "enforce");
    let metrics = node.trainguard(&["status", "--format", "json"]).output().expect("status");
    assert_eq!(metrics.status.code(), Some(0), "a node that enforces more is well");

    let (code, ..) = mode(&node, &["observe", "--service", "scheduler", "--until-changed"]);
    assert_eq!(code, Some(0));
    assert_eq!((gets_in(PORT), gets_in(9200)), (true, true), "the new one replaces the old one");
    // If a service of the override disappears, that is reported; when the service returns, the override
    // applies to it again.
    let whole = std::fs::read_to_string(node.path("policy.yaml")).expect("a policy");
    node.write("policy.yaml", &whole.replace("name: scheduler", "name: renamed"));
    let status = node.wait("renamed", |status| status["services"].to_string().contains("renamed"));
    assert!(status["problems"].to_string().contains("names service `scheduler`"), "{status}");
    assert!(!gets_in(PORT));
    let (code, said, _) = mode(&node, &["policy"]);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("the policy's modes: generation"), "{said}");
    let status = node.status().expect("a status");
    assert_eq!((by_hand(&status), &status["mode"]), (false, &"mixed".into()));
    assert!(!node.path("state/mode.json").exists());
}

#[test]
fn during_a_trial_modes_stay_and_without_a_state_directory_they_do_not_outlive_the_daemon() {
    let Some(mut node) = Node::new("modes/trial") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.write("next.yaml", &MANIFEST.replace("policy.yaml", "next-policy.yaml"));
    node.write("next-policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let path = node.path("next.yaml");
    let apply = ["apply", path.to_str().expect("a path"), "--confirm-within", "1h"];
    assert!(node.trainguard(&apply).output().expect("apply").status.success());
    let (code, _, told) = mode(&node, &["observe", "--for", "1h"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("on trial"), "{told}");
    assert!(node.trainguard(&["rollback"]).output().expect("rollback").status.success());

    // Case 111: an override that cannot be saved takes effect all the same, and the failure is reported.
    std::fs::remove_dir_all(node.path("state")).expect("removing");
    std::fs::write(node.path("state"), "in the way").expect("writing");
    let (code, _, told) = mode(&node, &["observe", "--for", "1h"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("will not know of the mode"), "{told}");
    assert!(stranger_gets_in(&node));
    let (code, ..) = mode(&node, &["policy"]);
    assert_eq!(code, Some(0));
    assert!(!stranger_gets_in(&node));
}
