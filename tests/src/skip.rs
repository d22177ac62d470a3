//! Skipping aloud: a test that cannot run says why, where `cargo xtask test` counts it.

use std::{env, fs::OpenOptions, io::Write as _, sync::OnceLock};

use aya::{programs::ProgramType, sys::is_program_supported};
use guard_user::{embedded_object::kernel_object, system_error::SystemError};

/// Writes down that a test is skipped. The test returns after this.
#[expect(clippy::print_stdout, reason = "whoever runs one test by hand shall see it, too")]
pub fn skip(name: &str, reason: &str) {
    println!("skipped: {name}: {reason}");
    if let Some(log) = env::var_os("TRAINGUARD_SKIP_LOG") {
        let line = format!("{name}: {reason}\n");
        // One write to a file opened for appending: test binaries and threads do not mix lines.
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the skip log can be written");
    }
}

/// Whether tests that load programs can run here; if not, the test is skipped.
pub fn kernel(name: &str) -> Option<()> {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    match OBSTACLE.get_or_init(obstacle) {
        Some(reason) => {
            skip(name, reason);
            None
        }
        None => Some(()),
    }
}

/// What keeps us from loading programs. A refusal by the verifier is none: it fails the test.
fn obstacle() -> Option<String> {
    if env::var_os("TRAINGUARD_QUICK").is_some_and(|value| value == "1") {
        return Some("left out by --quick".to_owned());
    }
    if kernel_object().is_none() {
        return Some("built without the kernel object, see `cargo xtask build`".to_owned());
    }
    // A program of two instructions needs the same rights as the guard's, and a thousandth of its time.
    let error = is_program_supported(ProgramType::Xdp).err()?;
    match SystemError::of("bpf(2)", error).errno() {
        Some(libc::EPERM | libc::EACCES) if !nix::unistd::geteuid().is_root() => {
            Some("bpf(2) refused: needs root, or CAP_BPF and CAP_NET_ADMIN".to_owned())
        }
        Some(libc::EPERM | libc::EACCES) => {
            Some("bpf(2) refused: root here has no CAP_BPF or no CAP_NET_ADMIN".to_owned())
        }
        Some(libc::ENOSYS) => Some("this kernel has no bpf(2)".to_owned()),
        _ => None,
    }
}
