//! Resolves manifests and policies to a cluster: reads the files that they name and looks names up.

pub mod cluster;
pub mod files;
pub mod load;
pub(crate) mod loaded;
pub mod provenance;
mod resolver;
pub mod signature;
pub(crate) mod source_reader;
pub mod validate;
