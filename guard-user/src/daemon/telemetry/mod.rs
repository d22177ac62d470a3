//! Events, counters, and the sources of refused packets.
//!
//! [`Telemetry`] reads sampled packets from the kernel's ring and passes each to its parts:
//! `event_ring` keeps recent events, `top_sources` the sources that were refused most,
//! `missing_members` refused sources that may be missing from the manifest, and `daemon_counters` the
//! counts for the pinned map. `counters` reads the kernel's counters; `drop_summary` makes the summary
//! of drops for the log.

pub(crate) mod counters;
pub(crate) mod daemon_counters;
pub(crate) mod drop_summary;
pub(crate) mod event_ring;
pub(crate) mod forwarded;
pub(crate) mod missing_members;
pub(crate) mod names;
pub(crate) mod top_sources;

use std::{os::fd::OwnedFd, time::SystemTime};

use guard_common::Addr;
use tokio::io::unix::AsyncFd;

use self::{
    daemon_counters::DaemonCounters, drop_summary::DropSummary, event_ring::EventRing,
    forwarded::ForwardedServices, missing_members::ClusterNetworks, names::Names,
    top_sources::TopSources,
};
use crate::{
    api::{events, stats::Stats},
    bpf::pinned_maps::PinnedMaps,
    sys,
    system_error::SystemError,
};

/// Maximum number of events read from the kernel's ring at a time.
const EVENTS_AT_A_TIME: usize = 4096;

/// The owner of the events, of the sources that were refused, and of the daemon's own counters.
///
/// The kernel's counters are not here but in the pinned maps, which `interfaces::Interfaces` owns.
/// Methods that read or write them take these maps as an argument.
#[derive(Debug)]
pub(crate) struct Telemetry {
    /// Recent events.
    pub(crate) events: EventRing,
    /// The sources that were refused most.
    pub(crate) top: TopSources,
    /// The daemon's own counters.
    pub(crate) counters: DaemonCounters,
    /// The kernel's ring of events, polled for readiness; none before the first generation.
    kernel_ring: Option<AsyncFd<OwnedFd>>,
    /// The statistics at the last summary in the log.
    summarised: Option<Stats>,
    /// The services past which packets were forwarded.
    forwarded: ForwardedServices,
}

impl Telemetry {
    /// Starts without events and counts.
    pub(crate) fn new(now: SystemTime) -> Self {
        Self {
            events: EventRing::new(now),
            top: TopSources::default(),
            counters: DaemonCounters::default(),
            kernel_ring: None,
            summarised: None,
            forwarded: ForwardedServices::default(),
        }
    }

    /// Starts polling the kernel's ring.
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

    /// Waits until the kernel reports that its ring is half full. It does not report single events.
    pub(crate) async fn kernel_ring_fills(&self) {
        let Some(ring) = &self.kernel_ring else { return std::future::pending().await };
        match ring.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            // Events are still read at every interval.
            Err(_) => std::future::pending().await,
        }
    }

    /// Reads the events from the kernel's ring, and notifies the kernel that they are being read.
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

    /// Follows a switch of the policy: networks of the cluster, and names of its nodes by address.
    pub(crate) fn set_policy(
        &mut self,
        cluster_networks: ClusterNetworks,
        names: &[(Addr, String)],
    ) {
        self.events.refused_sources.set_policy(cluster_networks, names);
    }

    /// Adds an event about a policy.
    pub(crate) fn policy_event(&mut self, event: events::Policy) {
        self.events.policy(event);
    }

    /// Logs the drops since the last summary, and services past which packets were forwarded.
    pub(crate) fn summarise(&mut self, stats: Stats) {
        let before = self.summarised.as_ref();
        if let Some(summary) = before.and_then(|before| DropSummary::between(before, &stats)) {
            summary.log();
        }
        self.forwarded.log_new(&stats);
        self.summarised = Some(stats);
    }
}
