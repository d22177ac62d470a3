//! Makes a test run out of file descriptors.

use std::{fs::File, io, os::fd::AsRawFd as _};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};

/// Returns the number that the next descriptor of this process will get: the lowest free one.
///
/// The number of open descriptors would not do, because the process may have inherited descriptors with
/// high numbers.
///
/// # Errors
///
/// If no descriptor is available.
pub fn lowest_free() -> io::Result<u64> {
    let number = File::open("/dev/null")?.as_raw_fd();
    u64::try_from(number).map_err(io::Error::other)
}

/// Runs a closure while this process can open no descriptor numbered `limit` or higher.
///
/// # Errors
///
/// If the limit of this process cannot be changed.
pub fn limited<T>(limit: u64, act: impl FnOnce() -> T) -> Result<T, Errno> {
    // aya probes the kernel's features once per process and would take a lack of descriptors for a lack
    // of features; then loading would fail whatever the limit. So probe before the limit is set.
    aya::features();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
    let result = act();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    Ok(result)
}
