//! Connection limits for all sockets: number, lifetime and buffered bytes.
//!
//! Each socket has room for [`MAX_CONNECTIONS`]. When it is full, a new connection evicts the oldest
//! one that is not waiting for the daemon. An answer takes milliseconds, so an old connection is idle
//! or does not read; a client that holds connections open does not keep other clients out. A connection
//! cannot be evicted in its first [`Timing::grace`], so that many fast clients do not evict a
//! connection that has just been made; they then wait in the kernel's accept queue.
//!
//! Decision: `docs/decisions/0046-readers-are-bounded.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use guard_common::layout::{TALLY_CONNECTIONS_CUT, TALLY_REQUESTS_REFUSED, TALLY_REQUESTS_SERVED};
use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    task::AbortHandle,
};

use super::{
    peer_credentials::Peer,
    request::{Ask, QueuedRequest},
};
use crate::daemon::{telemetry::daemon_counters::DaemonCounters, timing::Timing};

/// Maximum number of connections per socket at a time.
pub(crate) const MAX_CONNECTIONS: usize = 128;
/// Maximum number of bytes of answers that are made but not yet read by clients, over all sockets.
const MAX_PENDING_BYTES: usize = 32 << 20;

/// A socket, which determines the requests that it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Status, statistics, events and metrics.
    Stats,
    /// Metrics only.
    Metrics,
    /// Commands.
    Control,
}

impl Endpoint {
    /// All endpoints, in the order of their tallies.
    pub(crate) const ALL: [Self; 3] = [Self::Stats, Self::Metrics, Self::Control];

    /// Returns the name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stats => "stats",
            Self::Metrics => "metrics",
            Self::Control => "control",
        }
    }

    /// Returns the index in [`Endpoint::ALL`].
    pub(crate) fn place(self) -> u32 {
        self as u32
    }
}

/// A connection.
#[derive(Debug)]
struct Connection {
    endpoint: Endpoint,
    since: Instant,
    /// When it is ended unless it makes progress.
    deadline: Instant,
    task: AbortHandle,
    /// Whether it waits for an answer of the daemon.
    asking: bool,
    /// The answer, if the client has not read all of it yet.
    held: Bytes,
}

/// The connections by number, in the order in which they were accepted; their limits; and counts for
/// metrics.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    /// [`Timing::grace`].
    grace: Duration,
    /// [`Timing::request`].
    request_timeout: Duration,
    /// [`Timing::command`].
    command_timeout: Duration,
    connections: Mutex<BTreeMap<u64, Connection>>,
    accepted: AtomicU64,
    served: [AtomicU64; 3],
    refused: [AtomicU64; 3],
    cut: [AtomicU64; 3],
}

impl ConnectionLimits {
    /// Starts without connections.
    pub(crate) fn new(timing: &Timing) -> Self {
        Self {
            grace: timing.grace,
            request_timeout: timing.request,
            command_timeout: timing.command,
            connections: Mutex::default(),
            accepted: AtomicU64::default(),
            served: Default::default(),
            refused: Default::default(),
            cut: Default::default(),
        }
    }

    /// Returns the number of open connections of an endpoint.
    pub(crate) fn open(&self, endpoint: Endpoint) -> usize {
        self.connections().values().filter(|connection| connection.endpoint == endpoint).count()
    }

    /// Adds the counts since the last call to `tallies`.
    pub(crate) fn tally(&self, tallies: &mut DaemonCounters) {
        for (first, counts) in [
            (TALLY_REQUESTS_SERVED, &self.served),
            (TALLY_REQUESTS_REFUSED, &self.refused),
            (TALLY_CONNECTIONS_CUT, &self.cut),
        ] {
            for (index, count) in (first..).zip(counts) {
                tallies.add(index, count.swap(0, Ordering::Relaxed));
            }
        }
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(counts: &[AtomicU64; 3], endpoint: Endpoint) {
        if let Some(count) = counts.get(endpoint.place() as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Evicts the oldest connection that may be evicted, if the socket has no room for another one. If
    /// none may be, returns how long to wait.
    fn make_room(&self, endpoint: Endpoint) -> Result<(), Duration> {
        let mut connections = self.connections();
        let of_endpoint =
            || connections.iter().filter(|(_, connection)| connection.endpoint == endpoint);
        if of_endpoint().count() < MAX_CONNECTIONS {
            return Ok(());
        }
        let Some((&number, oldest)) = of_endpoint().find(|(_, connection)| !connection.asking)
        else {
            return Err(self.grace);
        };
        let young = self.grace.saturating_sub(oldest.since.elapsed());
        if !young.is_zero() {
            return Err(young);
        }
        self.end(&mut connections, number);
        Ok(())
    }

    fn end(&self, connections: &mut BTreeMap<u64, Connection>, number: u64) {
        if let Some(Connection { endpoint, task, .. }) = connections.remove(&number) {
            task.abort();
            Self::count(&self.cut, endpoint);
        }
    }
}

/// Returns the number of bytes of all unread answers. An answer that several connections share counts
/// once.
fn held(connections: &BTreeMap<u64, Connection>) -> usize {
    let answers =
        connections.values().map(|connection| (connection.held.as_ptr(), connection.held.len()));
    answers.collect::<BTreeSet<_>>().into_iter().map(|(_, len)| len).sum()
}

/// A connection, as seen by its own task. Dropping it removes the connection.
#[derive(Debug)]
pub(crate) struct ConnectionHandle {
    limits: Arc<ConnectionLimits>,
    number: u64,
    pub(crate) endpoint: Endpoint,
    /// The process at the other end of a control connection, and whether it may send commands.
    pub(crate) caller: Option<(Peer, bool)>,
    requests: mpsc::Sender<QueuedRequest>,
}

impl ConnectionHandle {
    /// Sends a request to the daemon's loop. None if the daemon has ended.
    pub(crate) async fn ask(&self, ask: Ask) -> Option<()> {
        let work = match self.endpoint {
            Endpoint::Control => self.limits.command_timeout,
            Endpoint::Stats | Endpoint::Metrics => self.limits.request_timeout,
        };
        self.change(|connection| {
            connection.asking = true;
            connection.deadline = Instant::now() + work;
        });
        let caller = self.caller.as_ref().map(|(caller, _)| caller.clone());
        self.requests.send(QueuedRequest { caller, ask }).await.ok()
    }

    /// Records the answer to a request. If the unread answers together have too many bytes, evicts
    /// other connections, oldest first, that have unread answers.
    pub(crate) fn answered(&self, success: bool, answer: &Bytes) {
        let counts = if success { &self.limits.served } else { &self.limits.refused };
        ConnectionLimits::count(counts, self.endpoint);
        self.change(|connection| {
            connection.asking = false;
            connection.deadline = Instant::now() + self.request_timeout();
            connection.held = answer.clone();
        });
        let mut connections = self.limits.connections();
        while held(&connections) > MAX_PENDING_BYTES {
            let mut others = connections.iter().filter(|(number, _)| **number != self.number);
            let oldest = others.find(|(_, connection)| !connection.held.is_empty());
            let Some(number) = oldest.map(|(number, _)| *number) else { break };
            self.limits.end(&mut connections, number);
        }
    }

    /// Returns the time left until the deadline, which moves as the connection makes progress.
    pub(crate) fn left(&self) -> Duration {
        let deadline =
            self.limits.connections().get(&self.number).map(|connection| connection.deadline);
        deadline.map_or_else(
            || self.request_timeout(),
            |deadline| deadline.saturating_duration_since(Instant::now()),
        )
    }

    /// Returns the time that a connection has to send its request, and again to take its answer.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.limits.request_timeout
    }

    /// Counts a request that could not be parsed.
    pub(crate) fn count_invalid_request(&self) {
        ConnectionLimits::count(&self.limits.refused, self.endpoint);
    }

    /// Counts a connection that timed out.
    pub(crate) fn count_timeout(&self) {
        ConnectionLimits::count(&self.limits.cut, self.endpoint);
    }

    fn change(&self, change: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.limits.connections().get_mut(&self.number) {
            change(connection);
        }
    }
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        self.limits.connections().remove(&self.number);
    }
}

/// A socket that accepts connections.
pub(crate) trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Returns the process at the other end and whether it may send commands; none for sockets that
    /// accept no commands.
    fn caller(&self, _: &Self::Stream) -> Option<(Peer, bool)> {
        None
    }

    fn connection(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn connection(&mut self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn connection(&mut self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// The control socket. The kernel is queried for the process at the other end at once, because the
/// process may end. Each connection is logged, within the limits of the log.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
}

impl Listener for Control {
    type Stream = UnixStream;

    fn caller(&self, stream: &UnixStream) -> Option<(Peer, bool)> {
        // An unknown process may not send commands.
        let Some(caller) = Peer::of(stream) else { return Some((Peer::default(), false)) };
        tracing::info!(uid = caller.uid, pid = caller.pid, "control connection");
        let may = caller.may_command(&self.path);
        Some((caller, may))
    }

    async fn connection(&mut self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

/// Accepts connections forever, and passes each to `converse`.
pub(crate) async fn accept<L: Listener, F: Future<Output = ()> + Send + 'static>(
    mut listener: L,
    requests: mpsc::Sender<QueuedRequest>,
    endpoint: Endpoint,
    limits: Arc<ConnectionLimits>,
    converse: impl Fn(L::Stream, ConnectionHandle) -> F + Send,
) {
    loop {
        let stream = match listener.connection().await {
            Ok(stream) => stream,
            Err(error) => {
                // Most likely out of file descriptors: wait until other tasks have closed some.
                tracing::warn!("connection not accepted, trying again: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let caller = listener.caller(&stream);
        while let Err(wait) = limits.make_room(endpoint) {
            tokio::time::sleep(wait).await;
        }
        let number = limits.accepted.fetch_add(1, Ordering::Relaxed);
        let handle = ConnectionHandle {
            limits: Arc::clone(&limits),
            number,
            endpoint,
            caller,
            requests: requests.clone(),
        };
        // The task first runs after the insertion below, because there is only one thread.
        let task = tokio::spawn(converse(stream, handle)).abort_handle();
        let since = Instant::now();
        let deadline = since + limits.request_timeout;
        let connection =
            Connection { endpoint, since, deadline, task, asking: false, held: Bytes::new() };
        limits.connections().insert(number, connection);
        // Handle the request of this connection before accepting the next one.
        tokio::task::yield_now().await;
    }
}
