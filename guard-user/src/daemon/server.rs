//! The two sockets: statistics for those who may read them, control for the administrator.
//!
//! HTTP/1.1, so that `curl --unix-socket` works. Every request is bounded in time and size, and so
//! is their number (see `doors.rs`): a stuck client costs a place for some seconds, never the
//! daemon.

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
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot},
};

use super::{
    connections::Consent,
    cuts::Connections,
    doors::{self, Asked, Control, Door, Doors, Visit},
    exposition::Form,
    journal::PAGE,
    mode::ModeChange,
    signature::Signed,
    trial::Refusal,
    view::{Stats, Status, TrialStatus},
};
use crate::{
    event::{Page, missing::Missing},
    kernel::error::KernelError,
    policy::{Bundle, syntax::text},
};

/// Name of the socket that tells.
pub const STATS_SOCKET: &str = "stats.sock";
/// Name of the socket that commands.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Members of this group may command.
const ADMINISTRATORS: &str = "trainguard-admin";
/// The groups of this machine.
const GROUPS: &str = "/etc/group";

/// Bytes of a request's body.
const MAX_BODY: usize = 64 * 1024;

/// Bytes of a policy: a million prefixes with their names.
const MAX_POLICY: usize = 64 << 20;

/// Where events are.
pub(super) const EVENTS: &str = "/v1/events";
/// Where refused sources are that behave like members.
pub(super) const MISSING_MEMBERS: &str = "/v1/missing-members";
/// Where the metrics are.
pub const METRICS: &str = "/metrics";

/// What the guard is asked.
#[derive(Debug)]
pub(super) enum Ask {
    /// For the status.
    Status(oneshot::Sender<Status>),
    /// For the statistics.
    Stats(oneshot::Sender<Result<Stats, KernelError>>),
    /// For the metrics in a format.
    Metrics(Form, oneshot::Sender<Result<Bytes, KernelError>>),
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

/// The body of `POST /v1/apply`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The manifest, and every file that it names.
    pub bundle: Bundle,
    /// Seconds after which it is undone unless it is confirmed; for good if there are none.
    #[serde(default)]
    pub confirm_within: Option<u64>,
    /// The signature of the files; none if there is none.
    #[serde(default)]
    pub signed: Option<Signed>,
    /// Only tell what would become of it.
    #[serde(default)]
    pub dry_run: bool,
    /// What may be cut.
    #[serde(default)]
    pub consent: Consent,
}

impl std::fmt::Display for Apply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bundle, confirm_within, dry_run, consent, .. } = self;
        write!(f, "{}", bundle.manifest.display())?;
        if let Some(seconds) = confirm_within {
            write!(f, ", on trial for {seconds} s")?;
        }
        if *dry_run {
            f.write_str(", as a dry run")?;
        }
        write!(f, "{consent}")
    }
}

/// The answer to `POST /v1/apply`, `/v1/reload`, `/v1/confirm`, `/v1/rollback` and `/v1/mode`: what
/// is in force now; of a dry run, what would be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Number of the generation; of a dry run, that of the one in force.
    pub generation: u64,
    /// SHA-256 of what is enforced, in hexadecimal.
    pub policy_hash: String,
    /// Whether it is another one than before.
    pub changed: bool,
    /// What became of open connections.
    #[serde(default)]
    pub connections: Connections,
    /// Of a dry run: what is in force, to compare with; none if it is not kept.
    #[serde(default)]
    pub in_force: Option<Bundle>,
    /// Until when it must be confirmed; null if it need not be.
    pub trial: Option<TrialStatus>,
    /// What is wrong with it.
    pub problems: Vec<String>,
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
    guard: &mpsc::Sender<Asked>,
    doors: &Arc<Doors>,
) -> io::Result<Sockets> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut sockets = Sockets { paths: Vec::new() };
    for (name, mask, door) in
        [(STATS_SOCKET, 0o117, Door::Stats), (CONTROL_SOCKET, 0o177, Door::Control)]
    {
        let path = directory.join(name);
        let listener = bind(&path, Mode::from_bits_truncate(mask))?;
        if door == Door::Control {
            admit_administrators(&path)?;
        }
        sockets.paths.push(path);
        let (guard, doors) = (guard.clone(), Arc::clone(doors));
        match door {
            Door::Control => {
                let path = sockets.paths.last().cloned().unwrap_or_default();
                let listener = Control { listener, path };
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
    guard: &mpsc::Sender<Asked>,
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

/// Lets the group of administrators command, if this machine has one and this daemon may give the
/// socket to it: because it is root, or in that group itself.
fn admit_administrators(path: &Path) -> io::Result<()> {
    let Some(group) = group_id(&fs::read_to_string(GROUPS).unwrap_or_default(), ADMINISTRATORS)
    else {
        return Ok(());
    };
    match std::os::unix::fs::chown(path, None, Some(group)) {
        // Only now: before, the mode would have been for another group.
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o660)),
        Err(error) => {
            tracing::warn!("members of `{ADMINISTRATORS}` may not command this daemon: {error}");
            Ok(())
        }
    }
}

/// Number of a group in a text like that of `/etc/group`. Looked up here and not by the C library,
/// which may ask the network, and in a static binary cannot ask everybody.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    let mut rows = groups.lines().map(|line| line.split(':'));
    rows.find_map(|mut row| (row.next() == Some(name)).then(|| row.nth(1)?.parse().ok())?)
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
        visit.answered(response.status().is_success(), response.body());
        Ok::<_, Infallible>(response.map(Full::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(visit.request_timeout())
        .max_buf_size(MAX_BODY)
        .half_close(true)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        match tokio::time::timeout(visit.left(), &mut connection).await {
            Ok(Err(error)) if error.is_timeout() => visit.late(),
            Ok(Err(error)) if error.is_parse() => visit.garbled(),
            // A client that went away is its own business.
            Ok(_) => {}
            // It has got on meanwhile.
            Err(_elapsed) if !visit.left().is_zero() => continue,
            Err(_elapsed) => visit.late(),
        }
        return;
    }
}

async fn answer(request: Request<Incoming>, guard: &Visit) -> Response<Bytes> {
    let path = request.uri().path().to_owned();
    if guard.caller.as_ref().is_some_and(|(_, may)| !may) {
        // That the daemon is ending changes nothing for them.
        let _ended = guard.ask(Ask::Refused(format!("{} {path}", request.method()))).await;
        let why = "you may not command this daemon: root, its user, and the group of this socket \
                   may";
        return refusal(StatusCode::FORBIDDEN, why);
    }
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
        (&Method::GET, EVENTS, Door::Stats) => {
            let (after, limit) = match page_wanted(request.uri().query().unwrap_or_default()) {
                Ok(wanted) => wanted,
                Err(problem) => return refusal(StatusCode::BAD_REQUEST, &problem),
            };
            match asked(guard, |reply| Ask::Events { after, limit, reply }).await {
                Some(page) => json(StatusCode::OK, &page),
                None => ended(),
            }
        }
        (&Method::GET, MISSING_MEMBERS, Door::Stats) => {
            match asked(guard, Ask::MissingMembers).await {
                Some(missing) => json(StatusCode::OK, &missing),
                None => ended(),
            }
        }
        (&Method::GET, METRICS, Door::Stats | Door::Metrics) => {
            let form = Form::wanted(request.headers());
            match asked(guard, |reply| Ask::Metrics(form, reply)).await {
                Some(Ok(metrics)) => {
                    let mut response = Response::new(metrics);
                    response.headers_mut().insert(CONTENT_TYPE, form.content_type());
                    response
                }
                Some(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                None => ended(),
            }
        }
        (&Method::POST, "/v1/detach", Door::Control) => {
            let detach: Detach = match body(request, MAX_BODY).await {
                Ok(detach) => detach,
                Err(why) => return refusal(StatusCode::BAD_REQUEST, &why),
            };
            match asked(guard, |reply| Ask::Detach(detach, reply)).await {
                Some(Ok(detached)) => json(StatusCode::OK, &detached),
                Some(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                None => ended(),
            }
        }
        (&Method::POST, "/v1/apply", Door::Control) => {
            let apply: Apply = match body(request, MAX_POLICY).await {
                Ok(apply) => apply,
                Err(why) => return refusal(StatusCode::BAD_REQUEST, &why),
            };
            applied(asked(guard, |reply| Ask::Apply(Box::new(apply), reply)).await)
        }
        (&Method::POST, "/v1/reload", Door::Control) => applied(asked(guard, Ask::Reload).await),
        (&Method::POST, "/v1/mode", Door::Control) => {
            let change: ModeChange = match body(request, MAX_BODY).await {
                Ok(change) => change,
                Err(why) => return refusal(StatusCode::BAD_REQUEST, &why),
            };
            applied(asked(guard, |reply| Ask::Mode(change, reply)).await)
        }
        (&Method::POST, "/v1/confirm", Door::Control) => applied(asked(guard, Ask::Confirm).await),
        (&Method::POST, "/v1/rollback", Door::Control) => {
            applied(asked(guard, Ask::RollBack).await)
        }
        _ => refusal(StatusCode::NOT_FOUND, "no such request on this socket"),
    }
}

/// The body of a request, which is a JSON object of at most so many bytes.
async fn body<T: DeserializeOwned>(request: Request<Incoming>, most: usize) -> Result<T, String> {
    let body = Limited::new(request.into_body(), most).collect().await;
    let Ok(body) = body else {
        return Err("the body did not arrive, or is too long".to_owned());
    };
    // An object first: serde would take a list for the fields in their order.
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

/// The query of [`EVENTS`]: after which number, and how many at most.
fn page_wanted(query: &str) -> Result<(u64, usize), String> {
    let (mut after, mut limit) = (None, None);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let shown = text::shown(part);
        let wrong = || {
            format!("`{shown}`: expected after=NUMBER and limit=NUMBER, each once, as in after=7")
        };
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        // Digits only: a sign is no part of a number here.
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

async fn asked<T>(guard: &Visit, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    guard.ask(ask(reply)).await?;
    answer.await.ok()
}

fn ended() -> Response<Bytes> {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending")
}

fn refusal(status: StatusCode, message: &str) -> Response<Bytes> {
    json(status, &serde_json::json!({ "error": message }))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Bytes> {
    // Plain maps and strings always become JSON.
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
    fn a_query_that_is_not_understood_is_refused() {
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
