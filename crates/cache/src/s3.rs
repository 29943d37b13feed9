//! A cache in a bucket: one object that changes, by compare-and-swap; everything else is written once.

pub mod objects;

pub mod memory;

mod format;
#[cfg(test)]
mod model;
mod prefix;
