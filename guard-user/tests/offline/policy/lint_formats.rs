//! Every output format of lint: each is valid for its consumers whatever the findings contain, and all
//! of them report the same findings.
#![expect(clippy::unwrap_used, reason = "tests and their helpers fail by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use guard_test_support::bundle::LEAST_POLICY;
use guard_user::{
    policy::syntax::{
        diagnostic::{Diagnostic, FileId, Location, Report, Severity, Span},
        rules::Code,
    },
    report::lint::{Findings, LintFormat, github},
};
use serde_json::Value;

use crate::binary;

const FORMATS: [LintFormat; 6] = [
    LintFormat::Full,
    LintFormat::Concise,
    LintFormat::Json,
    LintFormat::Sarif,
    LintFormat::Github,
    LintFormat::Junit,
];

/// Has multi-byte characters in front of the text that is found.
const TEXT: &str = "a: 1\n  # äöü€😀: x\n  key: value\n\n  key: value\n";

fn span(what: &str, nth: usize) -> Span {
    let (at, _) = TEXT.match_indices(what).nth(nth).unwrap();
    Span::new(at, at + what.len())
}

fn report(messages: &[&str]) -> Report {
    let mut report = Report::default();
    let file = report.sources.add(Path::new("./sub dir/a:b,%.yaml"), TEXT.into());
    let other = report.sources.add(Path::new("clean.yaml"), "".into());
    report.sources.add(Path::new("foreign.yaml"), "x: y\n".into());
    let place = |what, nth| Location { file, span: span(what, nth) };
    let far = Location { file: other, span: Span::default() };
    for (number, message) in messages.iter().enumerate() {
        let severity = [Severity::Error, Severity::Warning, Severity::Info][number % 3];
        let place = if number == 1 { place("x", 0) } else { place("key", number % 2) };
        let code = Code(u16::try_from(number).unwrap() + 1);
        let finding = Diagnostic::new(severity, code, place, *message);
        report.push(finding.related(far, *message).help(*message));
    }
    report.finish();
    report
}

fn findings(report: &Report) -> Findings<'_> {
    Findings {
        report,
        files: 2,
        foreign: FOREIGN.get_or_init(|| vec![PathBuf::from("foreign.yaml")]),
        threshold: Some(Severity::Warning),
        root: Path::new("/somewhere"),
    }
}

static FOREIGN: std::sync::OnceLock<Vec<PathBuf>> = std::sync::OnceLock::new();

const HOSTILE: [&str; 9] = [
    "plain",
    "bidi \u{202e}evil\u{2066} \u{200b}",
    "control \u{1b}[2J\u{9b}2J\u{7f}\0\u{8}",
    "cdata ]]> <!-- <a b='c'> &amp; &#0; \"",
    "commands\n::error file=x::pwned\r\n##[error]x %0A",
    "a, b: c :: d",
    "no characters \u{fffe}\u{ffff} \u{fdd0}",
    "tags \u{e0041} nel \u{85} ls \u{2028}",
    "| `x` [link](javascript:1) <img src=x> \\|",
];

/// Asserts that a text is safe to print: no character moves the cursor, breaks a line or reorders text.
fn assert_harmless(text: &str) {
    let bad = text.chars().find(|c| {
        (c.is_control() && *c != '\n') || guard_user::policy::syntax::text::is_forbidden(*c)
    });
    assert_eq!(bad, None, "{text}");
}

#[test]
fn all_formats_report_the_same_findings() {
    let report = report(&HOSTILE);
    let findings = findings(&report);
    let expected: BTreeSet<String> =
        report.diagnostics.iter().map(|finding| finding.code.to_string()).collect();
    assert_eq!(expected.len(), HOSTILE.len());
    let code = regex::Regex::new(r"TG\d{3}").unwrap();
    for format in FORMATS {
        let text = findings.render(format, false);
        let reported: BTreeSet<String> =
            code.find_iter(&text).map(|found| found.as_str().to_owned()).collect();
        assert_eq!(reported, expected, "{format:?}: {text}");
        assert_harmless(&text);
        assert!(text.ends_with('\n'), "{format:?}");
    }
}

#[test]
fn no_findings_give_valid_output() {
    let report = report(&[]);
    let findings = findings(&report);
    for format in [LintFormat::Full, LintFormat::Concise, LintFormat::Github] {
        assert_eq!(findings.render(format, false), "", "{format:?}");
    }
    let json: Value = serde_json::from_str(&findings.render(LintFormat::Json, false)).unwrap();
    assert_eq!(json["findings"], serde_json::json!([]));
    valid_sarif(&findings.render(LintFormat::Sarif, false));
    let xml = findings.render(LintFormat::Junit, false);
    assert_eq!(xml.matches("<testcase").count(), 2, "{xml}");
    assert!(!findings.fail());
}

fn valid_sarif(text: &str) -> Value {
    // A published pattern for language tags has a `]` without an opening bracket. ECMAScript takes it
    // literally; the validator requires an escape.
    let schema = include_str!("../data/sarif-schema-2.1.0.json").replace("{2}]?$", "{2}\\\\]?$");
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let document: Value = serde_json::from_str(text).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert_eq!(errors, [""; 0], "{text}");
    assert!(
        !validator.is_valid(&serde_json::json!({ "version": "2.1.0" })),
        "the validator accepts an invalid document"
    );
    document
}

#[test]
fn sarif_is_valid_and_places_are_right() {
    let report = report(&HOSTILE);
    let document = valid_sarif(&findings(&report).render(LintFormat::Sarif, false));
    let run = &document["runs"][0];
    assert_eq!(run["columnKind"], "unicodeCodePoints");
    assert_eq!(run["invocations"][0]["executionSuccessful"], true);
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let results = run["results"].as_array().unwrap();
    assert_eq!((rules.len(), results.len()), (HOSTILE.len(), HOSTILE.len()));
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        let related = &result["relatedLocations"][0]["physicalLocation"];
        assert_eq!(related["artifactLocation"]["uri"], "clean.yaml");
    }
    let warning = results.iter().find(|result| result["ruleId"] == "TG002").unwrap();
    assert_eq!(warning["level"], "warning");
    let text = warning["message"]["text"].as_str().unwrap();
    assert_eq!(text, format!("{0}\nhelp: {0}", HOSTILE[1]), "SARIF texts are not escaped");
    let place = &warning["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "sub%20dir/a%3Ab%2C%25.yaml");
    let region = serde_json::json!(
        { "startLine": 2, "startColumn": 12, "endLine": 2, "endColumn": 13 }
    );
    assert_eq!(place["region"], region);
}

/// Returns a report with a finding of one rule at each occurrence of `what` in a text.
fn at_places(path: &str, text: &str, what: &str) -> Report {
    let mut report = Report::default();
    let file = report.sources.add(Path::new(path), text.into());
    for (at, _) in text.match_indices(what) {
        let place = Location { file, span: Span::new(at, at + what.len()) };
        report.push(Diagnostic::warning(Code(204), place, "found"));
    }
    report.finish();
    report
}

fn fingerprints(report: &Report) -> Vec<String> {
    let text = findings(report).render(LintFormat::Sarif, false);
    let document = valid_sarif(&text);
    let results = document["runs"][0]["results"].as_array().unwrap();
    let hash =
        |r: &Value| r["partialFingerprints"]["primaryLocationLineHash"].as_str().map(Into::into);
    results.iter().map(|result| hash(result).unwrap()).collect()
}

#[test]
fn fingerprints_survive_moved_lines() {
    let before = fingerprints(&at_places("a.yaml", TEXT, "key"));
    assert_eq!(before.len(), 2);
    assert_ne!(before[0], before[1], "equal lines have different fingerprints");
    assert!(before[0].len() == 64 && before[0].bytes().all(|b| b.is_ascii_hexdigit()));
    let moved = format!("# new\n\n{}", TEXT.replace("  key", "      key"));
    assert_eq!(fingerprints(&at_places("a.yaml", &moved, "key")), before);
    let changed = TEXT.replace("key: value", "key: other");
    let after = fingerprints(&at_places("a.yaml", &changed, "key"));
    assert!(after.iter().all(|hash| !before.contains(hash)));
}

#[test]
fn sarif_names_files_by_uri_references() {
    for (path, uri) in [
        ("/somewhere/p/q.yaml", "p/q.yaml"),
        ("/elsewhere/ä b.yaml", "file:///elsewhere/%C3%A4%20b.yaml"),
        ("../up.yaml", "../up.yaml"),
        ("./a/./b.yaml", "a/b.yaml"),
        ("-", "-"),
    ] {
        let report = at_places(path, "x\n", "x");
        let document = valid_sarif(&findings(&report).render(LintFormat::Sarif, false));
        let place = &document["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], uri, "{path}");
    }
}

#[test]
fn unreadable_files_make_the_sarif_run_unsuccessful() {
    let mut report = report(&["x"]);
    report.unreadable = true;
    let document = valid_sarif(&findings(&report).render(LintFormat::Sarif, false));
    assert_eq!(document["runs"][0]["invocations"][0]["executionSuccessful"], false);
}

#[test]
fn annotations_are_commands_of_one_line() {
    let report = report(&HOSTILE);
    let text = findings(&report).render(LintFormat::Github, false);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), HOSTILE.len(), "{text}");
    let form = regex::Regex::new(
        r"^::(error|warning|notice) file=[^:,]+,line=\d+,col=\d+,endLine=\d+,endColumn=\d+,title=TG\d{3}::\S",
    )
    .unwrap();
    for line in &lines {
        assert!(form.is_match(line), "{line}");
    }
    let warning = lines.iter().find(|line| line.contains("TG002")).unwrap();
    let start = "::warning file=./sub dir/a%3Ab%2C%25.yaml,line=2,col=12,endLine=2,endColumn=13,\
                 title=TG002::bidi \\u{202e}evil";
    assert!(warning.starts_with(start), "{warning}");
    let commands = lines.iter().find(|line| line.contains("TG005")).unwrap();
    assert!(
        commands.contains("::commands%0A::error file=x::pwned%0D%0A##[error]x %250A%0Ahelp: "),
        "{commands}"
    );
}

#[test]
fn annotations_are_limited_to_what_github_shows() {
    let text = "x\n".repeat(25);
    let report = at_places("a.yaml", &text, "x");
    let shown = github::annotations(&report);
    assert_eq!(shown.matches("::warning ").count(), 10, "{shown}");
    assert!(shown.ends_with("\n15 more of severity warning without annotation\n"), "{shown}");
    assert_eq!(findings(&report).render(LintFormat::Github, false).lines().count(), 25);
    let many = at_places("a.yaml", &"x\n".repeat(250), "x");
    assert!(
        github::annotations(&many).ends_with("\n240 more of severity warning without annotation\n")
    );
    for (format, expected) in [
        (LintFormat::Sarif, "and 150 more"),
        (LintFormat::Github, "::notice title=trainguard::and 150 more"),
        (LintFormat::Junit, "and 150 more"),
    ] {
        let text = findings(&many).render(format, false);
        assert!(text.contains(expected), "{format:?}: {text}");
    }
}

#[test]
fn names_from_policies_are_escaped_in_the_markdown_summary() {
    let report = report(&HOSTILE);
    let text = github::markdown(&report, 2);
    assert_harmless(&text);
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(rows.len(), HOSTILE.len() + 2, "{text}");
    for row in rows {
        let bars = row.replace("\\\\", "").replace("\\|", "").matches('|').count();
        assert_eq!(bars, 5, "{row}");
        assert!(!row.contains('<') && !row.contains("](") && !row.contains(" `"), "{row}");
    }
}

#[test]
fn junit_is_well_formed_with_hostile_text() {
    let report = report(&HOSTILE);
    let text = findings(&report).render(LintFormat::Junit, false);
    let document = roxmltree::Document::parse(&text).unwrap();
    let named = |name| document.descendants().filter(move |node| node.has_tag_name(name));
    let suites: Vec<_> = named("testsuite").filter_map(|suite| suite.attribute("name")).collect();
    assert_eq!(suites, ["./sub dir/a:b,%.yaml", "clean.yaml"]);
    assert_eq!(named("testcase").count(), HOSTILE.len() + 1);
    // Every third finding has the severity "information", which does not fail at this threshold.
    assert_eq!((named("failure").count(), named("skipped").count()), (6, 3));
    let passed = named("testcase").find(|case| !case.has_children()).unwrap();
    assert_eq!(passed.attribute("classname"), Some("clean.yaml"));
    let cdata = named("failure").any(|failure| failure.attribute("message") == Some(HOSTILE[3]));
    assert!(cdata, "{text}");
    let never = Findings { threshold: None, ..findings(&report) };
    let text = never.render(LintFormat::Junit, false);
    assert!(!text.contains("<failure"), "{text}");
}

#[test]
fn json_lists_related_places() {
    let report = report(&HOSTILE[..1]);
    let json: Value =
        serde_json::from_str(&findings(&report).render(LintFormat::Json, false)).unwrap();
    assert_eq!(json["schema"], "trainguard/lint/v1");
    let related = serde_json::json!(
        [{ "file": "clean.yaml", "line": 1, "column": 1, "message": "plain" }]
    );
    assert_eq!(json["findings"][0]["related"], related);
}

#[test]
fn the_problem_matcher_matches_what_is_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join(".github/trainguard-matcher.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let matchers = document["problemMatcher"].as_array().unwrap();
    let report = report(&HOSTILE);
    let printed = findings(&report).render(LintFormat::Concise, false);
    assert_eq!(printed.lines().count(), HOSTILE.len());
    for (line, finding) in printed.lines().zip(&report.diagnostics) {
        let mut matched = 0;
        for matcher in matchers {
            let pattern = &matcher["pattern"][0];
            let expression = pattern["regexp"].as_str().unwrap();
            let Some(groups) = regex::Regex::new(expression).unwrap().captures(line) else {
                continue;
            };
            matched += 1;
            let group = |name: &str| {
                let number = usize::try_from(pattern[name].as_u64()?).ok()?;
                groups.get(number).map(|group| group.as_str())
            };
            let at = report.sources.position(finding.place);
            assert_eq!(group("file"), Some("./sub dir/a:b,%.yaml"));
            assert_eq!(group("line"), Some(&*at.line.to_string()));
            assert_eq!(group("column"), Some(&*at.column.to_string()));
            assert_eq!(group("code"), Some(&*finding.code.to_string()));
            let severity = group("severity").or(matcher["severity"].as_str());
            let name = finding.severity.name().replace("info", "notice");
            assert_eq!(severity, Some(&*name));
            assert!(line.ends_with(group("message").unwrap()));
        }
        assert_eq!(matched, 1, "{line}");
    }
}

/// A policy with a misspelt field.
fn misspelt() -> String {
    LEAST_POLICY.replace("match: all", "mach: all")
}

fn in_directory(policy: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.yaml"), policy).unwrap();
    dir
}

fn lint(dir: &Path, args: &[&str], variables: &[(&str, &Path)]) -> Output {
    binary::command(&["lint"])
        .current_dir(dir)
        .args(args)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is UTF-8")
}

#[test]
fn one_run_writes_several_formats() {
    let dir = in_directory(&misspelt());
    let at = |name: &str| dir.path().join(name);
    // A longer file from an earlier run must be truncated.
    fs::write(at("l.sarif"), "x".repeat(100_000)).unwrap();
    let files =
        ["--output", "sarif=l.sarif", "--output", "junit=l.xml", "--output", "json=a=b.json"];
    let output = lint(dir.path(), &[&files[..], &["--output", "concise=/dev/null"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("error[TG102]"), "{}", text(&output.stdout));
    let document = valid_sarif(&fs::read_to_string(at("l.sarif")).unwrap());
    assert_eq!(document["runs"][0]["results"].as_array().unwrap().len(), 2);
    roxmltree::Document::parse(&fs::read_to_string(at("l.xml")).unwrap()).unwrap();
    let json = fs::read_to_string(at("a=b.json")).unwrap();
    let on_stdout = lint(dir.path(), &["--output", "json=-"], &[]);
    assert_eq!(text(&on_stdout.stdout), json);
}

#[test]
fn files_that_cannot_be_written_exit_with_2() {
    let dir = in_directory(&misspelt());
    std::os::unix::fs::symlink("l.json", dir.path().join("link")).unwrap();
    for (args, reason) in [
        (&["--output", "json=l.json", "--output", "sarif=./l.json"][..], "two `--output`"),
        (&["--output", "json=l.json", "--output", "sarif=link"], "two `--output`"),
        (&["--output", "json=none/l.json"], "cannot write `none/l.json`"),
        (&["--output", "json=/dev/full"], "cannot write `/dev/full`"),
        (&["--output", "json=."], "cannot write `.`"),
        (&["--output", "json=p.yaml"], "`p.yaml` is one of the checked files"),
        (&["--output", "json=-", "--format", "full"], "only one format"),
        (&["--output", "json=-", "--output", "sarif=-"], "only one format"),
        (&["--output", "jason=l.json"], "invalid variant: jason"),
        (&["--output", "json="], "the path is empty"),
        (&["--output", "json"], "expected FORMAT=PATH"),
    ] {
        let output = lint(dir.path(), args, &[]);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains(reason), "{args:?}: {}", text(&output.stderr));
    }
    assert_eq!(fs::read_to_string(dir.path().join("p.yaml")).unwrap(), misspelt());
}

#[test]
fn in_a_workflow_full_annotates_as_well() {
    // Text from an untrusted pull request must not become a command of the CI runner.
    let evil = misspelt().replace("    mach: all", "    mach: \"##[error]pwned\" # ::error::pwned");
    let dir = in_directory(&evil);
    let summary = dir.path().join("summary.md");
    fs::write(&summary, "before\n").unwrap();
    let variables = [("GITHUB_ACTIONS", Path::new("true")), ("GITHUB_STEP_SUMMARY", &*summary)];
    let output = lint(dir.path(), &[], &variables);
    assert_eq!(output.status.code(), Some(1));
    let all = text(&output.stdout);
    let (first, rest) = all.split_once('\n').unwrap();
    let word = first.strip_prefix("::stop-commands::").unwrap();
    let (shown, commands) = rest.split_once(&format!("::{word}::\n")).unwrap();
    assert!(shown.contains("##[error]pwned"), "{shown}");
    assert!(!commands.contains("pwned"), "{commands}");
    assert_eq!(commands.lines().filter(|line| line.starts_with("::error file=p.yaml,")).count(), 2);
    let again = lint(dir.path(), &[], &variables);
    assert!(!text(&again.stdout).contains(word), "the stop word is predictable");
    let summarised = fs::read_to_string(&summary).unwrap();
    assert!(summarised.starts_with("before\n### trainguard lint\n\nchecked 1 file: 2 errors"));
    let row = r"| error | TG101 | p\.yaml\:8\:5 | a service has no field \`mach\`\; did you";
    assert_eq!(summarised.matches(row).count(), 2, "{summarised}");
    let concise = lint(dir.path(), &["--format", "concise"], &variables);
    assert!(!text(&concise.stdout).contains("::"), "{}", text(&concise.stdout));
}

/// Returns the path and the content of a YAML file of the repository that other tools read.
fn integration(path: &str) -> (PathBuf, Value) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join(path)).unwrap();
    (root, serde_yaml::from_str(&text).unwrap())
}

#[test]
fn pre_commit_hooks_name_existing_commands() {
    use std::os::unix::fs::PermissionsExt as _;
    let (root, hooks) = integration(".pre-commit-hooks.yaml");
    let hooks = hooks.as_array().unwrap();
    assert_eq!(hooks.len(), 2);
    for hook in hooks {
        assert!(hook["id"].is_string() && hook["name"].is_string(), "{hook}");
        assert_eq!(hook["pass_filenames"], false, "policies are checked with their manifest");
        let entry = hook["entry"].as_str().unwrap();
        match hook["language"].as_str().unwrap() {
            "system" => assert_eq!(entry, "trainguard lint"),
            "script" => {
                let mode = fs::metadata(root.join(entry)).unwrap().permissions().mode();
                assert_eq!(mode & 0o111, 0o111, "{entry} is not executable");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn the_action_lints() {
    let (_, action) = integration("action.yml");
    assert_eq!(action["runs"]["using"], "composite");
    let step = &action["runs"]["steps"][1];
    let dir = in_directory(&misspelt());
    let bin = dir.path().join("trainguard/bin");
    fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(binary::PATH, bin.join("trainguard")).unwrap();
    let script = step["run"].as_str().unwrap();
    assert!(!script.contains("${{"), "an input in a script could contain commands");
    let mut command = Command::new("bash");
    command.args(["-e", "-o", "pipefail", "-c", script]).current_dir(dir.path());
    command.env_remove("GITHUB_ACTIONS").env("RUNNER_TEMP", dir.path());
    command.env("GITHUB_OUTPUT", dir.path().join("outputs"));
    for (variable, value) in step["env"].as_object().unwrap() {
        let input = value.as_str().unwrap();
        let input = input.strip_prefix("${{ inputs.").unwrap().strip_suffix(" }}").unwrap();
        let default = action["inputs"][input]["default"].as_str().unwrap();
        command.env(variable, default);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("error[TG101]"), "{}", text(&output.stdout));
    valid_sarif(&fs::read_to_string(dir.path().join("trainguard.sarif")).unwrap());
    let outputs = fs::read_to_string(dir.path().join("outputs")).unwrap();
    assert_eq!(outputs, "sarif=trainguard.sarif\n");
}

#[test]
fn a_place_without_a_file_does_not_panic() {
    let mut report = Report::default();
    let nowhere = Location { file: FileId(7), span: Span::new(3, 9) };
    report.push(Diagnostic::error(Code(999), nowhere, "found").related(nowhere, "here"));
    for format in FORMATS {
        let text = findings(&report).render(format, true);
        assert!(format == LintFormat::Junit || text.contains("TG999"), "{format:?}: {text}");
    }
}
