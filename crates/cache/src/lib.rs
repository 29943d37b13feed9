//! Blobs and images at rest: the same code on the operator's machine and on a node.
//!
//! Identity is the BLAKE3 of raw bytes; packs, compression, links and file systems never enter a digest. A [`Store`] keeps images and releases by name; a tree
//! comes in by [`import`], goes out by [`export`] and is read back by [`check`]; [`tar`] is the exchange form; [`durable`] knows what survives a power cut.
//!
//! Invariants:
//! - A name means complete, checked and synced: temporary name, file data, directories, rename, parent directory, in this order. Whatever dies in between leaves
//!   only files that nothing names; they are swept.
//! - Every byte is hashed on its way in and on its way out. What cannot be read is an error, never "equal" and never "absent".
//! - Symbolic links are read and written, never followed: paths are opened beneath a held directory by the kernel's own check.
//! - Writers remove nothing. Removing is decided purely ([`gc::plan`]) and done alone in the store; what was put or pinned since the decision stays. No clock is
//!   needed for that: time can only keep more.
//! - A repair has the new bytes checked and synced before it moves the old ones to quarantine.
//!
//! It refuses to change what it imports: devices, fifos, sockets, setuid files and links that leave are errors, not something else. It knows no node, no commit
//! and no clock, no network but that to a bucket, behind the features `s3` (a store) and `http` (one object by URL, for nodes), and it decides nothing about what
//! is worth keeping: that comes as a [`roots::Policy`].

pub mod store;

pub mod blobs;
pub mod disk;
pub mod document;
pub mod memory;

pub mod check;
pub mod diff;
pub mod export;
pub mod import;
pub mod tar;

pub mod gc;
pub mod roots;
pub mod scrub;

pub mod derived;
pub mod durable;

#[cfg(any(test, feature = "contract"))]
pub mod contract;

#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "s3")]
pub mod s3;

#[cfg(any(feature = "s3", feature = "http"))]
pub mod authorities;

mod beneath;
mod index;
mod layout;
mod pack;
mod place;

pub use blobs::{Blobs, Bytes};
pub use derived::Deltas;
pub use diff::{Difference, DifferenceKind};
pub use disk::DiskStore;
pub use document::Document;
pub use import::{ImportOptions, Located};
pub use memory::MemoryStore;
pub use roots::Policy;
pub use store::{Contents, PutError, ReadError, Store, StoredRelease};
