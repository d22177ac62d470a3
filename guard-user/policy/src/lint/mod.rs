//! What is probably not meant, although it can be loaded; comments that silence it; and corrections.

pub(crate) mod check;
pub mod fix;
pub mod ignore;
