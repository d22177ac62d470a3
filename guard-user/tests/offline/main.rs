//! The tests of this crate's library and binary that need no kernel, no daemon and no privileges, as
//! one program. Which tests belong here: `tests/README.md`.

mod binary;
#[cfg(feature = "daemon")]
mod doctor;
mod exit_codes;
mod explain;
mod hostile;
mod init;
mod learn;
mod lint_formats;
mod lint_signed;
mod packaging;
mod pages;
mod policy_capacity;
mod policy_compile;
mod policy_corpus;
mod policy_diff;
mod policy_lint;
mod policy_meaning;
mod policy_profiles;
mod policy_schema;
mod policy_tests;
#[cfg(feature = "daemon")]
mod reference;
mod replay;
mod shape;
#[cfg(feature = "daemon")]
mod stats;
mod trace;
