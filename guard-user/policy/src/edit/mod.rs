//! Edits of the text of a manifest, which leave the rest of it as it is.

pub mod entry;
pub mod patch;
