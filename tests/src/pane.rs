//! A real terminal for a program: a pane of tmux, on a server of its own that ends with the test.

use std::{
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{node::WAIT_TIMEOUT, skip};

/// The pane. A shell runs in it.
#[derive(Debug)]
pub struct Pane {
    // tmux leaves its socket behind.
    directory: TempDir,
}

impl Pane {
    /// Opens one of this size; none if there is no tmux, which is then said.
    pub fn open(test: &str, [columns, lines]: [u16; 2]) -> Option<Self> {
        if Command::new("tmux").arg("-V").stdout(Stdio::null()).status().is_err() {
            skip::skip(test, "there is no tmux, see `cargo xtask setup`");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("trainguard-pane-").tempdir();
        let pane = Self { directory: directory.expect("a directory") };
        // Nothing of the machine's: neither its settings nor its locale, prompt or history.
        let mut command = pane.tmux(&["new-session", "-d"]);
        command.args(["-x", &columns.to_string(), "-y", &lines.to_string()]);
        command.args(["env", "-i", "TERM=screen-256color", "LC_ALL=C.UTF-8", "PS1=ready> "]);
        command.arg(format!("PATH={}", std::env::var("PATH").unwrap_or_default()));
        command.args(["sh", "-i"]);
        run(&mut command);
        pane.until("a prompt", |shown| shown.contains("ready>"));
        // A signal that ends a program is to leave nothing else behind.
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

    /// Types a line.
    pub fn line(&self, text: &str) {
        run(&mut self.tmux(&["send-keys", "-l", text]));
        self.keys(&["Enter"]);
    }

    /// Presses keys, by tmux's names of them.
    pub fn keys(&self, keys: &[&str]) {
        run(self.tmux(&["send-keys"]).args(keys));
    }

    /// Gives the pane another size.
    pub fn resize(&self, columns: u16, lines: u16) {
        let [columns, lines] = [columns, lines].map(|number| number.to_string());
        run(self.tmux(&["resize-window"]).args(["-x", &columns, "-y", &lines]));
    }

    /// What is shown, with lines that were too long joined again.
    pub fn shown(&self) -> String {
        let output = run(&mut self.tmux(&["capture-pane", "-p", "-J"]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same with the sequences for colours and emphasis.
    pub fn coloured(&self) -> String {
        let output = run(&mut self.tmux(&["capture-pane", "-p", "-e"]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A value of the pane, by tmux's name of it.
    pub fn value(&self, name: &str) -> String {
        let format = format!("#{{{name}}}");
        let output = run(&mut self.tmux(&["display-message", "-p", &format]));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Waits until what is shown is as wanted; it.
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
