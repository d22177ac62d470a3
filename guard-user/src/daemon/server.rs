//! The two sockets: statistics for those who may read them, control for the administrator.
//!
//! HTTP/1.1, so that `curl --unix-socket` works. Every request is bounded in time and size, and so
//! is their number (see [`super::doors`]): a stuck client costs a place for some seconds, never the
//! daemon.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot},
};

use super::{
    doors::{self, Control, Door, Doors, PATIENCE, Visit},
    exposition::Form,
    view::{Stats, Status},
};
use crate::kernel::error::KernelError;

/// Name of the socket that tells.
pub const STATS_SOCKET: &str = "stats.sock";
/// Name of the socket that commands.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Bytes of a request's body.
const MAX_BODY: usize = 64 * 1024;

/// Where the metrics are.
pub const METRICS: &str = "/metrics";

/// What the guard is asked.
#[derive(Debug)]
pub(super) enum Ask {
    /// For the status.
    Status(oneshot::Sender<Status>),
    /// For the statistics.
    Stats(oneshot::Sender<Result<Stats, KernelError>>),
    /// For the metrics.
    Metrics(oneshot::Sender<Result<String, KernelError>>),
    /// To detach.
    Detach(Detach, oneshot::Sender<Result<Detached, KernelError>>),
}

/// The body of `POST /v1/detach`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Only these interfaces; all if there are none.
    #[serde(default)]
    pub interfaces: Vec<String>,
}

/// The answer to `POST /v1/detach`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Detached {
    /// The interfaces that were guarded and are not any more.
    pub detached: Vec<String>,
    /// Those that were named but not guarded.
    pub not_guarded: Vec<String>,
}

/// The sockets; gone from the file system when this is dropped.
#[derive(Debug)]
pub(super) struct Sockets {
    paths: Vec<PathBuf>,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.paths {
            // If it cannot be removed, the next daemon does it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Serves both sockets on tasks of this runtime.
///
/// # Errors
/// The directory cannot be made or written, or another daemon answers there.
pub(super) fn serve(
    directory: &Path,
    guard: &mpsc::Sender<Ask>,
    doors: &Arc<Doors>,
) -> io::Result<Sockets> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut sockets = Sockets { paths: Vec::new() };
    for (name, mask, door) in
        [(STATS_SOCKET, 0o117, Door::Stats), (CONTROL_SOCKET, 0o177, Door::Control)]
    {
        let path = directory.join(name);
        let listener = bind(&path, Mode::from_bits_truncate(mask))?;
        sockets.paths.push(path);
        let (guard, doors) = (guard.clone(), Arc::clone(doors));
        match door {
            Door::Control => {
                let listener = Control(listener);
                tokio::spawn(doors::accept(listener, guard, door, doors, converse))
            }
            _ => tokio::spawn(doors::accept(listener, guard, door, doors, converse)),
        };
    }
    Ok(sockets)
}

/// Serves the metrics on an address of this machine, for scrapers that speak TCP only.
///
/// # Errors
/// The address is not of the loopback device, or taken.
pub(super) async fn serve_metrics(
    address: SocketAddr,
    guard: &mpsc::Sender<Ask>,
    doors: &Arc<Doors>,
) -> io::Result<()> {
    if !address.ip().is_loopback() {
        let message = "not an address of the loopback device; put a proxy that authenticates in \
                       front of it";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let listener = TcpListener::bind(address).await?;
    let doors = Arc::clone(doors);
    tokio::spawn(doors::accept(listener, guard.clone(), Door::Metrics, doors, converse));
    Ok(())
}

fn bind(path: &Path, mask: Mode) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = "another daemon answers there";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The mode is there from the first moment on; nothing else makes files meanwhile.
    let before = umask(mask);
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

/// Hears one request and answers it.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, visit: Visit) {
    let visit = &visit;
    let service = service_fn(move |request| async move {
        let response = answer(request, visit).await;
        let bytes = response.body().size_hint().exact().unwrap_or(0);
        visit
            .answered(response.status().is_success(), usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_BODY)
        .half_close(true)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(PATIENCE, connection).await {
        Ok(Err(error)) if error.is_timeout() => visit.late(),
        Ok(Err(error)) if error.is_parse() => visit.garbled(),
        // A client that went away is its own business.
        Ok(_) => {}
        Err(_elapsed) => visit.late(),
    }
}

async fn answer(request: Request<Incoming>, guard: &Visit) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str(), guard.door) {
        (&Method::GET, "/v1/status", Door::Stats) => match asked(guard, Ask::Status).await {
            Some(status) => json(StatusCode::OK, &status),
            None => ended(),
        },
        (&Method::GET, "/v1/stats", Door::Stats) => match asked(guard, Ask::Stats).await {
            Some(Ok(stats)) => json(StatusCode::OK, &stats),
            Some(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            None => ended(),
        },
        (&Method::GET, METRICS, Door::Stats | Door::Metrics) => {
            let form = Form::wanted(request.headers());
            match asked(guard, Ask::Metrics).await {
                Some(Ok(metrics)) => {
                    let mut response = Response::new(Full::new(Bytes::from(form.of(metrics))));
                    response.headers_mut().insert(CONTENT_TYPE, form.content_type());
                    response
                }
                Some(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                None => ended(),
            }
        }
        (&Method::POST, "/v1/detach", Door::Control) => {
            let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
            let Ok(body) = body else {
                return refusal(StatusCode::BAD_REQUEST, "the body did not arrive, or is too long");
            };
            // An object first: serde would take a list for the fields in their order.
            let object: Result<serde_json::Map<_, _>, _> = serde_json::from_slice(&body.to_bytes());
            let detach: Detach = match object
                .and_then(|object| serde_json::from_value(serde_json::Value::Object(object)))
            {
                Ok(detach) => detach,
                Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
            };
            match asked(guard, |reply| Ask::Detach(detach, reply)).await {
                Some(Ok(detached)) => json(StatusCode::OK, &detached),
                Some(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                None => ended(),
            }
        }
        _ => refusal(StatusCode::NOT_FOUND, "no such request on this socket"),
    }
}

async fn asked<T>(guard: &Visit, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    guard.ask(ask(reply)).await?;
    answer.await.ok()
}

fn ended() -> Response<Full<Bytes>> {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending")
}

fn refusal(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": message }))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    // Plain maps and strings always become JSON.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
