//! Hostile documents and files, with the expected result of each. Lint and the daemon must also agree:
//! whatever the input, lint reports as an error exactly what the daemon refuses.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::Path,
    process::{Command, Output, Stdio},
};

use guard_test_support::{
    bundle::{self, MANIFEST, POLICY},
    repetitions,
};
use proptest::{prelude::*, sample::select};

use super::binary;
use guard_user::policy::{
    self, Bundle, Placement,
    resolve::load::Loader,
    syntax::{
        diagnostic::{Diagnostic, Report, Severity},
        rules::{self, Code},
    },
};

/// A replacement in the manifest or the policy, and the complete set of error codes that it must give.
type Case = (&'static str, &'static str, &'static [u16]);

const CASES: &[Case] = &[
    // Duplicate keys, at every level.
    ("name: demo", "name: demo\nname: demo", &[2]),
    ("office: [", "office: [10.0.0.0/8]\n  office: [", &[2]),
    ("roles: [worker] }", "roles: [worker], roles: [worker] }", &[2]),
    ("mode: enforce", "mode: enforce\n    \"mode\": enforce", &[2]),
    ("mode: enforce", "mode: enforce\n    ? mode\n    : observe", &[2]),
    // Anchors, aliases, merge keys, tags.
    ("[office]", "&a [office]", &[3]),
    ("[office]", "*a", &[3]),
    ("mode: enforce", "<<: { mode: enforce }", &[3]),
    ("mode: enforce", "<<: *a\n    mode: enforce", &[3]),
    ("[office]", "!!seq [office]", &[4]),
    ("mode: enforce", "mode: !!str enforce", &[4]),
    ("burst: 1000", "burst: !!int 1000", &[4]),
    ("name: p", "name: !include /etc/passwd", &[4]),
    ("name: p", "name: ! p", &[4]),
    // Characters.
    ("mode: enforce", "mode: enforce\u{85}    limits: {}", &[5]),
    ("mode: enforce", "mode: enforce\u{2028}", &[5]),
    ("mode: enforce", "mode: enforce\u{2029}", &[5]),
    ("a text", "a \u{202e}txet", &[5]),
    ("a text", "a \u{2066}text\u{2069}", &[5]),
    ("[office]", "[off\u{200b}ice]", &[5]),
    ("[office]", "[\u{feff}office]", &[5]),
    ("a text", "a\u{0}text", &[5]),
    ("a text", "a\u{1b}[2Jtext", &[5]),
    ("a text", "\"a\\u202Etext\"", &[5]),
    ("a text", "\"a\\x00text\"", &[5]),
    ("a text", "\"a\\Ntext\"", &[5]),
    ("apiVersion", "\u{feff}apiVersion", &[5]),
    // Values that different YAML readers interpret differently.
    ("name: p", "name: yes", &[6]),
    ("name: p", "name: on", &[6]),
    ("name: p", "name: 0o17", &[6]),
    ("name: p", "name: 1_000", &[6]),
    ("name: p", "name: 1e3", &[6]),
    ("name: p", "name: 12:30:45", &[110]),
    ("burst: 1000", "burst: 1_000", &[6]),
    ("burst: 1000", "burst: 1e3", &[6]),
    ("burst: 1000", "burst: 0o17", &[6]),
    ("burst: 1000", "burst: 0x3e8", &[6]),
    ("burst: 1000", "burst: 01750", &[6]),
    ("burst: 1000", "burst: +1000", &[6]),
    ("burst: 1000", "burst: \"1000\"", &[6]),
    ("burst: 1000", "burst: '1000'", &[6]),
    ("burst: 1000", "burst: 1000.0", &[6]),
    ("burst: 1000", "burst: .inf", &[111]),
    ("burst: 1000", "burst: -1", &[6]),
    ("roles: [scheduler, worker]", "any: yes", &[6]),
    ("roles: [scheduler, worker]", "any: \"true\"", &[6]),
    ("roles: [scheduler, worker]", "any: false", &[6]),
    // Null and missing values.
    ("[office]", "", &[7]),
    ("[office]", "~", &[7]),
    ("[office]", "[]", &[206]),
    ("[office]", "[null]", &[7]),
    ("[office]", "[~, office]", &[7]),
    ("ports: [tcp/9091]", "ports:", &[7]),
    ("ports: [tcp/9091]", "ports: []", &[7]),
    ("ports: [tcp/9091]", "ports: null", &[7]),
    ("policies: [p.yaml]", "policies:", &[7]),
    ("[10.9.0.0/24, \"fd00:9::/64\"]", "", &[7]),
    // Documents and directives.
    ("mode: enforce", "mode: enforce\n---\nmode: enforce", &[8]),
    ("mode: enforce", "mode: enforce\n...\n---\na: b", &[8]),
    ("apiVersion", "%YAML 1.2\n---\napiVersion", &[8]),
    ("apiVersion", "%TAG ! tag:x,2000:\n---\napiVersion", &[8]),
    // Addresses.
    ("10.9.0.0/24", "10.9.0.1/24", &[103]),
    ("\"fd00:9::/64\"", "\"fd00:9::1/64\"", &[103]),
    ("10.9.0.0/24", "010.9.0.0/24", &[104]),
    ("10.0.0.1,", "010.0.0.1,", &[104]),
    ("10.0.0.1,", "10.1,", &[104]),
    ("10.0.0.1,", "0x0a000001,", &[104]),
    ("10.0.0.1,", "167772161,", &[104]),
    ("10.0.0.1,", "\"10.0.0.1\\n\",", &[104]),
    ("10.0.0.1,", "\" 10.0.0.1\",", &[104]),
    ("10.0.0.1,", "１０.0.0.1,", &[104]),
    ("10.0.0.1,", "10.0.0.256,", &[104]),
    ("\"fd00::1\"]", "\"::ffff:10.0.0.1\"]", &[104]),
    ("\"fd00::1\"]", "\"fe80::1%eth0\"]", &[104]),
    ("\"fd00::1\"]", "\"fd00::1::\"]", &[104]),
    ("10.9.0.0/24", "10.9.0.0/024", &[104]),
    ("10.9.0.0/24", "10.9.0.0/+24", &[104]),
    ("10.9.0.0/24", "10.9.0.0/33", &[104]),
    ("10.9.0.0/24", "0.0.0.0/0", &[201]),
    ("\"fd00:9::/64\"", "\"::/0\"", &[201]),
    ("10.0.0.1,", "127.0.0.1,", &[402]),
    ("10.0.0.1,", "sched.example.org,", &[104]),
    // Not YAML.
    ("[office]", "[office", &[1]),
    ("mode: enforce", "\tmode: enforce", &[1]),
    ("mode: enforce", "mode: enforce: observe", &[1]),
    ("mode: enforce", "mode: @enforce", &[1]),
    ("a text", "\"a \\q text\"", &[1]),
    ("mode: enforce", "{ mode: enforce }: x", &[1]),
];

fn load(manifest: &str, policy: &str) -> Bundle {
    let texts = [("m.yaml", manifest), ("p.yaml", policy)];
    Bundle::new("m.yaml", texts)
}

/// Runs lint on a bundle.
fn lint(bundle: &Bundle) -> Report {
    let mut loader = Loader::new(bundle);
    loader.check_manifest("m.yaml".as_ref());
    loader.check_ignores();
    let (report, ..) = loader.finish("m.yaml".as_ref());
    report
}

/// Returns the errors for which the daemon refuses a bundle, or those of the first node whose policy
/// does not fit.
fn refusals(bundle: &Bundle) -> Result<(), Vec<(Code, String)>> {
    match policy::load("m.yaml".as_ref(), bundle) {
        Err(error) => Err(errors(&error.report)),
        Ok(loaded) => {
            for node in &loaded.cluster.nodes {
                if let Err(error) = policy::compile(&loaded, node, &Placement::default()) {
                    return Err(vec![(Code(0), error.to_string())]);
                }
            }
            Ok(())
        }
    }
}

fn errors(report: &Report) -> Vec<(Code, String)> {
    let errors = report.diagnostics.iter().filter(|found| found.severity == Severity::Error);
    let place = |found: &Diagnostic| report.sources.describe(found.place);
    errors.map(|found| (found.code, format!("{}: {}", place(found), found.message))).collect()
}

/// Asserts that lint and the daemon report the same errors for a bundle, and returns them.
fn assert_lint_and_daemon_agree(bundle: &Bundle) -> Vec<(Code, String)> {
    let found = errors(&lint(bundle));
    match refusals(bundle) {
        Ok(()) => assert_eq!(found, [], "lint reports errors, but the daemon loads the bundle"),
        Err(refused) if refused.iter().any(|(code, _)| *code == Code(0)) => {
            let reported = |text: &str| found.iter().any(|(_, message)| message.ends_with(text));
            assert!(
                refused.iter().all(|(_, text)| reported(text)),
                "lint reports {found:?}, the daemon {refused:?}"
            );
        }
        Err(refused) => assert_eq!(found, refused),
    }
    found
}

#[test]
fn the_base_of_all_cases_has_no_finding() {
    assert_eq!(assert_lint_and_daemon_agree(&load(MANIFEST, POLICY)), []);
    assert_eq!(lint(&load(MANIFEST, POLICY)).to_string(), "");
}

#[test]
fn each_document_gives_its_expected_codes() {
    let mut wrong = Vec::new();
    for (from, to, codes) in CASES {
        let (mut manifest, mut policy) = (MANIFEST.to_owned(), POLICY.to_owned());
        let text = if MANIFEST.contains(from) && !POLICY.contains(from) || *from == "name: demo" {
            &mut manifest
        } else {
            &mut policy
        };
        assert!(text.contains(from), "{from:?}");
        *text = text.replacen(from, to, 1);
        let found = assert_lint_and_daemon_agree(&load(&manifest, &policy));
        let found_codes: BTreeSet<u16> = found.iter().map(|(code, _)| code.0).collect();
        if found_codes != codes.iter().copied().collect() {
            wrong.push(format!("{from:?} -> {to:?}: expected {codes:?}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(CASES.len() > 80);
}

#[test]
fn empty_documents() {
    for empty in [
        "",
        "\n\n",
        "# only a comment\n",
        "---\n",
        "--- # and a comment\n...\n",
        "~\n",
        "null",
        "\u{20}",
    ] {
        let found = assert_lint_and_daemon_agree(&load(MANIFEST, empty));
        assert_eq!(found.len(), 1, "{empty:?}: {found:?}");
        assert_eq!(found[0].0, rules::NULL, "{empty:?}: {found:?}");
    }
    for other in ["[]", "{}", "a", "1", "[[a]]", "? a", "{ a: b }"] {
        let found = assert_lint_and_daemon_agree(&load(MANIFEST, other));
        assert!(!found.is_empty(), "{other:?}");
    }
}

/// Runs lint with limits on memory and processor time. No input needs half of either.
fn bounded(dir: &Path, args: &[&str], megabytes: usize) -> Output {
    // Limit the address space, so that memory that is only reserved counts as well.
    let kilobytes = 256 * 1024 * megabytes.max(1) + 128 * 1024;
    let script =
        format!("ulimit -v {kilobytes} && ulimit -t 20 || exit 99; exec \"$0\" lint \"$@\"");
    Command::new("sh")
        .current_dir(dir)
        .args(["-c", &script, binary::PATH])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("a shell")
}

#[test]
fn big_inputs_end_within_bounds() {
    let mib = 1 << 20;
    let flat =
        |item: &str, bytes: usize| format!("[{}]", vec![item; bytes / (item.len() + 2)].join(", "));
    let with_cidrs = |list: &str| {
        POLICY.replace("networks: [office]", &format!("networks: [office]\n      cidrs: {list}"))
    };
    let distinct: Vec<String> = (0..260_000_u32)
        .map(|n| format!("{}/32", std::net::Ipv4Addr::from(0x0b00_0000 + n)))
        .collect();
    let fields = (0..400_000).fold(String::new(), |mut text, n| {
        writeln!(text, "f{n}: x").expect("a string");
        text
    });
    let aliases = {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 0..20 {
            writeln!(text, "b{n}: &b{n} [*a, *a, *a, *a, *a, *a, *a, *a, *a]").expect("a string");
        }
        text
    };
    let cases: Vec<(&str, String, &[&str], i32)> = vec![
        (
            "a flat list of 4 MB of one prefix",
            with_cidrs(&flat("10.0.0.0/8", 4 * mib)),
            &["TG413"],
            0,
        ),
        (
            "a flat list of 4 MB of prefixes",
            with_cidrs(&format!("[{}]", distinct.join(", "))),
            &[],
            0,
        ),
        ("a flat list of 4 MB of nonsense", with_cidrs(&flat("nonsense", 4 * mib)), &["TG104"], 1),
        ("a list of 4 MB of nulls", with_cidrs(&flat("~", 4 * mib)), &["TG007"], 1),
        ("20,000 brackets", "[".repeat(20_000), &["TG009"], 1),
        (
            "20,000 closed brackets",
            format!("{}{}", "[".repeat(20_000), "]".repeat(20_000)),
            &["TG009"],
            1,
        ),
        ("20,000 braces", "{a: ".repeat(20_000), &["TG009"], 1),
        ("20,000 dashes", "- ".repeat(20_000), &["TG009"], 1),
        ("20,000 question marks", "? ".repeat(20_000), &["TG009"], 1),
        ("a key of 4 MB", format!("{}: x", "k".repeat(4 * mib)), &["TG001"], 1),
        (
            "a name of 4 MB",
            POLICY.replace("name: p", &format!("name: {}", "n".repeat(4 * mib))),
            &["TG110"],
            1,
        ),
        ("a comment of 4 MB", format!("# {}\n{POLICY}", "c".repeat(4 * mib)), &[], 0),
        (
            "4 MB of comments for trainguard",
            format!("{}{POLICY}", "# trainguard: ignore[TG212] x\n".repeat(4 * mib / 30)),
            &["TG901", "TG903"],
            1,
        ),
        ("4 MB of blanks", format!("{POLICY}{}", " ".repeat(4 * mib)), &[], 0),
        ("4 MB of line breaks", format!("{}{POLICY}", "\n".repeat(4 * mib)), &[], 0),
        ("4 MB of unknown fields", format!("{POLICY}{fields}"), &["TG101"], 1),
        ("4 MB of one key", format!("{POLICY}{}", "f: x\n".repeat(800_000)), &["TG002"], 1),
        ("4 MB of services", format!("{POLICY}{}", "  - {}\n".repeat(600_000)), &["TG102"], 1),
        ("a billion laughs", aliases, &["TG003"], 1),
        (
            "a quoted text without end",
            POLICY.replace("a text", &format!("\"{}", "x".repeat(4 * mib))),
            &["TG001"],
            1,
        ),
        (
            "4 MB of forbidden characters",
            format!("{POLICY}# {}", "\u{202e}".repeat(mib)),
            &["TG005"],
            1,
        ),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("m.yaml"), MANIFEST).expect("written");
    for (name, text, codes, exit) in cases {
        fs::write(dir.path().join("p.yaml"), &text).expect("written");
        let megabytes = text.len().div_ceil(mib);
        let output = bounded(
            dir.path(),
            &["--format", "concise", "--fail-on", "warning", "m.yaml"],
            megabytes,
        );
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{name}: {out:.2000}{err:.2000}");
        for code in codes {
            assert!(out.contains(code), "{name}: {code} is not in {out:.2000}");
        }
        if codes.is_empty() {
            assert_eq!(out, "", "{name}");
        }
        // The findings of one file do not flood the screen.
        assert!(out.lines().count() <= 201, "{name}: {} lines", out.lines().count());
    }
}

#[test]
fn many_groups_of_nodes_end_within_bounds() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut manifest = bundle::cluster("c");
    // No two nodes run the same services.
    for n in 0..10_000_u32 {
        let roles: Vec<String> =
            (0..14).filter(|bit| n >> bit & 1 != 0).map(|bit| format!("r{bit}")).collect();
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        manifest = manifest.node(&format!("n{n}"), &address, &format!("all, {}", roles.join(", ")));
    }
    let services = (0..14).map(|bit| {
        let ports: Vec<String> =
            (0..200).map(|n| format!("tcp/{}", 1000 + bit * 300 + n)).collect();
        bundle::service(&format!("s{bit}"), &format!("r{bit}"), &ports.join(", "), "roles: [all]")
    });
    let policy = bundle::policy("p", services);
    fs::write(dir.path().join("m.yaml"), manifest.to_string()).expect("written");
    fs::write(dir.path().join("p.yaml"), &policy).expect("written");
    let output = bounded(dir.path(), &["m.yaml"], 1);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{}{err}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("p.yaml"), POLICY).expect("written");
    fs::create_dir(at("dir.yaml")).expect("a directory");
    nix::unistd::mkfifo(&at("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    symlink("p.yaml", at("link.yaml")).expect("a link");
    symlink("gone", at("dangling.yaml")).expect("a link");
    symlink("loop.yaml", at("loop.yaml")).expect("a link");
    symlink("/dev/zero", at("zero.yaml")).expect("a link");
    symlink("..", at("up")).expect("a link");
    fs::write(at("latin.yaml"), b"name: caf\xe9\n").expect("written");
    fs::write(at("utf16.yaml"), b"\xff\xfea\0:\0 \0b\0").expect("written");
    fs::File::create(at("huge.yaml"))
        .and_then(|file| file.set_len(100 << 20))
        .expect("a sparse file");
    for (policy, code, expected, exit) in [
        ("link.yaml", "", "", 0),
        ("dir.yaml", "TG405", "dir.yaml", 2),
        ("pipe.yaml", "TG405", "not a regular file", 2),
        ("dangling.yaml", "TG405", "does not exist", 2),
        ("loop.yaml", "TG405", "loop.yaml", 2),
        ("zero.yaml", "TG405", "not a regular file", 2),
        ("gone/p.yaml", "TG405", "does not exist", 2),
        ("p.yaml/p.yaml", "TG405", "p.yaml/p.yaml", 2),
        ("latin.yaml", "TG005", "0xe9 is not UTF-8", 1),
        ("utf16.yaml", "TG005", "0xff is not UTF-8", 1),
        ("huge.yaml", "TG009", "at most", 1),
        ("\"*.nothing\"", "TG405", "matches no policy file", 1),
        ("\"[\"", "TG405", "cannot be used", 1),
        ("/proc/self/mem", "TG405", "/proc/self/mem", 2),
    ] {
        fs::write(at("m.yaml"), MANIFEST.replace("[p.yaml]", &format!("[{policy}]")))
            .expect("written");
        let output = bounded(dir.path(), &["--format", "concise", "m.yaml"], 64);
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(exit), "{policy}: {out}");
        assert!(out.contains(code) && out.contains(expected), "{policy}: {out}");
    }
    // Passed by name first, then all found in a directory.
    for name in ["dir.yaml", "pipe.yaml", "dangling.yaml", "loop.yaml", "zero.yaml"] {
        let output = bounded(dir.path(), &[name], 1);
        assert_eq!(output.status.code(), Some(2), "{name}");
    }
    fs::write(at("m.yaml"), MANIFEST).expect("written");
    let output = bounded(dir.path(), &["--format", "concise"], 64);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2));
    for expected in ["pipe.yaml:1:1", "loop.yaml:1:1", "latin.yaml:1:10"] {
        assert!(out.contains(expected), "{expected} is not in {out}");
    }
    // A file name that is not UTF-8.
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9.yaml");
    fs::write(dir.path().join(odd), POLICY).expect("written");
    let output = bounded(dir.path(), &["--format", "concise"], 64);
    assert_eq!(output.status.code(), Some(2));
    std::str::from_utf8(&output.stdout).expect("the output is UTF-8");
}

/// Valid and invalid pieces of documents that replace other pieces.
const PIECES: &[&str] = &[
    "p",
    "\"p\"",
    "yes",
    "~",
    "",
    "[]",
    "{}",
    "[a, b]",
    "{ a: b }",
    "1000",
    "\"1000\"",
    "tcp/9091",
    "tcp/1-65535",
    "tcp/any",
    "udp/53",
    "new-connections",
    "observe",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "\"fd00::/16\"",
    "0.0.0.0/1",
    "200/s",
    "1G/s",
    "*a",
    "&a x",
    "!t x",
    "\u{202e}",
    "\"\\u0000\"",
    "# x",
    "- x",
    "\n",
    "  ",
    ":",
    ",",
    "[",
    "}",
    "worker",
    "scheduler",
    "office",
    "any: true",
    "worker-[0-9]",
    "10.0.[0-1].[0-9]",
];

fn pieces_of(text: &str) -> Vec<(usize, usize)> {
    let word = |c: char| c.is_alphanumeric() || "./-_:\"".contains(c);
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (word(c), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                words.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    words
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(repetitions(1000, 3000)))]

    #[test]
    fn lint_and_daemon_agree_on_mutated_documents(
        changes in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), select(PIECES)), 1..5),
    ) {
        let mut texts = [MANIFEST.to_owned(), POLICY.to_owned()];
        for (which, at, piece) in changes {
            let text = &mut texts[usize::from(which)];
            let words = pieces_of(text);
            if words.is_empty() {
                continue;
            }
            let (from, to) = words[at.index(words.len())];
            text.replace_range(from..to, piece);
        }
        assert_lint_and_daemon_agree(&load(&texts[0], &texts[1]));
    }

    #[test]
    fn lint_and_daemon_agree_on_arbitrary_text(text in prop::collection::vec(any::<char>(), 0..80), at in any::<prop::sample::Index>()) {
        let text: String = text.into_iter().collect();
        assert_lint_and_daemon_agree(&load(MANIFEST, &text));
        let at = at.index(POLICY.len());
        let mut policy = POLICY.to_owned();
        policy.insert_str(at, &text);
        assert_lint_and_daemon_agree(&load(MANIFEST, &policy));
    }
}
