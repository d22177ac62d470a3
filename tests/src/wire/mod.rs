//! Code shared by the benchmarks on a wire: two namespaces with a cable between them, CPU time by
//! thread, the programs to compare, rounds, and rows to report.

pub mod cpu;
pub mod flood;
pub mod lab;
pub mod offload;
pub mod policy;
pub mod programs;
pub mod rounds;
pub mod rows;
