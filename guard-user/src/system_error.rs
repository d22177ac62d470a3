//! Errors of the kernel and of system calls, with hints.

use std::{error::Error as StdError, fmt, io, sync::Arc};

/// An error message with an optional hint for the operator.
#[derive(Debug, Clone)]
pub struct SystemError {
    message: String,
    hint: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl SystemError {
    /// Creates an error with only a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, source: None }
    }

    /// Sets the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Creates an error from the action that failed and its cause. Adds a hint for common errnos.
    pub fn of(what: impl fmt::Display, error: impl StdError + Send + Sync + 'static) -> Self {
        let hint = os_error(&error).and_then(hint_of);
        let chain = chain(&error);
        Self { message: format!("{what}: {chain}"), hint, source: Some(Arc::new(error)) }
    }

    /// Returns the hint.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Formats message and hint on one line.
    pub fn with_hint(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{self} ({hint})"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for SystemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for SystemError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The message already contains the whole chain.
        None
    }
}

impl SystemError {
    /// Returns the errno of the underlying system error, if there is one.
    pub fn errno(&self) -> Option<i32> {
        self.source.as_deref().and_then(|source| os_error(source))
    }
}

/// Formats an error and its sources, without texts that the message already contains.
fn chain(error: &dyn StdError) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        next = cause.source();
    }
    message
}

fn os_error(error: &(dyn StdError + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        next = error.source();
    }
    None
}

fn hint_of(errno: i32) -> Option<String> {
    match errno {
        libc::EPERM | libc::EACCES => Some(
            "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON and write access to \
             the pin directory; in a container, the seccomp profile must also allow bpf(2)"
                .to_owned(),
        ),
        libc::ENOMEM | libc::ENOSPC => {
            Some("the kernel lacks memory or space: check the limits of this service".to_owned())
        }
        libc::ENOSYS => Some("this kernel does not support bpf(2)".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_for_eperm_names_the_capabilities() {
        let error = SystemError::of("loading", io::Error::from_raw_os_error(libc::EPERM));
        assert!(error.hint_text().is_some_and(|hint| hint.contains("CAP_BPF")));
        assert_eq!(error.errno(), Some(libc::EPERM));
    }

    #[test]
    fn a_chain_contains_no_text_twice() {
        let inner = io::Error::other("no such thing");
        let error = SystemError::of("attaching to `eth0`", io::Error::other(inner));
        assert_eq!(error.to_string(), "attaching to `eth0`: no such thing");
    }
}
