//! Who may be in the store at once, and who owns a directory of work under way.
//!
//! Locks are `flock`s: the kernel ends them with the process, however it dies.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::durable;
use crate::index::list;
use crate::layout::Layout;
use crate::place::At as _;

/// Held while a put or get goes on: nothing is removed meanwhile.
pub(super) fn shared(layout: &Layout) -> io::Result<File> {
    take(layout, FlockOperation::LockShared)
}

/// Held while something is removed: nobody else is in the store.
pub(super) fn exclusive(layout: &Layout) -> io::Result<File> {
    take(layout, FlockOperation::LockExclusive)
}

fn take(layout: &Layout, operation: FlockOperation) -> io::Result<File> {
    let path = layout.root.join("lock");
    // Opened each time: a lock belongs to the open file, so two threads with one file would unlock for each other.
    let file = File::open(&path).at("open", &path)?;
    loop {
        match flock(&file, operation) {
            Err(Errno::INTR) => {}
            result => return result.at("lock", &path).map(|()| file),
        }
    }
}

/// A directory below `tmp` that is ours as long as we live.
pub(super) struct Workspace {
    path: PathBuf,
    _lock: File,
}

impl Workspace {
    pub(super) fn make(layout: &Layout) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = layout.dir("tmp").join(format!("{}-{n}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result.at("make directory", &path)?,
            }
            // A sweeper may see the directory before its lock, and remove it: then another one is made.
            let Ok(lock) = File::open(&path) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && is_still(&path, &lock) {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be removed now is swept by a later put.
        let _ = durable::remove_tree(&self.path);
    }
}

fn is_still(path: &Path, lock: &File) -> bool {
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    fs::symlink_metadata(path).ok().zip(lock.metadata().ok()).is_some_and(|(a, b)| same(a, b))
}

/// Removes the work of processes that died.
pub(super) fn sweep_workspaces(layout: &Layout) -> io::Result<()> {
    for path in list(&layout.dir("tmp"))? {
        let Ok(lock) = File::open(&path) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            durable::remove_tree(&path)?;
        }
    }
    Ok(())
}
