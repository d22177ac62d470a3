//! The loop of the daemon. It owns the four owners of the daemon's state and connects them.
//!
//! [`Daemon`] holds the owners; the table in the documentation of the parent module lists what each of
//! them owns. The loop waits for timers, device changes, the kernel's ring of events, requests and
//! signals, handles one at a time, and hands the results of one owner to the others.
//!
//! Decision: `docs/decisions/0016-daemon-without-interfaces-exits.md`.
//! Decision: `docs/decisions/0017-ready-and-alive.md`.

use std::{sync::Arc, time::SystemTime};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    install_error::InstallError,
    interfaces::{Claim, InterfaceOptions, Interfaces},
    options::Options,
    policy::{
        Lifecycle,
        candidate::{NAME_AN_INTERFACE, NodeOptions},
        lifecycle::{PolicyOptions, of_state_dir},
        state_dir::StateDir,
    },
    serve::{Serving, connection_limits::ConnectionLimits, http, systemd::Work},
    signals::{SignalAction, Signals},
    switch::NodeDataplane,
    telemetry::Telemetry,
    timing::Timing,
};
use crate::{bpf::pins::NewerGuard, logs::Log, system_error::SystemError};

/// Capacity of the queue of requests from the connections to the loop.
const REQUEST_QUEUE: usize = 64;

/// The four owners of the daemon's state, and the log.
pub(super) struct Daemon {
    pub(super) policy: Lifecycle,
    pub(super) interfaces: Interfaces,
    pub(super) telemetry: Telemetry,
    pub(super) serving: Serving,
    pub(super) log: Log,
}

/// The event that woke the loop before its next timer.
enum Woken {
    /// A device has appeared, vanished or changed.
    Devices,
    /// The kernel's ring of events is half full, because many CPUs report drops at once.
    Events,
    /// Clients wait for statistics or metrics.
    Reads,
}

/// Runs the daemon until a signal ends it. `newer`: what to do about a guard of a newer layout.
///
/// # Errors
/// The pin directory cannot be claimed, the sockets cannot be opened, or no policy came into force.
pub(super) async fn run_until_signal(
    options: Options,
    newer: NewerGuard,
) -> Result<(), InstallError> {
    let mut signals = Signals::new()?;
    let claim = Claim::take(&options.bpf_dir, &newer)?;
    let (sender, mut requests) = mpsc::channel(REQUEST_QUEUE);
    let limits = Arc::new(ConnectionLimits::new(&options.timing));
    let run_dir = &options.run_dir;
    // Before anything is attached: a guard whose daemon cannot be queried must not come into force.
    let _sockets = http::serve(run_dir, &sender, &limits).map_err(|error| {
        let what = format!("opening the sockets in `{}`", run_dir.display());
        InstallError::System(
            SystemError::of(what, error).hint("choose another directory with --run-dir"),
        )
    })?;
    if let Some(address) = options.metrics_listen {
        http::serve_metrics(address, &sender, &limits).await.map_err(|error| {
            let what = format!("listening on {address} for --metrics-listen");
            InstallError::System(SystemError::of(what, error))
        })?;
    }
    let Timing { files, look, events, summary, manager, settle, .. } = options.timing;
    let mut daemon = Daemon::start(options, claim, limits).await?;
    let [mut files, mut look, mut events, mut summary, mut manager] =
        [files, look, events, summary, manager].map(|period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
    loop {
        tokio::select! {
            _ = files.tick() => daemon.check_files(),
            _ = look.tick() => daemon.check_interfaces().await,
            _ = events.tick() => {
                daemon.drain_events();
                daemon.save_counters();
            }
            _ = summary.tick() => daemon.summarise().await,
            _ = manager.tick() => daemon.notify_service_manager().await,
            woken = daemon.woken() => match woken {
                Woken::Devices => {
                    // Check at once, so that a new device is not left unguarded; then pause, so that
                    // the rest of a burst of changes is handled together.
                    daemon.check_interfaces().await;
                    daemon.notify_service_manager().await;
                    tokio::time::sleep(settle).await;
                }
                Woken::Events => daemon.drain_events(),
                Woken::Reads => daemon.answer_reads().await,
            },
            Some(request) = requests.recv() => daemon.answer(request).await,
            signal = signals.next() => match signal {
                SignalAction::Reload => daemon.reload_by_signal(),
                SignalAction::End => break,
            },
        }
    }
    daemon.serving.notifier.stopping();
    daemon.save_counters();
    tracing::info!("ending; the guard stays in force, `trainguard detach` detaches it");
    Ok(())
}

impl Daemon {
    /// Puts the policy of the manifest into force, or the last known good one if the manifest is
    /// invalid.
    ///
    /// # Errors
    /// No policy came into force, or it is attached to no interface and the daemon may not wait for
    /// one.
    pub(super) async fn start(
        options: Options,
        claim: Claim,
        limits: Arc<ConnectionLimits>,
    ) -> Result<Self, InstallError> {
        let state_dir = StateDir::at(&options.state_dir);
        state_dir.tidy();
        let (key, unsaved) = state_dir.key().map_err(|error| of_state_dir(&error))?;
        let start_problems: Vec<String> =
            unsaved.map(|error| format!("{error:#}")).into_iter().collect();
        for problem in &start_problems {
            tracing::error!("{problem}");
        }
        let interface_options = InterfaceOptions {
            mode: options.mode,
            tunnels: options.tunnels.clone(),
            may_wait: options.wait.is_some(),
            netlink_timeout: options.timing.netlink,
            key,
        };
        let policy_options = PolicyOptions {
            manifest: options.manifest.clone(),
            node: NodeOptions {
                node: options.node.clone(),
                interfaces: options.interfaces.clone(),
            },
            policy_key: options.policy_key.clone(),
            timing: options.timing,
        };
        let interfaces = Interfaces::open(claim, interface_options).await?;
        let mut daemon = Self {
            policy: Lifecycle::new(policy_options, state_dir, start_problems),
            interfaces,
            telemetry: Telemetry::new(SystemTime::now()),
            serving: Serving::new(&options, limits),
            log: options.log,
        };
        let (policy, mut dataplane) = daemon.split();
        policy.start(&mut dataplane)?;
        let interfaces = &mut daemon.interfaces;
        if interfaces.is_unguarded() && !interfaces.waits() {
            let why = interfaces.failures().join("; ");
            let hint = interfaces.selection().devices.is_empty().then_some(NAME_AN_INTERFACE);
            interfaces.abandon()?;
            return Err(InstallError::Unfit(format!("no interface could be guarded: {why}"), hint));
        }
        Ok(daemon)
    }

    /// Borrows the policies apart from the other owners, through which they take effect.
    pub(super) fn split(&mut self) -> (&mut Lifecycle, NodeDataplane<'_>) {
        let Self { policy, interfaces, telemetry, serving, log } = self;
        (policy, NodeDataplane { interfaces, telemetry, serving, log })
    }

    /// Waits for work that must not wait for the next timer.
    async fn woken(&mut self) -> Woken {
        let Self { interfaces, telemetry, serving, .. } = self;
        tokio::select! {
            () = interfaces.changed() => Woken::Devices,
            () = telemetry.kernel_ring_fills() => Woken::Events,
            () = serving.pending.due() => Woken::Reads,
        }
    }

    /// Checks the files for changes, and a trial and a mode override for their deadlines.
    fn check_files(&mut self) {
        let (policy, mut dataplane) = self.split();
        policy.check_trial(&mut dataplane);
        policy.check_mode(&mut dataplane);
        policy.check_files(&mut dataplane);
        self.serving.notifier.mark_done(Work::Files);
    }

    /// Lists the devices, then repairs pins and attachments that are not as they should be.
    async fn check_interfaces(&mut self) {
        if !self.interfaces.refresh().await {
            return;
        }
        let tunnels = self.interfaces.tunnels();
        if self.policy.in_force().is_some_and(|now| now.tunnels != tunnels) {
            tracing::info!("tunnel devices changed");
            let (policy, mut dataplane) = self.split();
            if let Err(error) = policy.load_again(&mut dataplane) {
                tracing::error!("changed tunnel devices not applied: {}", error.lines().join("; "));
            }
        }
        let pins = self.interfaces.check_pins();
        let (policy, mut dataplane) = self.split();
        dataplane.report_pins(pins, policy.in_force());
        if let Some(in_force) = policy.in_force() {
            dataplane.reconcile(&in_force.info);
        }
        self.serving.notifier.mark_done(Work::Interfaces);
    }

    /// Reads the events from the kernel's ring.
    pub(super) fn drain_events(&mut self) {
        let (policy, mut dataplane) = self.split();
        dataplane.drain_events(policy.in_force());
    }

    /// Adds the daemon's counters to the pinned map, so that they outlive the daemon.
    pub(super) fn save_counters(&mut self) {
        self.split().1.save_counters();
    }

    /// Logs the drops since the last summary, and the number of records that the log left out.
    async fn summarise(&mut self) {
        self.drain_events();
        match self.stats().await {
            Ok(stats) => self.telemetry.summarise(stats),
            Err(error) => tracing::warn!(hint = error.hint_text(), "{error}"),
        }
        self.log.write_summary();
    }

    /// Sends the service manager a keep-alive, the ready message and the state line, as far as they
    /// are due.
    async fn notify_service_manager(&mut self) {
        if !self.serving.notifier.is_used() {
            return;
        }
        self.serving.notifier.send_keepalive();
        if !self.serving.notifier.needs_status() {
            return;
        }
        let status = self.status_without_ports(&self.interfaces.devices_now().await.0);
        self.serving.notifier.update(&status, self.interfaces.shared());
    }
}
