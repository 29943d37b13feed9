//! The program `df`.
fn main() {}
