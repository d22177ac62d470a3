//! The model of the live screen, updated by each reading. It uses no terminal, and only the times
//! that the caller passes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::rates::{DROPPED, Rates};
use crate::api::{
    stats::{InterfaceStats, ServiceStats, Stats},
    status::ServiceMode,
};

/// Time range of the sparklines.
pub const WINDOW: Duration = Duration::from_mins(1);
/// Maximum number of past rates kept per interface; more than any screen can show.
const MAX_HISTORY: usize = 1024;
/// How long a restart of the counters is shown.
const RESTART_SHOWN_FOR: Duration = Duration::from_mins(1);

/// The result of reading the statistics.
#[derive(Debug, Clone)]
pub enum Reading {
    /// The daemon's response.
    Answered(Box<Stats>),
    /// The counters of the pinned maps, and the reason why the daemon does not respond.
    Pinned(Box<Stats>, String),
    /// The reason why neither the daemon nor the maps could be read.
    Nothing(String),
}

impl Reading {
    /// Returns the statistics, if any were read.
    pub fn stats(&self) -> Option<&Stats> {
        match self {
            Self::Answered(stats) | Self::Pinned(stats, _) => Some(stats),
            Self::Nothing(_) => None,
        }
    }

    /// Returns the reason why the daemon does not respond.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Answered(_) => None,
            Self::Pinned(_, why) | Self::Nothing(why) => Some(why),
        }
    }
}

/// The daemon does not respond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoDaemon {
    /// The reason.
    pub why: String,
    /// Time of its last response, as in [`Stats::time`]; empty if there was none.
    pub since: String,
    /// Whether the counters come from the pinned maps; otherwise they are the last ones that were
    /// read.
    pub pinned: bool,
}

/// State of the guard on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Packets are dropped.
    Enforcing,
    /// Packets that would be dropped are only counted.
    Observing,
    /// Neither, or not on all interfaces.
    Open,
    /// Unknown, because the daemon has not reported it.
    Unknown,
}

/// The model of the live screen.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The last reading. Values that only the daemon knows are kept from its last response.
    pub stats: Stats,
    /// Rates since the previous reading.
    pub rates: Rates,
    /// Set if the daemon does not respond.
    pub trouble: Option<NoDaemon>,
    /// Path of the manifest, if the daemon reported it.
    pub manifest: Option<String>,
    /// Time of the last reading, by the viewer's clock.
    pub at: Duration,
    last_answer: String,
    history: BTreeMap<String, History>,
    restarted: Option<(Duration, String)>,
    before: Option<(Stats, Duration)>,
}

impl Model {
    /// Adds a reading with its time, by a monotonic clock.
    pub fn add(&mut self, reading: Reading, at: Duration) {
        let at = at.max(self.at);
        let pinned = matches!(reading, Reading::Pinned(..));
        self.trouble = reading.trouble().map(|why| NoDaemon {
            why: why.to_owned(),
            since: self.last_answer.clone(),
            pinned,
        });
        let stats = match reading {
            Reading::Nothing(_) => return,
            Reading::Answered(stats) => {
                self.last_answer.clone_from(&stats.time);
                stats
            }
            Reading::Pinned(stats, _) => stats,
        };
        let stats = *stats;
        self.rates = match &self.before {
            Some((before, then)) => {
                Rates::between(before, &stats, at.checked_sub(*then).unwrap_or_default())
            }
            None => Rates::default(),
        };
        if self.rates.restarted() {
            self.restarted = Some((at, stats.time.clone()));
        }
        if let Some((_, then)) = &self.before {
            self.remember(&stats, *then, at);
        }
        self.stats = if pinned { self.completed(&stats) } else { stats.clone() };
        self.at = at;
        self.before = Some((stats, at));
    }

    /// Returns the time of the last restart of the counters, as in [`Stats::time`], for one minute.
    pub fn restarted(&self) -> Option<&str> {
        let (then, time) = self.restarted.as_ref()?;
        (self.at.checked_sub(*then)? < RESTART_SHOWN_FOR).then_some(time.as_str())
    }

    /// Returns the state of the guard.
    pub fn state(&self) -> State {
        let stats = &self.stats;
        let mode = |row: &ServiceStats| row.mode == Some(ServiceMode::Observe);
        let observes = stats.services.iter().any(mode);
        let drops = stats.services.iter().any(|row| row.mode == Some(ServiceMode::Enforce));
        let guarded = stats.interfaces.iter().any(|row| row.mode.is_some());
        match stats.enforcing {
            None => State::Unknown,
            Some(true) => State::Enforcing,
            Some(false) if observes && !drops && guarded => State::Observing,
            Some(false) => State::Open,
        }
    }

    /// Returns the dropped frames per second in the last minute, in `columns` equal parts, oldest
    /// first; none for parts without a reading.
    pub fn history(&self, interface: &str, columns: usize) -> Vec<Option<f64>> {
        match self.history.get(interface) {
            Some(history) => history.parts(self.at, columns),
            None => vec![None; columns],
        }
    }

    /// Returns the highest of these rates, over all interfaces.
    pub fn highest(&self) -> f64 {
        let edge = self.at.saturating_sub(WINDOW);
        let rates = self.history.values().flat_map(|history| &history.0);
        rates.filter(|(_, to, _)| *to > edge).map(|entry| entry.2).fold(0.0, f64::max)
    }

    fn remember(&mut self, stats: &Stats, from: Duration, to: Duration) {
        for row in &stats.interfaces {
            if let Some(rate) = self.rates.interface(row).rate(DROPPED) {
                let history = self.history.entry(row.name.clone()).or_default();
                history.add(from, to, rate);
            }
        }
        let exists = |name: &String| stats.interfaces.iter().any(|row| row.name == *name);
        self.history.retain(|name, _| exists(name));
    }

    /// Completes the counters of the maps with the values that the daemon last reported.
    fn completed(&self, stats: &Stats) -> Stats {
        let mut stats = stats.clone();
        stats.node.clone_from(&self.stats.node);
        stats.top_sources.clone_from(&self.stats.top_sources);
        if stats.generation == self.stats.generation {
            stats.in_force_since.clone_from(&self.stats.in_force_since);
        }
        for row in &mut stats.interfaces {
            let same = |old: &&InterfaceStats| old.name == row.name;
            row.mode = self.stats.interfaces.iter().find(same).and_then(|old| old.mode);
        }
        for row in &mut stats.services {
            let same = |old: &&ServiceStats| old.name == row.name && old.policy == row.policy;
            row.mode = self.stats.services.iter().find(same).and_then(|old| old.mode);
        }
        stats
    }
}

/// Rates of the last minutes, each with the start and end of its interval.
#[derive(Debug, Clone, Default)]
struct History(VecDeque<(Duration, Duration, f64)>);

impl History {
    fn add(&mut self, from: Duration, to: Duration, rate: f64) {
        self.0.push_back((from, to, rate));
        let edge = to.saturating_sub(WINDOW * 2);
        while self.0.len() > MAX_HISTORY || self.0.front().is_some_and(|(_, to, _)| *to < edge) {
            self.0.pop_front();
        }
    }

    /// Returns the highest rate in each part of the window. Parts begin at multiples of their
    /// length, so that a peak keeps its height while it moves.
    fn parts(&self, now: Duration, columns: usize) -> Vec<Option<f64>> {
        let count = u32::try_from(columns).unwrap_or(u32::MAX).max(1);
        let length = (WINDOW / count).max(Duration::from_millis(1));
        let last = now.as_millis().saturating_sub(1) / length.as_millis();
        let mut parts = vec![None; columns];
        for (index, part) in parts.iter_mut().rev().enumerate() {
            let Some(number) = last.checked_sub(index as u128) else { break };
            let (from, to) = (number * length.as_millis(), (number + 1) * length.as_millis());
            let within = |entry: &&(Duration, Duration, f64)| {
                entry.0.as_millis() < to && entry.1.as_millis() > from
            };
            *part = self.0.iter().filter(within).map(|entry| entry.2).reduce(f64::max);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach_mode::DeviceMode;

    fn reading(time: &str, dropped: u64) -> Box<Stats> {
        Box::new(Stats {
            time: time.to_owned(),
            node: "gpu-017".to_owned(),
            enforcing: Some(true),
            interfaces: vec![InterfaceStats {
                name: "eth0".to_owned(),
                dropped,
                mode: Some(DeviceMode::Native),
                ..InterfaceStats::default()
            }],
            ..Stats::default()
        })
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn setting_the_system_clock_changes_no_rate() {
        let mut model = Model::default();
        model.add(Reading::Answered(reading("2026-01-01T00:00:00Z", 0)), at(1));
        model.add(Reading::Answered(reading("1970-01-01T00:00:00Z", 50)), at(2));
        assert_eq!(model.rates.total(DROPPED), Some(50.0));
        // A viewer's clock that runs backwards, which it must not, gives no rate.
        model.add(Reading::Answered(reading("1970-01-01T00:00:00Z", 60)), at(1));
        assert_eq!(model.rates.total(DROPPED), None);
    }

    #[test]
    fn counters_that_fall_have_restarted() {
        let mut model = Model::default();
        model.add(Reading::Answered(reading("a", 1000)), at(1));
        assert_eq!(model.restarted(), None);
        model.add(Reading::Answered(reading("b", 10)), at(2));
        assert_eq!((model.rates.total(DROPPED), model.restarted()), (None, Some("b")));
        model.add(Reading::Answered(reading("c", 30)), at(3));
        assert_eq!((model.rates.total(DROPPED), model.restarted()), (Some(20.0), Some("b")));
        model.add(Reading::Answered(reading("d", 30)), at(80));
        assert_eq!(model.restarted(), None);
    }

    #[test]
    fn the_last_reading_is_kept_while_the_daemon_is_gone() {
        let mut model = Model::default();
        model.add(Reading::Answered(reading("a", 10)), at(1));
        model.add(Reading::Nothing("gone".to_owned()), at(2));
        let trouble = model.trouble.clone().expect("no daemon");
        assert_eq!((trouble.since.as_str(), trouble.pinned), ("a", false));
        assert_eq!(model.stats.interfaces[0].dropped, 10);
        let mut bare = reading("c", 30);
        bare.node.clear();
        bare.enforcing = None;
        bare.interfaces[0].mode = None;
        model.add(Reading::Pinned(bare, "gone".to_owned()), at(3));
        assert_eq!((model.stats.node.as_str(), model.state()), ("gpu-017", State::Unknown));
        assert_eq!(model.stats.interfaces[0].mode, Some(DeviceMode::Native));
        assert_eq!(model.trouble.as_ref().map(|t| (t.since.as_str(), t.pinned)), Some(("a", true)));
        // Two seconds lie between the two readings of the counters.
        assert_eq!(model.rates.total(DROPPED), Some(10.0));
        model.add(Reading::Answered(reading("d", 40)), at(4));
        assert_eq!((&model.trouble, model.state()), (&None, State::Enforcing));
    }

    #[test]
    fn the_last_minute_has_its_peaks_and_its_gaps() {
        let mut model = Model::default();
        for (second, dropped) in [(100, 0), (101, 0), (102, 500), (103, 500), (200, 500)] {
            model.add(Reading::Answered(reading("a", dropped)), at(second));
        }
        model.add(Reading::Answered(reading("a", 600)), at(201));
        let parts = model.history("eth0", 60);
        assert_eq!(parts.len(), 60);
        assert_eq!(parts.last(), Some(&Some(100.0)));
        assert_eq!(parts.first(), Some(&Some(0.0)), "one reading covers the long gap");
        assert_eq!(model.history("eth1", 3), [None; 3]);
    }

    #[test]
    fn a_node_that_only_observes_is_observing() {
        let service = |mode| ServiceStats { mode: Some(mode), ..ServiceStats::default() };
        let mut stats = *reading("a", 0);
        stats.enforcing = Some(false);
        stats.services = vec![service(ServiceMode::Observe)];
        let state_of = |stats: &Stats| Model { stats: stats.clone(), ..Model::default() }.state();
        assert_eq!(state_of(&stats), State::Observing);
        stats.services.push(service(ServiceMode::Enforce));
        assert_eq!(state_of(&stats), State::Open, "a service enforces, but the node does not");
        stats.services.pop();
        stats.interfaces[0].mode = None;
        assert_eq!(state_of(&stats), State::Open);
    }
}
