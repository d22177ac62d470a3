//! `trainguard lint` on the command line: its output, the positions, and its exit codes.

use std::{fs, path::Path, process::Output};

use guard_test_support::bundle::{self, LEAST_POLICY as POLICY};

use crate::binary::trainguard;

fn manifest(policies: &str) -> String {
    bundle::cluster("c").node("n", "10.0.0.1", "a").policies(policies).to_string()
}

fn lint(dir: &Path, args: &[&str], stdin: &str) -> Output {
    trainguard(dir, &[&["lint"], args].concat(), stdin)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is UTF-8")
}

#[test]
fn shipped_policies_are_clean() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let output = lint(&dir, &["--fail-on", "info"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "");
    let is_yaml = |path: &Path| path.extension().is_some_and(|extension| extension == "yaml");
    let files = fs::read_dir(&dir).expect("the policies").flatten();
    let files = files.filter(|file| is_yaml(&file.path())).count();
    let summary = format!("checked {files} files: 0 errors, 0 warnings, 0 info\n");
    assert_eq!(text(&output.stderr), summary);
}

#[test]
fn a_finding_is_shown_with_its_source_line() {
    let dir = tempfile::tempdir().unwrap();
    let bad = POLICY.replace("match: all", "mach: all");
    fs::write(dir.path().join("p.yaml"), bad).unwrap();
    let output = lint(dir.path(), &["p.yaml"], "");
    assert_eq!(output.status.code(), Some(1));
    let expected = "\
error[TG102]: a service lacks the field `match`
 --> p.yaml:5:5
  |
5 |   - name: s
  |     ^^^^
  |
help: write `match: all` or `match: new-connections`

error[TG101]: a service has no field `mach`
 --> p.yaml:8:5
  |
8 |     mach: all
  |     ^^^^
  |
help: did you mean `match`?

";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn common_mistakes_get_the_correct_line() {
    let cases = [
        ("[10.20.0.1]", "[10.20.0.[10-13]]", "put a host list in quotes: \"10.20.0.[10-13]\""),
        ("[10.20.0.1]", "[10.20.0.10-13]", "write several addresses as \"10.20.0.[10-13]\""),
        ("[10.20.0.1]", "[10.20.0.10-10.20.0.13]", "as \"10.20.0.[10-13]\", in quotes"),
        ("[10.20.0.1]", "[10.20.0.0/24]", "a prefix belongs to `networks`"),
        ("[10.20.0.1]", "[sched-0.example.org]", "names are not resolved"),
        ("policy.yaml", "polciy.yaml", "did you mean `policy.yaml`?"),
        ("tcp/80", "tcp:80", "write `tcp/80`"),
        ("tcp/80", "80-90/TCP", "write `tcp/80-90`"),
        ("tcp/80", "80", "write `tcp/80` or `udp/80`"),
    ];
    let manifest = "apiVersion: trainguard/v1\nkind: Cluster\nname: c\ninterfaces: [eth0]\nnodes:\n  \
                    - { name: a, addresses: [10.20.0.1], roles: [server] }\npolicies: [policy.yaml]\n";
    for (from, to, help) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cluster.yaml"), manifest.replace(from, to)).unwrap();
        fs::write(dir.path().join("policy.yaml"), POLICY.replace(from, to)).unwrap();
        let output = lint(dir.path(), &["cluster.yaml"], "");
        assert_ne!(output.status.code(), Some(0), "{to}");
        let shown = text(&output.stdout);
        let helps: Vec<&str> = shown.lines().filter(|line| line.starts_with("help: ")).collect();
        assert!(helps.iter().any(|line| line.contains(help)), "{to}: {shown}");
    }
}

#[test]
fn formats_and_thresholds() {
    let dir = tempfile::tempdir().unwrap();
    let warns = POLICY.replace("[tcp/80]", "[tcp/80]\n    except: [tcp/22]");
    fs::write(dir.path().join("p.yaml"), warns).unwrap();
    let output = lint(dir.path(), &["--format", "concise"], "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stdout),
        "p.yaml:8:14: warning[TG204] `tcp/22` is not a port of this service; `except` takes ports out of `ports`; remove it\n"
    );
    for (fail_on, code) in [("error", 0), ("warning", 1), ("info", 1), ("never", 0)] {
        let output = lint(dir.path(), &["--fail-on", fail_on], "");
        assert_eq!(output.status.code(), Some(code), "{fail_on}");
    }
    let output = lint(dir.path(), &["--format", "json"], "");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({
        "schema": "trainguard/lint/v1",
        "findings": [{
            "code": "TG204",
            "severity": "warning",
            "message": "`tcp/22` is not a port of this service",
            "file": "p.yaml",
            "line": 8,
            "column": 14,
            "end_line": 8,
            "end_column": 20,
            "help": "`except` takes ports out of `ports`; remove it",
            "related": [],
            "fixable": false,
        }],
        "summary": { "errors": 0, "warnings": 1, "infos": 0, "files": 1, "silenced": 0 },
    });
    assert_eq!(json, expected);
}

#[test]
fn which_files_lint_reads() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert_eq!(lint(dir.path(), &[], "").status.code(), Some(2), "no input");
    fs::write(at("other.yaml"), "a: [1, 2]\n").unwrap();
    let output = lint(dir.path(), &[], "");
    assert_eq!(output.status.code(), Some(2), "no trainguard file");
    assert!(text(&output.stderr).contains("`other.yaml` is not a trainguard file"));
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/p.yml"), POLICY).unwrap();
    fs::write(at("m.yaml"), manifest("\"sub/*.yml\"")).unwrap();
    let output = lint(dir.path(), &[], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("checked 2 files"));
    fs::write(at("m.yaml"), manifest("sub/p.yml, gone.yaml")).unwrap();
    let output = lint(dir.path(), &["--format", "concise", "--fail-on", "never"], "");
    assert_eq!(output.status.code(), Some(2), "a listed file is unreadable");
    assert_eq!(
        text(&output.stdout),
        "m.yaml:7:23: error[TG405] the file `gone.yaml` does not exist\n"
    );
    let output = lint(dir.path(), &["nowhere.yaml"], "");
    assert_eq!(output.status.code(), Some(2));
    let output = lint(dir.path(), &["-"], POLICY);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let output = lint(dir.path(), &["--format", "concise", "-"], "kind: Policy\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("-:1:1: error[TG102]"));
    // A named pipe without a writer must not block lint.
    let fifo = at("pipe.yaml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let output = lint(dir.path(), &["pipe.yaml"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("not a regular file"));
}

#[test]
fn control_characters_are_escaped_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let evil = POLICY.replace("name: s", "\"na\u{1b}[2Jme\u{9b}2J\u{202e}\": s");
    fs::write(dir.path().join("\u{1b}]0;p.yaml"), &evil).unwrap();
    let escaped = POLICY.replace("mode: enforce", "mode: \"\\e[2J\\u009b\\n\"");
    fs::write(dir.path().join("q.yaml"), escaped).unwrap();
    for format in ["full", "concise", "json", "sarif", "github", "junit"] {
        let output = lint(dir.path(), &["--format", format], "");
        assert_eq!(output.status.code(), Some(1));
        let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(all.contains("TG005"), "{all}");
        let raw = all
            .chars()
            .find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
        assert_eq!(raw, None, "{format}: {all}");
    }
}

#[test]
fn hostile_sizes_are_refused_quickly() {
    let dir = tempfile::tempdir().unwrap();
    let huge = fs::File::create(dir.path().join("huge.yaml")).unwrap();
    huge.set_len(100 << 20).unwrap();
    fs::write(dir.path().join("deep.yaml"), "[".repeat(10_000)).unwrap();
    for (file, code) in [("huge", "TG009"), ("deep", "TG009")] {
        let name = format!("{file}.yaml");
        let output = lint(dir.path(), &["--format", "concise", &name], "");
        assert!(text(&output.stdout).contains(code), "{}", text(&output.stdout));
        assert_eq!(output.status.code(), Some(1));
    }
}

/// Returns a policy with findings that have fixes, and one that remains.
fn fixable() -> String {
    POLICY
        .replace("name: p", "name: on")
        .replace("[tcp/80]", "[tcp/22]\n    except: [udp/1, tcp/23, udp/2]")
}

#[test]
fn fixes_are_shown_and_applied() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.yaml");
    fs::write(&file, fixable()).unwrap();
    let output = lint(dir.path(), &[], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("1 fix available (`--fix`)"), "{}", text(&output.stderr));

    // `--diff` shows the fixes and changes nothing.
    let output = lint(dir.path(), &["--diff"], "");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let diff = text(&output.stdout);
    let expected = "\
--- a/p.yaml
+++ b/p.yaml
@@ -1,11 +1,11 @@
 apiVersion: trainguard/v1
 kind: Policy
-name: on
+name: \"on\"
 services:
   - name: s
     roles: [a]
     ports: [tcp/22]
-    except: [udp/1, tcp/23, udp/2]
+    except: [udp/2]
     match: all
     allow: { roles: [a] }
     mode: enforce
";
    assert_eq!(diff, expected);
    let output = lint(dir.path(), &["--fix", "--diff"], "");
    assert_eq!(text(&output.stdout), expected);
    assert_eq!(fs::read_to_string(&file).unwrap(), fixable());

    // `--fix` writes through a symbolic link and keeps the mode of the file.
    let link = dir.path().join("link.yaml");
    std::os::unix::fs::symlink("p.yaml", &link).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let output = lint(dir.path(), &["--fix", "link.yaml"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let fixed = fs::read_to_string(&file).unwrap();
    assert!(fixed.contains("name: \"on\"") && fixed.contains("except: [udp/2]"), "{fixed}");
    assert!(link.symlink_metadata().unwrap().is_symlink());
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
    // The last entry of a list cannot be removed by a fix.
    let output = lint(dir.path(), &["--diff", "p.yaml"], "");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), ""));
    let output = lint(dir.path(), &["--format", "concise", "p.yaml"], "");
    assert!(text(&output.stdout).contains("TG204"), "{}", text(&output.stdout));

    // From standard input to standard output.
    let output = lint(dir.path(), &["--fix", "-"], &fixable());
    assert!(text(&output.stdout).contains("name: \"on\""), "{}", text(&output.stdout));
    assert_eq!(lint(dir.path(), &["--fix", "gone.yaml"], "").status.code(), Some(2));
    assert_eq!(lint(dir.path(), &["--fix", "--format", "json"], "").status.code(), Some(2));
}

#[test]
fn rules_are_silenced_by_comments_and_by_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let open = "allow: { any: true }  # trainguard: ignore[TG212] decided in June";
    fs::write(dir.path().join("p.yaml"), POLICY.replace("allow: { roles: [a] }", open)).unwrap();
    let output = lint(dir.path(), &[], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("1 finding silenced"), "{}", text(&output.stderr));
    let output = lint(dir.path(), &["--no-ignores"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("TG212"));
    let output = lint(dir.path(), &["--no-ignores", "--allow", "TG212"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    for code in ["TG999", "212", "tg212", ""] {
        assert_eq!(lint(dir.path(), &["--allow", code], "").status.code(), Some(2), "{code}");
    }
    // An error is reported even if the caller allows its code.
    fs::write(dir.path().join("p.yaml"), POLICY.replace("mode: enforce", "mode: enforced"))
        .unwrap();
    assert_eq!(lint(dir.path(), &["--allow", "TG112"], "").status.code(), Some(1));
}

#[test]
fn one_broken_manifest_does_not_hide_findings_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let open = POLICY.replace("allow: { roles: [a] }", "allow: { any: true }");
    fs::write(dir.path().join("p.yaml"), &open).unwrap();
    fs::write(dir.path().join("a.yaml"), manifest("gone.yaml")).unwrap();
    let two = manifest("p.yaml").replace("[10.0.0.1]", "[10.0.0.1, \"fd00::1\"]");
    let two = two
        .replace("roles: [a] }", "roles: [a] }\n  - { name: o, addresses: [10.0.0.2], roles: [] }");
    fs::write(dir.path().join("b.yaml"), two).unwrap();
    let output = lint(dir.path(), &["--format", "concise"], "");
    let found = text(&output.stdout);
    for code in ["TG405", "TG212", "TG202", "TG303"] {
        assert!(found.contains(code), "{code} is not in {found}");
    }
    assert_eq!(output.status.code(), Some(2), "one file is unreadable");
}
