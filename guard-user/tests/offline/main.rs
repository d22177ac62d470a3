//! Tests of this crate's library and binary that need no kernel, no daemon and no privileges, built as
//! one program. `tests/README.md` says which tests belong here.

mod binary;
#[cfg(feature = "daemon")]
mod doctor;
mod exit_codes;
mod explain;
mod hostile;
mod init;
mod learn;
mod packaging;
mod pages;
mod policy;
mod readme;
#[cfg(feature = "daemon")]
mod reference;
mod replay;
#[cfg(feature = "daemon")]
mod stats;
mod trace;
