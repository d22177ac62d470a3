//! Constant traffic to a node, with every frame accounted for, while a test does something to its
//! daemon.
//!
//! The traffic consists of datagrams, because a lost one is not sent again: each admitted datagram must
//! arrive, and no other may.

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

use crate::node::{self, MEMBER, NODE, Node, PORT, UNLISTED};

/// Pause between two datagrams of a lane.
const PERIOD: Duration = Duration::from_millis(2);
/// How long the last datagrams may take to arrive.
const LAG: Duration = Duration::from_secs(2);
/// Size in bytes of the receive buffer, for receivers that the machine does not schedule in time.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Datagrams from one address of the peer to one port of the node.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// Source address.
    pub from: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Whether the node's policy admits the datagrams.
    pub passes: bool,
}

/// Counts of a lane.
#[derive(Debug, Default)]
struct Count {
    sent: AtomicU64,
    arrived: AtomicU64,
}

/// Traffic that continues until [`Traffic::end`].
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

/// Result of the traffic.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    /// Datagrams that had to arrive, and did.
    pub passed: u64,
    /// Datagrams that had to be refused, and were.
    pub refused: u64,
    /// Datagrams that the virtual wire lost before the program ran.
    pub lost: u64,
}

/// Returns the number of rounds of a repeated test: `usual`, unless `TRAINGUARD_ROUNDS` is set, as by
/// `cargo xtask chaos`.
pub fn rounds(usual: u64) -> u64 {
    std::env::var("TRAINGUARD_ROUNDS")
        .map_or(usual, |text| text.parse().expect("a number of rounds"))
}

/// Returns lanes from a member and from an unlisted host, in both families, to [`PORT`].
pub fn member_and_unlisted() -> Vec<Lane> {
    let lanes = |from: [IpAddr; 2], passes| {
        from.into_iter().map(move |from| Lane { from, port: PORT, passes })
    };
    lanes(MEMBER, true).chain(lanes(UNLISTED, false)).collect()
}

impl Sum {
    /// Asserts that each frame was counted exactly once, by whichever guard saw it. `moved` is the
    /// increase of the counters by reason. Frames that the wire lost are not counted.
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
    /// Starts the traffic. No other socket may listen on the ports of the lanes.
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

    /// Returns how many datagrams have arrived that must not.
    pub fn wrongly_admitted(&self) -> u64 {
        let lanes = self.lanes.iter().zip(self.counts.iter()).filter(|(lane, _)| !lane.passes);
        lanes.map(|(_, count)| count.arrived.load(Ordering::Relaxed)).sum()
    }

    /// Asserts that no datagram has arrived that must not.
    pub fn assert_none_wrongly_admitted(&self) {
        assert_eq!(
            self.wrongly_admitted(),
            0,
            "datagrams were admitted that must be dropped: {self:?}"
        );
    }

    /// Ends the traffic and asserts that each datagram got the right verdict.
    pub fn end(mut self) -> Sum {
        self.finish();
        self.assert_none_wrongly_admitted();
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
    /// Also ends the traffic of a failing test.
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
    // Exceeding net.core.rmem_max needs CAP_NET_ADMIN, which root has.
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
                // An earlier datagram reached a port without a listener; this call sent nothing.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => 0,
                Err(error) => panic!("sending {lane:?}: {error}"),
            };
        }
        next += PERIOD;
        match next.checked_duration_since(Instant::now()) {
            Some(rest) => thread::sleep(rest),
            // Do not catch up after a delay, because a wire loses frames in a burst.
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
            // If everything admitted has arrived, wait only a little longer for datagrams that must not
            // arrive.
            let timeout =
                if all.into_iter().all(|(_, count)| here(count)) { LAG / 10 } else { LAG };
            if since.elapsed() > timeout {
                return;
            }
        }
    }
}

/// Returns the number of frames that the sending end of the virtual wire has lost.
fn lost() -> u64 {
    let listing = fs::read_to_string("/proc/thread-self/net/dev").expect("the devices");
    let line = listing.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
    let fields: io::Result<u64> = line
        // The twelfth field of /proc/net/dev: transmit drops.
        .and_then(|line| line.split_whitespace().nth(11))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| ErrorKind::InvalidData.into());
    fields.expect("the drops of eth0")
}
