//! Runs the `trainguard` binary.

use std::{
    env,
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

/// Returns the path of guard-tests' binary: `TRAINGUARD_BIN`, or where a build of the workspace leaves
/// it.
pub fn path() -> PathBuf {
    env::var_os("TRAINGUARD_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/trainguard"),
        PathBuf::from,
    )
}

/// Returns a command that runs the binary as if outside of any CI workflow, because lint formats
/// findings differently in one.
pub fn command<A: AsRef<OsStr>>(
    binary: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(binary);
    command.args(args).env_remove("GITHUB_ACTIONS").env_remove("GITHUB_STEP_SUMMARY");
    command
}

/// Runs the binary in a directory with the given standard input and waits until it exits.
pub fn run<A: AsRef<OsStr>>(
    binary: impl AsRef<OsStr>,
    dir: &Path,
    args: impl IntoIterator<Item = A>,
    stdin: impl AsRef<[u8]>,
) -> Output {
    feed(command(binary, args).current_dir(dir), stdin.as_ref())
}

/// Runs a command with the given standard input and waits until it exits.
pub fn feed(command: &mut Command, stdin: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let input = child.stdin.take();
    thread::scope(|scope| {
        // Write on another thread while the output is read, because either pipe may fill up.
        scope.spawn(move || {
            // The process may exit without reading all of its input.
            input.is_some_and(|mut input| input.write_all(stdin).is_ok())
        });
        child.wait_with_output().expect("the binary ends")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_output_may_exceed_the_buffer_of_a_pipe() {
        let bytes = vec![b'x'; 1 << 20];
        assert_eq!(run("cat", Path::new("."), [""; 0], &bytes).stdout, bytes);
    }

    #[test]
    fn a_program_that_reads_no_input_is_not_a_failure() {
        let output = run("true", Path::new("."), [""; 0], vec![0; 1 << 20]);
        assert!(output.status.success());
    }
}
