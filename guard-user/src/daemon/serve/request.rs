//! Requests to the daemon's loop, each with a channel for the answer.

use hyper::body::Bytes;
use tokio::sync::oneshot;

use super::{exposition::TextFormat, peer_credentials::Peer};
use crate::{
    api::{
        control::{Applied, Apply, Detach, Detached, ModeChange, Refusal},
        events::{Page, missing::Missing},
        stats::Stats,
        status::Status,
    },
    system_error::SystemError,
};

/// A request to the daemon's loop.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Returns the status.
    Status(oneshot::Sender<Status>),
    /// Returns the statistics.
    Stats(oneshot::Sender<Result<Stats, SystemError>>),
    /// Returns the metrics in a text format.
    Metrics(TextFormat, oneshot::Sender<Result<Bytes, SystemError>>),
    /// Puts a policy into force, or on trial. Boxed because it may be large.
    Apply(Box<Apply>, oneshot::Sender<Result<Applied, Refusal>>),
    /// Loads the files again.
    Reload(oneshot::Sender<Result<Applied, Refusal>>),
    /// Keeps the policy on trial.
    Confirm(oneshot::Sender<Result<Applied, Refusal>>),
    /// Undoes the policy on trial.
    RollBack(oneshot::Sender<Result<Applied, Refusal>>),
    /// Changes the mode of services.
    Mode(ModeChange, oneshot::Sender<Result<Applied, Refusal>>),
    /// Returns at most `limit` events with numbers greater than `after`.
    Events { after: u64, limit: usize, reply: oneshot::Sender<Page> },
    /// Records in the audit log a request whose sender has no permission; there is no answer. The text
    /// is the method and the path.
    Refused(String),
    /// Returns refused sources that behave like members.
    MissingMembers(oneshot::Sender<Missing>),
    /// Detaches the guard from interfaces.
    Detach(Detach, oneshot::Sender<Result<Detached, SystemError>>),
}

/// A request and its sender; none for sockets that accept no commands.
#[derive(Debug)]
pub(crate) struct QueuedRequest {
    pub(crate) caller: Option<Peer>,
    pub(crate) ask: Ask,
}
