//! Running out of file descriptors on purpose.

use std::{fs::File, io, os::fd::AsRawFd as _};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};

/// The number that the next descriptor of this process gets.
///
/// That is the lowest free one. How many are open says nothing: whoever started the process may
/// have left it some with high numbers.
///
/// # Errors
///
/// Not one descriptor can be had.
pub fn lowest_free() -> io::Result<u64> {
    let number = File::open("/dev/null")?.as_raw_fd();
    u64::try_from(number).map_err(io::Error::other)
}

/// Does something while no descriptor can be had whose number is `limit` or more.
///
/// # Errors
///
/// The limit of this process cannot be changed.
pub fn limited<T>(limit: u64, act: impl FnOnce() -> T) -> Result<T, Errno> {
    // aya asks the kernel for its features once in a process, and takes a lack of descriptors for a lack
    // of features. Loading would then fail whatever the limit.
    aya::features();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
    let result = act();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    Ok(result)
}
