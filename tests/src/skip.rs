//! Explicit skips: a test that cannot run states the reason, and `cargo xtask test` counts it.

use std::{env, fs::OpenOptions, io::Write as _, sync::OnceLock};

use aya::{programs::ProgramType, sys::is_program_supported};
use guard_user::{embedded_object::kernel_object, system_error::SystemError};

/// Records that a test is skipped. The test must return after this call.
#[expect(clippy::print_stdout, reason = "a developer who runs a single test must see the skip")]
pub fn skip(name: &str, reason: &str) {
    println!("skipped: {name}: {reason}");
    if let Some(log) = env::var_os("TRAINGUARD_SKIP_LOG") {
        let line = format!("{name}: {reason}\n");
        // A single write to a file opened for appending, so that lines of several processes and threads
        // do not mix.
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the skip log can be written");
    }
}

/// Reports whether programs can be loaded here; if not, records the skip of the test.
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

/// Returns why programs cannot be loaded. A rejection by the verifier is no such reason: it fails the
/// test.
fn obstacle() -> Option<String> {
    if env::var_os("TRAINGUARD_QUICK").is_some_and(|value| value == "1") {
        return Some("left out by --quick".to_owned());
    }
    if kernel_object().is_none() {
        return Some("built without the kernel object, see `cargo xtask build`".to_owned());
    }
    // A program of two instructions needs the same privileges as the guard's, and loads a thousand times
    // faster.
    let error = is_program_supported(ProgramType::Xdp).err()?;
    match SystemError::of("bpf(2)", error).errno() {
        Some(libc::EPERM | libc::EACCES) if !nix::unistd::geteuid().is_root() => {
            Some("bpf(2) refused: needs root, or CAP_BPF and CAP_NET_ADMIN".to_owned())
        }
        Some(libc::EPERM | libc::EACCES) => {
            Some("bpf(2) refused: root here has no CAP_BPF or no CAP_NET_ADMIN".to_owned())
        }
        Some(libc::ENOSYS) => Some("this kernel does not support bpf(2)".to_owned()),
        _ => None,
    }
}
