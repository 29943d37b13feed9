//! A cargo project: what it holds, what is missing, what it gave.

mod arguments;
mod choose;
mod messages;
mod off;
mod strict;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use cargo_metadata::{Metadata, MetadataCommand};

use df_core::text::escape;

use crate::process::{self, ProcessError};

pub(crate) use off::{Cargo, environment};
pub(crate) use strict::{Compiled, Strict};

/// A cargo project cannot be built.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CargoError {
    #[error("the commit has no Cargo.toml at its top")]
    NoManifest,
    #[error(
        "the commit has no Cargo.lock; run cargo generate-lockfile and commit it, so that each build uses the same dependencies"
    )]
    NoLock,
    #[error("Cargo.lock does not fit Cargo.toml; run cargo check and commit the Cargo.lock that it writes")]
    StaleLock,
    #[error("the package {package} lies outside of the commit, at {path}")]
    Outside { package: String, path: String },
    #[error("there is no package {name} in the commit; it has {known}")]
    NoPackage { name: String, known: String },
    #[error("the commit has several packages ({known}); name one in build.cargo.package")]
    WhichPackage { known: String },
    #[error("the package {package} has no {kind} {name}; it has {known}")]
    NoTarget { package: String, kind: &'static str, name: String, known: String },
    #[error("the package {package} has no programs; name one in build.cargo.bins or build.cargo.examples")]
    NoPrograms { package: String },
    #[error("cargo built no program {name}")]
    NotBuilt { name: String },
    #[error("what {what} said cannot be read")]
    Unreadable { what: &'static str, source: cargo_metadata::Error },
    #[error("{what} ended with {how}")]
    Ended { what: &'static str, how: String },
    #[error("cannot prepare the directories of the build")]
    Place { source: io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

fn ended(what: &'static str, status: ExitStatus) -> CargoError {
    CargoError::Ended { what, how: process::ending(status) }
}

fn parse(said: &[u8]) -> Result<Metadata, CargoError> {
    MetadataCommand::parse(String::from_utf8_lossy(said))
        .map_err(|source| CargoError::Unreadable { what: "cargo metadata", source })
}

/// Returns programs with their files' paths below a directory, where cargo was told to put them.
fn below(dir: &Path, programs: Vec<(String, PathBuf)>) -> Result<Vec<(String, PathBuf)>, CargoError> {
    let below = |(name, file): (String, PathBuf)| match file.strip_prefix(dir) {
        Ok(below) => Ok((name, below.to_owned())),
        Err(_) => Err(CargoError::NotBuilt { name: escape(name.as_bytes()) }),
    };
    programs.into_iter().map(below).collect()
}
