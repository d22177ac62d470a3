//! Reading JSON documents that name their schema. A command and the daemon, or a daemon and its
//! successor, may be of different versions.
//!
//! Decision: `docs/decisions/0022-shared-documents-name-their-schema.md`.

use serde::{Deserialize, de::DeserializeOwned};

use crate::policy::syntax::text::visible;

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A different version of trainguard wrote the document.
    #[error(
        "unsupported schema `{}`, expected `{expected}`: use the version of trainguard that wrote it",
        visible(found)
    )]
    OtherSchema { found: String, expected: &'static str },
}

/// Parses a document of the schema `expected`. A document without a schema is accepted. The schema is
/// checked before the other fields, because their meaning depends on the version.
pub(crate) fn read<T: DeserializeOwned>(
    document: &[u8],
    expected: &'static str,
) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        schema: Option<String>,
    }

    let Head { schema } = serde_json::from_slice(document)?;
    match schema {
        Some(found) if found != expected => Err(Unreadable::OtherSchema { found, expected }),
        _ => Ok(serde_json::from_slice(document)?),
    }
}
