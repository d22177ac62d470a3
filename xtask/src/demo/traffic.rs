//! Real traffic, made by this binary in the namespaces of hosts: listeners, clients, a scanner, a flood
//! with forged sources.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use etherparse::PacketBuilder;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// How long to wait for an answer before a port counts as closed.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(700);

/// What a host of the demo does. Not for interactive use: the demo starts these itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Accept connections on these ports, over IPv4 and IPv6, and echo what arrives
    Listen {
        /// TCP ports
        ports: Vec<u16>,
    },
    /// Send bytes to an echo server and compare the answer
    Echo {
        /// Addresses to connect to
        to: Vec<SocketAddr>,
        /// Number of bytes
        #[arg(long, default_value_t = 100_000)]
        bytes: usize,
        /// Number of repetitions
        #[arg(long, default_value_t = 1)]
        times: usize,
    },
    /// Try to connect; print how many ports answered
    Scan {
        /// Addresses to connect to
        to: Vec<SocketAddr>,
    },
    /// Open connections as fast as possible; print how many were established
    Hoard {
        /// Address to connect to
        to: SocketAddr,
        /// Number of connections to try
        #[arg(long)]
        count: usize,
    },
    /// Send SYN segments from forged sources
    Flood {
        /// Destination
        to: SocketAddr,
        /// Number of segments
        #[arg(long)]
        count: u32,
    },
}

/// The result of a role: how many attempts succeeded, and how many failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Number of attempts that succeeded.
    pub(crate) succeeded: u64,
    /// Number of attempts that failed.
    pub(crate) failed: u64,
}

impl Outcome {
    fn add(&mut self, success: bool) {
        if success {
            self.succeeded += 1;
        } else {
            self.failed += 1;
        }
    }
}

/// Plays a role until it ends.
pub(crate) fn play(role: &Role) -> Result<Outcome> {
    match role {
        Role::Listen { ports } => listen(ports),
        Role::Echo { to, bytes, times } => Ok(echo(to, *bytes, *times)),
        Role::Scan { to } => Ok(scan(to)),
        Role::Hoard { to, count } => hoard(*to, *count),
        Role::Flood { to, count } => flood(*to, *count),
    }
}

fn listen(ports: &[u16]) -> Result<Outcome> {
    let threads: Vec<_> = ports
        .iter()
        .map(|&port| -> Result<_> {
            // A socket on the IPv6 wildcard address also accepts IPv4.
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_only_v6(false)?;
            socket.set_reuse_address(true)?;
            let any: SocketAddr = ([0_u16; 8], port).into();
            socket.bind(&any.into()).with_context(|| format!("binding port {port}"))?;
            socket.listen(4096)?;
            let listener: TcpListener = socket.into();
            Ok(thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || serve(stream));
                }
            }))
        })
        .collect::<Result<_>>()?;
    for thread in threads {
        // The thread runs until the demo kills this process.
        let _ = thread.join();
    }
    Ok(Outcome::default())
}

fn serve(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = stream.read(&mut buffer) {
        let echoed = buffer.get(..read).is_some_and(|bytes| stream.write_all(bytes).is_ok());
        if read == 0 || !echoed {
            break;
        }
    }
}

fn echo(to: &[SocketAddr], bytes: usize, times: usize) -> Outcome {
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(bytes).collect();
    let mut outcome = Outcome::default();
    for _ in 0..times {
        for addr in to {
            outcome.add(echo_once(addr, &sent).unwrap_or(false));
        }
    }
    outcome
}

fn echo_once(to: &SocketAddr, sent: &[u8]) -> Result<bool> {
    let stream = TcpStream::connect_timeout(to, 4 * ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(4 * ANSWER_TIMEOUT))?;
    let mut writer = stream.try_clone()?;
    let copy = sent.to_vec();
    let writing = thread::spawn(move || writer.write_all(&copy));
    let mut reader = stream;
    let mut received = vec![0; sent.len()];
    reader.read_exact(&mut received)?;
    Ok(matches!(writing.join(), Ok(Ok(()))) && received == sent)
}

fn scan(to: &[SocketAddr]) -> Outcome {
    let tries: Vec<_> = to
        .iter()
        .map(|&addr| {
            thread::spawn(move || match TcpStream::connect_timeout(&addr, ANSWER_TIMEOUT) {
                Ok(_) => true,
                // A refusal is an answer, too: the packet got through.
                Err(error) => error.kind() == ErrorKind::ConnectionRefused,
            })
        })
        .collect();
    let mut outcome = Outcome::default();
    for answered in tries {
        outcome.add(answered.join().unwrap_or(false));
    }
    outcome
}

fn hoard(to: SocketAddr, count: usize) -> Result<Outcome> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = u64::try_from(count)?.saturating_add(64).min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // The connection is in progress; the loop below checks whether it was established.
        let _ = socket.connect(&to.into());
        sockets.push(socket);
    }
    // Ends before the first retransmission of a lost SYN, which is after one second.
    thread::sleep(ANSWER_TIMEOUT);
    let mut outcome = Outcome::default();
    for socket in &sockets {
        outcome.add(socket.peer_addr().is_ok());
    }
    Ok(outcome)
}

fn flood(to: SocketAddr, count: u32) -> Result<Outcome> {
    let IpAddr::V4(target) = to.ip() else { anyhow::bail!("the flood is IPv4") };
    // A raw socket: this program writes the whole packet, IP header included (raw(7)).
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let address = SockAddr::from(SocketAddr::from((target, 0)));
    let mut outcome = Outcome::default();
    let start = Instant::now();
    for number in 0..count {
        // 198.18.0.0/15 is reserved for benchmarks (RFC 2544), so no host has these addresses.
        let source = Ipv4Addr::from_bits(0xc612_0000 | number.wrapping_mul(40_503) & 0x1_ffff);
        let sent = socket.send_to(&syn(source, target, to.port(), number)?, &address);
        outcome.add(sent.is_ok());
        if number % 64 == 63 {
            // About 25,000 a second: a flood, but not more than two cores can handle beside the other
            // processes.
            let due = Duration::from_micros(u64::from(number) * 40);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    Ok(outcome)
}

/// Builds a SYN segment in an IPv4 packet.
fn syn(source: Ipv4Addr, target: Ipv4Addr, port: u16, number: u32) -> Result<Vec<u8>> {
    let source_port = 1024 + (number % 60_000) as u16;
    let step = PacketBuilder::ipv4(source.octets(), target.octets(), 64)
        .tcp(source_port, port, number, u16::MAX)
        .syn();
    let mut packet = Vec::with_capacity(step.size(0));
    step.write(&mut packet, &[])?;
    Ok(packet)
}
