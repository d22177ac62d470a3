//! The program in the kernel, handed frames by the test run or by a wire.

mod captures;
mod differential;
mod frames_on_a_wire;
mod policies;
mod scenarios;
mod self_test;
mod tries;
