//! The policy language: which documents are valid, what they mean, and how mistakes are reported.

mod capacity;
mod compile;
mod corpus;
mod diff;
mod lint;
mod lint_formats;
mod lint_signed;
mod meaning;
mod profiles;
mod schema;
mod shape;
mod tests;
