//! What goes in must come out, or be refused: deltas from outside, on trees in memory.

#![allow(missing_docs, reason = "tests")]

mod golden;
mod hostile;
#[path = "../../fuzz/targets/pairs.rs"]
#[allow(dead_code, reason = "the fuzzer makes its seeds by it, too")]
mod pairs;
mod programs;
mod resume;
mod round_trip;
mod rsync;
mod seeds;
mod trees;
