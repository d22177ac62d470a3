//! The other end of a guest's cable: an unlisted host that sends SYN segments to two ports of the guest
//! from power-on to power-off, and counts the answers.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, Ethernet2Header, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};

/// Address of the guest, of a range reserved for documentation (RFC 5737).
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Address of the unlisted host.
pub(super) const ATTACKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
/// The guarded port.
pub(super) const GUARDED: u16 = 9091;
/// A port that is not guarded. Its answers show that segments arrive.
pub(super) const CONTROL: u16 = 8080;

/// MAC address of the guest's card, see `run.rs`.
const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0xff, 0x01];
const ATTACKER_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0xff, 0x02];

/// Interval between two SYN segments to each port.
const PAUSE: Duration = Duration::from_millis(2);

/// What the unlisted host has sent and received.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Number of SYN segments that were sent to each port.
    pub(super) syns: u64,
    pub(super) guarded: Answers,
    pub(super) control: Answers,
}

/// Answers of a port. Acceptance and refusal both count, because both show that the segment reached the
/// guest's network stack.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    pub(super) count: u64,
    /// Time since the start of the unlisted host.
    pub(super) first: Option<Duration>,
    pub(super) last: Option<Duration>,
}

impl Answers {
    fn note(&mut self, after: Duration) {
        self.count += 1;
        self.first.get_or_insert(after);
        self.last = Some(after);
    }
}

/// The thread of the unlisted host.
pub(super) struct Attacker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Attacker {
    /// Starts the unlisted host. The guest's end of the cable is the socket `guest` in the same
    /// directory.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        for end in ["host", "guest"] {
            let path = directory.join(end);
            if path.exists() {
                fs::remove_file(&path)?;
            }
        }
        let socket = UnixDatagram::bind(directory.join("host"))
            .context("binding the socket of the attacker")?;
        socket.set_read_timeout(Some(PAUSE))?;
        // If the guest does not receive, the socket's buffer fills up. Frames that do not fit are lost,
        // as on a wire.
        socket.set_write_timeout(Some(PAUSE))?;
        let guest = directory.join("guest");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || Sender::new(socket, guest).run(&flag));
        Ok(Self { stop, thread })
    }

    /// Stops the unlisted host. Returns what it has sent and received.
    pub(super) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Sender {
    socket: UnixDatagram,
    guest: PathBuf,
    started: Instant,
    seen: Seen,
}

impl Sender {
    fn new(socket: UnixDatagram, guest: PathBuf) -> Self {
        Self { socket, guest, started: Instant::now(), seen: Seen::default() }
    }

    fn run(mut self, stop: &AtomicBool) -> Seen {
        let mut buffer = [0; 2048];
        let mut next = Instant::now();
        let mut source_port = 20_000;
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                next = Instant::now() + PAUSE;
                // Each SYN has its own source port, because a second SYN with the same ports would be a
                // retransmission.
                source_port = if source_port == 60_000 { 20_000 } else { source_port + 1 };
                let sent = [GUARDED, CONTROL].map(|port| self.send(&syn(source_port, port)));
                self.seen.syns += u64::from(sent == [true, true]);
            }
            if let Ok(length) = self.socket.recv(&mut buffer) {
                self.received(&buffer[..length]);
            }
        }
        self.seen
    }

    /// Sends a frame. Returns `false` if that is not possible, as before the guest is on and after it is
    /// off.
    fn send(&self, frame: &[u8]) -> bool {
        self.socket.send_to(frame, &self.guest).is_ok()
    }

    fn received(&mut self, frame: &[u8]) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return };
        match (&packet.net, &packet.transport) {
            (Some(NetSlice::Arp(arp)), _) => {
                let wanted = arp.operation() == ArpOperation::REQUEST
                    && arp.target_protocol_addr() == ATTACKER.octets();
                if wanted {
                    self.send(&arp_reply());
                }
            }
            (_, Some(TransportSlice::Tcp(tcp))) => {
                let answers = match tcp.source_port() {
                    GUARDED => &mut self.seen.guarded,
                    CONTROL => &mut self.seen.control,
                    _ => return,
                };
                answers.note(self.started.elapsed());
                if !tcp.rst() {
                    // Otherwise the guest would retransmit its answer, and its queue of half-open
                    // connections would fill up.
                    let port = tcp.source_port();
                    self.send(&reset(tcp.destination_port(), port, tcp.acknowledgment_number()));
                }
            }
            _ => {}
        }
    }
}

/// Builds the first segment of a connection.
fn syn(from: u16, to: u16) -> Vec<u8> {
    frame(|ip| ip.tcp(from, to, 1, 64_000).syn())
}

/// Builds a reset, which ends a connection.
fn reset(from: u16, to: u16, sequence: u32) -> Vec<u8> {
    frame(|ip| ip.tcp(from, to, sequence, 0).rst())
}

fn frame(
    segment: impl FnOnce(
        etherparse::PacketBuilderStep<etherparse::IpHeaders>,
    ) -> etherparse::PacketBuilderStep<etherparse::TcpHeader>,
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(ATTACKER_MAC, GUEST_MAC);
    let step = segment(ethernet.ipv4(ATTACKER.octets(), GUEST.octets(), 64));
    let mut bytes = Vec::with_capacity(step.size(0));
    if step.write(&mut bytes, &[]).is_err() {
        bytes.clear();
    }
    bytes
}

/// Builds the answer to the guest's ARP request for our address.
fn arp_reply() -> Vec<u8> {
    let ethernet = Ethernet2Header {
        source: ATTACKER_MAC,
        destination: GUEST_MAC,
        ether_type: EtherType::ARP,
    };
    let arp = ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: ATTACKER_MAC,
        sender_ipv4: ATTACKER.octets(),
        target_mac: GUEST_MAC,
        target_ipv4: GUEST.octets(),
    };
    [&ethernet.to_bytes()[..], &arp.to_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_segment_is_valid() {
        let bytes = syn(20_000, GUARDED);
        let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("{packet:?}") };
        assert!(tcp.syn() && !tcp.ack());
        assert_eq!((tcp.source_port(), tcp.destination_port()), (20_000, GUARDED));
        assert_eq!(tcp.calc_checksum_ipv4(ATTACKER.octets(), GUEST.octets()), Ok(tcp.checksum()));
    }

    #[test]
    fn answers_are_counted_by_port_and_reset() {
        let directory = tempfile::tempdir().unwrap();
        let attacker = Attacker::start(directory.path()).unwrap();
        let guest = UnixDatagram::bind(directory.path().join("guest")).unwrap();
        guest.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 2048];
        let mut was_reset = false;
        for _ in 0..50 {
            // A signal handler of another test may run in this thread.
            let length = loop {
                match guest.recv(&mut buffer) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    received => break received.unwrap(),
                }
            };
            let packet = SlicedPacket::from_ethernet(&buffer[..length]).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("{packet:?}") };
            was_reset |= tcp.rst();
            if tcp.syn() && tcp.destination_port() == CONTROL {
                let step = PacketBuilder::ethernet2(GUEST_MAC, ATTACKER_MAC)
                    .ipv4(GUEST.octets(), ATTACKER.octets(), 64)
                    .tcp(CONTROL, tcp.source_port(), 7, 100)
                    .syn()
                    .ack(2);
                let mut answer = Vec::new();
                step.write(&mut answer, &[]).unwrap();
                guest.send_to(&answer, directory.path().join("host")).unwrap();
            }
        }
        let seen = attacker.stop();
        assert!(seen.control.count > 10 && seen.syns > 10, "{seen:?}");
        assert_eq!(seen.guarded.count, 0);
        assert!(was_reset);
    }
}
