//! From files to a cluster: what manifests and policies name is read and put together.

pub mod cluster;
pub mod files;
pub mod load;
pub(crate) mod loaded;
pub mod provenance;
mod resolver;
pub mod signature;
pub(crate) mod source_reader;
pub mod validate;
