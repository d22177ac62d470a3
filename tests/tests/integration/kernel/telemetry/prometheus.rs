//! The shipped files for Prometheus and Grafana, with a real Prometheus that scrapes a real daemon.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use guard_tests::{
    node::{MEMBER, Node, POLICY, PORT, UNLISTED, WAIT_TIMEOUT, enforcing},
    prometheus::{METRICS, Prometheus, packaging, program, promtool},
};
use serde_json::Value;

use crate::host::dashboards::{dashboard, panels};

/// A port that does not admit members.
const PRIVATE: u16 = 9092;

/// A service that refuses members.
const PRIVATE_SERVICE: &str = "  - name: private
    roles: [scheduler]
    ports: [tcp/9092]
    match: all
    allow:
      roles: [scheduler]
    mode: enforce
";

fn scrape(node: &Node, accept: &str) -> String {
    let mut stream = UnixStream::connect(node.path("run/stats.sock")).expect("a socket");
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\n\r\n")
        .expect("sending the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Returns the names of our metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_of_name(c));
    words.filter(|word| word.starts_with("trainguard_")).map(str::to_owned).collect()
}

/// Starts a node with a service that refuses members, and the metrics endpoint.
fn started(test: &str) -> Option<Node> {
    let mut node = Node::new(test)?;
    node.write("policy.yaml", &format!("{POLICY}{PRIVATE_SERVICE}"));
    node.start(&["--metrics-listen", METRICS]);
    node.wait("enforcing", enforcing);
    Some(node)
}

/// Causes refused frames while the first service only observes.
fn refuse_some_observed(node: &Node) {
    assert!(node.answers(UNLISTED[0], PORT), "observe mode drops nothing");
    assert!(!node.answers(MEMBER[0], PRIVATE), "a member gets in where it may not");
}

fn refuse_some(node: &Node) {
    assert!(!node.answers(UNLISTED[0], PORT), "an unlisted source gets in");
    assert!(!node.answers(MEMBER[0], PRIVATE), "a member gets in where it may not");
    assert!(node.answers(MEMBER[0], PORT), "a member does not get in");
}

/// Waits until Prometheus has a value of the statistics.
fn wait_for(prometheus: &Prometheus, expression: &str, value: f64) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let samples = prometheus.query(expression);
        if samples.len() == 1 && (samples[0].1 - value).abs() < 0.5 {
            return;
        }
        assert!(Instant::now() < deadline, "{expression} is {samples:?} and not {value}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Asserts that Prometheus has the values of the statistics.
fn compare(prometheus: &Prometheus, node: &Node) {
    let stats = node.stats();
    let services = stats["services"].as_array().expect("services");
    for service in services {
        let name = service["name"].as_str().expect("a name");
        for (verdict, field) in [("pass", "passed"), ("drop", "dropped")] {
            let value = service[field].as_f64().expect("a count");
            let labels = format!("service=\"{name}\", verdict=\"{verdict}\"");
            wait_for(prometheus, &format!("trainguard_packets_total{{{labels}}}"), value);
        }
    }
    // All of few frames are sampled, so the estimate is exact.
    let dropped = services.iter().find(|service| service["name"] == "private");
    let dropped = dropped.and_then(|service| service["dropped"].as_f64()).expect("a count");
    assert!(dropped > 0.0);
    for (service, value) in [("private", dropped), ("scheduler", 0.0), ("", 0.0)] {
        let labels = format!("service=\"{service}\"");
        let expression = format!("trainguard_member_drops_estimated_total{{{labels}}}");
        wait_for(prometheus, &expression, value);
    }
}

#[test]
fn prometheus_has_the_values_of_the_statistics_also_after_a_crash() {
    let test = "prometheus/values";
    let Some(binary) = program(test, "prometheus") else { return };
    let Some(mut node) = started(test) else { return };
    refuse_some(&node);
    let prometheus = Prometheus::start(&node, &binary);
    compare(&prometheus, &node);
    // Scraped as OpenMetrics, where the name of a family has no `_total`.
    let metadata = [("metric", "trainguard_packets")];
    let metadata = prometheus.get("/api/v1/targets/metadata", &metadata);
    assert_eq!(metadata[0]["type"], "counter", "{metadata}");

    // Another generation, then another daemon, while frames are refused.
    node.write("policy.yaml", &format!("{POLICY}{PRIVATE_SERVICE}    description: other\n"));
    node.wait("refused", |status| status["up_to_date"] == false);
    prometheus.wait("ALERTS{alertname=\"TrainguardPolicyReloadFailed\"}");
    let observe = POLICY.replace("mode: enforce", "mode: observe");
    node.write("policy.yaml", &format!("{observe}{PRIVATE_SERVICE}"));
    node.wait("the second generation", |status| status["generation"] == 2);
    node.signal("KILL");
    refuse_some_observed(&node);
    prometheus.wait("up{job=\"trainguard\"} == 0");
    node.start(&["--metrics-listen", METRICS]);
    node.wait("enforcing", enforcing);
    prometheus.wait("up{job=\"trainguard\"} == 1");
    compare(&prometheus, &node);
    prometheus.wait("changes(trainguard_daemon_start_time_seconds[10m]) == 1");
    let known = prometheus.get("/api/v1/label/__name__/values", &[]);
    let mut counters = 0;
    for name in known.as_array().expect("names").iter().filter_map(Value::as_str) {
        if name.starts_with("trainguard_") && name.ends_with("_total") {
            let resets = prometheus.query(&format!("resets({name}[10m])"));
            counters += resets.len();
            assert!(resets.iter().all(|(_, resets)| *resets == 0.0), "{name} fell: {resets:?}");
        }
    }
    assert!(counters > 50, "{counters} counters");
    for result in ["success", "failure"] {
        let expression = format!("trainguard_policy_loads_total{{result=\"{result}\"}} > 0");
        assert_eq!(prometheus.query(&expression).len(), 1, "{expression}");
    }
}

/// Values of the dashboard's variables, as Grafana inserts them: a chosen value, all values, and several
/// values.
const VARIABLES: [[(&str, &str); 5]; 2] = [
    [
        ("$__rate_interval", "10s"),
        ("$job", "trainguard"),
        ("$node", ".*"),
        ("$interface", ".*"),
        ("$service", ".*"),
    ],
    [
        ("$__rate_interval", "10s"),
        ("$job", "trainguard"),
        ("$node", "(127\\\\.0\\\\.0\\\\.1:9477|elsewhere:1)"),
        ("$interface", "eth0"),
        ("$service", "(|private|scheduler)"),
    ],
];

fn with_variables(text: &str, variables: &[(&str, &str)]) -> String {
    let put_in = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
    let text = variables.iter().fold(text.to_owned(), put_in);
    assert!(!text.contains('$'), "an unknown variable in {text}");
    text
}

/// Returns the names of labels in a legend: `{{verdict}}`.
fn legend_labels(legend: &str) -> Vec<&str> {
    legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0)).collect()
}

#[test]
fn every_query_of_the_dashboard_and_the_alerts_returns_values() {
    let test = "prometheus/queries";
    let Some(binary) = program(test, "prometheus") else { return };
    let Some(node) = started(test) else { return };
    let prometheus = Prometheus::start(&node, &binary);
    refuse_some(&node);
    wait_for(
        &prometheus,
        "count(rate(trainguard_packets_total{verdict=\"pass\", service=\"scheduler\"}[10s]))",
        1.0,
    );
    prometheus.wait("rate(trainguard_member_drops_estimated_total{service=\"private\"}[10s]) > 0");

    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            for variables in VARIABLES {
                let expression = with_variables(expression, &variables);
                let samples = prometheus.query(&expression);
                assert!(!samples.is_empty(), "{}: nothing for {expression}", panel["title"]);
                for label in legend_labels(target["legendFormat"].as_str().unwrap_or_default()) {
                    let known = samples.iter().any(|(labels, _)| labels.get(label).is_some());
                    assert!(known, "{}: no label {label} by {expression}", panel["title"]);
                }
            }
        }
    }
    // The queries for the values of variables.
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let (series, label) = query
            .strip_prefix("label_values(")
            .and_then(|query| query.strip_suffix(')'))
            .and_then(|query| query.rsplit_once(", "))
            .expect("values of a label");
        let series = with_variables(series, &VARIABLES[1]);
        let path = format!("/api/v1/label/{label}/values");
        let values = prometheus.get(&path, &[("match[]", &series)]);
        assert!(values.as_array().is_some_and(|values| !values.is_empty()), "{query}: {values}");
    }

    // No alert needs to fire, but each rule must evaluate without an error.
    let groups = prometheus.get("/api/v1/rules", &[]);
    let rules: Vec<&Value> = groups["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules"))
        .collect();
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while prometheus.get("/api/v1/rules", &[]).to_string().contains("\"health\":\"unknown\"") {
        assert!(Instant::now() < deadline, "some rules are never evaluated");
        thread::sleep(Duration::from_millis(100));
    }
    for rule in
        prometheus.get("/api/v1/rules", &[])["groups"][0]["rules"].as_array().expect("rules")
    {
        assert_eq!(rule["health"], "ok", "{rule}");
        prometheus.query(rule["query"].as_str().expect("an expression"));
    }
    assert!(rules.len() > 10, "{groups}");

    // Every name is that of an existing metric.
    let known = prometheus.get("/api/v1/label/__name__/values", &[]);
    let known: BTreeSet<&str> =
        known.as_array().expect("names").iter().filter_map(Value::as_str).collect();
    for file in ["dashboard.json", "alerts.yaml", "alerts.test.yaml"] {
        let used = names(&fs::read_to_string(packaging().join(file)).expect("a file"));
        assert!(used.len() > 5, "{file}: {used:?}");
        for name in used {
            assert!(known.contains(name.as_str()), "{file}: there is no metric {name}");
        }
    }
}

#[test]
fn promtool_accepts_rules_and_metrics() {
    let name = "prometheus/promtool";
    let Some(tool) = program(name, "promtool") else { return };
    promtool(&tool, &["check", "rules", "alerts.yaml"], "");
    promtool(&tool, &["test", "rules", "alerts.test.yaml"], "");
    let Some(node) = started(name) else { return };
    let answer = scrape(&node, "*/*");
    let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    promtool(&tool, &["check", "metrics"], text);

    let open = scrape(&node, "application/openmetrics-text; version=1.0.0");
    let (head, open) = open.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.ends_with("\n# EOF\n") && open.matches("# EOF").count() == 1);
    assert!(open.contains("\n# TYPE trainguard_dropped_packets counter\n"), "{open}");
    // Both formats contain the same series.
    let series = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    assert_eq!(series(text), series(open));
}
