//! A real terminal for a program: a tmux pane, on a server of its own that ends with the test.

use std::{
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{node::WAIT_TIMEOUT, skip};

/// A pane with a shell.
#[derive(Debug)]
pub struct Pane {
    // Holds the socket, which tmux does not remove.
    directory: TempDir,
}

impl Pane {
    /// Opens a pane of this size. Returns `None`, and records the skip, without tmux.
    pub fn open(test: &str, [columns, lines]: [u16; 2]) -> Option<Self> {
        if Command::new("tmux").arg("-V").stdout(Stdio::null()).status().is_err() {
            skip::skip(test, "tmux is not installed, see `cargo xtask setup`");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("trainguard-pane-").tempdir();
        let pane = Self { directory: directory.expect("a directory") };
        // Use none of the machine's settings, locale, prompt or history.
        let mut command = pane.tmux(&["new-session", "-d"]);
        command.args(["-x", &columns.to_string(), "-y", &lines.to_string()]);
        command.args(["env", "-i", "TERM=screen-256color", "LC_ALL=C.UTF-8", "PS1=ready> "]);
        command.arg(format!("PATH={}", std::env::var("PATH").unwrap_or_default()));
        command.args(["sh", "-i"]);
        run(&mut command);
        pane.until("a prompt", |shown| shown.contains("ready>"));
        // A program that a signal kills must leave no core file.
        pane.line("ulimit -c 0");
        Some(pane)
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.directory.path().join("tmux"));
        command.args(["-u", "-f", "/dev/null"]).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Types a line and presses Enter.
    pub fn line(&self, text: &str) {
        run(&mut self.tmux(&["send-keys", "-l", text]));
        self.keys(&["Enter"]);
    }

    /// Presses keys, given by their tmux names.
    pub fn keys(&self, keys: &[&str]) {
        run(self.tmux(&["send-keys"]).args(keys));
    }

    /// Resizes the pane.
    pub fn resize(&self, columns: u16, lines: u16) {
        let [columns, lines] = [columns, lines].map(|number| number.to_string());
        run(self.tmux(&["resize-window"]).args(["-x", &columns, "-y", &lines]));
    }

    /// Returns the text on the screen, with wrapped lines joined.
    pub fn shown(&self) -> String {
        let output = run(&mut self.tmux(&["capture-pane", "-p", "-J"]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns the text on the screen with the escape sequences for colours and emphasis.
    pub fn coloured(&self) -> String {
        let output = run(&mut self.tmux(&["capture-pane", "-p", "-e"]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns a tmux variable of the pane.
    pub fn value(&self, name: &str) -> String {
        let format = format!("#{{{name}}}");
        let output = run(&mut self.tmux(&["display-message", "-p", &format]));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Waits until the screen satisfies a condition, and returns its text.
    pub fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let shown = self.shown();
            if wanted(&shown) {
                return shown;
            }
            assert!(Instant::now() < deadline, "not shown: {what}\n{shown}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Pane {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).output();
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}
