//! What goes in must come out, or be refused: deltas from outside, on trees in memory.

#![allow(missing_docs, reason = "tests")]

mod golden;
mod hostile;
mod programs;
mod resume;
mod round_trip;
mod rsync;
mod trees;
