//! From a commit to an output directory.
//!
//! A [`Repository`] gives the objects of a [`Commit`]; a [`Builder`] says which [`df_core::Recipe`] the commit has here (fast: nothing runs when
//! nothing changed) and performs it: source at one fixed path, what the lock names fetched, a clean environment, then cargo or a command in a room that
//! shows nothing else of the machine, then a fresh directory that holds what was asked for and nothing else.
//!
//! It refuses to: read the working tree; run anything that a repository's configuration names (hooks, filters, attributes, fsmonitor, transports);
//! honour replace refs; fetch git objects; guess a missing lock file; fall back from `sandbox: strict` to anything less. It does not name, keep or send images:
//! its output is a directory, and who imports it is not its business.
//!
//! Invariants:
//! - Source comes from git objects alone, each name checked before it reaches the file system; all writing goes through held directory descriptors.
//! - Equal trees are built at the same path, with the same times (1980-01-01), modes and environment.
//! - Packages of the source never come from an earlier build, because cargo judges freshness by times, and here all times are equal: a layer holds none of
//!   them, and without a sandbox they are cleaned from the kept target directory.
//! - Nothing that a strict build writes is read by another one, but for layers: they are made by a build that sees no code of the commit, and are only read.
//! - A directory that a build hands out holds directories 0755, files 0644 or 0755 and symbolic links; nothing in it is shared with the build.
//! - Whatever a build started is dead before its output is read; without a sandbox, whatever stayed in its process group.

pub mod compare;
pub mod source;

mod cargo;
mod directory;
mod documents;
mod fetch;
mod fit;
mod keep;
mod layer;
mod lock;
mod log;
mod output;
mod process;
mod recipe;
mod rooms;
mod run;
mod sandbox;
mod tool;

pub use cargo::CargoError;
pub use compare::{Difference, compare};
pub use documents::licences::{Licences, licences};
pub use documents::provenance::provenance;
pub use documents::sbom::sbom;
pub use documents::{Made, Packages, Run};
pub use fetch::{FetchError, FilesError};
pub use fit::needs::needs;
pub use fit::static_program::StaticError;
pub use output::OutputError;
pub use process::ProcessError;
pub use recipe::RecipeError;
pub use recipe::toolchain::ToolchainError;
pub use run::{BuildError, BuildEvent, Builder, Built, Turn};
pub use sandbox::{Lacking, lacking};
pub use source::{Commit, OpenError, Repository, ResolveError, TreeError};
