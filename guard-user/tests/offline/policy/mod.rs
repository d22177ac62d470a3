//! The policy language: what documents may say, what they mean, and what is said of mistakes in them.

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
