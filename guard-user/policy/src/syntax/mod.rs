//! The text of documents: YAML with locations, scalar values, findings.

pub mod diagnostic;
pub mod document;
pub(crate) mod hostlist;
pub mod json;
pub mod rules;
pub mod scalars;
pub mod source_map;
pub mod text;
pub(crate) mod walk;
pub mod yaml;
