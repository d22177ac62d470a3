//! The metrics of a daemon on a real interface: exact, present from the start, and never decreasing.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Instant,
};

use guard_common::{
    layout::counters::MAX_INTERFACES,
    verdict::{MAX_SERVICES, Reason},
};
use guard_tests::node::{
    MANIFEST, MEMBER, Node, POLICY, PORT, WAIT_TIMEOUT, enforcing, many_services,
};

/// Values by series, as `name{label="value"}`.
type Series = BTreeMap<String, f64>;

fn get(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn scrape(node: &Node) -> Series {
    let stream = UnixStream::connect(node.path("run/stats.sock")).expect("a socket");
    let answer = get(stream, "/metrics").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    parse(body)
}

/// Parses the text format strictly: each family has its help and type before it, and each series occurs
/// once.
fn parse(text: &str) -> Series {
    let mut series = Series::new();
    let mut family = (String::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help");
            assert!(text.ends_with('.'), "{line}");
            family = (name.to_owned(), String::new());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, family.0, "help and type of a family are adjacent");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            kind.clone_into(&mut family.1);
        } else {
            let (key, value) = line.rsplit_once(' ').expect("a value");
            let name = key.split('{').next().expect("a name");
            assert_eq!(name, family.0, "a series outside its family: {line}");
            assert!(!family.1.is_empty(), "a family without type: {line}");
            let value = value.parse().expect("a number");
            assert!(series.insert(key.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    series
}

fn dropped(reason: &str, service: &str) -> String {
    let labels = format!("interface=\"eth0\",service=\"{service}\",reason=\"{reason}\"");
    format!("trainguard_dropped_packets_total{{{labels}}}")
}

/// Returns the counters that decreased or disappeared.
fn fallen(before: &Series, after: &Series) -> Vec<String> {
    let counters = before.iter().filter(|(key, _)| key.contains("_total"));
    let less = |(key, value): &(&String, &f64)| after.get(*key).is_none_or(|now| now < value);
    counters.filter(less).map(|(key, _)| key.clone()).collect()
}

#[test]
fn metrics_are_exact_and_never_fall() {
    let Some(mut node) = Node::new("metrics/exact") else { return };
    node.start(&["--metrics-listen", "127.0.0.1:9477"]);
    node.wait("enforcing", enforcing);

    // All series exist before anything happens.
    let first = scrape(&node);
    for (key, value) in [
        (dropped("not_allowed", "scheduler"), 0.0),
        (dropped("limit_total_bytes", "scheduler"), 0.0),
        (dropped("malformed_ip", ""), 0.0),
        ("trainguard_enforcing{interface=\"eth0\"}".to_owned(), 1.0),
        ("trainguard_policy_up_to_date".to_owned(), 1.0),
        ("trainguard_policy_loads_total{result=\"failure\"}".to_owned(), 0.0),
        ("trainguard_events_lost_total".to_owned(), 0.0),
        ("trainguard_generation".to_owned(), 1.0),
        (
            "trainguard_interface_info{interface=\"eth0\",state=\"guarded\",mode=\"native\"}"
                .to_owned(),
            1.0,
        ),
    ] {
        assert_eq!(first.get(&key), Some(&value), "{key}: {first:#?}");
    }
    // The daemon may load files twice that were written just before it started.
    let loads = |series: &Series, result: &str| {
        series.get(&format!("trainguard_policy_loads_total{{result=\"{result}\"}}")).copied()
    };
    assert!(loads(&first, "success") >= Some(1.0));
    let has = |prefix: &str| first.keys().any(|key| key.starts_with(prefix));
    assert!(has("trainguard_policy_info{name=\"") && has("trainguard_build_info{version=\""));
    assert!(
        !first.keys().any(|key| key.contains("reason=\"allowed\"")),
        "`allowed` is not a reason for a drop"
    );

    // The metrics agree with the statistics.
    node.assert_guarded();
    let after = scrape(&node);
    let stats = node.stats();
    let refused = stats["reasons"]["not_allowed"]["dropped"].as_u64().expect("a number");
    assert!(refused > 0);
    #[expect(clippy::cast_precision_loss, reason = "few frames")]
    let refused = refused as f64;
    assert_eq!(after.get(&dropped("not_allowed", "scheduler")), Some(&refused));
    let verdict = |verdict: &str| {
        let labels = format!("interface=\"eth0\",service=\"scheduler\",verdict=\"{verdict}\"");
        after.get(&format!("trainguard_packets_total{{{labels}}}")).copied().expect("a series")
    };
    assert!((verdict("drop") - refused).abs() < 0.5, "nothing else was dropped there");
    assert!(verdict("pass") > 0.0);
    assert_eq!(fallen(&first, &after), [""; 0]);

    // No label contains an address.
    let addresses = ["10.77.", "fd77:", "source="];
    assert!(!after.keys().any(|key| addresses.iter().any(|address| key.contains(address))));

    // An invalid file is counted, and does not change the policy in force.
    node.write("policy.yaml", "nonsense\n");
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let mut wrong = scrape(&node);
    while wrong.get("trainguard_policy_up_to_date") != Some(&0.0) && Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
        wrong = scrape(&node);
    }
    assert_eq!(wrong.get("trainguard_policy_up_to_date"), Some(&0.0));
    assert!(loads(&wrong, "failure") >= Some(1.0));
    assert_eq!(wrong.get("trainguard_enforcing{interface=\"eth0\"}"), Some(&1.0));
    node.write("policy.yaml", POLICY);
    node.wait("up to date", |status| status["up_to_date"] == true);

    // Across a crash and a restart.
    let before = scrape(&node);
    node.signal("KILL");
    node.assert_guarded();
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let next = scrape(&node);
    assert_eq!(fallen(&before, &next), [""; 0]);
    let more = next.get(&dropped("not_allowed", "scheduler")).expect("a series");
    assert!(*more > refused, "packets refused while no daemon runs are counted, too");
}

#[test]
fn each_socket_serves_its_own_paths_only() {
    let Some(mut node) = Node::new("metrics/sockets") else { return };
    node.ip(&["link", "set", "lo", "up"]);
    // A TCP socket has no file mode, so only loopback addresses are accepted.
    for address in ["0.0.0.0:9477", "[::]:9477", "10.77.0.10:9477"] {
        let output = node.start_expecting_exit(&["--metrics-listen", address]);
        assert_eq!(output.status.code(), Some(2), "{address}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains("loopback"), "{stderr}");
    }
    node.start(&["--metrics-listen", "127.0.0.1:9477"]);
    node.wait("enforcing", enforcing);
    let over_tcp = |path: &'static str| {
        node.at_node(move || {
            let stream =
                TcpStream::connect("127.0.0.1:9477").expect("connecting to the metrics port");
            get(stream, path).expect("an answer")
        })
    };
    assert!(over_tcp("/metrics").starts_with("HTTP/1.1 200"));
    for path in ["/v1/stats", "/v1/status", "/v1/detach", "/"] {
        assert!(over_tcp(path).starts_with("HTTP/1.1 404"), "{path}");
    }
    let control = UnixStream::connect(node.path("run/control.sock")).expect("a socket");
    assert!(get(control, "/metrics").expect("an answer").starts_with("HTTP/1.1 404"));
}

#[test]
fn series_are_bounded_and_a_reused_slot_starts_at_zero() {
    let Some(mut node) = Node::new("metrics/bounds") else { return };
    let interfaces = MAX_INTERFACES as usize;
    node.fill_tables();
    node.write("policy.yaml", &many_services("a"));
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert!(!node.answers(MEMBER[0], PORT));
    let first = scrape(&node);
    let drops = |series: &Series, name: &str, service: &str| -> Option<f64> {
        let label = format!("service=\"{service}\"");
        let of_service = series.iter().filter(|(key, _)| {
            key.starts_with(&format!("trainguard_{name}_total{{")) && key.contains(&label)
        });
        of_service.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    };
    for name in ["member_drops_estimated", "dropped_packets"] {
        assert!(drops(&first, name, "a-0") > Some(0.0), "{name}");
        assert_eq!(drops(&first, name, "a-1"), Some(0.0), "{name}");
    }

    let services = usize::from(MAX_SERVICES);
    let refusals = |of: fn(Reason) -> bool| {
        Reason::ALL.into_iter().filter(|reason| reason.is_refusal() && of(*reason)).count()
    };
    let by_verdict = 2 * 3 * (1 + services);
    let by_reason = 2 * (refusals(Reason::is_of_node) + services * refusals(Reason::is_of_service));
    let bound = interfaces * (by_verdict + by_reason + 3) + 1 + services + 60;
    assert!(first.len() <= bound, "{} series, bound {bound}", first.len());
    assert!(
        first.len() > bound - 60,
        "{} series are too few to test the bound {bound}",
        first.len()
    );

    // Every slot is given to another service, which does not inherit the counts.
    node.write("policy.yaml", &many_services("b"));
    node.wait("the second generation", |status| status["generation"] == 2);
    let second = scrape(&node);
    assert_eq!(second.len(), first.len());
    for name in ["member_drops_estimated", "dropped_packets"] {
        assert_eq!(drops(&second, name, "a-0"), None, "{name}");
        assert_eq!(drops(&second, name, "b-0"), Some(0.0), "{name}");
    }
}

/// A trial and an override of the mode report their deadlines, and no series occurs twice, which
/// [`parse`] checks.
#[test]
fn trials_and_overrides_report_their_deadlines() {
    const TRIAL: &str = "trainguard_policy_trial_deadline_timestamp_seconds";
    const OVERRIDE: &str = "trainguard_mode_override_deadline_timestamp_seconds";
    let Some(mut node) = Node::new("metrics/deadlines") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let run = |args: &[&str]| {
        let output = node.trainguard(args).output().expect("running trainguard");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
    };
    let left = |name: &str| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs_f64();
        let deadline = scrape(&node)[name];
        (deadline > 0.0).then_some(deadline - now)
    };
    let in_an_hour = |left: Option<f64>| left.is_some_and(|left| (3500.0..=3601.0).contains(&left));
    assert_eq!((left(TRIAL), left(OVERRIDE)), (None, None));
    run(&["mode", "observe", "--for", "1h"]);
    assert!(in_an_hour(left(OVERRIDE)) && left(TRIAL).is_none(), "{:?}", left(OVERRIDE));
    run(&["mode", "observe", "--until-changed"]);
    assert_eq!(left(OVERRIDE), None);
    assert_eq!(scrape(&node).get("trainguard_mode_override{mode=\"observe\"}"), Some(&1.0));
    run(&["mode", "policy"]);
    node.write("next.yaml", &MANIFEST.replace("policy.yaml", "next-policy.yaml"));
    node.write("next-policy.yaml", &POLICY.replace("udp/9091", "udp/9092"));
    let next = node.path("next.yaml");
    run(&["apply", next.to_str().expect("a path"), "--confirm-within", "1h"]);
    assert!(in_an_hour(left(TRIAL)) && left(OVERRIDE).is_none(), "{:?}", left(TRIAL));
    run(&["rollback"]);
    assert_eq!((left(TRIAL), left(OVERRIDE)), (None, None));
}
