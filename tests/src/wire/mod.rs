//! What the benchmarks on a wire share: two namespaces with a cable between them, CPU time by
//! thread, the programs in the place of the guard, rounds, and rows to report.

pub mod cpu;
pub mod flood;
pub mod lab;
pub mod offload;
pub mod policy;
pub mod programs;
pub mod rounds;
pub mod rows;
