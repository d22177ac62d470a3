//! What crosses the sockets of the daemon: documents, requests, answers, and the client that asks.
//!
//! Field names, values and paths are a contract with other programs. Nothing here knows how the daemon
//! works; the daemon, `doctor`, the reports and the commands all build on these types.

/// Declares an enum whose variants are words of the documents: what is written as such a word is read as
/// its variant, and any other word, which a newer version may write, as `Unknown`.
macro_rules! vocabulary {
    (
        $(#[$doc:meta])*
        pub enum $name:ident, by default $default:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
            /// A word of a newer version.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl $name {
            /// The word.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Unknown => "unknown",
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

#[cfg(feature = "daemon")]
pub mod client;
#[cfg(feature = "daemon")]
pub mod connections;
#[cfg(feature = "daemon")]
pub mod control;
pub mod events;
#[cfg(feature = "daemon")]
pub mod stats;
#[cfg(feature = "daemon")]
pub mod status;
#[cfg(feature = "daemon")]
pub(crate) mod versioned;

/// Name of the socket that tells.
pub const STATS_SOCKET: &str = "stats.sock";
/// Name of the socket that commands.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Where events are.
#[cfg(feature = "daemon")]
pub(crate) const EVENTS: &str = "/v1/events";
/// Where refused sources are that behave like members.
#[cfg(feature = "daemon")]
pub(crate) const MISSING_MEMBERS: &str = "/v1/missing-members";
/// Where the metrics are.
pub const METRICS: &str = "/metrics";
