//! The signals that the daemon acts upon.

use std::future::poll_fn;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::install_error::InstallError;
use crate::system_error::SystemError;

/// What a signal asks for.
pub(super) enum SignalAction {
    Reload,
    End,
}

/// The signals.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn new() -> Result<Self, InstallError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                InstallError::System(SystemError::of("listening to signals", error))
            })
        };
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
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
