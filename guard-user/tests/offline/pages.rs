//! Manual pages and completions: every subcommand has its own.
#![expect(clippy::print_stdout, reason = "a check that is left out is said")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use clap::CommandFactory as _;
use guard_user::cli::Cli;

use super::binary::trainguard;

fn verbs() -> BTreeSet<String> {
    let command = Cli::command();
    command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
}

fn text(args: &[&str]) -> String {
    let output = trainguard(Path::new("/"), args, "");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_verb_has_a_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let into = directory.path().join("man1");
    text(&["man", "--output", into.to_str().expect("UTF-8")]);
    let files = fs::read_dir(&into)
        .expect("pages")
        .map(|entry| entry.expect("a page").file_name().into_string().expect("UTF-8"));
    let expected = verbs().into_iter().map(|verb| format!("trainguard-{verb}.1"));
    let expected: BTreeSet<_> = expected.chain(["trainguard.1".to_owned()]).collect();
    assert_eq!(files.collect::<BTreeSet<_>>(), expected);
    let whole = text(&["man"]);
    for verb in verbs() {
        let page = text(&["man", &verb]);
        let title = format!(".TH trainguard-{verb} 1");
        assert!(page.lines().any(|line| line.starts_with(&title)), "{page}");
        let usage = page.split(".SH SYNOPSIS").nth(1).expect("a synopsis");
        assert!(usage.contains(&format!("trainguard {verb}")), "{usage}");
        assert_eq!(
            fs::read_to_string(into.join(format!("trainguard-{verb}.1"))).expect("it"),
            page
        );
        // groff prints `\-` for `-`.
        assert!(whole.replace('\\', "").contains(&format!("trainguard-{verb}(1)")), "{verb}");
    }
}

/// A formatter that reports no problem proves little, but it does find macros that do not exist.
#[test]
fn the_pages_are_what_a_formatter_understands() {
    if Command::new("groff").arg("--version").output().is_err() {
        println!("skipped: pages/groff: there is no groff here");
        return;
    }
    for verb in verbs() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("page.1");
        fs::write(&file, text(&["man", &verb])).expect("writing");
        let output =
            Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&file).output();
        let output = output.expect("groff");
        assert!(output.stderr.is_empty(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn an_unknown_verb_has_no_page() {
    let output = trainguard(Path::new("/"), &["man", "guard"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no verb `guard`"), "{output:?}");
}

#[test]
fn every_shell_is_told_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&["completions", shell]);
        for verb in verbs() {
            assert!(script.contains(&verb), "{shell}: {verb}");
        }
        assert!(script.contains("--fail-on") || script.contains("fail-on"), "{shell}");
        if Command::new(shell).arg("--version").output().is_ok() {
            let parsed = Command::new(shell).args(["-n", "-c", &script]).output().expect("a shell");
            assert!(parsed.status.success(), "{shell}: {parsed:?}");
        }
    }
}
