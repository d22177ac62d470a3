//! The signals that the daemon acts on.

use std::future::poll_fn;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::install_error::InstallError;
use crate::system_error::SystemError;

/// The action that a signal asks for: SIGHUP reloads the files, SIGTERM and SIGINT end the daemon.
pub(super) enum SignalAction {
    Reload,
    End,
}

/// Handlers of SIGHUP, SIGTERM and SIGINT.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers. From now on these signals no longer have their default effect.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub(super) fn new() -> Result<Self, InstallError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                InstallError::System(SystemError::of("installing the signal handlers", error))
            })
        };
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal. An end takes precedence over a reload.
    pub(super) async fn next(&mut self) -> SignalAction {
        poll_fn(|context| {
            if self.terminate.poll_recv(context).is_ready()
                || self.interrupt.poll_recv(context).is_ready()
            {
                return std::task::Poll::Ready(SignalAction::End);
            }
            self.hangup.poll_recv(context).map(|_| SignalAction::Reload)
        })
        .await
    }
}
