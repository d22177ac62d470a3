//! The picture of `trainguard stats` in the README: the screen of a real terminal (a pane of tmux) as SVG.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{sh, toolchain};

/// Columns and lines of the terminal.
const SIZE: [&str; 2] = ["100", "30"];
/// Time until the rates of several samples are on the screen.
const SETTLE: Duration = Duration::from_secs(6);

/// Runs a command in a terminal, and writes its screen to an SVG file after a while.
pub(super) fn take(command: &[&str], file: &Path) -> Result<()> {
    toolchain::ensure_tmux(false)?;
    let directory =
        tempfile::tempdir().context("creating a temporary directory for the socket of tmux")?;
    let tmux = |args: &[&str]| {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(directory.path().join("tmux")).args(["-u", "-f", "/dev/null"]);
        tmux.args(args).stdin(Stdio::null());
        tmux
    };
    let [columns, lines] = SIZE;
    let mut start = tmux(&["new-session", "-d", "-x", columns, "-y", lines]);
    sh::run(start.args(["env", "-i", "TERM=screen-256color", "LC_ALL=C.UTF-8"]).args(command))?;
    thread::sleep(SETTLE);
    let screen = sh::read(&mut tmux(&["capture-pane", "-p", "-e"]));
    sh::run(&mut tmux(&["kill-server"]))?;
    let svg = anstyle_svg::Term::new().render_svg(&screen?);
    fs::write(file, svg).with_context(|| file.display().to_string())?;
    println!("wrote {}", file.display());
    Ok(())
}
