//! `mode` with a real daemon: which ports an override opens and closes, and what ends it.

use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use guard_tests::node::{MANIFEST, MEMBER, Node, POLICY, PORT, UNLISTED, enforcing};
use guard_user::api::control::{Consent, ModeChange, RequestedMode};
use serde_json::Value;

/// Allows overrides shorter than the command line accepts.
const SHORT: [&str; 2] = ["--timing", "shortest=1s,files=50ms"];

fn mode(node: &Node, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        node.trainguard(&[&["mode"], args].concat()).output().expect("running trainguard");
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
    node.client().mode(&change).expect("changing the mode");
}

fn unlisted_gets_in(node: &Node) -> bool {
    let answers = node.answers(UNLISTED[0], PORT);
    assert_eq!(answers, node.answers(UNLISTED[1], PORT), "both families alike");
    assert!(node.answers(MEMBER[0], PORT), "a member always gets in");
    answers
}

fn overridden(status: &Value) -> bool {
    status["mode_override"].is_object()
}

#[test]
fn observe_opens_the_node_until_the_deadline() {
    let Some(mut node) = Node::new("modes/observe") else { return };
    node.start(&SHORT);
    let before = node.wait("enforcing", enforcing);
    assert!(!unlisted_gets_in(&node));
    // It opens the node, so the duration must be given explicitly.
    let (code, _, stderr) = mode(&node, &["observe"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--for") && stderr.contains("--until-changed"), "{stderr}");
    assert!(!unlisted_gets_in(&node));

    let (code, stdout, stderr) = mode(&node, &["observe", "--for", "1h"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("mode override observe: generation 2"), "{stdout}");
    assert!(stderr.contains("mode override: services only observe"), "{stderr}");
    let dropped = node.packets("not_allowed");
    assert!(unlisted_gets_in(&node));
    assert!(node.packets("not_allowed") > dropped, "packets that would be dropped are counted");
    let (status, code) = node.status_and_code().expect("a status");
    assert_eq!(code, Some(1), "a node in observe mode is not enforcing");
    assert!(overridden(&status), "{status}");
    assert_eq!(status["mode"], "observe");
    assert_eq!(status["mode_override"]["mode"], "observe");
    let left = status["mode_override"]["seconds_left"].as_u64().expect("a time");
    assert!((3000..=3600).contains(&left), "{status}");
    assert_ne!(
        status["policy_hash"], before["policy_hash"],
        "the override changes the policy hash"
    );
    assert_eq!(status["files_hash"], before["files_hash"]);
    assert_eq!(status["up_to_date"], true);
    assert!(
        status["problems"].to_string().contains("mode override: services only observe"),
        "{status}"
    );
    let shown = node.trainguard(&["status"]).output().expect("status");
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("all services: observe, overridden since"), "{shown}");

    // A reload within the time keeps the override.
    node.write("policy.yaml", &format!("{POLICY}# touched\n"));
    node.wait("followed", |next| next["files_hash"] != before["files_hash"]);
    assert!(unlisted_gets_in(&node));

    // Again, until the time expires.
    let began = Instant::now();
    observe_for(&node, 2);
    let status = node.wait("back", |status| !overridden(status));
    assert!(began.elapsed() >= Duration::from_secs(2), "the override ended early");
    assert_eq!(
        (&status["policy_hash"], &status["enforcing"]),
        (&before["policy_hash"], &true.into())
    );
    assert!(!unlisted_gets_in(&node));
    assert!(node.log().contains("mode override expired"), "{}", node.log());
    let events = node.trainguard(&["events", "--kind", "policy"]).output().expect("events");
    let events = String::from_utf8_lossy(&events.stdout);
    assert!(events.contains("mode_by_hand") && events.contains("mode_of_policy"), "{events}");
}

#[test]
fn a_mode_override_outlives_the_daemon_and_keeps_its_deadline() {
    let Some(mut node) = Node::new("modes/crash") else { return };
    node.start(&SHORT);
    node.wait("enforcing", enforcing);
    // On a busy machine the time may expire before the next daemon has answered; then try a longer one.
    let survived = [3, 8, 20, 40].into_iter().any(|seconds| {
        observe_for(&node, seconds);
        node.signal("KILL");
        node.start(&SHORT);
        let status = node.status().expect("a status");
        assert_eq!(overridden(&status), status["mode"] == "observe", "{status}");
        status["mode_override"]["seconds_left"].as_u64() >= Some(1)
    });
    assert!(survived, "{}", node.log());
    assert!(unlisted_gets_in(&node));
    node.wait("back", |status| !overridden(status) && enforcing(status));
    assert!(!unlisted_gets_in(&node));

    // The time expires while no daemon runs.
    observe_for(&node, 2);
    node.signal("KILL");
    thread::sleep(Duration::from_millis(2200));
    node.start(&[]);
    assert!(!overridden(&node.wait("enforcing", enforcing)));
    assert!(!unlisted_gets_in(&node));

    // Without a time, the override lasts. A deadline from another boot does not count.
    let (code, ..) = mode(&node, &["observe", "--until-changed"]);
    assert_eq!(code, Some(0));
    node.signal("TERM");
    node.start(&[]);
    let status = node.wait("overridden", overridden);
    assert!(status["mode_override"]["until"].is_null());
    assert!(status["problems"].to_string().contains("until it is changed"), "{status}");
    let (code, ..) = mode(&node, &["observe", "--for", "1h"]);
    assert_eq!(code, Some(0));
    node.signal("TERM");
    let file = node.path("state/mode.json");
    let text = std::fs::read_to_string(&file).expect("the state");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    std::fs::write(&file, text.replace(boot.trim(), "another")).expect("writing");
    node.start(&[]);
    assert!(!overridden(&node.wait("enforcing", enforcing)));
    assert!(!file.exists());

    // A damaged file is not an override.
    node.signal("TERM");
    std::fs::write(&file, "{\"mode\": \"open\"}").expect("writing");
    node.start(&[]);
    assert!(!overridden(&node.wait("enforcing", enforcing)));
    assert!(!unlisted_gets_in(&node));
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
    let gets_in = |port| node.answers(UNLISTED[0], port);
    assert_eq!((gets_in(PORT), gets_in(9200)), (false, true));

    let (code, _, stderr) = mode(&node, &["enforce", "--service", "thrid"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("thrid") && stderr.contains("scheduler, second"), "{stderr}");
    // An unlisted host has a connection that the change would cut: consent is required first.
    let listener = node.at_node(|| std::net::TcpListener::bind("10.77.0.10:9200").expect("a port"));
    let inside = node.at_peer(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&std::net::SocketAddr::new(UNLISTED[0], 0).into()).expect("an address");
        let to: std::net::SocketAddr = "10.77.0.10:9200".parse().expect("an address");
        socket.connect(&to.into()).expect("a connection");
        socket
    });
    let accepted = listener.accept().expect("accepting");
    let (code, _, stderr) = mode(&node, &["enforce", "--service", "second"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("10.77.0.99 (not in the manifest) to tcp/9200 (second)"), "{stderr}");
    assert!(!overridden(&node.status().expect("a status")));
    drop((inside, accepted, listener));
    let arguments = ["enforce", "--service", "second", "--for", "1h", "--cut-connections"];
    let (code, _, stderr) = mode(&node, &arguments);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!((gets_in(PORT), gets_in(9200)), (false, false));
    assert_eq!(node.status().expect("a status")["mode"], "enforce");
    let output = node.trainguard(&["status", "--format", "json"]).output().expect("status");
    assert_eq!(output.status.code(), Some(0), "a node that enforces more services is healthy");

    let (code, ..) = mode(&node, &["observe", "--service", "scheduler", "--until-changed"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        (gets_in(PORT), gets_in(9200)),
        (true, true),
        "the new override replaces the old one"
    );
    // If a service of the override disappears, that is reported; when the service returns, the override
    // applies to it again.
    let whole = std::fs::read_to_string(node.path("policy.yaml")).expect("a policy");
    node.write("policy.yaml", &whole.replace("name: scheduler", "name: renamed"));
    let status = node.wait("renamed", |status| status["services"].to_string().contains("renamed"));
    assert!(status["problems"].to_string().contains("names service `scheduler`"), "{status}");
    assert!(!gets_in(PORT));
    let (code, stdout, _) = mode(&node, &["policy"]);
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("the policy's modes: generation"), "{stdout}");
    let status = node.status().expect("a status");
    assert_eq!((overridden(&status), &status["mode"]), (false, &"mixed".into()));
    assert!(!node.path("state/mode.json").exists());
}

#[test]
fn overrides_are_refused_during_a_trial_and_work_without_a_state_directory() {
    let Some(mut node) = Node::new("modes/trial") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.write("next.yaml", &MANIFEST.replace("policy.yaml", "next-policy.yaml"));
    node.write("next-policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let path = node.path("next.yaml");
    let apply = ["apply", path.to_str().expect("a path"), "--confirm-within", "1h"];
    assert!(node.trainguard(&apply).output().expect("apply").status.success());
    let (code, _, stderr) = mode(&node, &["observe", "--for", "1h"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("on trial"), "{stderr}");
    assert!(node.trainguard(&["rollback"]).output().expect("rollback").status.success());

    // Case 111: an override that cannot be saved takes effect all the same, and the failure is reported.
    std::fs::remove_dir_all(node.path("state")).expect("removing");
    std::fs::write(node.path("state"), "in the way").expect("writing");
    let (code, _, stderr) = mode(&node, &["observe", "--for", "1h"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("will not know the new mode"), "{stderr}");
    assert!(unlisted_gets_in(&node));
    let (code, ..) = mode(&node, &["policy"]);
    assert_eq!(code, Some(0));
    assert!(!unlisted_gets_in(&node));
}
