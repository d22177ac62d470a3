//! The program in the kernel, with frames from test runs or from a wire.

mod captures;
mod differential;
mod frames_on_a_wire;
mod policies;
mod scenarios;
mod self_test;
mod tries;
mod without_lookups;
