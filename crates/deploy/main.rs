//! The program `df-node`.
fn main() {}
