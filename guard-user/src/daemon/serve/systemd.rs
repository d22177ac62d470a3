//! Messages to the service manager (`sd_notify(3)`): ready, reloading, one line about the state, and
//! keep-alives for its watchdog.
//!
//! A keep-alive is sent only while the last checks of files, interfaces and events are all recent. It
//! is sent by the loop that does this work, so a loop that is stuck sends none, and the service manager
//! ends the daemon. The guard stays in the kernel meanwhile.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::{Duration, Instant},
};

use guard_common::verdict::Action;
use sd_notify::NotifyState;

use crate::{
    api::status::{InterfaceState, NodeMode, Status},
    bpf::pinned_maps::PinnedMaps,
    daemon::timing::Timing,
    policy::syntax::text,
    text::{counted, short},
};

/// Number of keep-alives sent within one watchdog timeout.
const KEEPALIVES_PER_TIMEOUT: u32 = 4;
/// Maximum number of characters of the state line.
const LINE_LENGTH: usize = 200;

/// A part of the daemon's work that must be done regularly.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// The check of the files.
    Files,
    /// The check of the interfaces: listed and repaired.
    Interfaces,
    /// The reading of events from the kernel's ring.
    Events,
}

/// Sends messages to the service manager, and keeps the state that was reported last.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: Option<UnixDatagram>,
    /// [`Timing::line`].
    line_interval: Duration,
    /// [`Timing::fresh`].
    fresh: Duration,
    /// Interval between keep-alives; none if the manager has no watchdog for this service.
    keepalive_interval: Option<Duration>,
    last_keepalive: Instant,
    /// When each part of the work was last done, by [`Work`].
    done: [Instant; 3],
    /// The time from which on the daemon reports that it is ready even if interfaces are missing.
    ready_by: Instant,
    /// Whether the manager has been notified that the daemon is ready.
    ready: bool,
    /// Whether the manager has been notified that a reload has begun.
    reload_announced: bool,
    /// The state line that was sent last, and when it was made.
    line: Option<(String, Instant)>,
    /// Number of dropped frames when they were last counted, and when that was.
    dropped: Option<(u64, Instant)>,
}

impl Notifier {
    /// Connects to the manager that `NOTIFY_SOCKET` names; without one nothing is sent. `wait`: how
    /// long the daemon waits for interfaces before it reports that it is ready without them.
    pub(crate) fn new(wait: Duration, timing: &Timing) -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            connect(name.as_bytes())
                .inspect_err(|error| {
                    tracing::warn!("service manager not reachable at NOTIFY_SOCKET: {error}");
                })
                .ok()
        });
        let now = Instant::now();
        Self {
            line_interval: timing.line,
            fresh: timing.fresh,
            keepalive_interval: sd_notify::watchdog_enabled()
                .filter(|_| socket.is_some())
                .map(|all| all / KEEPALIVES_PER_TIMEOUT),
            socket,
            last_keepalive: now,
            done: [now; 3],
            ready_by: now + wait,
            ready: false,
            reload_announced: false,
            line: None,
            dropped: None,
        }
    }

    /// Records that a part of the work has just been done.
    pub(crate) fn mark_done(&mut self, work: Work) {
        self.done[work as usize] = Instant::now();
    }

    /// Announces that the daemon is about to load its files again. A daemon that has never been ready
    /// is starting, not reloading.
    pub(crate) fn reloading(&mut self) {
        let Ok(now) = NotifyState::monotonic_usec_now() else { return };
        self.reload_announced = self.ready && self.send(&[NotifyState::Reloading, now]);
    }

    /// Announces the end of a reload, if its beginning was announced. The next state line shows the
    /// result.
    pub(crate) fn reloaded(&mut self) {
        self.line = None;
        if std::mem::take(&mut self.reload_announced) {
            self.ready = self.send(&[NotifyState::Ready]);
        }
    }

    /// Announces that the daemon is about to end.
    pub(crate) fn stopping(&mut self) {
        let line = "ended; the guard stays in force, `trainguard detach` detaches it";
        self.send(&[NotifyState::Stopping, NotifyState::Status(line)]);
    }

    /// Returns whether each part of the work was done recently.
    fn is_work_recent(&self) -> bool {
        self.done.iter().all(|done| done.elapsed() <= self.fresh)
    }

    /// Returns whether the state line must be made again.
    fn is_line_due(&self) -> bool {
        self.line.as_ref().is_none_or(|(_, made)| made.elapsed() >= self.line_interval)
    }

    /// Sends a keep-alive, if one is due and every part of the work was done recently.
    pub(crate) fn send_keepalive(&mut self) {
        let Some(interval) = self.keepalive_interval else { return };
        if self.last_keepalive.elapsed() >= interval
            && self.is_work_recent()
            && self.send(&[NotifyState::Watchdog])
        {
            self.last_keepalive = Instant::now();
        }
    }

    /// Sends a message without blocking, because a manager that does not read must not stop the daemon.
    /// Returns whether it was sent. An unsent message is sent again by a later call.
    fn send(&self, states: &[NotifyState]) -> bool {
        let Some(socket) = &self.socket else { return false };
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        match socket.send((lines.join("\n") + "\n").as_bytes()) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                tracing::warn!("service manager not notified: {error}");
                false
            }
        }
    }

    /// Returns the dropped frames per second since the last call; none at the first call.
    fn drops_per_second(&mut self, shared: &PinnedMaps) -> Option<f64> {
        let counters = shared.counters().ok()?;
        let drops = counters.iter().filter(|(_, verdict, _)| verdict.action == Action::Drop);
        let now: u64 = drops.map(|(.., counter)| counter.packets).sum();
        let (before, at) = self.dropped.replace((now, Instant::now()))?;
        #[expect(clippy::cast_precision_loss, reason = "a rounded figure for display")]
        let drops = now.saturating_sub(before) as f64;
        Some(drops / at.elapsed().as_secs_f64().max(0.001))
    }
}

/// Connects to a socket of systemd: a path, or an abstract name after `@`.
fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Notifier {
    /// Returns whether there is a service manager to notify.
    pub(crate) fn is_used(&self) -> bool {
        self.socket.is_some()
    }

    /// Returns whether the next [`Self::update`] may have something to send.
    pub(crate) fn needs_status(&self) -> bool {
        !self.ready || self.is_line_due()
    }

    /// Sends the ready message and the state line, as far as they are due.
    pub(crate) fn update(&mut self, status: &Status, shared: Option<&PinnedMaps>) {
        let due = self.is_line_due();
        let all_guarded = status.interfaces.iter().all(|interface| {
            // The operator wanted these detached.
            matches!(interface.state, InterfaceState::Guarded | InterfaceState::Detached)
        });
        let in_time = Instant::now() < self.ready_by;
        if !self.ready && (all_guarded && !status.interfaces.is_empty() || !in_time) {
            if !all_guarded {
                let problems = status.problems.join("; ");
                tracing::error!("ready, but not all interfaces are guarded: {problems}");
            }
            self.ready = self.send(&[NotifyState::Ready]);
            // Once the daemon is ready, no reload waits for an interface any more.
            self.ready_by = Instant::now();
        } else if !due {
            return;
        }
        let rate = shared.and_then(|shared| self.drops_per_second(shared));
        let next = line(status, rate);
        let known = self.line.as_ref().is_some_and(|(line, _)| *line == next);
        if known || self.send(&[NotifyState::Status(&next)]) {
            self.line = Some((next, Instant::now()));
        }
    }
}

/// Formats the state in one line: the policy in force and its interfaces, then what is wrong.
fn line(status: &Status, rate: Option<f64>) -> String {
    let of = |state: InterfaceState| {
        let interfaces = status.interfaces.iter().filter(move |interface| interface.state == state);
        interfaces.map(|interface| interface.name.as_str()).collect::<Vec<_>>()
    };
    let guarded = of(InterfaceState::Guarded).len();
    let hash = status.policy_hash.get(..7).unwrap_or_default();
    let does = match status.mode {
        _ if guarded == 0 => "NOT ENFORCING",
        _ if status.enforcing => "enforcing",
        Some(NodeMode::Observe) => "only observing",
        Some(NodeMode::None) => "no guarded service in",
        _ => "NOT ENFORCING",
    };
    let drops = rate.map(|rate| format!(", {} drops/s", short(rate))).unwrap_or_default();
    let on = counted(guarded, "interface");
    let mut parts = vec![format!("{does} {}@{hash} on {on}{drops}", status.cluster)];
    for (state, what) in [
        (InterfaceState::Missing, "waiting for"),
        (InterfaceState::Failed, "FAILED"),
        (InterfaceState::Detached, "detached"),
    ] {
        let names = of(state);
        if !names.is_empty() {
            parts.push(format!("{what} {}", names.join(", ")));
        }
    }
    if let Some(trial) = &status.trial {
        let time = trial.deadline.get(11..19).unwrap_or(&trial.deadline);
        parts.push(format!("ON TRIAL, undone at {time} UTC unless confirmed"));
    } else if !status.up_to_date {
        let why = status.problems.first().map_or("see `trainguard status`", String::as_str);
        parts.push(format!("differs from the files: {why}"));
    }
    text::visible(&parts.join("; ")).chars().take(LINE_LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::InterfaceStatus;

    fn service() -> (Notifier, UnixDatagram) {
        let (ours, managers) = UnixDatagram::pair().expect("two sockets");
        ours.set_nonblocking(true).expect("a socket");
        managers.set_nonblocking(true).expect("a socket");
        let now = Instant::now();
        let service = Notifier {
            socket: Some(ours),
            line_interval: Timing::default().line,
            fresh: Timing::default().fresh,
            keepalive_interval: Some(Duration::ZERO),
            last_keepalive: now,
            done: [now; 3],
            ready_by: now,
            ready: false,
            reload_announced: false,
            line: None,
            dropped: None,
        };
        (service, managers)
    }

    #[test]
    fn no_keepalive_is_sent_while_a_part_of_the_work_is_overdue() {
        let (mut service, manager) = service();
        let mut buffer = [0; 64];
        service.send_keepalive();
        assert_eq!(manager.recv(&mut buffer).ok(), Some("WATCHDOG=1\n".len()));
        for work in [Work::Files, Work::Interfaces, Work::Events] {
            // Shortly after a boot there is no such time.
            let Some(old) = Instant::now().checked_sub(2 * service.fresh) else { return };
            service.done[work as usize] = old;
            service.send_keepalive();
            assert!(manager.recv(&mut buffer).is_err(), "{work:?}");
            service.mark_done(work);
            service.send_keepalive();
            assert!(manager.recv(&mut buffer).is_ok(), "{work:?}");
        }
    }

    #[test]
    fn a_manager_that_does_not_read_does_not_block_the_daemon() {
        let (service, manager) = service();
        let sent = (0..100_000).take_while(|_| service.send(&[NotifyState::Ready])).count();
        assert!((1..100_000).contains(&sent), "{sent}");
        manager.recv(&mut [0; 64]).expect("a message");
        assert!(service.send(&[NotifyState::Ready]), "messages are sent again when there is room");
    }

    #[test]
    fn the_state_line_shows_what_is_wrong() {
        let interface = |name: &str, state| InterfaceStatus {
            name: name.to_owned(),
            state,
            ..InterfaceStatus::default()
        };
        let mut status = Status {
            cluster: "mxnet".to_owned(),
            policy_hash: "4f2c9a1b00".to_owned(),
            mode: Some(NodeMode::Enforce),
            enforcing: true,
            up_to_date: true,
            interfaces: vec![
                interface("eth0", InterfaceState::Guarded),
                interface("eth1", InterfaceState::Guarded),
            ],
            ..Status::default()
        };
        let good = "enforcing mxnet@4f2c9a1 on 2 interfaces, 12 drops/s";
        assert_eq!(line(&status, Some(12.0)), good);
        status.interfaces[1] = interface("eth1", InterfaceState::Failed);
        status.enforcing = false;
        assert_eq!(line(&status, None), "NOT ENFORCING mxnet@4f2c9a1 on 1 interface; FAILED eth1");
        status.interfaces.truncate(1);
        status.mode = Some(NodeMode::Observe);
        assert_eq!(line(&status, None), "only observing mxnet@4f2c9a1 on 1 interface");
        status.up_to_date = false;
        status.problems = vec!["\u{1b}[31m".repeat(100)];
        let long = line(&status, None);
        assert!(long.chars().count() == LINE_LENGTH && !long.contains('\u{1b}'), "{long}");
    }
}
