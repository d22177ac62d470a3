//! Reports what loads but is probably a mistake; comments that silence findings; and fixes.
//!
//! Decision: `docs/decisions/0026-lint-and-daemon-share-errors.md`.

pub(crate) mod check;
pub mod fix;
pub mod ignore;
