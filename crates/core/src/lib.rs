//! The words of distributive-flow.
//!
//! Every stage speaks in the values of this crate: a [`Digest`] names bytes, a [`Manifest`] lists a tree, its digest is an
//! [`ImageId`], a [`Recipe`] is all that may change an image, and a [`Release`] says "commit C by recipe R is image I".
//!
//! It refuses to do anything: no files, no sockets, no clock, no threads, no randomness. It invites no dependency that does.
//!
//! Invariants: a value that exists is valid (paths are safe, manifests are sorted and complete, names are printable), and equal
//! values have equal bytes, so that a digest may be taken of any of them.

pub mod attestation;
pub mod digest;
pub mod endpoint;
pub mod image;
pub mod limits;
pub mod manifest;
pub mod name;
pub mod recipe;
pub mod release;
pub mod spec;
pub mod text;
pub mod time;

pub use attestation::{Attestation, Bundle, Policy, Statement};
pub use digest::{Digest, Hasher};
pub use endpoint::{Endpoint, SocketPath};
pub use image::{ImageId, RecipeKey, ReleaseId};
pub use manifest::{Entry, Kind, Manifest};
pub use name::{AppName, CommitId, NodeName, TreePath};
pub use recipe::Recipe;
pub use release::Release;
pub use time::Timestamp;
