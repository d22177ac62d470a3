//! Edits the text of a manifest without changing the rest of it.

pub mod entry;
pub mod patch;
