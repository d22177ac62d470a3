//! trainguard
