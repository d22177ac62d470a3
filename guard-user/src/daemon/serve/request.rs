//! What clients ask of the daemon's loop, each with the way back for the answer.

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

/// What the guard is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// For the status.
    Status(oneshot::Sender<Status>),
    /// For the statistics.
    Stats(oneshot::Sender<Result<Stats, SystemError>>),
    /// For the metrics in a format.
    Metrics(TextFormat, oneshot::Sender<Result<Bytes, SystemError>>),
    /// To put a policy into force. Boxed: it may be large.
    Apply(Box<Apply>, oneshot::Sender<Result<Applied, Refusal>>),
    /// To read the files again.
    Reload(oneshot::Sender<Result<Applied, Refusal>>),
    /// To keep what is on trial.
    Confirm(oneshot::Sender<Result<Applied, Refusal>>),
    /// To undo what is on trial.
    RollBack(oneshot::Sender<Result<Applied, Refusal>>),
    /// To change the mode of services.
    Mode(ModeChange, oneshot::Sender<Result<Applied, Refusal>>),
    /// For the events after a number, at most so many.
    Events { after: u64, limit: usize, reply: oneshot::Sender<Page> },
    /// For nothing: somebody wanted this who may not.
    Refused(String),
    /// For refused sources that behave like members.
    MissingMembers(oneshot::Sender<Missing>),
    /// To detach.
    Detach(Detach, oneshot::Sender<Result<Detached, SystemError>>),
}

/// A question to the guard, and who has it.
#[derive(Debug)]
pub(crate) struct QueuedRequest {
    pub(crate) caller: Option<Peer>,
    pub(crate) ask: Ask,
}
