//! Enums for the words in documents.

/// Declares an enum whose variants are words in documents. Other words, which a newer version may
/// write, are read as `Unknown`.
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
            /// Returns the word.
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

pub(crate) use vocabulary;
