//! Asking a daemon.

use std::{io, path::Path, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::UnixStream,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    server::{
        Applied, Apply, CONTROL_SOCKET, Detach, Detached, EVENTS, MISSING_MEMBERS, STATS_SOCKET,
    },
    view::{Stats, Status},
};
use crate::event::{Page, missing::Missing};

/// How long an answer may take. A policy of a million prefixes is loaded in half of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const MAX_ANSWER: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at `{path}`: {error}")]
    Unreachable {
        /// The socket.
        path: String,
        /// How connecting failed.
        error: io::Error,
    },
    /// Somebody listens but does not answer.
    #[error("the daemon at `{path}` does not answer: {why}")]
    Silent {
        /// The socket.
        path: String,
        /// What happened instead.
        why: String,
    },
    /// The daemon says no.
    #[error("the daemon refuses: {0}")]
    Refused(String),
}

/// Asks for the status.
pub fn status(run_dir: &Path) -> Result<Status, ClientError> {
    ask(&run_dir.join(STATS_SOCKET), &Method::GET, "/v1/status", &())
}

/// Asks for the statistics.
pub fn stats(run_dir: &Path) -> Result<Stats, ClientError> {
    ask(&run_dir.join(STATS_SOCKET), &Method::GET, "/v1/stats", &())
}

/// Asks for the events after a number, at most so many.
pub fn events(run_dir: &Path, after: u64, limit: usize) -> Result<Page, ClientError> {
    let path = format!("{EVENTS}?after={after}&limit={limit}");
    ask(&run_dir.join(STATS_SOCKET), &Method::GET, &path, &())
}

/// Asks for refused sources that behave like members.
pub fn missing_members(run_dir: &Path) -> Result<Missing, ClientError> {
    ask(&run_dir.join(STATS_SOCKET), &Method::GET, MISSING_MEMBERS, &())
}

/// Waits between questions, until somebody wants an end of it.
#[derive(Debug)]
pub struct Pause {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Pause {
    /// From now on an interrupt is a wish, and ends nothing by itself.
    pub fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (interrupt, terminate) = {
            let _guard = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        Ok(Self { runtime, interrupt, terminate })
    }

    /// Waits; false if an end is wanted.
    pub fn wait(&mut self, time: Duration) -> bool {
        let Self { runtime, interrupt, terminate } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => false,
                _ = terminate.recv() => false,
                () = tokio::time::sleep(time) => true,
            }
        })
    }
}

/// Asks the daemon to detach.
pub fn detach(run_dir: &Path, detach: &Detach) -> Result<Detached, ClientError> {
    command(run_dir, "/v1/detach", detach)
}

/// Asks the daemon to put a policy into force.
pub fn apply(run_dir: &Path, apply: &Apply) -> Result<Applied, ClientError> {
    command(run_dir, "/v1/apply", apply)
}

/// Asks the daemon to keep what is on trial.
pub fn confirm(run_dir: &Path) -> Result<Applied, ClientError> {
    command(run_dir, "/v1/confirm", &())
}

/// Asks the daemon to undo what is on trial.
pub fn roll_back(run_dir: &Path) -> Result<Applied, ClientError> {
    command(run_dir, "/v1/rollback", &())
}

fn command<T: DeserializeOwned>(
    run_dir: &Path,
    path: &str,
    body: &impl Serialize,
) -> Result<T, ClientError> {
    ask(&run_dir.join(CONTROL_SOCKET), &Method::POST, path, body)
}

fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: &Method,
    path: &str,
    body: &impl Serialize,
) -> Result<T, ClientError> {
    let shown = || socket.display().to_string();
    let silent = |why: String| ClientError::Silent { path: shown(), why };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| silent(error.to_string()))?;
    runtime.block_on(async {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| ClientError::Unreachable { path: shown(), error })?;
        let answer = tokio::time::timeout(PATIENCE, converse(stream, method, path, body)).await;
        let (good, bytes) = answer
            .map_err(|_elapsed| silent(format!("not within {} seconds", PATIENCE.as_secs())))?
            .map_err(silent)?;
        if good {
            serde_json::from_slice(&bytes).map_err(|error| silent(error.to_string()))
        } else {
            let refusal: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
            let why = refusal.as_ref().and_then(|r| r.get("error")).and_then(|e| e.as_str());
            Err(ClientError::Refused(why.unwrap_or("it gives no reason").to_owned()))
        }
    })
}

async fn converse(
    stream: UnixStream,
    method: &Method,
    path: &str,
    body: &impl Serialize,
) -> Result<(bool, Bytes), String> {
    let say = |error: &dyn std::fmt::Display| error.to_string();
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| say(&error))?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(body).map_err(|error| say(&error))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "trainguard")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| say(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| say(&error))?;
    let good = answer.status().is_success();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    Ok((good, body.map_err(|error| say(&error))?.to_bytes()))
}
