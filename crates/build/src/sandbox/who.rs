//! Who a build runs as: outside, and inside of its room.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid};

/// The one user and group of every room.
pub(super) const BUILDER: u32 = 1000;
/// Who that is outside when df is root: nobody's number but one, so that a build shares it with no service.
pub(super) const OUTSIDE: u32 = 65533;

/// How many other owners a room knows; the kernel reads a map of at most a page.
const N_OTHERS: usize = 32;

/// Whose rights a room is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Root sets the room up, and the program runs as a user that owns nothing.
    Root,
    /// The user of df does both; nobody else exists in the room.
    User { uid: u32, gid: u32 },
}

/// Users and groups of the host.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Owners {
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

impl Who {
    pub fn here() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self::of(uid, gid, &own_map("uid_map"), &own_map("gid_map"))
    }

    /// Decides: a root that has only itself (in a user namespace of one) is an ordinary user.
    fn of(uid: u32, gid: u32, uids: &str, gids: &str) -> Self {
        if uid == 0 && has(uids, OUTSIDE) && has(gids, OUTSIDE) { Self::Root } else { Self::User { uid, gid } }
    }

    /// The lines of `uid_map`.
    pub fn uids(self, owners: &Owners) -> String {
        match self {
            Self::Root => Self::map(&owners.uids),
            Self::User { uid, .. } => format!("{BUILDER} {uid} 1\n"),
        }
    }

    /// The lines of `gid_map`.
    pub fn gids(self, owners: &Owners) -> String {
        match self {
            Self::Root => Self::map(&owners.gids),
            Self::User { gid, .. } => format!("{BUILDER} {gid} 1\n"),
        }
    }

    /// Root of a room may pass the closed directories only of users that the room has, so those on its way get numbers there too, far from all others.
    fn map(others: &BTreeSet<u32>) -> String {
        let mut lines = format!("0 0 1\n{BUILDER} {OUTSIDE} 1\n");
        for (inside, id) in (100_000..).zip(others.iter().filter(|id| ![0, OUTSIDE].contains(id)).take(N_OTHERS)) {
            lines.push_str(&format!("{inside} {id} 1\n"));
        }
        lines
    }
}

impl Owners {
    /// Adds who owns a place and the directories above it.
    pub fn add_above(&mut self, path: &Path) {
        for dir in path.canonicalize().unwrap_or_else(|_| path.into()).ancestors() {
            if let Ok(metadata) = dir.symlink_metadata() {
                self.uids.insert(metadata.uid());
                self.gids.insert(metadata.gid());
            }
        }
    }

    /// Forgets those that df itself has not, in a container of some ids only: the kernel would refuse them.
    pub fn keep_known(&mut self) {
        let (uids, gids) = (own_map("uid_map"), own_map("gid_map"));
        self.uids.retain(|&id| has(&uids, id));
        self.gids.retain(|&id| has(&gids, id));
    }
}

/// Hands a directory with all that is in it to the user that builds run as. Follows no link. An ordinary user is that user already.
///
/// No build may be at work in it.
pub(crate) fn give(path: &Path) -> io::Result<()> {
    match Who::here() {
        Who::Root => give_in(CWD, path.as_os_str().as_encoded_bytes()),
        Who::User { .. } => Ok(()),
    }
}

/// Hands a pipe over, so that the program may open it again by `/dev/stdout`.
pub(super) fn give_pipe(who: Who, pipe: BorrowedFd<'_>) -> io::Result<()> {
    match who {
        Who::Root => Ok(rustix::fs::fchown(pipe, Some(Uid::from_raw(OUTSIDE)), Some(Gid::from_raw(OUTSIDE)))?),
        Who::User { .. } => Ok(()),
    }
}

fn give_in(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        for entry in Dir::read_from(&inner)? {
            let entry = entry?;
            match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => give_in(inner.as_fd(), name)?,
            }
        }
    }
    let (uid, gid) = (Uid::from_raw(OUTSIDE), Gid::from_raw(OUTSIDE));
    Ok(rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn own_map(name: &str) -> String {
    std::fs::read_to_string(Path::new("/proc/self").join(name)).unwrap_or_default()
}

/// Whether a map of ids has this one.
fn has(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        match (numbers.next(), numbers.nth(1)) {
            (Some(first), Some(n)) => (first..first.saturating_add(n)).contains(&u64::from(id)),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_namespace_of_one_is_an_ordinary_user() {
        let all = "         0          0 4294967295\n";
        assert_eq!(Who::of(0, 0, all, all), Who::Root);
        assert_eq!(Who::of(0, 0, "0 1000 1\n", "0 1000 1\n"), Who::User { uid: 0, gid: 0 });
        assert_eq!(Who::of(0, 0, "0 1000 1\n1 100000 65536\n", all), Who::Root);
        assert_eq!(Who::of(7, 8, all, all), Who::User { uid: 7, gid: 8 });
        let owners = Owners { uids: [0, 1000, OUTSIDE].into(), gids: [0].into() };
        assert_eq!(Who::User { uid: 7, gid: 8 }.uids(&owners), "1000 7 1\n");
        assert_eq!(Who::Root.uids(&owners), "0 0 1\n1000 65533 1\n100000 1000 1\n");
        assert_eq!(Who::Root.gids(&owners), "0 0 1\n1000 65533 1\n");
    }
}
