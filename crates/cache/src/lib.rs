//! Blobs and images at rest: the same code on the operator's machine and on a node.

pub mod blobs;
pub mod check;
pub mod derived;
pub mod diff;
pub mod disk;
pub mod durable;
pub mod export;
pub mod gc;
pub mod import;
pub mod memory;
pub mod roots;
pub mod scrub;
pub mod store;
pub mod tar;

mod beneath;
#[cfg(test)]
mod contract;
mod index;
mod layout;
mod pack;
mod place;
