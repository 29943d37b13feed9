//! Removing what a build left, whatever modes its directories have.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use crate::directory;

/// Removes a directory with all that is in it. No build may be at work in it.
///
/// An ordinary user cannot list a directory of mode 0 that it owns, and an overlay leaves one behind, so all are opened up. A build may have made them
/// deeper than a path can say and than there are descriptors to hold, so what lies in a directory is brought up to the top before that goes.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match rustix::fs::chmod(path, Mode::RWXU) {
        Err(Errno::NOENT) => return Ok(()),
        answer => answer?,
    }
    let top = directory::open(path)?;
    let mut n = 0_u64;
    loop {
        let names = clear(&top)?;
        if names.is_empty() {
            return fs::remove_dir(path);
        }
        for name in names {
            let dir = directory::open_in(&top, &name)?;
            for inner in clear(&dir)? {
                while !bring(&dir, &inner, &top, n)? {
                    n += 1;
                }
                n += 1;
            }
            rustix::fs::unlinkat(&top, name, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Removes all from a directory that is none itself; returns the names of the others, which are open now.
fn clear(dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut left = vec![];
    for name in directory::names(dir)? {
        match rustix::fs::unlinkat(dir, &name[..], AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                rustix::fs::chmodat(dir, &name[..], Mode::RWXU, AtFlags::empty())?;
                left.push(name);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(left)
}

/// Moves a directory to another one under a number; false when something has it.
fn bring(dir: impl AsFd, name: &[u8], top: impl AsFd, n: u64) -> io::Result<bool> {
    match rustix::fs::renameat_with(dir, name, top, format!("df-{n}"), RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Ok(false),
        answer => Ok(answer.map(|()| true)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn closed_directories_go_too() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        fs::set_permissions(top.join("a/b"), Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(top.join("a"), Permissions::from_mode(0o500)).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists());
        remove(&top).unwrap();
    }

    #[test]
    fn names_that_are_taken_are_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        for inner in ["df-0/df-0/a", "df-1/df-0/df-1", "b/df-2/c", "df-3"] {
            fs::create_dir_all(top.join(inner)).unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), top.join("b/link")).unwrap();
        fs::write(dir.path().join("kept"), "x").unwrap();
        remove(&top).unwrap();
        assert!(!top.exists() && dir.path().join("kept").exists());
    }
}
