//! The two sockets: one for statistics, for users who may read them, and one for control, for
//! administrators.
//!
//! They speak HTTP/1.1, so that `curl --unix-socket` works. The time and the size of every request and
//! the number of connections are limited (see `connection_limits.rs`): a client that hangs occupies a
//! connection for some seconds, but never blocks the daemon.
//!
//! Decision: `docs/decisions/0048-readers-see-the-audit.md`.
//! Decision: `docs/decisions/0050-libraries-not-used.md`.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot},
};

use super::{
    connection_limits::{self, ConnectionHandle, ConnectionLimits, Control, Endpoint},
    exposition::TextFormat,
    request::{Ask, QueuedRequest},
};
use crate::{
    api::{
        CONTROL_SOCKET, EVENTS, METRICS, MISSING_MEMBERS, STATS_SOCKET,
        control::{Applied, Apply, Detach, ModeChange, Refusal},
    },
    daemon::telemetry::event_ring::PAGE,
    policy::syntax::text,
};

/// Group whose members may send commands.
const ADMINISTRATORS: &str = "trainguard-admin";
/// The groups of this machine.
const GROUP_FILE: &str = "/etc/group";

/// Maximum size in bytes of a request's body.
const MAX_BODY: usize = 64 * 1024;

/// Maximum size in bytes of a policy; enough for a million prefixes with their names.
const MAX_POLICY: usize = 64 << 20;

/// The sockets. Dropping this removes them from the file system.
#[derive(Debug)]
pub(crate) struct Sockets {
    paths: Vec<PathBuf>,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.paths {
            // If a socket cannot be removed, the next daemon removes it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Serves both sockets on tasks of this runtime.
///
/// # Errors
/// The directory cannot be created or written, or another daemon listens there.
pub(crate) fn serve(
    directory: &Path,
    requests: &mpsc::Sender<QueuedRequest>,
    limits: &Arc<ConnectionLimits>,
) -> io::Result<Sockets> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut sockets = Sockets { paths: Vec::new() };
    for (name, mask, endpoint) in
        [(STATS_SOCKET, 0o117, Endpoint::Stats), (CONTROL_SOCKET, 0o177, Endpoint::Control)]
    {
        let path = directory.join(name);
        let listener = bind(&path, Mode::from_bits_truncate(mask))?;
        if endpoint == Endpoint::Control {
            admit_administrators(&path)?;
        }
        sockets.paths.push(path);
        let (requests, limits) = (requests.clone(), Arc::clone(limits));
        match endpoint {
            Endpoint::Control => {
                let path = sockets.paths.last().cloned().unwrap_or_default();
                let listener = Control { listener, path };
                tokio::spawn(connection_limits::accept(
                    listener, requests, endpoint, limits, converse,
                ))
            }
            _ => tokio::spawn(connection_limits::accept(
                listener, requests, endpoint, limits, converse,
            )),
        };
    }
    Ok(sockets)
}

/// Serves the metrics on a TCP address, for scrapers without support for unix sockets.
///
/// # Errors
/// The address is not a loopback address, or is in use.
pub(crate) async fn serve_metrics(
    address: SocketAddr,
    requests: &mpsc::Sender<QueuedRequest>,
    limits: &Arc<ConnectionLimits>,
) -> io::Result<()> {
    if !address.ip().is_loopback() {
        let message = "not a loopback address; listen on 127.0.0.1 or [::1], and put a proxy that \
                       authenticates in front of it";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let listener = TcpListener::bind(address).await?;
    let limits = Arc::clone(limits);
    tokio::spawn(connection_limits::accept(
        listener,
        requests.clone(),
        Endpoint::Metrics,
        limits,
        converse,
    ));
    Ok(())
}

/// Gives the control socket to the group of administrators, if the machine has this group and the
/// daemon may change the group: as root, or as a member.
fn admit_administrators(path: &Path) -> io::Result<()> {
    let Some(group) = group_id(&fs::read_to_string(GROUP_FILE).unwrap_or_default(), ADMINISTRATORS)
    else {
        return Ok(());
    };
    match std::os::unix::fs::chown(path, None, Some(group)) {
        // Only after the change, because before it the mode would apply to another group.
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o660)),
        Err(error) => {
            tracing::warn!(
                "group of the control socket not set, so members of `{ADMINISTRATORS}` cannot send \
                 commands: {error}"
            );
            Ok(())
        }
    }
}

/// Returns the number of a group from a text in the format of `/etc/group`. The C library is not used,
/// because it may query the network, and a static binary cannot load its name service modules.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    let mut rows = groups.lines().map(|line| line.split(':'));
    rows.find_map(|mut row| (row.next() == Some(name)).then(|| row.nth(1)?.parse().ok())?)
}

fn bind(path: &Path, mask: Mode) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = "another daemon listens on the socket";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The socket has its mode from its creation on. Nothing else creates files meanwhile.
    let before = umask(mask);
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

/// Reads one request from a connection and answers it.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, handle: ConnectionHandle) {
    let handle = &handle;
    let service = service_fn(move |request| async move {
        let response = answer(request, handle).await;
        handle.answered(response.status().is_success(), response.body());
        Ok::<_, Infallible>(response.map(Full::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(handle.request_timeout())
        .max_buf_size(MAX_BODY)
        .half_close(true)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        match tokio::time::timeout(handle.left(), &mut connection).await {
            Ok(Err(error)) if error.is_timeout() => handle.count_timeout(),
            Ok(Err(error)) if error.is_parse() => handle.count_invalid_request(),
            // A client that has gone away is no error.
            Ok(_) => {}
            // The deadline has moved, because the connection has made progress.
            Err(_elapsed) if !handle.left().is_zero() => continue,
            Err(_elapsed) => handle.count_timeout(),
        }
        return;
    }
}

async fn answer(request: Request<Incoming>, connection: &ConnectionHandle) -> Response<Bytes> {
    let path = request.uri().path().to_owned();
    if connection.caller.as_ref().is_some_and(|(_, may)| !may) {
        // If the daemon is ending, the request is denied all the same.
        let _ended = connection.ask(Ask::Refused(format!("{} {path}", request.method()))).await;
        let why = "you may not command this daemon: root, its user, and the group of this socket \
                   may";
        return refusal(StatusCode::FORBIDDEN, why);
    }
    match (request.method(), path.as_str(), connection.endpoint) {
        (&Method::GET, "/v1/status", Endpoint::Stats) => match ask(connection, Ask::Status).await {
            Some(status) => json(StatusCode::OK, &status),
            None => ended(),
        },
        (&Method::GET, "/v1/stats", Endpoint::Stats) => match ask(connection, Ask::Stats).await {
            Some(Ok(stats)) => json(StatusCode::OK, &stats),
            Some(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            None => ended(),
        },
        (&Method::GET, EVENTS, Endpoint::Stats) => {
            let (after, limit) = match page_wanted(request.uri().query().unwrap_or_default()) {
                Ok(wanted) => wanted,
                Err(problem) => return refusal(StatusCode::BAD_REQUEST, &problem),
            };
            match ask(connection, |reply| Ask::Events { after, limit, reply }).await {
                Some(page) => json(StatusCode::OK, &page),
                None => ended(),
            }
        }
        (&Method::GET, MISSING_MEMBERS, Endpoint::Stats) => {
            match ask(connection, Ask::MissingMembers).await {
                Some(missing) => json(StatusCode::OK, &missing),
                None => ended(),
            }
        }
        (&Method::GET, METRICS, Endpoint::Stats | Endpoint::Metrics) => {
            let form = TextFormat::wanted(request.headers());
            match ask(connection, |reply| Ask::Metrics(form, reply)).await {
                Some(Ok(metrics)) => {
                    let mut response = Response::new(metrics);
                    response.headers_mut().insert(CONTENT_TYPE, form.content_type());
                    response
                }
                Some(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                None => ended(),
            }
        }
        (&Method::POST, "/v1/detach", Endpoint::Control) => {
            let detach: Detach = match body(request, MAX_BODY).await {
                Ok(detach) => detach,
                Err(why) => return refusal(StatusCode::BAD_REQUEST, &why),
            };
            match ask(connection, |reply| Ask::Detach(detach, reply)).await {
                Some(Ok(detached)) => json(StatusCode::OK, &detached),
                Some(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                None => ended(),
            }
        }
        (&Method::POST, "/v1/apply", Endpoint::Control) => {
            let apply: Apply = match body(request, MAX_POLICY).await {
                Ok(apply) => apply,
                Err(why) => return refusal(StatusCode::BAD_REQUEST, &why),
            };
            applied(ask(connection, |reply| Ask::Apply(Box::new(apply), reply)).await)
        }
        (&Method::POST, "/v1/reload", Endpoint::Control) => {
            applied(ask(connection, Ask::Reload).await)
        }
        (&Method::POST, "/v1/mode", Endpoint::Control) => {
            let change: ModeChange = match body(request, MAX_BODY).await {
                Ok(change) => change,
                Err(why) => return refusal(StatusCode::BAD_REQUEST, &why),
            };
            applied(ask(connection, |reply| Ask::Mode(change, reply)).await)
        }
        (&Method::POST, "/v1/confirm", Endpoint::Control) => {
            applied(ask(connection, Ask::Confirm).await)
        }
        (&Method::POST, "/v1/rollback", Endpoint::Control) => {
            applied(ask(connection, Ask::RollBack).await)
        }
        _ => refusal(StatusCode::NOT_FOUND, "no such request on this socket"),
    }
}

/// Reads the body of a request, a JSON object of at most `most` bytes.
async fn body<T: DeserializeOwned>(request: Request<Incoming>, most: usize) -> Result<T, String> {
    let body = Limited::new(request.into_body(), most).collect().await;
    let Ok(body) = body else {
        return Err("the body did not arrive, or is too long".to_owned());
    };
    // Parse an object first, because serde would accept a list for the fields in their order.
    let object: Result<serde_json::Map<_, _>, _> = serde_json::from_slice(&body.to_bytes());
    object
        .and_then(|object| serde_json::from_value(serde_json::Value::Object(object)))
        .map_err(|error| error.to_string())
}

fn applied(answer: Option<Result<Applied, Refusal>>) -> Response<Bytes> {
    match answer {
        Some(Ok(applied)) => json(StatusCode::OK, &applied),
        Some(Err(refusal)) => json(StatusCode::CONFLICT, &refusal),
        None => ended(),
    }
}

/// Parses the query of [`EVENTS`]: the number after which to start, and the maximum number of events.
fn page_wanted(query: &str) -> Result<(u64, usize), String> {
    let (mut after, mut limit) = (None, None);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let shown = text::shown(part);
        let wrong = || {
            format!("`{shown}`: expected after=NUMBER and limit=NUMBER, each once, as in after=7")
        };
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        // Digits only: `parse` would accept a sign.
        let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
        let value: Option<u64> = value.parse().ok().filter(|_| is_number);
        let field = match name {
            "after" => &mut after,
            "limit" => &mut limit,
            _ => return Err(wrong()),
        };
        if value.is_none() || field.is_some() {
            return Err(wrong());
        }
        *field = value;
    }
    let limit = match limit {
        None => PAGE,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=PAGE).contains(limit))
            .ok_or_else(|| format!("limit={limit}: expected 1 to {PAGE}"))?,
    };
    Ok((after.unwrap_or(0), limit))
}

async fn ask<T>(
    connection: &ConnectionHandle,
    ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    connection.ask(ask(reply)).await?;
    answer.await.ok()
}

fn ended() -> Response<Bytes> {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending")
}

fn refusal(status: StatusCode, message: &str) -> Response<Bytes> {
    json(status, &serde_json::json!({ "error": message }))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Bytes> {
    // Serializing plain maps and strings does not fail.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let groups = "root:x:0:\ntrainguard:x:990:\ntrainguard-admin:x:991:ann,bob\nbad:x\n";
        assert_eq!(group_id(groups, ADMINISTRATORS), Some(991));
        assert_eq!(group_id(groups, "trainguard"), Some(990));
        assert_eq!(group_id(groups, "bad"), None);
        assert_eq!(group_id("", ADMINISTRATORS), None);
    }

    #[test]
    fn an_invalid_query_is_refused() {
        assert_eq!(page_wanted(""), Ok((0, PAGE)));
        assert_eq!(page_wanted("after=7&limit=1"), Ok((7, 1)));
        assert_eq!(page_wanted(&format!("after={}", u64::MAX)), Ok((u64::MAX, PAGE)));
        for bad in [
            "after",
            "after=",
            "after=-1",
            "after=+1",
            "after=1&after=2",
            "limit=0",
            "limit=1001",
            "limit=99999999999999999999",
            "since=1",
            "after=1;limit=2",
            "\u{1b}=1",
        ] {
            assert!(page_wanted(bad).is_err(), "{bad:?}");
        }
    }
}
