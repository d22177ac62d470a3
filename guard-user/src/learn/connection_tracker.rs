//! Follows the connections of a node through a capture, in bounded memory.

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

/// Connections, and pairs of a source and a port, that are followed at a time. What comes after
/// them is counted.
const MAX_TRACKED: usize = 1 << 20;
/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// What a source did at a port of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contact {
    /// Frames that came.
    pub packets: u64,
    /// Connections that it opened; of protocols without them, its ports that sent first.
    pub openings: u64,
    /// Of these, those that the node answered.
    pub answered: u64,
    /// Of these, those that carried data both ways.
    pub completed: u64,
    /// The first frame, from 1 on.
    pub first_frame: u64,
    /// When it came, in nanoseconds; none if the capture does not say.
    pub first_ns: Option<u64>,
    /// When the last one came.
    pub last_ns: Option<u64>,
    /// The most openings within a second.
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

/// A connection: the other side with its port, and the node's port.
type Key = (Addr, u16, Port);

/// How far it has come.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The other side began.
    opened: bool,
    answered: bool,
    /// Data came, and went.
    data: [bool; 2],
    counted: bool,
}

/// What was seen of a node's traffic.
#[derive(Debug)]
pub struct ConnectionTracker {
    own: HashSet<Addr>,
    connections: HashMap<Key, Progress>,
    /// Contacts of each source, by port.
    pub contacts: BTreeMap<Addr, BTreeMap<Port, Contact>>,
    contact_count: usize,
    /// Frames from sources that cannot be true on a wire, the node's own addresses among them.
    pub untrue: BTreeMap<Addr, u64>,
    /// Frames that were read.
    pub frames: u64,
    /// Of these, frames to or from the node.
    pub of_node: u64,
    /// Of these, frames that the node sent.
    pub sent: u64,
    /// Of these, frames without ports, or cut in front of them.
    pub without_ports: u64,
    /// Connections that were under way when the capture began: who opened them is not in it.
    under_way: HashSet<Key>,
    /// Frames that were not followed: there was too much.
    pub not_followed: u64,
    /// It was told of by events: samples of what is refused, without the answers.
    pub by_events: bool,
    /// Frames that were dropped and not only counted: what did not get through is no evidence.
    pub dropped: u64,
    /// When the first and the last frame came.
    pub span_ns: Option<(u64, u64)>,
}

impl ConnectionTracker {
    /// Of a node with these addresses.
    pub fn new(addresses: &[Addr]) -> Self {
        Self {
            own: addresses.iter().copied().collect(),
            connections: HashMap::new(),
            contacts: BTreeMap::new(),
            contact_count: 0,
            untrue: BTreeMap::new(),
            frames: 0,
            of_node: 0,
            sent: 0,
            without_ports: 0,
            under_way: HashSet::new(),
            not_followed: 0,
            by_events: false,
            dropped: 0,
            span_ns: None,
        }
    }

    /// How many connections were under way when the capture began.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Hears of frames that enforcing would refuse: an event of the daemon. A source that is in the
    /// middle of a connection in two of them counts: it was answered, or forges that it was.
    ///
    /// # Errors
    /// Its time is none.
    pub fn hear(&mut self, event: &Event) -> Result<(), String> {
        let EventKind::Packet(packet) = &event.what else { return Ok(()) };
        self.by_events = true;
        self.frames += packet.packets;
        self.of_node += packet.packets;
        let time_ns = event.time.as_deref().map(events::time_ns).transpose()?;
        self.during(time_ns);
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
            *self.untrue.entry(source).or_default() += packet.packets;
            return Ok(());
        }
        let has = |flag| packet.flags.as_deref().is_some_and(|flags| flags.contains(flag));
        let opens = transport != Transport::Tcp || (has('S') && !has('A'));
        // A record stands for a second and has the flags of the last frame in it. A connection that
        // comes to nothing has one such record at most.
        let goes_on = has('A') && !['S', 'R', 'F'].into_iter().any(has);
        let key = (source, 0, (transport, port));
        if self.connections.len() >= MAX_TRACKED && !self.connections.contains_key(&key) {
            self.not_followed += packet.packets;
            return Ok(());
        }
        let progress = self.connections.entry(key).or_default();
        let counts = goes_on && progress.answered && !progress.counted;
        progress.answered |= goes_on;
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

    fn during(&mut self, time_ns: Option<u64>) {
        if let Some(time) = time_ns {
            let (first, last) = self.span_ns.unwrap_or((time, time));
            self.span_ns = Some((first.min(time), last.max(time)));
        }
    }

    /// Looks at a frame.
    pub fn add(&mut self, frame: &Captured<'_>) {
        self.frames += 1;
        self.during(frame.time_ns);
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
            // From the node to itself over a wire, or from nobody.
            (true, _) if outwards || flow.source.is_martian() => {
                *self.untrue.entry(flow.source).or_default() += 1;
            }
            (true, _) => self.comes(frame, &flow, found.flags, payload),
            _ => self.goes(to, &flow, found.flags, payload),
        }
    }

    fn comes(&mut self, frame: &Captured<'_>, flow: &Flow, flags: Option<u8>, payload: bool) {
        let port = (flow.transport, flow.port);
        let key = (flow.source, flow.source_port, port);
        let tcp = flow.transport == Transport::Tcp;
        let opens = if tcp { flow.opening } else { !self.connections.contains_key(&key) };
        let full = self.connections.len() >= MAX_TRACKED || self.contact_count >= MAX_TRACKED;
        let is_new = !self.connections.contains_key(&key);
        if is_new && full {
            self.not_followed += 1;
            return;
        }
        if is_new && tcp && !opens {
            let answers = flags.is_some_and(|flags| flags & wire::TCP_SYN != 0);
            // A SYN with ACK answers the node, whose SYN the capture may lack.
            if !answers {
                self.under_way.insert(key);
            }
            return;
        }
        let progress = self.connections.entry(key).or_default();
        // A port that is used again begins a new connection; a SYN that is sent again does not.
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

    /// A frame of the node: an answer, or the beginning of a connection of its own.
    fn goes(&mut self, to: Addr, flow: &Flow, flags: Option<u8>, payload: bool) {
        let port = (flow.transport, flow.source_port);
        let key = (to, flow.port, port);
        let tcp = flow.transport == Transport::Tcp;
        let Some(progress) = self.connections.get_mut(&key) else {
            // What comes back is an answer: it is followed as one that the other side did not
            // open.
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

/// Counts a connection once it has carried data both ways.
fn count(progress: &mut Progress, contact: &mut Contact) {
    let Progress { answered, data, counted, .. } = *progress;
    if answered && data == [true; 2] && !counted {
        progress.counted = true;
        contact.completed += 1;
    }
}
