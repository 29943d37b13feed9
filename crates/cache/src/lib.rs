//! Blobs and images at rest: the same code on the operator's machine and on a node.

pub mod blobs;
pub mod check;
pub mod diff;
pub mod durable;
pub mod export;
pub mod import;

mod beneath;
mod place;
