//! What the service manager is told (`sd_notify(3)`): ready, reloading, one line about the state,
//! and that the daemon is alive.
//!
//! Alive is who does the work: a sign of life is sent only while files, interfaces and events have
//! each been looked at within their time. It comes from the loop that does the work, so a loop that
//! is stuck sends none, and the manager ends it. The guard stays in the kernel meanwhile.

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

use super::{guard::Guard, timing::Timing, view::Status};
use crate::{
    kernel::shared::Shared,
    policy::syntax::text,
    report::{counted, stats::figures},
};

/// Signs of life in the time that the manager waits for one.
const SIGNS: u32 = 4;
/// Characters of the line about the state.
const LINE_LENGTH: usize = 200;

/// A part of the daemon's work.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    /// Files were looked at.
    Files,
    /// Interfaces were listed, and mended.
    Interfaces,
    /// Events were taken from the ring.
    Events,
}

/// The service manager.
#[derive(Debug)]
pub(super) struct Service {
    socket: Option<UnixDatagram>,
    /// [`Timing::line`].
    line_interval: Duration,
    /// [`Timing::fresh`].
    fresh: Duration,
    /// How often to send a sign of life; none if nobody waits for one.
    signs: Option<Duration>,
    last_sign: Instant,
    /// When each part of the work was done last.
    done: [Instant; 3],
    /// From then on the daemon is ready, whatever is missing.
    ready_by: Instant,
    /// Whether the manager knows that the daemon is ready.
    ready: bool,
    /// The line that was sent last, and when it was made.
    line: Option<(String, Instant)>,
    /// Frames that had been dropped when they were counted last.
    dropped: Option<(u64, Instant)>,
}

impl Service {
    /// The manager that the environment names; without one nothing is told. `patience`: how long
    /// the daemon waits for interfaces before it is ready without them.
    pub(super) fn new(patience: Duration, timing: &Timing) -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            connect(name.as_bytes())
                .inspect_err(|error| tracing::warn!("NOTIFY_SOCKET: {error}"))
                .ok()
        });
        let now = Instant::now();
        Self {
            line_interval: timing.line,
            fresh: timing.fresh,
            signs: sd_notify::watchdog_enabled()
                .filter(|_| socket.is_some())
                .map(|all| all / SIGNS),
            socket,
            last_sign: now,
            done: [now; 3],
            ready_by: now + patience,
            ready: false,
            line: None,
            dropped: None,
        }
    }

    /// Says that a part of the work has been done.
    pub(super) fn did(&mut self, work: Work) {
        self.done[work as usize] = Instant::now();
    }

    /// Says that the daemon is about to load its files again; whether it was said. Who has never
    /// been ready is starting, not reloading.
    pub(super) fn reloading(&mut self) -> bool {
        let Ok(now) = NotifyState::monotonic_usec_now() else { return false };
        self.ready && self.send(&[NotifyState::Reloading, now])
    }

    /// Says that this is over, if it was said that it began. What came of it is in the next line.
    pub(super) fn reloaded(&mut self, began: bool) {
        self.line = None;
        if began {
            self.ready = self.send(&[NotifyState::Ready]);
        }
    }

    /// Says that the daemon is about to end.
    pub(super) fn stopping(&mut self) {
        let line = "ended; the guard stays in force, `trainguard detach` takes it off";
        self.send(&[NotifyState::Stopping, NotifyState::Status(line)]);
    }

    /// Whether everything has been looked at lately.
    fn works(&self) -> bool {
        self.done.iter().all(|done| done.elapsed() <= self.fresh)
    }

    /// Whether the line about the state is to be made anew.
    fn is_line_due(&self) -> bool {
        self.line.as_ref().is_none_or(|(_, made)| made.elapsed() >= self.line_interval)
    }

    fn send_sign(&mut self) {
        let Some(signs) = self.signs else { return };
        if self.last_sign.elapsed() >= signs && self.works() && self.send(&[NotifyState::Watchdog])
        {
            self.last_sign = Instant::now();
        }
    }

    /// Never waits: a manager that does not read must not keep the daemon from its work. What is
    /// not sent now is sent next time. Whether it was sent.
    fn send(&self, states: &[NotifyState]) -> bool {
        let Some(socket) = &self.socket else { return false };
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        match socket.send((lines.join("\n") + "\n").as_bytes()) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                tracing::warn!("the service manager cannot be told: {error}");
                false
            }
        }
    }

    /// Frames dropped in a second since the last call.
    fn drops_per_second(&mut self, shared: &Shared) -> Option<f64> {
        let counters = shared.counters().ok()?;
        let drops = counters.iter().filter(|(_, verdict, _)| verdict.action == Action::Drop);
        let now: u64 = drops.map(|(.., counter)| counter.packets).sum();
        let (before, at) = self.dropped.replace((now, Instant::now()))?;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let drops = now.saturating_sub(before) as f64;
        Some(drops / at.elapsed().as_secs_f64().max(0.001))
    }
}

/// A socket of systemd's: a path, or after `@` a name that is none.
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

impl Guard {
    /// Tells the service manager what it does not know yet.
    pub(super) async fn tell_service(&mut self) {
        if self.service.socket.is_none() {
            return;
        }
        self.service.send_sign();
        let due = self.service.is_line_due();
        if self.service.ready && !due {
            return;
        }
        let status = self.condition(&self.devices_now().await.0);
        let whole = status.interfaces.iter().all(|interface| {
            // Detached: as the operator wanted.
            interface.state == "guarded" || interface.state == "detached"
        });
        let in_time = Instant::now() < self.service.ready_by;
        if !self.service.ready && (whole && !status.interfaces.is_empty() || !in_time) {
            if !whole {
                tracing::error!("ready, but not whole: {}", status.problems.join("; "));
            }
            self.service.ready = self.service.send(&[NotifyState::Ready]);
            // Once ready, no reload waits for an interface any more.
            self.service.ready_by = Instant::now();
        } else if !due {
            return;
        }
        let Self { running, service, .. } = self;
        let rate = running.as_ref().and_then(|running| service.drops_per_second(&running.shared));
        let next = line(&status, rate);
        let known = service.line.as_ref().is_some_and(|(line, _)| *line == next);
        if known || service.send(&[NotifyState::Status(&next)]) {
            service.line = Some((next, Instant::now()));
        }
    }
}

/// The state in one line: what is in force where, then what is not as it should be.
fn line(status: &Status, rate: Option<f64>) -> String {
    let of = |state: &str| {
        let interfaces = status.interfaces.iter().filter(move |interface| interface.state == state);
        interfaces.map(|interface| interface.name.as_str()).collect::<Vec<_>>()
    };
    let guarded = of("guarded").len();
    let hash = status.policy_hash.get(..7).unwrap_or_default();
    let does = match status.mode.as_deref() {
        _ if guarded == 0 => "NOT ENFORCING",
        _ if status.enforcing => "enforcing",
        Some("observe") => "only observing",
        Some("none") => "no service to guard in",
        _ => "NOT ENFORCING",
    };
    let drops = rate.map(|rate| format!(", {} drops/s", figures::short(rate))).unwrap_or_default();
    let on = counted(guarded, "interface");
    let mut parts = vec![format!("{does} {}@{hash} on {on}{drops}", status.cluster)];
    for (state, what) in
        [("missing", "waiting for"), ("failed", "FAILED"), ("detached", "detached")]
    {
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
        parts.push(format!("not what the files say: {why}"));
    }
    text::visible(&parts.join("; ")).chars().take(LINE_LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::view::InterfaceStatus, *};

    fn service() -> (Service, UnixDatagram) {
        let (ours, managers) = UnixDatagram::pair().expect("two sockets");
        ours.set_nonblocking(true).expect("a socket");
        managers.set_nonblocking(true).expect("a socket");
        let now = Instant::now();
        let service = Service {
            socket: Some(ours),
            line_interval: Timing::default().line,
            fresh: Timing::default().fresh,
            signs: Some(Duration::ZERO),
            last_sign: now,
            done: [now; 3],
            ready_by: now,
            ready: false,
            line: None,
            dropped: None,
        };
        (service, managers)
    }

    #[test]
    fn who_leaves_one_part_of_the_work_undone_gives_no_sign_of_life() {
        let (mut service, manager) = service();
        let mut buffer = [0; 64];
        service.send_sign();
        assert_eq!(manager.recv(&mut buffer).ok(), Some("WATCHDOG=1\n".len()));
        for work in [Work::Files, Work::Interfaces, Work::Events] {
            // A machine that has just been started has no such time.
            let Some(old) = Instant::now().checked_sub(2 * service.fresh) else { return };
            service.done[work as usize] = old;
            service.send_sign();
            assert!(manager.recv(&mut buffer).is_err(), "{work:?}");
            service.did(work);
            service.send_sign();
            assert!(manager.recv(&mut buffer).is_ok(), "{work:?}");
        }
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let (service, manager) = service();
        let sent = (0..100_000).take_while(|_| service.send(&[NotifyState::Ready])).count();
        assert!((1..100_000).contains(&sent), "{sent}");
        manager.recv(&mut [0; 64]).expect("a message");
        assert!(service.send(&[NotifyState::Ready]), "it goes on when there is room");
    }

    #[test]
    fn the_line_tells_what_is_amiss() {
        let interface = |name: &str, state: &str| InterfaceStatus {
            name: name.to_owned(),
            state: state.to_owned(),
            ..InterfaceStatus::default()
        };
        let mut status = Status {
            cluster: "mxnet".to_owned(),
            policy_hash: "4f2c9a1b00".to_owned(),
            mode: Some("enforce".to_owned()),
            enforcing: true,
            up_to_date: true,
            interfaces: vec![interface("eth0", "guarded"), interface("eth1", "guarded")],
            ..Status::default()
        };
        let good = "enforcing mxnet@4f2c9a1 on 2 interfaces, 12 drops/s";
        assert_eq!(line(&status, Some(12.0)), good);
        status.interfaces[1] = interface("eth1", "failed");
        status.enforcing = false;
        assert_eq!(line(&status, None), "NOT ENFORCING mxnet@4f2c9a1 on 1 interface; FAILED eth1");
        status.interfaces.truncate(1);
        status.mode = Some("observe".to_owned());
        assert_eq!(line(&status, None), "only observing mxnet@4f2c9a1 on 1 interface");
        status.up_to_date = false;
        status.problems = vec!["\u{1b}[31m".repeat(100)];
        let long = line(&status, None);
        assert!(long.chars().count() == LINE_LENGTH && !long.contains('\u{1b}'), "{long}");
    }
}
