//! The JSON Schemas of `trainguard schema` are valid schemas and agree with the parser about the shape
//! of documents. `corpus.rs` checks the same for all of its texts.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use jsonschema::Validator;
use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value};

use super::shape::{assert_parser_and_schema_agree, validator};
use crate::binary;
use guard_user::policy;
use guard_user::{
    cli::SchemaDocument,
    commands::generate::schema,
    policy::{
        Bundle,
        resolve::load::Loader,
        syntax::{json, rules},
    },
};

const DOCUMENTS: [SchemaDocument; 3] =
    [SchemaDocument::Cluster, SchemaDocument::Policy, SchemaDocument::Test];

static CLUSTER: LazyLock<Validator> = LazyLock::new(|| validator(SchemaDocument::Cluster));
static POLICY: LazyLock<Validator> = LazyLock::new(|| validator(SchemaDocument::Policy));

fn document(document: SchemaDocument) -> Value {
    serde_json::from_str(schema::text(document)).expect("JSON")
}

#[test]
fn each_schema_is_one_of_draft_07() {
    for kind in DOCUMENTS {
        let schema = document(kind);
        assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
        if let Err(error) = jsonschema::meta::validate(&schema) {
            panic!("{kind:?}: {error}");
        }
    }
    assert!(!jsonschema::meta::is_valid(&serde_json::json!(
        { "$schema": "http://json-schema.org/draft-07/schema#", "type": "text" }
    )));
}

/// Calls `visit` for each schema nested in a schema, with its path.
fn each_schema(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Map<String, Value>)) {
    let Value::Object(object) = schema else {
        return;
    };
    visit(path, object);
    for (keyword, value) in object {
        let path = format!("{path}/{keyword}");
        match (keyword.as_str(), value) {
            ("properties" | "definitions", Value::Object(named)) => {
                for (name, schema) in named {
                    each_schema(schema, &format!("{path}/{name}"), visit);
                }
            }
            ("anyOf" | "allOf" | "oneOf", Value::Array(schemas)) => {
                for (number, schema) in schemas.iter().enumerate() {
                    each_schema(schema, &format!("{path}/{number}"), visit);
                }
            }
            ("items" | "then" | "else" | "additionalProperties" | "propertyNames", schema) => {
                each_schema(schema, &path, visit);
            }
            _ => {}
        }
    }
}

#[test]
fn every_field_has_a_description_and_every_example_is_valid() {
    for kind in DOCUMENTS {
        let root = document(kind);
        let mut fields = 0;
        each_schema(&root, "", &mut |path, schema| {
            let reference = schema.get("$ref").and_then(Value::as_str);
            let target = reference.and_then(|name| root.pointer(name.strip_prefix('#')?));
            let explained = target.and_then(Value::as_object).unwrap_or(schema);
            if path.rsplit('/').nth(1) == Some("properties") {
                fields += 1;
                for keyword in ["title", "description"] {
                    assert!(explained.contains_key(keyword), "{kind:?} {path} has no {keyword}");
                }
            }
            // An alternative only adds to the schema that contains it, so it need not forbid other
            // properties.
            if schema.contains_key("properties") && !path.contains("/oneOf/") {
                assert_eq!(schema["additionalProperties"], false, "{kind:?} {path}");
            }
            let examples = schema.get("examples").and_then(Value::as_array);
            for example in examples.into_iter().flatten() {
                // A part of the schema, with the definitions that it refers to.
                let mut alone = schema.clone();
                alone.insert("definitions".to_owned(), root["definitions"].clone());
                let alone = jsonschema::draft7::new(&Value::Object(alone)).expect("a schema");
                assert!(alone.is_valid(example), "{kind:?} {path}: {example}");
            }
        });
        assert!(fields > 10, "{kind:?}");
        assert!(root["examples"][0].is_object(), "{kind:?}");
    }
}

/// Definitions that several documents use are repeated in each schema, because editors load only one.
#[test]
fn shared_definitions_are_equal() {
    let all = DOCUMENTS.map(document);
    let mut shared = 0;
    for schema in &all {
        for (name, definition) in schema["definitions"].as_object().expect("an object") {
            for other in &all {
                if let Some(same) = other["definitions"].get(name) {
                    shared += 1;
                    assert_eq!(same, definition, "{name}");
                }
            }
        }
    }
    assert!(shared > 30);
}

#[test]
fn the_subcommand_prints_the_schemas() {
    for (name, kind) in ["cluster", "policy", "test"].into_iter().zip(DOCUMENTS) {
        let output = binary::command(&["schema", name]).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(0));
        let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(printed, document(kind));
        let id = printed["$id"].as_str().expect("a text");
        assert!(id.ends_with(&format!("/{name}.schema.json")), "{id}");
    }
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(directory);
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    entries
        .map(|entry| entry.path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect()
}

#[test]
fn documents_of_the_repository_are_valid() {
    let (mut count, mut tests) = (0, 0);
    for path in [yaml_files("policies"), yaml_files("tests/worlds")].concat() {
        let text = fs::read_to_string(&path).expect("a file");
        let value = json::value(&text).expect("a document in the dialect");
        let (kind, validator) = match value.get("kind").and_then(Value::as_str) {
            Some("Cluster") => (SchemaDocument::Cluster, &*CLUSTER),
            Some("Policy") => (SchemaDocument::Policy, &*POLICY),
            Some("Test") => {
                assert!(validator(SchemaDocument::Test).is_valid(&value), "{}", path.display());
                tests += 1;
                continue;
            }
            _ => continue,
        };
        assert!(assert_parser_and_schema_agree(kind, validator, &text));
        assert!(validator.is_valid(&value), "{}", path.display());
        count += 1;
    }
    assert!(count >= 28 && tests >= 14, "{count} {tests}");
}

/// Reports whether the parser accepts the shape of a test file. A missing file is not an error of shape.
fn parser_accepts(text: &str) -> bool {
    let bundle = Bundle::new("t.test.yaml", [("t.test.yaml", text)]);
    let mut loader = Loader::new(&bundle);
    let _ = loader.test("t.test.yaml".as_ref());
    let (report, ..) = loader.finish("t.test.yaml".as_ref());
    report.diagnostics.iter().all(|found| found.code == rules::MISSING_FILE)
}

const GOOD_TEST: &str = "\
apiVersion: trainguard/v1
kind: Test
nodes:
  - { name: sched-0, addresses: [10.77.0.10, \"fd77::10\"], roles: [scheduler] }
  - { name: worker-0, addresses: [10.77.0.30, \"fd77::30\"], roles: [worker] }
networks:
  management: [10.9.0.0/24]
policies: [mxnet.yaml]
tests:
  - name: a worker registers at the scheduler
    node: sched-0
    packet: { from: worker-0, to: tcp/9091 }
    expect: { verdict: pass, reason: allowed, service: mxnet/scheduler }
  - name: an unlisted source is dropped, in an open connection too
    node: sched-0
    packet: { from: 192.0.2.7, to: tcp/9091, flags: A }
    expect: { verdict: drop, reason: not_allowed, service: scheduler }
  - name: more packets than the limit
    node: sched-0
    packet: { from: \"2001:db8::7\", to: udp/9091, after: 1000, times: 1000 }
    expect: { verdict: would-drop, reason: limit_packets, service: scheduler }
  - name: a job
    node: sched-0
    capture: job.pcap
    expect:
      summary:
        - { verdict: pass, reason: unguarded, frames: 7 }
        - { verdict: pass, reason: allowed, service: scheduler, frames: 120 }
";

#[test]
fn tests_of_policies() {
    let good = GOOD_TEST;
    let validator = validator(SchemaDocument::Test);
    let is_accepted = |text: &str| {
        let accepted = validator.is_valid(&json::value(text).expect("a document in the dialect"));
        assert_eq!(accepted, parser_accepts(text), "schema and parser differ:\n{text}");
        accepted
    };
    assert!(is_accepted(good));
    let (start, rest) = good.split_once("nodes:").expect("nodes");
    let (_, tests) = rest.split_once("policies: [mxnet.yaml]").expect("policies");
    assert!(is_accepted(&format!("{start}manifest: cluster.yaml{tests}")));
    assert!(!is_accepted(&format!("{start}manifest: cluster.yaml\npolicies: [mxnet.yaml]{tests}")));
    assert!(
        !is_accepted(&format!("{start}policies: [mxnet.yaml]{tests}")),
        "neither manifest nor nodes"
    );
    for (from, to) in [
        ("networks:", "manifest: cluster.yaml\nnetworks:"),
        ("kind: Test", "kind: Tests"),
        ("policies: [mxnet.yaml]", "policies: []"),
        ("policies: [mxnet.yaml]\n", ""),
        ("flags: A", "flags: X"),
        ("times: 1000", "times: 0"),
        ("times: 1000", "times: 1000001"),
        ("times: 1000", "times: 1k"),
        ("times: 1000", "times: \"1000\""),
        ("after: 1000", "after: -1"),
        ("to: udp/9091", "to: udp/0"),
        ("to: udp/9091", "to: udp/any"),
        ("to: udp/9091", "to: icmp/1"),
        ("verdict: pass", "verdict: allow"),
        ("reason: allowed", "reason: because"),
        ("reason: allowed, ", ""),
        ("verdict: drop, ", ""),
        ("mxnet/scheduler", "mxnet/"),
        ("node: sched-0", "node: sched-0\n    forwarded: guard"),
        ("node: sched-0", "node: sched-0\n    forwarded: 1"),
        ("node: sched-0", "node: sched-0\n    forwarded: \"true\""),
        ("from: worker-0", "from: \"worker 0\""),
        ("from: worker-0", "from: \"fd00::1/64\""),
        ("node: sched-0", "nod: sched-0"),
        ("    capture: job.pcap\n", ""),
        ("    capture: job.pcap\n", "    packet: { from: worker-0, to: tcp/1 }\n"),
        ("    capture: job.pcap\n", "    capture: \"\"\n"),
        (
            "    node: sched-0\n    capture",
            "    node: sched-0\n    packet: { from: worker-0, to: tcp/1 }\n    capture",
        ),
        (", frames: 7", ""),
        ("frames: 7", "frames: 7k"),
        ("frames: 7", "frames: seven"),
    ] {
        assert!(good.contains(from), "{from}");
        assert!(!is_accepted(&good.replacen(from, to, 1)), "{from} -> {to}");
    }
    for (from, to) in [
        ("times: 1000", "times: 1"),
        ("after: 1000, ", ""),
        ("flags: A", "flags: sa"),
        ("flags: A", "flags: \"\""),
        (", service: mxnet/scheduler", ""),
        ("frames: 7", "frames: 0"),
        ("node: sched-0", "node: sched-0\n    forwarded: true"),
        ("capture: job.pcap", "forwarded: true\n    capture: job.pcap"),
        ("node: sched-0", "node: sched-0\n    forwarded: false"),
        ("networks:\n  management: [10.9.0.0/24]\n", ""),
    ] {
        assert!(is_accepted(&good.replacen(from, to, 1)), "{from} -> {to}");
    }
    let reasons = document(SchemaDocument::Test);
    let reasons = reasons.pointer("/definitions/reason/enum");
    let reasons = reasons.and_then(Value::as_array).expect("a list");
    let known = guard_common::verdict::Reason::ALL.map(|reason| Value::from(reason.name()));
    assert_eq!(reasons, &known.to_vec());
}

const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: demo
interfaces: [eth0, \"rail*\"]
nodes:
  - name: sched
    addresses: [10.0.0.1, \"fd00::1\"]
    roles: [scheduler]
    interfaces: [eth1]
  - name: worker-[0-3]
    addresses: [\"10.0.1.[0-3]\", \"fd00::1:[0-3]\"]
    roles: [worker]
networks:
  office: [10.9.0.0/24, \"fd09::/64\"]
  partners: { file: partners.txt }
policies: [p.yaml]
";

const GOOD_POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: p
description: an example
services:
  - name: s
    roles: [scheduler]
    ports: [tcp/9091, udp/5000-5099]
    except: [udp/5001]
    match: all
    allow: { roles: [scheduler], networks: [office], cidrs: [10.9.0.0/24, \"fd09::/64\"] }
    mode: enforce
    limits:
      perSource:
        newConnections: { rate: 200/s, burst: 1000 }
        packets: { rate: 2k/s, burst: 4k }
        bytes: { rate: 500MB/s, burst: 64MB }
      total:
        newConnections: { rate: 2000/s, burst: 4000 }
  - name: t
    roles: [worker]
    ports: [tcp/any]
    match: new-connections
    allow: { any: true }
    mode: observe
    forwarded: guard
";

/// Values that replace others.
const SCALARS: [&str; 33] = [
    "x",
    "",
    "a b",
    "10",
    "true",
    "yes",
    "null",
    "tcp/1",
    "tcp/0",
    "tcp/any",
    "udp/2-1",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "10.0.0.1",
    "010.0.0.1",
    "::/0",
    "fd00::/8",
    "fd00::1",
    "::ffff:1.2.3.4",
    "w[0-1]",
    "[",
    "200/s",
    "0/s",
    "2G/s",
    "1k",
    "64MB",
    "Cluster",
    "all",
    "enforce",
    "guard",
    "rail*",
    "***",
    "trainguard/v1",
];

#[derive(Debug, Clone)]
enum Mutation {
    Drop,
    Rename(String),
    Replace(Value),
    /// Wraps the value in a list.
    Wrap,
    /// Puts the value into itself: under its first key, or as its first item.
    Nest,
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let scalar = proptest::sample::select(&SCALARS[..]);
    let number = prop_oneof![Just(0.into()), Just(5.into()), Just((-1).into()), Just(1.5.into())];
    prop_oneof![
        Just(Mutation::Drop),
        prop_oneof!["[a-z]{1,6}", "name", "any", "file", "[é ]"].prop_map(Mutation::Rename),
        prop_oneof![
            Just(Value::Null),
            Just(Value::Array(Vec::new())),
            Just(Value::Object(Map::new())),
            any::<bool>().prop_map(Value::Bool),
            number.prop_map(|number: Value| number),
            scalar.prop_map(Value::from),
        ]
        .prop_map(Mutation::Replace),
        Just(Mutation::Wrap),
        Just(Mutation::Nest),
    ]
}

/// Returns the number of values in a tree.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum::<usize>(),
        Value::Object(entries) => entries.values().map(size).sum(),
        _ => 0,
    }
}

/// Changes value number `number`, counted in the order of [`size`]; the root is 0.
fn mutate(value: &mut Value, number: &mut usize, mutation: &Mutation) -> bool {
    if *number == 0 {
        apply(value, mutation);
        return true;
    }
    *number -= 1;
    match value {
        Value::Array(items) => {
            for at in 0..items.len() {
                if *number == 0 && matches!(mutation, Mutation::Drop) {
                    items.remove(at);
                    return true;
                }
                if mutate(&mut items[at], number, mutation) {
                    return true;
                }
            }
        }
        Value::Object(entries) => {
            let keys: Vec<String> = entries.keys().cloned().collect();
            for key in keys {
                let renamed = match mutation {
                    Mutation::Drop => Some(None),
                    Mutation::Rename(to) => Some(Some(to)),
                    _ => None,
                };
                if let (0, Some(renamed)) = (*number, renamed) {
                    let old = entries.remove(&key);
                    if let (Some(to), Some(old)) = (renamed, old) {
                        entries.insert(to.clone(), old);
                    }
                    return true;
                }
                if let Some(value) = entries.get_mut(&key)
                    && mutate(value, number, mutation)
                {
                    return true;
                }
            }
        }
        _ => {}
    }
    false
}

fn apply(value: &mut Value, mutation: &Mutation) {
    let copy = value.clone();
    match mutation {
        Mutation::Drop | Mutation::Rename(_) => *value = Value::Null,
        Mutation::Replace(by) => value.clone_from(by),
        Mutation::Wrap => *value = Value::Array(vec![copy]),
        Mutation::Nest => match value {
            Value::Array(items) => items.insert(0, copy),
            Value::Object(entries) => {
                if let Some(first) = entries.values_mut().next() {
                    *first = copy;
                }
            }
            _ => *value = serde_json::json!({ "value": copy }),
        },
    }
}

fn mutated(text: &str, changes: &[(Index, Mutation)]) -> String {
    let mut value = json::value(text).expect("a document in the dialect");
    for (index, mutation) in changes {
        let mut number = index.index(size(&value));
        mutate(&mut value, &mut number, mutation);
    }
    value.to_string()
}

fn changes() -> impl Strategy<Value = Vec<(Index, Mutation)>> {
    proptest::collection::vec((any::<Index>(), mutations()), 1..3)
}

/// Returns the text with one value replaced by another, in quotes.
fn with(text: &str, from: &str, value: &str) -> String {
    let quoted = Value::from(value).to_string();
    assert!(text.contains(from), "{from}");
    text.replacen(from, &quoted, 1)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn parser_and_schema_agree_on_mutated_policies(changes in changes()) {
        assert_parser_and_schema_agree(SchemaDocument::Policy, &POLICY, &mutated(GOOD_POLICY, &changes));
    }

    #[test]
    fn parser_and_schema_agree_on_mutated_manifests(changes in changes()) {
        assert_parser_and_schema_agree(SchemaDocument::Cluster, &CLUSTER, &mutated(MANIFEST, &changes));
    }

    #[test]
    fn ports(value in "(tcp|udp|sctp|icmp)/(any|[0-9]{1,5}|[0-9]{1,5}-[0-9]{1,5}|[0-9-]{0,7})") {
        let text = with(GOOD_POLICY, "tcp/9091", &value);
        assert_parser_and_schema_agree(SchemaDocument::Policy, &POLICY, &text);
    }

    #[test]
    fn prefixes(
        value in prop_oneof![
            "[0-9]{1,3}(\\.[0-9]{1,3}){2,4}(/[0-9]{1,2})?",
            "[0-9]{1,2}(\\.[0-9]{1,2}){3}(/[0-9]{1,2})?",
            "[0-9a-f:.]{2,16}(/[0-9]{1,3})?",
            "([0-9a-f]{0,2}:){2,8}[0-9a-f]{0,5}(/[0-9]{1,3})?",
            "(0:){0,6}:?(0:){0,6}(1\\.2\\.3\\.4|1)?",
            any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string()),
        ]
    ) {
        let text = with(GOOD_POLICY, "10.9.0.0/24", &value);
        assert_parser_and_schema_agree(SchemaDocument::Policy, &POLICY, &text);
        let text = with(MANIFEST, "10.0.0.1", &value);
        assert_parser_and_schema_agree(SchemaDocument::Cluster, &CLUSTER, &text);
    }

    #[test]
    fn host_lists_of_addresses(
        value in "(10\\.|[a-g0-9:. ]{0,5}|fd00::)(\\[[0-9a-f,-]{1,5}\\]?){1,2}[0-9a-f.]{0,2}"
    ) {
        let text = with(MANIFEST, "10.0.0.1", &value);
        assert_parser_and_schema_agree(SchemaDocument::Cluster, &CLUSTER, &text);
        let text = MANIFEST.replace("\"10.0.1.[0-3]\"", &Value::from(value).to_string());
        assert_parser_and_schema_agree(SchemaDocument::Cluster, &CLUSTER, &text);
    }

    #[test]
    fn interface_patterns(value in prop_oneof!["[a-c\\[\\]!*?/ -]{0,9}", "[!-~]{0,18}", "\\PC{0,4}"]) {
        let text = with(MANIFEST, "eth0", &value);
        assert_parser_and_schema_agree(SchemaDocument::Cluster, &CLUSTER, &text);
    }

    #[test]
    fn rates_and_amounts(
        number in prop_oneof!["[0-9]{0,14}", "(10{0,13}|97656250[01]|95367[45]|93[12])"],
        unit in "(|k|M|G|B|kB|MB|GB|KiB|MiB|GiB|K|T)",
        per in "(/s|/s|/s||/m)",
    ) {
        let value = format!("{number}{unit}{per}");
        for from in ["200/s", "2k/s", "500MB/s", "4k", "64MB"] {
            let text = with(GOOD_POLICY, from, &value);
            assert_parser_and_schema_agree(SchemaDocument::Policy, &POLICY, &text);
        }
        // Without quotes, YAML may take it for a number.
        let text = GOOD_POLICY.replacen("burst: 1000", &format!("burst: {number}{unit}"), 1);
        assert_parser_and_schema_agree(SchemaDocument::Policy, &POLICY, &text);
    }

    #[test]
    fn names_and_host_lists(
        value in prop_oneof!["[a-z0-9._ é-]{0,5}", "[a-c._]{0,2}(\\[[0-9,-]{0,5}\\]?){1,2}[a-c ]{0,1}", "[a-z]{126,128}"]
    ) {
        let text = with(GOOD_POLICY, "scheduler", &value);
        assert_parser_and_schema_agree(SchemaDocument::Policy, &POLICY, &text);
        let text = with(MANIFEST, "worker-[0-3]", &value);
        assert_parser_and_schema_agree(SchemaDocument::Cluster, &CLUSTER, &text);
    }
}

/// The base texts of all properties have no finding about shape, so a mutation can introduce one.
#[test]
fn the_base_of_all_properties_is_valid() {
    assert!(CLUSTER.is_valid(&json::value(MANIFEST).expect("a document in the dialect")));
    assert!(POLICY.is_valid(&json::value(GOOD_POLICY).expect("a document in the dialect")));
    let texts = [("m.yaml", MANIFEST), ("p.yaml", GOOD_POLICY), ("partners.txt", "10.8.0.0/24\n")];
    let texts = texts.map(|(path, text)| (PathBuf::from(path), std::sync::Arc::from(text)));
    let bundle = Bundle::new("m.yaml", texts);
    if let Err(error) = policy::load("m.yaml".as_ref(), &bundle) {
        panic!("{error}");
    }
}
