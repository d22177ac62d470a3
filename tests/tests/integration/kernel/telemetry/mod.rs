//! Reports of a daemon: status, statistics, events, metrics, logs.

mod events;
mod logs;
mod metrics;
mod prometheus;
mod stats_pipe;
mod stats_screen;
mod status;
