//! What is generated from the program itself: manual pages, completions of shells, schemas.

pub mod completions;
pub mod man;
pub mod schema;
