//! JSON documents that say in `schema` what they are: between a daemon and the commands that ask it, and
//! between a daemon and the one that comes after it, either of which may be of another version.

use serde::{Deserialize, de::DeserializeOwned};

use crate::policy::text::visible;

/// Why a document is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Another version of trainguard wrote it.
    #[error(
        "it is of `{}`, and this trainguard reads `{expected}`: the version that wrote it can read it",
        visible(found)
    )]
    OtherSchema { found: String, expected: &'static str },
}

/// Reads a document of a schema. Its fields are looked at only then: what they mean belongs to the version,
/// too. One that does not say is taken to be of it.
pub(super) fn read<T: DeserializeOwned>(
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
