//! State of the systemd unit, and its journal.

use std::{
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::facts::{MaybeHidden, Unit};

/// Name of the unit.
const UNIT: &str = "trainguard.service";
/// Timeout for a program of systemd.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum output in bytes that is read.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// Returns the state of the unit; none if systemd does not run.
pub(super) fn unit() -> Option<MaybeHidden<Unit>> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let output = run(Command::new("systemctl").args([
        "show",
        "--property=LoadState,ActiveState,UnitFileState",
        UNIT,
    ]));
    Some(output.map(|text| parse(&text)).into())
}

/// Returns the last records of the unit's journal; empty if there are none, or they cannot be read.
pub(super) fn journal(records: usize) -> Vec<String> {
    let number = records.to_string();
    let output = run(Command::new("journalctl").args([
        "--unit",
        UNIT,
        "--lines",
        &number,
        "--output",
        "short-iso",
        "--no-pager",
        "--quiet",
    ]));
    output.map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
}

fn parse(text: &str) -> Unit {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().to_owned()
    };
    Unit { load: value("LoadState"), active: value("ActiveState"), file: value("UnitFileState") }
}

/// Returns the standard output of a program, which is killed after `PROGRAM_TIMEOUT`.
fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| format!("{name}: {error}");
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.env("LC_ALL", "C").spawn().map_err(failed)?;
    let output = child.stdout.take();
    // Read by a thread, because the program would block on a full pipe.
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let read = output.map(|output| output.take(MAX_OUTPUT_BYTES).read_to_end(&mut text));
        read.transpose().map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let deadline = Instant::now() + PROGRAM_TIMEOUT;
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "{name}: no output within {} seconds",
                    PROGRAM_TIMEOUT.as_secs()
                ));
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    let text =
        reader.join().map_err(|_panic| format!("{name}: reading failed"))?.map_err(failed)?;
    if status.success() { Ok(text) } else { Err(format!("{name}: {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_found_in_any_order() {
        let unit = parse("UnitFileState=enabled\nLoadState=loaded\nActiveState=active\n");
        assert_eq!((&*unit.load, &*unit.active, &*unit.file), ("loaded", "active", "enabled"));
        assert_eq!(parse(""), Unit::default());
    }

    #[test]
    fn failed_and_missing_programs_are_reported() {
        assert_eq!(run(Command::new("echo").arg("yes")), Ok("yes\n".to_owned()));
        assert!(run(&mut Command::new("false")).is_err_and(|why| why.contains("exit status: 1")));
        let none = run(&mut Command::new("no-such-program"));
        assert!(none.is_err_and(|why| why.starts_with("no-such-program")));
    }
}
