//! Reports what loads but is probably a mistake; comments that silence findings; and fixes.

pub(crate) mod check;
pub mod fix;
pub mod ignore;
