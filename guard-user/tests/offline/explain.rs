//! The pages of `explain`: each code and each reason has one, and the example of each code produces the
//! finding that its page describes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use guard_common::verdict::Reason;
use guard_test_support::bundle::{self, hosts, services};
use guard_user::{
    explain,
    policy::{
        Bundle,
        resolve::{load::Loader, signature},
        syntax::{
            diagnostic::{Report, Severity},
            rules,
        },
    },
};

use super::binary;

/// Marks a page whose example cannot be written as text; [`in_code`] builds it.
const IN_CODE: &str = "<!-- example: in code -->";

/// The manifest used for examples that are about a policy.
fn manifest() -> String {
    bundle::cluster("demo")
        .node("sched-0", "10.77.0.10, fd77::10", "scheduler")
        .node("server-0", "10.77.0.20, fd77::20", "server")
        .node("worker-0", "10.77.0.30, fd77::30", "worker")
        .policies("policy.yaml")
        .to_string()
}

/// The policy used for examples that are about a manifest.
fn policy() -> String {
    let allow = "roles: [scheduler, server, worker]";
    bundle::policy("mxnet", [bundle::service("scheduler", "scheduler", "tcp/9091", allow)])
}

type Files = BTreeMap<String, String>;

/// Returns the codes that the program defines.
fn codes() -> BTreeSet<String> {
    rules::ALL.iter().map(ToString::to_string).collect()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("explain")
}

/// Returns the names of the page files, without their extension.
fn written() -> BTreeSet<String> {
    let entries = fs::read_dir(directory()).expect("the directory of pages");
    let names =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    names.map(|name| name.strip_suffix(".md").expect("only pages").to_owned()).collect()
}

/// Returns the files of a page's example: the fenced blocks that have a file name.
fn example(page: &str) -> Files {
    let mut files = Files::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let name = info.split_once(' ').map(|(_, name)| name).unwrap_or_default();
                open = Some((name.to_owned(), String::new()));
            }
            (Some(_), Some("")) => {
                let (name, text) = open.take().expect("an open code block");
                if !name.is_empty() {
                    assert!(
                        files.insert(name.clone(), text).is_none(),
                        "two examples are called `{name}`"
                    );
                }
            }
            (Some((_, text)), _) => {
                text.push_str(&expanded(line));
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a code block has no end");
    files
}

/// Replaces escapes such as `{U+202E}` in a line by the characters that they name.
fn expanded(line: &str) -> String {
    let mut parts = line.split("{U+");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once('}').expect("a closing brace");
        let character = u32::from_str_radix(number, 16).ok().and_then(char::from_u32);
        whole.push(character.expect("the number of a character"));
        whole.push_str(rest);
    }
    whole
}

/// Runs lint on a manifest and the policies beside it; files that are missing come from the defaults.
fn findings(mut files: Files) -> Report {
    let policies: Vec<String> =
        files.keys().filter(|name| name.contains("policy")).cloned().collect();
    files.entry("cluster.yaml".to_owned()).or_insert_with(manifest);
    files.entry("policy.yaml".to_owned()).or_insert_with(policy);
    loaded(files, &policies)
}

fn loaded(files: Files, policies: &[String]) -> Report {
    let bundle = Bundle::new("cluster.yaml", files);
    let mut loader = Loader::new(&bundle);
    let manifest = Path::new("cluster.yaml");
    loader.check_manifest(manifest);
    for policy in policies.iter().map(Path::new) {
        if policy.to_string_lossy().ends_with(".test.yaml") {
            let _ = loader.test(policy);
        } else if !loader.has_policy(policy) {
            loader.policy(policy);
        }
    }
    loader.check_ignores();
    let (report, ..) = loader.finish(manifest);
    report
}

/// Checks that files produce a finding with `code` and no error with another code.
fn shows(code: &str, report: &Report) -> Result<(), String> {
    let found: Vec<_> =
        report.diagnostics.iter().map(|d| (d.code.to_string(), d.severity)).collect();
    if !found.iter().any(|(found, _)| found == code) {
        return Err(format!("{code}: the example gives no such finding; found: {report}"));
    }
    match found.iter().find(|(found, severity)| found != code && *severity == Severity::Error) {
        Some((other, _)) => Err(format!("{code}: the example also gives {other}: {report}")),
        None => Ok(()),
    }
}

#[test]
fn default_files_of_examples_have_no_finding() {
    assert_eq!(findings(Files::new()).to_string(), "");
}

#[test]
fn every_code_and_every_reason_has_a_page() {
    let codes = codes();
    assert!(codes.len() >= 47 && codes.contains("TG001") && codes.contains("TG505"), "{codes:?}");
    let expected: BTreeSet<String> =
        codes.into_iter().chain(Reason::ALL.map(|reason| reason.name().to_owned())).collect();
    let served: BTreeSet<String> = explain::names().map(str::to_owned).collect();
    assert_eq!(explain::names().count(), served.len(), "a page is served twice");
    assert_eq!(served, expected, "served pages, and codes and reasons of the program");
    assert_eq!(served, written(), "served pages, and files in {}", directory().display());
}

#[test]
fn every_example_gives_the_finding_of_its_page() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for code in codes() {
        let page = explain::page(&code).unwrap_or_else(|| panic!("{code} has no page"));
        let files = example(page);
        if page.contains(IN_CODE) {
            assert!(files.is_empty(), "{code}: has an example in code and another on its page");
            continue;
        }
        assert!(!files.is_empty(), "{code} has no example");
        checked += 1;
        wrong.extend(shows(&code, &findings(files)).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(checked >= 42, "only {checked} examples");
}

#[test]
fn the_check_of_examples_notices_other_findings() {
    assert!(shows("TG103", &findings(Files::new())).is_err(), "the example has no finding");
    let other = example(explain::page("TG104").unwrap());
    assert!(shows("TG103", &findings(other)).is_err(), "the example has another finding");
    let two = policy().replace("[tcp/9091]", "[9091]").replace("enforce", "enforced");
    let two = Files::from([("policy.yaml".to_owned(), two)]);
    assert!(
        shows("TG105", &findings(two)).is_err(),
        "the example also has an error of another code"
    );
    let page = "```yaml policy.yaml\na: {U+202E}b{U+0}\n```\n\n```yaml\nc: d\n```\n";
    let files = Files::from([("policy.yaml".to_owned(), "a: \u{202e}b\0\n".to_owned())]);
    assert_eq!(example(page), files);
}

/// Runs lint on a manifest without a signature although a signature is required.
fn unsigned() -> Report {
    let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
    let key = pair.pk.to_box().expect("a key").to_string();
    let key = signature::Key::parse(key.as_bytes()).expect("a key");
    let bundle =
        Bundle::new("cluster.yaml", [("cluster.yaml", manifest()), ("policy.yaml", policy())]);
    let mut loader = Loader::new(&bundle);
    let manifest = Path::new("cluster.yaml");
    loader.check_manifest(manifest);
    loader.check_signature(manifest, &bundle, &key);
    loader.finish(manifest).0
}

/// Builds the files for a code whose page is marked with [`IN_CODE`].
fn in_code(code: &str) -> Files {
    let mut manifest = bundle::cluster("t").node("n", "10.77.0.10", "a").policies("policy.yaml");
    let mut files = Files::new();
    let policy = match code {
        "TG010" => return files,
        "TG501" => {
            manifest = manifest.network("all", "{ file: all.txt }");
            files.insert("all.txt".to_owned(), hosts(0..1_000_001));
            services(1, |_| "networks: [all]".to_owned(), "")
        }
        "TG503" => services(65, |_| "cidrs: [10.0.0.0/8]".to_owned(), ""),
        "TG504" => {
            manifest = manifest.node("m-[0000-9999]", "10.[100-109].[0-9].[0-99]", "b");
            let limit = "    limits: { perSource: { newConnections: { rate: 9/s, burst: 9 } } }\n";
            services(53, |_| "roles: [b]".to_owned(), limit)
        }
        "TG505" => {
            for nth in 0..17 {
                let file = format!("{{ file: l{nth}.txt }}");
                manifest = manifest.network(&format!("l{nth}"), &file);
                // List number `nth` holds the hosts whose number has bit `nth` set.
                let list = hosts((0..70_000).filter(|number| number >> nth & 1 != 0));
                files.insert(format!("l{nth}.txt"), list);
            }
            services(17, |nth| format!("networks: [l{nth}]"), "")
        }
        _ => panic!("{code}: the page is marked as `in code`, but `in_code` has no example"),
    };
    files.insert("cluster.yaml".to_owned(), manifest.to_string());
    files.insert("policy.yaml".to_owned(), policy);
    files
}

#[test]
fn examples_in_code_give_the_findings_of_their_pages() {
    let in_code = |code: &String| explain::page(code).is_some_and(|page| page.contains(IN_CODE));
    let codes: Vec<String> = codes().into_iter().filter(in_code).collect();
    assert!(codes.iter().any(|code| code == "TG010"), "{codes:?}");
    for code in codes {
        let report = if code == "TG415" { unsigned() } else { loaded(self::in_code(&code), &[]) };
        shows(&code, &report).unwrap_or_else(|error| panic!("{error}"));
    }
}

fn run(args: &[&str]) -> Output {
    binary::command(&["explain"]).args(args).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn a_page_is_printed_without_html_comments() {
    for name in ["TG103", "tg103", "103"] {
        let output = run(&[name]);
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert_eq!(text(&output.stdout), explain::page("TG103").unwrap(), "{name}");
    }
    let output = run(&["TG010"]);
    assert!(text(&output.stdout).starts_with("# TG010: "), "{output:?}");
    assert!(!text(&output.stdout).contains("<!--"), "{output:?}");

    let output = run(&["not_allowed", "--format", "json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["schema"], "trainguard/explain/v1");
    assert_eq!(document["name"], "not_allowed");
    assert_eq!(document["title"], explain::title("not_allowed").unwrap());
    let page = explain::page("not_allowed").unwrap();
    assert_eq!(document["text"].as_str(), Some(page.trim_end()));
}

#[test]
fn without_a_name_all_pages_are_listed() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0));
    let listed: Vec<&str> =
        text(&output.stdout).lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(listed, explain::names().collect::<Vec<_>>());

    let output = run(&["--format", "json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["schema"], "trainguard/explain/v1");
    let pages = document["pages"].as_array().expect("a list");
    assert_eq!(pages.len(), listed.len());
    assert_eq!(pages[0]["title"], explain::title("TG001").unwrap());
}

#[test]
fn an_unknown_name_exits_with_2_and_the_nearest_name() {
    let output = run(&["not_alowed"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let printed = text(&output.stderr);
    assert!(
        printed.contains("`not_alowed`") && printed.contains("did you mean `not_allowed`"),
        "{printed}"
    );
    let output = run(&["what is this"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("trainguard explain"), "{output:?}");
}
