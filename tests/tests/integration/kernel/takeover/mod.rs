//! Taking over from a guard of another layout.

mod faults;
mod there_and_back;
