//! Manual pages and completions: every subcommand has its own.
#![expect(clippy::print_stdout, reason = "a skipped check is printed")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use clap::CommandFactory as _;
use guard_user::cli::Cli;

use super::binary::trainguard;

fn subcommands() -> BTreeSet<String> {
    let command = Cli::command();
    command.get_subcommands().map(|subcommand| subcommand.get_name().to_owned()).collect()
}

fn text(args: &[&str]) -> String {
    let output = trainguard(Path::new("/"), args, "");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_subcommand_has_a_man_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let into = directory.path().join("man1");
    text(&["man", "--output", into.to_str().expect("UTF-8")]);
    let files = fs::read_dir(&into)
        .expect("pages")
        .map(|entry| entry.expect("a page").file_name().into_string().expect("UTF-8"));
    let expected = subcommands().into_iter().map(|subcommand| format!("trainguard-{subcommand}.1"));
    let expected: BTreeSet<_> = expected.chain(["trainguard.1".to_owned()]).collect();
    assert_eq!(files.collect::<BTreeSet<_>>(), expected);
    let whole = text(&["man"]);
    for subcommand in subcommands() {
        let page = text(&["man", &subcommand]);
        let title = format!(".TH trainguard-{subcommand} 1");
        assert!(page.lines().any(|line| line.starts_with(&title)), "{page}");
        let usage = page.split(".SH SYNOPSIS").nth(1).expect("a synopsis");
        assert!(usage.contains(&format!("trainguard {subcommand}")), "{usage}");
        assert_eq!(
            fs::read_to_string(into.join(format!("trainguard-{subcommand}.1")))
                .expect("the written page"),
            page
        );
        // groff prints `\-` for `-`.
        assert!(
            whole.replace('\\', "").contains(&format!("trainguard-{subcommand}(1)")),
            "{subcommand}"
        );
    }
}

/// groff reports macros that do not exist, but only a few other mistakes.
#[test]
fn groff_accepts_the_man_pages() {
    if Command::new("groff").arg("--version").output().is_err() {
        println!("skipped: pages/groff: groff is not installed");
        return;
    }
    for subcommand in subcommands() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("page.1");
        fs::write(&file, text(&["man", &subcommand])).expect("writing");
        let output =
            Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&file).output();
        let output = output.expect("groff");
        assert!(
            output.stderr.is_empty(),
            "{subcommand}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn an_unknown_subcommand_has_no_man_page() {
    let output = trainguard(Path::new("/"), &["man", "guard"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no subcommand `guard`"),
        "{output:?}"
    );
}

#[test]
fn completions_name_every_subcommand_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&["completions", shell]);
        for subcommand in subcommands() {
            assert!(script.contains(&subcommand), "{shell}: {subcommand}");
        }
        assert!(script.contains("--fail-on") || script.contains("fail-on"), "{shell}");
        if Command::new(shell).arg("--version").output().is_ok() {
            let parsed = Command::new(shell).args(["-n", "-c", &script]).output().expect("a shell");
            assert!(parsed.status.success(), "{shell}: {parsed:?}");
        }
    }
}
