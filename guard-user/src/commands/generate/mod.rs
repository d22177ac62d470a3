//! Output generated from the program itself: manual pages, shell completions, JSON Schemas.

pub mod completions;
pub mod man;
pub mod schema;
