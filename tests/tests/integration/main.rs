//! The tests of this crate, built as one program. `tests/README.md` says which module a test belongs in.

mod host;
mod kernel;
