//! Attaching to devices of every kind, and the state of the guard when they change.

mod attach;
mod bridges;
mod devices;
mod environment;
mod interface_lifecycle;
mod node_state;
mod pins;
mod renames;
mod stacked;
mod tcx;
