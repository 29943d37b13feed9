//! What a program of a strict build is shut into: a room of its own, of which it sees nothing but what is named here.
//!
//! A room is made of user, mount, pid, ipc, uts, net and cgroup namespaces, a file system put together for it, and, for the program in it, no
//! capability, no new privileges, Landlock and a filter of system calls. `plan` decides every step of that beforehand; `walk` takes them, in a
//! process that may do nothing but system calls; `start` makes that process; `words` turns a step that failed into what this machine lacks.
//!
//! Invariants:
//! - A room lacks no part: what cannot be had is an error that names it.
//! - Process 1 of the room is ours and never runs anything; when the program ends it ends, and the kernel kills all the others before it can be waited for.
//! - df's own end, however it comes, is the end of the room.
//! - The room holds no descriptor of df but the pipes of its output.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

mod cgroup;
mod filter;
mod machine;
mod plan;
mod remove;
mod space;
mod start;
mod walk;
mod who;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use remove::remove;
pub(crate) use space::Space;
pub(crate) use start::{Failed, Inside, start};
pub(crate) use who::give;
pub use words::Lacking;

/// What is where in the room, besides what every room has (the system's programs, a private /dev, /proc and /tmp).
///
/// Mounted in this order; places inside are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    pub mounts: Vec<Mount>,
    /// The name that the machine has inside.
    pub host_name: String,
}

/// One thing in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mount {
    /// A directory or file of the host that nothing in the room can change.
    ReadOnly { host: PathBuf, inside: PathBuf },
    /// A directory of the host that the build alone uses.
    Writable { host: PathBuf, inside: PathBuf },
    /// What lies in `lower`, unchangeable, with all that the build writes over it going to `upper`. `work` is beside `upper` on the same file system.
    Layered { lower: PathBuf, upper: PathBuf, work: PathBuf, inside: PathBuf },
    /// An empty directory in memory.
    Private { inside: PathBuf },
}

/// Tells what a strict build needs that this machine does not have, by making a room and running `true` in it.
///
/// `dir` is where builds are done; what they need of its file system is tried as well.
#[must_use]
pub fn lacking(dir: &Path) -> Option<Lacking> {
    start::tried(dir).err()
}

/// Whether directories can be layered below `dir`; tried once per process and file system, by doing so.
pub(crate) fn has_overlay(dir: &Path) -> bool {
    static TRIED: Mutex<BTreeMap<u64, bool>> = Mutex::new(BTreeMap::new());
    let Ok(metadata) = dir.metadata() else { return false };
    let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    *tried.entry(metadata.dev()).or_insert_with(|| start::layered(dir).unwrap_or(false))
}
