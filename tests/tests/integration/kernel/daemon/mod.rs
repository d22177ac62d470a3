//! A daemon in a namespace of its own: life cycle, policies, commands.

mod access;
mod audit;
mod connections;
mod doctor;
mod faults;
mod learn;
mod lifecycle;
mod modes;
mod reloads;
mod service;
mod signatures;
mod trials;
mod untrusted_files;
mod wrong_files;
