//! A daemon in a namespace of its own: life cycle, policies, clients, commands.

mod access;
mod audit;
mod client_timeouts;
mod clients;
mod connections;
mod doctor;
mod fake_daemons;
mod faults;
mod learn;
mod lifecycle;
mod modes;
mod reloads;
mod service;
mod signatures;
mod takeover;
mod takeover_faults;
mod trials;
mod untrusted_files;
mod wrong_files;
