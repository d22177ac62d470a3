//! Running the binary.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs `trainguard` in a directory, with this on its standard input, and waits until it ends.
pub(crate) fn trainguard(dir: &Path, args: &[&str], stdin: impl AsRef<[u8]>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_trainguard"))
        .current_dir(dir)
        .args(args)
        // Findings are shown differently in a workflow.
        .env_remove("GITHUB_ACTIONS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A verb that does not read all of its input may be gone already.
    let _ = child.stdin.take().expect("its input").write_all(stdin.as_ref());
    child.wait_with_output().expect("the binary ends")
}
