//! Steady traffic to a node, frame by frame accounted for, while something happens to its daemon.
//!
//! Datagrams, since a lost one is not sent again: what must pass arrives, each of it, and what must
//! not does not.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::node::{self, MEMBER, NODE, Node, PORT, STRANGER};

/// Pause between two datagrams of a lane.
const PERIOD: Duration = Duration::from_millis(2);
/// How long what was sent last may take to arrive.
const LAG: Duration = Duration::from_secs(2);
/// Bytes that wait for a receiver which this machine does not let run.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Datagrams from one address of the peer to one port of the node.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// Where from.
    pub from: IpAddr,
    /// Where to.
    pub port: u16,
    /// Whether the node's policy lets them in.
    pub passes: bool,
}

/// How a lane has fared.
#[derive(Debug, Default)]
struct Count {
    sent: AtomicU64,
    arrived: AtomicU64,
}

/// Traffic that goes on until it is ended.
#[derive(Debug)]
pub struct Traffic {
    lanes: Arc<[Lane]>,
    counts: Arc<[Count]>,
    stop: Arc<AtomicBool>,
    drain: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    receivers: Vec<JoinHandle<()>>,
    peer: String,
    lost_before: u64,
}

/// What came of it all.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    /// Datagrams that had to arrive, and did.
    pub passed: u64,
    /// Datagrams that had to be refused, and were.
    pub refused: u64,
    /// Datagrams that the virtual wire lost before any program saw them.
    pub lost: u64,
}

/// Rounds of a test that repeats itself, unless the environment asks for another number, as
/// `cargo xtask chaos` does.
pub fn rounds(usual: u64) -> u64 {
    std::env::var("TRAINGUARD_ROUNDS")
        .map_or(usual, |text| text.parse().expect("a number of rounds"))
}

/// A member and a stranger, in both families, to [`PORT`].
pub fn member_and_stranger() -> Vec<Lane> {
    let lanes = |from: [IpAddr; 2], passes| {
        from.into_iter().map(move |from| Lane { from, port: PORT, passes })
    };
    lanes(MEMBER, true).chain(lanes(STRANGER, false)).collect()
}

impl Sum {
    /// Fails unless each frame is counted once, by whatever guards saw it. `moved`: how far the counters of the
    /// reasons moved meanwhile. What the wire lost was not counted.
    pub fn assert_counted_once(&self, moved: &[(String, u64)]) {
        let Self { passed, refused, lost } = *self;
        for (reason, expected) in [("allowed", passed), ("not_allowed", refused)] {
            let counted =
                moved.iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| *count);
            assert!(
                counted.abs_diff(expected) <= lost,
                "{reason}: {counted} counted, {expected} expected, {lost} lost: {moved:?}"
            );
        }
        assert_eq!(moved.len(), 2, "nothing else is counted: {moved:?}");
    }
}

impl Traffic {
    /// Begins. Nobody else may listen on the ports of the lanes.
    pub fn start(node: &Node, lanes: &[Lane]) -> Self {
        let lanes: Arc<[Lane]> = lanes.into();
        let counts: Arc<[Count]> = lanes.iter().map(|_| Count::default()).collect();
        let [stop, drain] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let mut ports: Vec<u16> = lanes.iter().map(|lane| lane.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let receivers = ports
            .into_iter()
            .map(|port| {
                let socket = node.at_node(|| listen(port));
                let (lanes, counts) = (Arc::clone(&lanes), Arc::clone(&counts));
                let drain = Arc::clone(&drain);
                thread::spawn(move || receive(&socket, port, &lanes, &counts, &drain))
            })
            .collect();
        let sockets: Vec<Socket> = node.at_peer(|| lanes.iter().map(from).collect());
        let peer = node.peer().to_owned();
        let lost_before = node.at_peer(lost);
        let sender = {
            let (lanes, counts, stop) =
                (Arc::clone(&lanes), Arc::clone(&counts), Arc::clone(&stop));
            thread::spawn(move || send(&sockets, &lanes, &counts, &stop))
        };
        Self { lanes, counts, stop, drain, sender: Some(sender), receivers, peer, lost_before }
    }

    /// Datagrams that have arrived and must not.
    pub fn slipped_in(&self) -> u64 {
        let lanes = self.lanes.iter().zip(self.counts.iter()).filter(|(lane, _)| !lane.passes);
        lanes.map(|(_, count)| count.arrived.load(Ordering::Relaxed)).sum()
    }

    /// Sees that there are none.
    pub fn assert_none_slipped_in(&self) {
        assert_eq!(self.slipped_in(), 0, "datagrams slipped in: {self:?}");
    }

    /// Ends it, and sees that each datagram was judged as it must be.
    pub fn end(mut self) -> Sum {
        self.finish();
        self.assert_none_slipped_in();
        let lost = node::inside(&self.peer, lost) - self.lost_before;
        let mut sum = Sum { passed: 0, refused: 0, lost };
        let mut missing = 0;
        for (lane, count) in self.lanes.iter().zip(self.counts.iter()) {
            let sent = count.sent.load(Ordering::Relaxed);
            let arrived = count.arrived.load(Ordering::Relaxed);
            assert!(sent > 0, "nothing was sent: {lane:?}");
            if lane.passes {
                sum.passed += arrived;
                missing += sent - arrived;
            } else {
                sum.refused += sent;
            }
        }
        assert!(missing <= lost, "{missing} datagrams did not arrive, the wire lost {lost}");
        sum
    }

    fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            sender.join().expect("the sender does not panic");
        }
        self.drain.store(true, Ordering::Relaxed);
        for receiver in self.receivers.drain(..) {
            receiver.join().expect("the receiver does not panic");
        }
    }
}

impl Drop for Traffic {
    /// A test that fails ends its traffic, too.
    fn drop(&mut self) {
        if !thread::panicking() {
            self.finish();
        }
        self.stop.store(true, Ordering::Relaxed);
        self.drain.store(true, Ordering::Relaxed);
    }
}

fn listen(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    socket.set_only_v6(false).expect("both families");
    // Needs CAP_NET_ADMIN above net.core.rmem_max, which root has.
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .expect("a large buffer");
    let any = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port);
    socket.bind(&any.into()).expect("a port of the node");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
    socket
}

fn from(lane: &Lane) -> Socket {
    let to = SocketAddr::new(NODE[usize::from(lane.from.is_ipv6())], lane.port);
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP));
    let socket = socket.expect("a socket");
    socket.bind(&SocketAddr::new(lane.from, 0).into()).expect("an address of the peer");
    socket.connect(&to.into()).expect("a route to the node");
    socket
}

fn send(sockets: &[Socket], lanes: &[Lane], counts: &[Count], stop: &AtomicBool) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for ((socket, lane), count) in sockets.iter().zip(lanes).zip(counts) {
            match socket.send(b"work") {
                Ok(_) => count.sent.fetch_add(1, Ordering::Relaxed),
                // Refused before, by a port that nobody listens at: nothing was sent.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => 0,
                Err(error) => panic!("sending {lane:?}: {error}"),
            };
        }
        next += PERIOD;
        match next.checked_duration_since(Instant::now()) {
            Some(rest) => thread::sleep(rest),
            // What was late is not made up for: a burst is what a wire loses.
            None => next = Instant::now(),
        }
    }
}

fn receive(socket: &Socket, port: u16, lanes: &[Lane], counts: &[Count], drain: &AtomicBool) {
    let mut last: Option<Instant> = None;
    loop {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 16];
        match socket.recv_from(&mut buffer) {
            Ok((_, from)) => {
                last = Some(Instant::now());
                let from = from.as_socket().expect("an address").ip().to_canonical();
                let lane = lanes.iter().position(|lane| lane.from == from && lane.port == port);
                let lane = lane.unwrap_or_else(|| panic!("a datagram from {from}"));
                counts[lane].arrived.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("receiving: {error}"),
        }
        if drain.load(Ordering::Relaxed) {
            let since = *last.get_or_insert_with(Instant::now);
            let all = lanes.iter().zip(counts).filter(|(lane, _)| lane.passes && lane.port == port);
            let here = |count: &Count| {
                count.arrived.load(Ordering::Relaxed) >= count.sent.load(Ordering::Relaxed)
            };
            // Everything is here that must be; a little longer for what must not.
            let patience =
                if all.into_iter().all(|(_, count)| here(count)) { LAG / 10 } else { LAG };
            if since.elapsed() > patience {
                return;
            }
        }
    }
}

/// Frames that the sending end of the virtual wire has lost.
fn lost() -> u64 {
    let listing = fs::read_to_string("/proc/thread-self/net/dev").expect("the devices");
    let line = listing.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
    let fields: io::Result<u64> = line
        // The twelfth field: transmit drops.
        .and_then(|line| line.split_whitespace().nth(11))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| ErrorKind::InvalidData.into());
    fields.expect("the drops of eth0")
}
