//! From YAML to tables: document, resolve, check, compile. Touches files, never the kernel.

pub mod compiled;
pub mod limiter;
