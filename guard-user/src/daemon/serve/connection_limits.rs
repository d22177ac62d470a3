//! The connections of all sockets, bounded in number, time and memory.
//!
//! Each socket has room for [`MAX_CONNECTIONS`]. One more ends the oldest that waits for nothing
//! from us: an answer takes milliseconds, so what is old is idle or does not read, and whoever holds
//! connections open keeps nobody else out. Each has a moment of its own first, so that a crowd that
//! connects as fast as it can does not push out who has just come: then the crowd waits in the
//! kernel's queue.

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

/// Connections of each socket at a time.
pub(crate) const MAX_CONNECTIONS: usize = 128;
/// Bytes of answers that were made and not yet taken, of all sockets.
const MAX_PENDING_BYTES: usize = 32 << 20;

/// What may be asked where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Status, statistics and metrics.
    Stats,
    /// Metrics only.
    Metrics,
    /// Commands.
    Control,
}

impl Endpoint {
    /// All of them, in the order of their tallies.
    pub(crate) const ALL: [Self; 3] = [Self::Stats, Self::Metrics, Self::Control];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stats => "stats",
            Self::Metrics => "metrics",
            Self::Control => "control",
        }
    }

    /// Its place in [`Endpoint::ALL`].
    pub(crate) fn place(self) -> u32 {
        self as u32
    }
}

/// A connection.
#[derive(Debug)]
struct Connection {
    endpoint: Endpoint,
    since: Instant,
    /// Until when it must have got on.
    deadline: Instant,
    task: AbortHandle,
    /// It waits for an answer that is being made.
    asking: bool,
    /// Its answer, which it has not taken whole.
    held: Bytes,
}

/// The connections, by the order in which they came.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    /// [`Timing::grace`].
    grace: Duration,
    /// [`Timing::request`].
    request_timeout: Duration,
    /// [`Timing::command`].
    command_timeout: Duration,
    connections: Mutex<BTreeMap<u64, Connection>>,
    came: AtomicU64,
    served: [AtomicU64; 3],
    refused: [AtomicU64; 3],
    cut: [AtomicU64; 3],
}

impl ConnectionLimits {
    /// No connections yet.
    pub(crate) fn new(timing: &Timing) -> Self {
        Self {
            grace: timing.grace,
            request_timeout: timing.request,
            command_timeout: timing.command,
            connections: Mutex::default(),
            came: AtomicU64::default(),
            served: Default::default(),
            refused: Default::default(),
            cut: Default::default(),
        }
    }

    /// How many connections there are.
    pub(crate) fn open(&self, endpoint: Endpoint) -> usize {
        self.connections().values().filter(|connection| connection.endpoint == endpoint).count()
    }

    /// Hands over what was counted since the last call.
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

    /// Ends the oldest connection that may be ended, if there is no room for another one. How
    /// long to wait if none may.
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

/// Bytes of all answers. One that several share is there once.
fn held(connections: &BTreeMap<u64, Connection>) -> usize {
    let answers =
        connections.values().map(|connection| (connection.held.as_ptr(), connection.held.len()));
    answers.collect::<BTreeSet<_>>().into_iter().map(|(_, len)| len).sum()
}

/// A connection from its own side; it is gone with this.
#[derive(Debug)]
pub(crate) struct ConnectionHandle {
    limits: Arc<ConnectionLimits>,
    number: u64,
    pub(crate) endpoint: Endpoint,
    /// Who is at the other end of a control connection, and whether they may command.
    pub(crate) caller: Option<(Peer, bool)>,
    requests: mpsc::Sender<QueuedRequest>,
}

impl ConnectionHandle {
    /// Asks the daemon. None if it has ended.
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

    /// Says that an answer has been made. Others that take none of theirs are ended if all answers
    /// together become too many.
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

    /// How long it may take from now on, until it gets on.
    pub(crate) fn left(&self) -> Duration {
        let deadline =
            self.limits.connections().get(&self.number).map(|connection| connection.deadline);
        deadline.map_or_else(
            || self.request_timeout(),
            |deadline| deadline.saturating_duration_since(Instant::now()),
        )
    }

    /// How long it may take to send its request, and again to take its answer.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.limits.request_timeout
    }

    /// Says that what was sent is no request.
    pub(crate) fn garbled(&self) {
        ConnectionLimits::count(&self.limits.refused, self.endpoint);
    }

    /// Says that it took too long.
    pub(crate) fn late(&self) {
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

/// Where connections come from.
pub(crate) trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Who is at the other end, and whether they may command; none where nobody commands.
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

/// A socket that commands. Who connects is asked of the kernel at once, as processes end, and
/// written down as often as the log allows.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
}

impl Listener for Control {
    type Stream = UnixStream;

    fn caller(&self, stream: &UnixStream) -> Option<(Peer, bool)> {
        // Who is not known may not.
        let Some(caller) = Peer::of(stream) else { return Some((Peer::default(), false)) };
        tracing::info!(uid = caller.uid, pid = caller.pid, "control connection");
        let may = caller.may_command(&self.path);
        Some((caller, may))
    }

    async fn connection(&mut self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

/// Lets connections in, for ever, and hands each to `converse`.
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
                // Out of descriptors, most likely: others need time to give some back.
                tracing::warn!("accepting a connection: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let caller = listener.caller(&stream);
        while let Err(wait) = limits.make_room(endpoint) {
            tokio::time::sleep(wait).await;
        }
        let number = limits.came.fetch_add(1, Ordering::Relaxed);
        let handle = ConnectionHandle {
            limits: Arc::clone(&limits),
            number,
            endpoint,
            caller,
            requests: requests.clone(),
        };
        // What it does first, it does after this: there is one thread.
        let task = tokio::spawn(converse(stream, handle)).abort_handle();
        let since = Instant::now();
        let deadline = since + limits.request_timeout;
        let connection =
            Connection { endpoint, since, deadline, task, asking: false, held: Bytes::new() };
        limits.connections().insert(number, connection);
        // Who came with a request is heard before the next one comes in.
        tokio::task::yield_now().await;
    }
}
