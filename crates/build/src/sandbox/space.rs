//! Room left on the disks that a build writes to: one that fills them is stopped while others can still write.

use std::path::{Path, PathBuf};

use super::{Mount, Room};

/// What stays for others: bytes, and on a small file system one part in [`PART`].
const KEPT_LEN: u64 = 256 << 20;
/// See [`KEPT_LEN`]; of the inodes it is the only bound.
const PART: u64 = 50;

/// The places of the host that a room writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Space {
    places: Vec<PathBuf>,
}

/// How much a file system has and how much of it is free.
#[derive(Debug, Clone, Copy)]
struct Left {
    len: u64,
    free_len: u64,
    n_inodes: u64,
    n_free_inodes: u64,
}

impl Space {
    pub fn of(room: &Room) -> Self {
        let written = |mount: &Mount| match mount {
            Mount::Writable { host, .. } => Some(host.clone()),
            Mount::Layered { upper, .. } => Some(upper.clone()),
            Mount::ReadOnly { .. } | Mount::Private { .. } => None,
        };
        Self { places: room.mounts.iter().filter_map(written).collect() }
    }

    /// Returns a place whose file system is nearly full.
    pub fn full(&self) -> Option<&Path> {
        self.places.iter().map(PathBuf::as_path).find(|place| look(place).is_some_and(Left::is_short))
    }
}

impl Left {
    fn is_short(self) -> bool {
        // File systems that make inodes as they need them say 0 of both.
        self.free_len < KEPT_LEN.min(self.len / PART) || self.n_free_inodes < self.n_inodes / PART
    }
}

fn look(place: &Path) -> Option<Left> {
    let found = rustix::fs::statvfs(place).ok()?;
    Some(Left {
        len: found.f_blocks.saturating_mul(found.f_frsize),
        free_len: found.f_bavail.saturating_mul(found.f_frsize),
        n_inodes: found.f_files,
        n_free_inodes: found.f_ffree,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_full_is_full() {
        let roomy = Left { len: 1 << 40, free_len: 1 << 30, n_inodes: 1000, n_free_inodes: 500 };
        assert!(!roomy.is_short());
        assert!(Left { free_len: KEPT_LEN - 1, ..roomy }.is_short());
        assert!(Left { n_free_inodes: 19, ..roomy }.is_short());
        assert!(!Left { len: 50 << 20, free_len: 1 << 20, n_inodes: 0, n_free_inodes: 0 }.is_short());
        assert!(Left { len: 50 << 20, free_len: 1 << 19, n_inodes: 0, n_free_inodes: 0 }.is_short());
    }
}
