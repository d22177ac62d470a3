//! The thread that follows the kernel's notifications.

use std::{
    collections::BTreeSet,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    facts::NodeFacts,
    known::{Known, NftRules, Parts},
    shared::{Shared, State},
    writer::{Wanted, Writer},
};
use crate::{
    netlink::{
        Drained, Notifications, follow, forwarding, forwarding::Family, nftables, own_addresses,
    },
    system_error::SystemError,
};

/// Minimum time between the start of two reads. The first notification after it is handled at once.
const READ_INTERVAL: Duration = Duration::from_millis(20);
/// A read is followed by a pause of this many times its own duration, so that a device that appears
/// and vanishes in a loop keeps the thread busy for at most a fifth of the time.
const PAUSE: u32 = 4;
/// Pause after notifications, so that the rest of a burst is handled together.
const SETTLE: Duration = Duration::from_millis(1);
/// Interval at which the thread reads what the kernel sends no notifications about, and tries again
/// to read what it could not.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which the rules of `nf_tables` are read again while one of them keeps packets from
/// counting as forwarded, because the kernel does not report each way in which a rule disappears.
const AUDIT_INTERVAL: Duration = Duration::from_secs(10);

/// Why a part is not known after the queue of a socket was full.
const LOST: &str = "notifications of the kernel were lost";

/// The sockets with the notifications.
struct Sockets {
    /// Forwarding settings and routing rules.
    settings: Notifications,
    /// Devices and addresses.
    devices: Notifications,
    /// Routes.
    routes: Notifications,
    /// Rules of `nf_tables`; none if the kernel has no netfilter, or lists no rules to this process.
    nft: Option<Notifications>,
}

impl Sockets {
    fn open() -> io::Result<Self> {
        Ok(Self {
            settings: follow::settings()?,
            devices: follow::devices()?,
            routes: own_addresses::route_notifications()?,
            nft: nftables::notifications().unwrap_or_default(),
        })
    }
}

/// The work of the thread.
pub(super) struct Follower {
    sockets: Option<Sockets>,
    known: Known,
    /// What must be read again.
    due: Parts,
    next_read: Instant,
    next_poll: Instant,
    next_audit: Instant,
    writer: Writer,
    shared: Arc<Shared>,
}

impl Follower {
    /// Opens the sockets, then reads and writes everything.
    ///
    /// # Errors
    /// The maps cannot be written.
    pub(super) fn start(writer: Writer, shared: Arc<Shared>) -> Result<Self, SystemError> {
        let now = Instant::now();
        let mut follower = Self {
            sockets: None,
            known: Known::default(),
            due: Parts::NONE,
            next_read: now,
            next_poll: now + POLL_INTERVAL,
            next_audit: now + AUDIT_INTERVAL,
            writer,
            shared,
        };
        follower.known.poll();
        let opened = follower.open();
        follower.finish(opened)?;
        Ok(follower)
    }

    /// Follows the notifications until the other end of the stream is closed.
    pub(super) fn run(&mut self, wake: &UnixStream) {
        loop {
            let mut result = self.wait(wake);
            match &result {
                Ok(Woken::Ended) => return,
                Ok(Woken::Notified) => thread::sleep(SETTLE),
                _ => {}
            }
            let now = Instant::now();
            if now >= self.next_poll {
                self.next_poll = now + POLL_INTERVAL;
                result = result.and_then(|_| self.poll(now)).map(|()| Woken::Timer);
            }
            if self.due != Parts::NONE && Instant::now() >= self.next_read {
                self.read();
            }
            if let Err(error) = self.finish(result.map(drop)) {
                let why = error.to_string();
                // The maps cannot be written: this may fail, too.
                let _ = self.writer.clear_forwards();
                self.shared.set_state(State::Failed(why));
            }
        }
    }

    /// Makes no packet count as forwarded, because the thread ends.
    pub(super) fn give_up(&mut self, why: &str) {
        self.shared.set_state(State::Failed(why.to_owned()));
        if let Err(error) = self.writer.clear_forwards() {
            tracing::error!("{error}");
        }
    }

    /// Opens the sockets and reads everything after that, so that no change is missed.
    fn open(&mut self) -> io::Result<()> {
        self.sockets = Some(Sockets::open()?);
        self.due = Parts::ALL;
        self.read();
        Ok(())
    }

    /// Reads what is due.
    fn read(&mut self) {
        let begin = Instant::now();
        self.known.read(std::mem::take(&mut self.due));
        let took = begin.elapsed();
        self.next_read = begin + took + READ_INTERVAL.max(took * PAUSE);
    }

    /// Waits for notifications or the next timer, and applies the notifications.
    fn wait(&mut self, wake: &UnixStream) -> io::Result<Woken> {
        let mut until = self.next_poll;
        if self.due != Parts::NONE {
            until = until.min(self.next_read);
        }
        let timeout = until.saturating_duration_since(Instant::now());
        let mut fds: Vec<BorrowedFd<'_>> = vec![wake.as_fd()];
        if let Some(sockets) = &self.sockets {
            let Sockets { settings, devices, routes, nft } = sockets;
            fds.extend([settings.as_fd(), devices.as_fd(), routes.as_fd()]);
            fds.extend(nft.as_ref().map(|nft| nft.as_fd()));
        }
        let mut polled: Vec<PollFd<'_>> =
            fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Rounded up, so that the timer has elapsed afterwards.
        let timeout = u16::try_from(timeout.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut polled, PollTimeout::from(timeout)) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Woken::Timer),
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let wakes = polled.first().is_some_and(is_ready);
        let has_notifications = polled.iter().skip(1).any(is_ready);
        drop(polled);
        if wakes {
            let mut buffer = [0; 64];
            match io::Read::read(&mut &*wake, &mut buffer) {
                Ok(0) => return Ok(Woken::Ended),
                Ok(_) => self.known.set_guarded(self.shared.guarded()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if has_notifications {
            self.drain()?;
            return Ok(Woken::Notified);
        }
        Ok(Woken::Timer)
    }

    /// Applies the notifications in the queues.
    fn drain(&mut self) -> io::Result<()> {
        let Self { sockets: Some(sockets), known, due, .. } = self else { return Ok(()) };
        let mut malformed = None;
        let drained = sockets.settings.drain(|kind, payload| {
            if forwarding::is_of_rule(kind) {
                due.marks = true;
                if let (Some(family), Ok(marks)) =
                    (forwarding::added_rule_by_mark(kind, payload), &mut known.marks)
                {
                    marks.insert(family);
                }
            } else if let Ok(forwarding) = &mut known.forwarding {
                match forwarding.apply(kind, payload) {
                    Ok(forwarding::Change::Forced) => due.forced = true,
                    Ok(_) => {}
                    Err(error) => malformed = Some(error),
                }
            }
        })?;
        if drained == Drained::Lost || malformed.is_some() {
            let lost = Parts { forwarding: true, marks: true, ..Parts::NONE };
            known.forget(lost, LOST);
            *due = due.and(lost);
        }
        let drained = sockets.devices.drain(|kind, payload| {
            if !own_addresses::is_of_address(kind) {
                due.links = true;
            } else if let Some(address) = own_addresses::added(kind, payload) {
                known.add_own(address);
            } else {
                due.own = true;
            }
        })?;
        if drained == Drained::Lost {
            let lost = Parts { links: true, own: true, ..Parts::NONE };
            known.forget(lost, LOST);
            *due = due.and(lost);
        }
        let drained = sockets.routes.drain(|kind, payload| {
            due.own |= own_addresses::is_of_local_route(kind, payload);
        })?;
        due.own |= drained == Drained::Lost;
        let Some(socket) = &mut sockets.nft else { return Ok(()) };
        let mut malformed = None;
        let drained = socket.drain(|kind, payload| match nftables::change(kind, payload) {
            Ok(Some(change)) => {
                if let Ok(rules) = &mut known.nft {
                    rules.apply(change);
                }
            }
            Ok(None) => {}
            Err(error) => malformed = Some(error),
        })?;
        if drained == Drained::Lost || malformed.is_some() {
            let lost = Parts { nft: true, ..Parts::NONE };
            known.forget(lost, LOST);
            *due = due.and(lost);
        }
        Ok(())
    }

    /// Reads what the kernel sends no notifications about, and tries again what failed.
    fn poll(&mut self, now: Instant) -> io::Result<()> {
        self.known.poll();
        let Some(sockets) = &mut self.sockets else { return self.open() };
        self.due = self.due.and(self.known.unknown());
        if now >= self.next_audit {
            self.next_audit = now + AUDIT_INTERVAL;
            if sockets.nft.is_none() {
                sockets.nft = nftables::notifications().unwrap_or_default();
                self.due.nft |= sockets.nft.is_some();
            }
            self.due.nft |= self.known.nft.as_ref().is_ok_and(NftRules::delivers_here);
        }
        Ok(())
    }

    /// Writes and publishes the state. After a failure of the sockets, nothing counts as forwarded
    /// until they are open again.
    fn finish(&mut self, result: io::Result<()>) -> Result<(), SystemError> {
        let state = match result {
            Ok(()) => State::Following,
            Err(error) => {
                let why = format!("following the notifications of the kernel: {error}");
                self.sockets = None;
                self.known.forget(Parts::ALL, &why);
                State::Failed(why)
            }
        };
        let facts = self.known.facts();
        self.writer.write(&Wanted {
            flags: facts.flags(),
            own: self.known.own(),
            devices: &self.known.device_map().entries,
            guarded: &self.known.guarded,
            bound: &facts.bound_ports,
        })?;
        report(&self.shared.facts(), &facts);
        self.shared.publish(facts);
        if self.sockets.is_some() || state != State::Following {
            self.shared.set_state(state);
        }
        Ok(())
    }
}

/// Why [`Follower::wait`] returned.
enum Woken {
    Timer,
    Notified,
    Ended,
}

/// Logs changes of what counts as forwarded.
fn report(before: &NodeFacts, now: &NodeFacts) {
    for (family, version) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let of = |facts: &NodeFacts| match family {
            Family::V4 => (facts.forwards_ipv4, facts.obstacles_ipv4.clone()),
            Family::V6 => (facts.forwards_ipv6, facts.obstacles_ipv6.clone()),
        };
        if of(before) == of(now) {
            continue;
        }
        match of(now) {
            (false, _) if of(before).0 => {
                tracing::info!("the node no longer forwards {version} packets");
            }
            (false, _) => {}
            (true, obstacles) if obstacles.is_empty() => {
                tracing::info!("the node forwards {version} packets");
            }
            (true, obstacles) => {
                let obstacles: BTreeSet<String> =
                    obstacles.iter().map(ToString::to_string).collect();
                tracing::warn!(
                    "the node forwards {version} packets, but they are evaluated as packets for \
                     this node: {}",
                    obstacles.into_iter().collect::<Vec<_>>().join("; ")
                );
            }
        }
    }
}
