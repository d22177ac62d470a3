//! Client of the daemon's sockets: sends requests over HTTP/1.1 and decodes the answers.

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

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
    CONTROL_SOCKET, EVENTS, MISSING_MEMBERS, STATS_SOCKET,
    connections::Connections,
    control::{Applied, Apply, Detach, Detached, ModeChange, Refusal},
    events::{
        self, Page,
        missing::{self, Missing},
    },
    stats::{self, Stats},
    status::{self, Status},
    versioned,
};
use crate::{exit::Exit, output, policy::syntax::text::visible};

/// Default limit of the time that the daemon works on one command.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_mins(2);

/// How long a client waits for an answer of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerTimeouts {
    /// Timeout of a query. The daemon loads a policy of one million prefixes in half of the default.
    pub query: Duration,
    /// Timeout of a command, which may wait for commands of other clients and then load two policies.
    /// The default is 5 s less than the time for which the daemon keeps the connection open. A daemon
    /// that ends closes the connection.
    pub command: Duration,
}

impl Default for AnswerTimeouts {
    fn default() -> Self {
        Self {
            query: Duration::from_secs(5),
            command: COMMAND_TIMEOUT.saturating_sub(Duration::from_secs(5)),
        }
    }
}

/// Delay before the next attempt to connect while the backlog of the socket is full.
const CONNECT_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum size of the answer to a query, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// Maximum size of the answer to a command, in bytes. The answer to a dry run contains the policy in
/// force.
const MAX_COMMAND_ANSWER: usize = 96 << 20;
/// Maximum size of the head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Connecting failed: no daemon listens on the socket.
    #[error("no daemon answers at `{path}`: {error}")]
    Unreachable {
        /// Path of the socket.
        path: String,
        /// The error of connecting.
        error: io::Error,
    },
    /// The socket accepts connections, but no complete answer arrived in time.
    #[error("the daemon at `{path}` does not answer: {why}")]
    Silent {
        /// Path of the socket.
        path: String,
        /// Why no answer arrived: the timeout, or how the connection ended.
        why: String,
    },
    /// The answer is not that of a trainguard daemon of this version.
    #[error("`{path}`: incompatible response (not trainguard, or another version): {why}")]
    Garbled {
        /// Path of the socket.
        path: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The daemon refused the request, for this reason.
    #[error("the daemon refused the request: {0}")]
    Refused(String),
    /// The daemon refused the command because it would cut open connections.
    #[error("the daemon refused the request: {why}")]
    WouldCut {
        /// The reason as the daemon gives it.
        why: String,
        /// The connections that would be cut.
        connections: Box<Connections>,
    },
}

impl ClientError {
    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } => Exit::Unreachable,
            Self::Garbled { .. } | Self::Refused(_) => Exit::NoAnswer,
            Self::WouldCut { .. } => Exit::No,
        }
    }

    /// Returns the connections that the command would cut, if the daemon refused it because of them.
    pub fn connections(&self) -> Option<&Connections> {
        match self {
            Self::WouldCut { connections, .. } => Some(connections),
            _ => None,
        }
    }
}

/// Why an exchange with the daemon failed, without the path of the socket.
enum ExchangeError {
    Unreachable(io::Error),
    Silent(String),
    Garbled(String),
}

impl From<hyper::Error> for ExchangeError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
            Self::Garbled(error.to_string())
        } else {
            Self::Silent(format!(
                "the connection closed before the response was complete ({error})"
            ))
        }
    }
}

/// Client of the daemon on this node. Each request uses its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    run_dir: PathBuf,
    timeouts: AnswerTimeouts,
}

impl Client {
    /// Creates a client of the daemon whose sockets are in `run_dir`.
    pub fn new(run_dir: &Path, timeouts: AnswerTimeouts) -> Self {
        Self { run_dir: run_dir.to_owned(), timeouts }
    }

    /// Returns the directory of the sockets.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Requests the status.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.query("/v1/status", status::STATUS_SCHEMA)
    }

    /// Requests the statistics.
    pub fn stats(&self) -> Result<Stats, ClientError> {
        self.query("/v1/stats", stats::STATS_SCHEMA)
    }

    /// Requests the events with sequence numbers above `after`, at most `limit` of them.
    pub fn events(&self, after: u64, limit: usize) -> Result<Page, ClientError> {
        self.query(&format!("{EVENTS}?after={after}&limit={limit}"), events::PAGE_SCHEMA)
    }

    /// Requests the refused sources that behave like members of the cluster.
    pub fn missing_members(&self) -> Result<Missing, ClientError> {
        self.query(MISSING_MEMBERS, missing::SCHEMA)
    }

    /// Requests that the daemon detaches from interfaces.
    pub fn detach(&self, detach: &Detach) -> Result<Detached, ClientError> {
        self.command("/v1/detach", detach)
    }

    /// Requests that the daemon puts a policy into force.
    pub fn apply(&self, apply: &Apply) -> Result<Applied, ClientError> {
        self.command("/v1/apply", apply)
    }

    /// Requests that the daemon reads its files again now.
    pub fn reload(&self) -> Result<Applied, ClientError> {
        self.command("/v1/reload", &())
    }

    /// Requests a change of the mode of services.
    pub fn mode(&self, change: &ModeChange) -> Result<Applied, ClientError> {
        self.command("/v1/mode", change)
    }

    /// Requests that the policy on trial stays in force.
    pub fn confirm(&self) -> Result<Applied, ClientError> {
        self.command("/v1/confirm", &())
    }

    /// Requests that the policy on trial is undone.
    pub fn roll_back(&self) -> Result<Applied, ClientError> {
        self.command("/v1/rollback", &())
    }

    fn query<T: DeserializeOwned>(
        &self,
        path: &str,
        schema: &'static str,
    ) -> Result<T, ClientError> {
        let socket = self.run_dir.join(STATS_SOCKET);
        let answer = send(&socket, &Method::GET, path, &(), self.timeouts)?;
        versioned::read(&answer, schema).map_err(|error| garbled(&socket, &error))
    }

    fn command<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let socket = self.run_dir.join(CONTROL_SOCKET);
        let answer = send(&socket, &Method::POST, path, body, self.timeouts)?;
        serde_json::from_slice(&answer).map_err(|error| garbled(&socket, &error))
    }
}

/// A wait between requests that SIGINT and SIGTERM end early.
#[derive(Debug)]
pub struct Pause {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Pause {
    /// Installs handlers for SIGINT and SIGTERM. From then on, these signals only end [`Self::wait`]
    /// and do not terminate the process.
    pub fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (interrupt, terminate) = {
            let _guard = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        Ok(Self { runtime, interrupt, terminate })
    }

    /// Waits for `time`; returns false if a signal ended the wait.
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

fn garbled(socket: &Path, why: &impl Display) -> ClientError {
    ClientError::Garbled { path: socket.display().to_string(), why: why.to_string() }
}

fn send(
    socket: &Path,
    method: &Method,
    path: &str,
    body: &impl Serialize,
    timeouts: AnswerTimeouts,
) -> Result<Bytes, ClientError> {
    let failed = |failure| {
        let path = socket.display().to_string();
        match failure {
            ExchangeError::Unreachable(error) => ClientError::Unreachable { path, error },
            ExchangeError::Silent(why) => ClientError::Silent { path, why },
            ExchangeError::Garbled(why) => garbled(socket, &why),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(ExchangeError::Silent(error.to_string())))?;
    let (succeeded, bytes) = runtime
        .block_on(async {
            let mut answer = std::pin::pin!(exchange(socket, method, path, body));
            let mut timeout = timeouts.query;
            let mut answered = tokio::time::timeout(timeout, &mut answer).await;
            if answered.is_err() && method == Method::POST {
                let more = timeouts.command.saturating_sub(timeout);
                timeout = timeouts.command;
                output::message(format_args!(
                    "the daemon is still working on the request; waiting up to {} seconds more",
                    more.as_secs_f64()
                ));
                answered = tokio::time::timeout(more, &mut answer).await;
            }
            answered.unwrap_or_else(|_elapsed| {
                let why = format!("no response within {} seconds", timeout.as_secs_f64());
                Err(ExchangeError::Silent(why))
            })
        })
        .map_err(failed)?;
    if succeeded {
        return Ok(bytes);
    }
    let refusal: Option<Refusal> = serde_json::from_slice(&bytes).ok();
    let refusal = refusal.unwrap_or_else(|| "no reason given".into());
    let why = printable(&refusal.why);
    Err(match refusal.connections {
        Some(connections) => ClientError::WouldCut { why, connections },
        None => ClientError::Refused(why),
    })
}

/// Returns text of the daemon in a form that is safe to print: escaped, and limited in lines and in
/// the length of each line.
fn printable(text: &str) -> String {
    const MAX_LINES: usize = 20;
    const LENGTH: usize = 400;
    let lines = text.lines().take(MAX_LINES);
    let lines: Vec<String> =
        lines.map(|line| visible(line).chars().take(LENGTH).collect()).collect();
    lines.join("\n")
}

async fn exchange(
    socket: &Path,
    method: &Method,
    path: &str,
    body: &impl Serialize,
) -> Result<(bool, Bytes), ExchangeError> {
    let stream = connect(socket).await.map_err(ExchangeError::Unreachable)?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let failed = |error: &dyn Display| ExchangeError::Silent(error.to_string());
    let body = serde_json::to_vec(body).map_err(|error| failed(&error))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "trainguard")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await?;
    let succeeded = answer.status().is_success();
    let limit = if method == Method::POST { MAX_COMMAND_ANSWER } else { MAX_ANSWER };
    let body = Limited::new(answer.into_body(), limit).collect().await;
    let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => ExchangeError::from(*error),
        Err(_too_long) => ExchangeError::Garbled(format!("more than {limit} bytes")),
    })?;
    Ok((succeeded, body.to_bytes()))
}

/// Connects, and retries while the backlog of the socket is full.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(CONNECT_RETRY_INTERVAL).await;
            }
            connected => return connected,
        }
    }
}
