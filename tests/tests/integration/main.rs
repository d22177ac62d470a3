//! The tests of this crate, as one program. Which module a test belongs in: `tests/README.md`.

mod host;
mod kernel;
