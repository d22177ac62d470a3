//! What the guard costs those who may.

fn main() {}
