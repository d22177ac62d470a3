//! Tracks the connections of a node in a capture, in bounded memory.

use std::collections::{BTreeMap, HashMap, HashSet};

use guard_common::{
    Action, Addr, NoTrace,
    flow::{Flow, Parsed},
    packet::Frame,
    parse,
    port_table::Transport,
    wire,
};

use crate::{
    api::events::{Event, EventKind},
    capture::{Captured, events, headers},
};

/// Maximum number of tracked connections, and of tracked pairs of a source and a port. Frames of
/// further ones are only counted.
const MAX_TRACKED: usize = 1 << 20;
/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;

/// The traffic of a source to a port of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contact {
    /// Number of frames received from the source.
    pub packets: u64,
    /// Number of connections that the source opened; for protocols other than TCP, of its ports
    /// that sent the first frame.
    pub openings: u64,
    /// Number of those connections that the node answered.
    pub answered: u64,
    /// Number of those connections with data in both directions.
    pub completed: u64,
    /// Number of the first frame, from 1.
    pub first_frame: u64,
    /// Time of the first frame in nanoseconds since the Unix epoch; none if the capture has no
    /// timestamps.
    pub first_ns: Option<u64>,
    /// Time of the last frame, in the same unit.
    pub last_ns: Option<u64>,
    /// Maximum number of openings within one second.
    pub peak: u64,
    second: (u64, u64),
}

impl Contact {
    fn opens(&mut self, time_ns: Option<u64>) {
        self.openings += 1;
        let second = time_ns.unwrap_or(0) / SECOND;
        if self.second.0 != second {
            self.second = (second, 0);
        }
        self.second.1 += 1;
        self.peak = self.peak.max(self.second.1);
    }
}

/// A port of the node.
pub type Port = (Transport, u16);

/// Key of a connection: the peer's address and port, and the node's port.
type Key = (Addr, u16, Port);

/// State of a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The peer opened the connection.
    opened: bool,
    answered: bool,
    /// Data was seen from the peer, and from the node.
    data: [bool; 2],
    counted: bool,
}

/// The observed traffic of a node.
#[derive(Debug)]
pub struct ConnectionTracker {
    own: HashSet<Addr>,
    connections: HashMap<Key, Progress>,
    /// Contacts of each source, by port.
    pub contacts: BTreeMap<Addr, BTreeMap<Port, Contact>>,
    contact_count: usize,
    /// Number of frames by forged source: martian addresses, and the node's own.
    pub forged: BTreeMap<Addr, u64>,
    /// Number of frames in the capture.
    pub frames: u64,
    /// Number of frames to or from the node.
    pub of_node: u64,
    /// Number of frames that the node sent.
    pub sent: u64,
    /// Number of frames to the node without ports, or cut before them.
    pub without_ports: u64,
    /// Connections that existed when the capture began, so that it does not show which side opened
    /// them.
    preexisting: HashSet<Key>,
    /// Number of frames that were not tracked because the maximum was reached.
    pub untracked: u64,
    /// Whether the traffic comes from events: samples of refused frames, without the answers.
    pub from_events: bool,
    /// Number of dropped frames. They are no evidence, because they were not delivered.
    pub dropped: u64,
    /// Times of the first and the last frame.
    pub span_ns: Option<(u64, u64)>,
}

impl ConnectionTracker {
    /// Creates a tracker for a node with these addresses.
    pub fn new(addresses: &[Addr]) -> Self {
        Self {
            own: addresses.iter().copied().collect(),
            connections: HashMap::new(),
            contacts: BTreeMap::new(),
            contact_count: 0,
            forged: BTreeMap::new(),
            frames: 0,
            of_node: 0,
            sent: 0,
            without_ports: 0,
            preexisting: HashSet::new(),
            untracked: 0,
            from_events: false,
            dropped: 0,
            span_ns: None,
        }
    }

    /// Returns the number of connections that existed when the capture began.
    pub fn preexisting(&self) -> usize {
        self.preexisting.len()
    }

    /// Adds an event of the daemon about frames that enforcement would drop. A source counts once
    /// two events show it in the middle of a connection: either it was answered, or it forges such
    /// packets.
    ///
    /// # Errors
    /// The time of the event cannot be parsed.
    pub fn add_event(&mut self, event: &Event) -> Result<(), String> {
        let EventKind::Packet(packet) = &event.what else { return Ok(()) };
        self.from_events = true;
        self.frames += packet.packets;
        self.of_node += packet.packets;
        let time_ns = event.time.as_deref().map(events::time_ns).transpose()?;
        self.extend_span(time_ns);
        if packet.verdict != Action::WouldDrop.name() {
            self.dropped += packet.packets;
            return Ok(());
        }
        let transport = packet.transport.as_deref();
        let transport = Transport::ALL.into_iter().find(|it| Some(it.name()) == transport);
        let (Some(source), Some(transport), Some(port)) = (packet.source, transport, packet.port)
        else {
            self.without_ports += packet.packets;
            return Ok(());
        };
        let source = Addr::from(source);
        if source.is_martian() || self.own.contains(&source) {
            *self.forged.entry(source).or_default() += packet.packets;
            return Ok(());
        }
        let has = |flag| packet.flags.as_deref().is_some_and(|flags| flags.contains(flag));
        let opens = transport != Transport::Tcp || (has('S') && !has('A'));
        // A record covers up to a second and has the flags of its last frame. A connection that is
        // never established produces at most one such record.
        let continues = has('A') && !['S', 'R', 'F'].into_iter().any(has);
        let key = (source, 0, (transport, port));
        if self.connections.len() >= MAX_TRACKED && !self.connections.contains_key(&key) {
            self.untracked += packet.packets;
            return Ok(());
        }
        let progress = self.connections.entry(key).or_default();
        let counts = continues && progress.answered && !progress.counted;
        progress.answered |= continues;
        progress.counted |= counts;
        let ports = self.contacts.entry(source).or_default();
        let contact = ports.entry((transport, port)).or_insert_with(|| Contact {
            first_frame: event.seq.unwrap_or(self.frames),
            first_ns: time_ns,
            ..Contact::default()
        });
        contact.packets += packet.packets;
        contact.last_ns = contact.last_ns.max(time_ns);
        if opens {
            contact.opens(time_ns);
        }
        contact.completed += u64::from(counts);
        Ok(())
    }

    fn extend_span(&mut self, time_ns: Option<u64>) {
        if let Some(time) = time_ns {
            let (first, last) = self.span_ns.unwrap_or((time, time));
            self.span_ns = Some((first.min(time), last.max(time)));
        }
    }

    /// Adds a frame of a capture.
    pub fn add(&mut self, frame: &Captured<'_>) {
        self.frames += 1;
        self.extend_span(frame.time_ns);
        let parsed = parse(&Frame::cut(frame.bytes, frame.wire_len), &mut NoTrace).parsed();
        let found = headers::of(frame.bytes, frame.wire_len);
        let Some(to) = found.destination.map(Addr::from) else { return };
        let inwards = self.own.contains(&to);
        let Ok(Parsed::Flow(flow)) = parsed else {
            if inwards {
                self.of_node += 1;
                self.without_ports += 1;
            }
            return;
        };
        let outwards = self.own.contains(&flow.source);
        if !inwards && !outwards {
            return;
        }
        self.of_node += 1;
        self.sent += u64::from(outwards && !inwards);
        let payload = found.payload > 0;
        match (inwards, outwards) {
            // A forged source: the node's own address, or a martian.
            (true, _) if outwards || flow.source.is_martian() => {
                *self.forged.entry(flow.source).or_default() += 1;
            }
            (true, _) => self.add_received(frame, &flow, found.flags, payload),
            _ => self.add_sent(to, &flow, found.flags, payload),
        }
    }

    fn add_received(
        &mut self,
        frame: &Captured<'_>,
        flow: &Flow,
        flags: Option<u8>,
        payload: bool,
    ) {
        let port = (flow.transport, flow.port);
        let key = (flow.source, flow.source_port, port);
        let tcp = flow.transport == Transport::Tcp;
        let opens = if tcp { flow.opening } else { !self.connections.contains_key(&key) };
        let full = self.connections.len() >= MAX_TRACKED || self.contact_count >= MAX_TRACKED;
        let is_new = !self.connections.contains_key(&key);
        if is_new && full {
            self.untracked += 1;
            return;
        }
        if is_new && tcp && !opens {
            let answers = flags.is_some_and(|flags| flags & wire::TCP_SYN != 0);
            // A SYN with ACK answers the node, whose SYN the capture may lack.
            if !answers {
                self.preexisting.insert(key);
            }
            return;
        }
        let progress = self.connections.entry(key).or_default();
        // A reused port begins a new connection; a retransmitted SYN does not.
        let again = opens && tcp && progress.counted;
        if again {
            *progress = Progress::default();
        }
        let begins = opens && !progress.opened;
        progress.opened |= opens;
        if !progress.opened {
            return;
        }
        progress.data[0] |= payload;
        let ports = self.contacts.entry(flow.source).or_default();
        if !ports.contains_key(&port) {
            self.contact_count += 1;
        }
        let contact = ports.entry(port).or_insert_with(|| Contact {
            first_frame: frame.number,
            first_ns: frame.time_ns,
            ..Contact::default()
        });
        contact.packets += 1;
        contact.last_ns = contact.last_ns.max(frame.time_ns);
        if begins {
            contact.opens(frame.time_ns);
        }
        count(progress, contact);
    }

    /// Adds a frame that the node sent: an answer, or the opening of its own connection.
    fn add_sent(&mut self, to: Addr, flow: &Flow, flags: Option<u8>, payload: bool) {
        let port = (flow.transport, flow.source_port);
        let key = (to, flow.port, port);
        let tcp = flow.transport == Transport::Tcp;
        let Some(progress) = self.connections.get_mut(&key) else {
            // The node opens this connection, so the peer's frames are answers. It is tracked as
            // not opened by the peer.
            if (flow.opening || !tcp) && self.connections.len() < MAX_TRACKED {
                self.connections.insert(key, Progress::default());
            }
            return;
        };
        if !progress.opened {
            return;
        }
        let answers =
            flags.is_some_and(|flags| flags & wire::TCP_SYN != 0 && flags & wire::TCP_ACK != 0);
        let contact = self.contacts.get_mut(&to).and_then(|ports| ports.get_mut(&port));
        let Some(contact) = contact else { return };
        if (answers || !tcp) && !progress.answered {
            progress.answered = true;
            contact.answered += 1;
        }
        progress.data[1] |= payload;
        count(progress, contact);
    }
}

/// Counts a connection once, when it has carried data in both directions.
fn count(progress: &mut Progress, contact: &mut Contact) {
    let Progress { answered, data, counted, .. } = *progress;
    if answered && data == [true; 2] && !counted {
        progress.counted = true;
        contact.completed += 1;
    }
}
