//! A cache in a bucket: one object that changes, by compare-and-swap; everything else is written once.

pub mod objects;

pub mod aws;
pub mod memory;
pub mod probe;

mod format;
#[cfg(test)]
mod model;
mod prefix;
mod schedule;
