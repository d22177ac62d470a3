//! Asking a daemon.

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

/// How long the daemon works on a command at most, by default.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_mins(2);

/// How long a program waits for a daemon's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerTimeouts {
    /// For the answer to a question. A policy of a million prefixes is loaded in half of the
    /// default.
    pub question: Duration,
    /// For the answer to a command, which may load two policies after those of others. The default
    /// is a little less than the time for which the daemon keeps the connection; a daemon that ends
    /// closes it.
    pub command: Duration,
}

impl Default for AnswerTimeouts {
    fn default() -> Self {
        Self {
            question: Duration::from_secs(5),
            command: COMMAND_TIMEOUT.saturating_sub(Duration::from_secs(5)),
        }
    }
}

/// How long to wait before the next attempt to connect while the socket's queue is full.
const CONNECT_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of an answer.
const MAX_ANSWER: usize = 16 << 20;
/// Bytes of an answer to a command: a dry run is answered with the policy in force.
const MAX_TEXTS: usize = 96 << 20;
/// Bytes of its head.
const MAX_HEAD: usize = 64 * 1024;

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
    /// Somebody answers, but not as our daemon does.
    #[error("what answers at `{path}` is no trainguard daemon of this version: {why}")]
    Garbled {
        /// The socket.
        path: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The daemon says no.
    #[error("the daemon refuses: {0}")]
    Refused(String),
    /// The daemon says no, for the sake of open connections.
    #[error("the daemon refuses: {why}")]
    WouldCut {
        /// In words.
        why: String,
        /// What would be cut.
        connections: Box<Connections>,
    },
}

impl ClientError {
    /// The exit code that says so.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } => Exit::Unreachable,
            Self::Garbled { .. } | Self::Refused(_) => Exit::NoAnswer,
            Self::WouldCut { .. } => Exit::No,
        }
    }

    /// The connections that it would cut, if that is why.
    pub fn connections(&self) -> Option<&Connections> {
        match self {
            Self::WouldCut { connections, .. } => Some(connections),
            _ => None,
        }
    }
}

/// Why a conversation failed.
enum AskError {
    Unreachable(io::Error),
    Silent(String),
    Garbled(String),
}

impl From<hyper::Error> for AskError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
            Self::Garbled(error.to_string())
        } else {
            Self::Silent(format!("it ended the connection before its answer was whole ({error})"))
        }
    }
}

/// Asks the daemon of this node, each time on a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    run_dir: PathBuf,
    timeouts: AnswerTimeouts,
}

impl Client {
    /// For the daemon whose sockets are in this directory.
    pub fn new(run_dir: &Path, timeouts: AnswerTimeouts) -> Self {
        Self { run_dir: run_dir.to_owned(), timeouts }
    }

    /// Where the sockets are.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Asks for the status.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.question("/v1/status", status::STATUS_SCHEMA)
    }

    /// Asks for the statistics.
    pub fn stats(&self) -> Result<Stats, ClientError> {
        self.question("/v1/stats", stats::STATS_SCHEMA)
    }

    /// Asks for the events after a number, at most so many.
    pub fn events(&self, after: u64, limit: usize) -> Result<Page, ClientError> {
        self.question(&format!("{EVENTS}?after={after}&limit={limit}"), events::PAGE_SCHEMA)
    }

    /// Asks for refused sources that behave like members.
    pub fn missing_members(&self) -> Result<Missing, ClientError> {
        self.question(MISSING_MEMBERS, missing::SCHEMA)
    }

    /// Asks the daemon to detach.
    pub fn detach(&self, detach: &Detach) -> Result<Detached, ClientError> {
        self.command("/v1/detach", detach)
    }

    /// Asks the daemon to put a policy into force.
    pub fn apply(&self, apply: &Apply) -> Result<Applied, ClientError> {
        self.command("/v1/apply", apply)
    }

    /// Asks the daemon to read its files again now.
    pub fn reload(&self) -> Result<Applied, ClientError> {
        self.command("/v1/reload", &())
    }

    /// Asks the daemon to change the mode of services.
    pub fn mode(&self, change: &ModeChange) -> Result<Applied, ClientError> {
        self.command("/v1/mode", change)
    }

    /// Asks the daemon to keep what is on trial.
    pub fn confirm(&self) -> Result<Applied, ClientError> {
        self.command("/v1/confirm", &())
    }

    /// Asks the daemon to undo what is on trial.
    pub fn roll_back(&self) -> Result<Applied, ClientError> {
        self.command("/v1/rollback", &())
    }

    fn question<T: DeserializeOwned>(
        &self,
        path: &str,
        schema: &'static str,
    ) -> Result<T, ClientError> {
        let socket = self.run_dir.join(STATS_SOCKET);
        let answer = ask(&socket, &Method::GET, path, &(), self.timeouts)?;
        versioned::read(&answer, schema).map_err(|error| garbled(&socket, &error))
    }

    fn command<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let socket = self.run_dir.join(CONTROL_SOCKET);
        let answer = ask(&socket, &Method::POST, path, body, self.timeouts)?;
        serde_json::from_slice(&answer).map_err(|error| garbled(&socket, &error))
    }
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

fn garbled(socket: &Path, why: &impl Display) -> ClientError {
    ClientError::Garbled { path: socket.display().to_string(), why: why.to_string() }
}

fn ask(
    socket: &Path,
    method: &Method,
    path: &str,
    body: &impl Serialize,
    timeouts: AnswerTimeouts,
) -> Result<Bytes, ClientError> {
    let failed = |failure| {
        let path = socket.display().to_string();
        match failure {
            AskError::Unreachable(error) => ClientError::Unreachable { path, error },
            AskError::Silent(why) => ClientError::Silent { path, why },
            AskError::Garbled(why) => garbled(socket, &why),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(AskError::Silent(error.to_string())))?;
    let (good, bytes) = runtime
        .block_on(async {
            let mut answer = std::pin::pin!(converse(socket, method, path, body));
            let mut within = timeouts.question;
            let mut answered = tokio::time::timeout(within, &mut answer).await;
            if answered.is_err() && method == Method::POST {
                let more = timeouts.command.saturating_sub(within);
                within = timeouts.command;
                output::talk(format_args!(
                    "the daemon is at it; its answer is waited for, {} seconds more at most",
                    more.as_secs_f64()
                ));
                answered = tokio::time::timeout(more, &mut answer).await;
            }
            answered.unwrap_or_else(|_elapsed| {
                let why = format!("not within {} seconds", within.as_secs_f64());
                Err(AskError::Silent(why))
            })
        })
        .map_err(failed)?;
    if good {
        return Ok(bytes);
    }
    let refusal: Option<Refusal> = serde_json::from_slice(&bytes).ok();
    let refusal = refusal.unwrap_or_else(|| "it gives no reason".into());
    let why = page(&refusal.why);
    Err(match refusal.connections {
        Some(connections) => ClientError::WouldCut { why, connections },
        None => ClientError::Refused(why),
    })
}

/// What a daemon says, as it may be shown: so many lines, each of a bounded length.
fn page(text: &str) -> String {
    const MAX_LINES: usize = 20;
    const LENGTH: usize = 400;
    let lines = text.lines().take(MAX_LINES);
    let lines: Vec<String> =
        lines.map(|line| visible(line).chars().take(LENGTH).collect()).collect();
    lines.join("\n")
}

async fn converse(
    socket: &Path,
    method: &Method,
    path: &str,
    body: &impl Serialize,
) -> Result<(bool, Bytes), AskError> {
    let stream = connect(socket).await.map_err(AskError::Unreachable)?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let unsaid = |error: &dyn Display| AskError::Silent(error.to_string());
    let body = serde_json::to_vec(body).map_err(|error| unsaid(&error))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "trainguard")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| unsaid(&error))?;
    let answer = sender.send_request(request).await?;
    let good = answer.status().is_success();
    let most = if method == Method::POST { MAX_TEXTS } else { MAX_ANSWER };
    let body = Limited::new(answer.into_body(), most).collect().await;
    let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => AskError::from(*error),
        Err(_too_long) => AskError::Garbled(format!("more than {most} bytes")),
    })?;
    Ok((good, body.to_bytes()))
}

/// Connects; waits while the queue of the socket is full.
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
