//! What a program of a strict build is shut into: a room of its own, of which it sees nothing but what is named here.

use std::path::PathBuf;

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
