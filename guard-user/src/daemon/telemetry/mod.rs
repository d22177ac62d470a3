//! What happens on the node: events, counters, and the sources behind refused packets.

pub(crate) mod counters;
pub(crate) mod daemon_counters;
pub(crate) mod drop_summary;
pub(crate) mod event_ring;
pub(crate) mod missing_members;
pub(crate) mod names;
pub(crate) mod top_sources;

use std::{os::fd::OwnedFd, time::SystemTime};

use guard_common::Addr;
use tokio::io::unix::AsyncFd;

use self::{
    daemon_counters::DaemonCounters, drop_summary::DropSummary, event_ring::EventRing,
    missing_members::ClusterNetworks, names::Names, top_sources::TopSources,
};
use crate::{
    api::{events, stats::Stats},
    bpf::pinned_maps::PinnedMaps,
    sys,
    system_error::SystemError,
};

/// Events taken from the kernel's ring at a time.
const EVENTS_AT_A_TIME: usize = 4096;

/// The owner of everything that is recorded about packets and about the daemon's work.
#[derive(Debug)]
pub(crate) struct Telemetry {
    /// Recent events.
    pub(crate) events: EventRing,
    /// The sources that were refused most.
    pub(crate) top: TopSources,
    /// What the daemon itself counts.
    pub(crate) counters: DaemonCounters,
    /// The kernel's ring of events, to be woken by it.
    kernel_ring: Option<AsyncFd<OwnedFd>>,
    /// The statistics at the last summary in the log.
    summarised: Option<Stats>,
}

impl Telemetry {
    /// Nothing has happened yet.
    pub(crate) fn new(now: SystemTime) -> Self {
        Self {
            events: EventRing::new(now),
            top: TopSources::default(),
            counters: DaemonCounters::default(),
            kernel_ring: None,
            summarised: None,
        }
    }

    /// Is woken by the kernel's ring from now on.
    ///
    /// # Errors
    /// The ring cannot be polled.
    pub(crate) fn watch_kernel_ring(&mut self, shared: &PinnedMaps) -> Result<(), SystemError> {
        if self.kernel_ring.is_none() {
            self.kernel_ring = shared
                .ring()?
                .map(sys::readiness)
                .transpose()
                .map_err(|error| SystemError::of("waiting for the ring of events", error))?;
        }
        Ok(())
    }

    /// Waits until the kernel reports that its ring fills up. It does not report single events.
    pub(crate) async fn kernel_ring_fills(&self) {
        let Some(ring) = &self.kernel_ring else { return std::future::pending().await };
        match ring.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            // The timer still empties the ring.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes the events from the kernel's ring.
    pub(crate) fn drain(&mut self, shared: &mut PinnedMaps, names: Names<'_>) {
        if let Err(error) = shared.listen() {
            tracing::warn!(hint = error.hint_text(), "refused frames are not sampled: {error}");
        }
        let now = SystemTime::now();
        self.events.tick(names, now, || shared.event_counts().ok());
        for event in shared.events(EVENTS_AT_A_TIME) {
            self.top.add(&event, now);
            self.events.packet(&event, names, now);
            self.counters.add_member_drops(&event, names.nodes);
        }
    }

    /// Follows a switch to a policy of a node with this name and these neighbours.
    pub(crate) fn set_policy(&mut self, neighbourhood: ClusterNetworks, names: &[(Addr, String)]) {
        self.events.refused_sources.set_policy(neighbourhood, names);
    }

    /// Adds an event about a policy.
    pub(crate) fn policy_event(&mut self, event: events::Policy) {
        self.events.policy(event);
    }

    /// Logs what was refused since the last summary.
    pub(crate) fn summarise(&mut self, stats: Stats) {
        let before = self.summarised.as_ref();
        if let Some(summary) = before.and_then(|before| DropSummary::between(before, &stats)) {
            summary.log();
        }
        self.summarised = Some(stats);
    }
}
