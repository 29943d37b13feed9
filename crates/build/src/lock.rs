//! One build at a time: the source path is one for all.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::FlockOperation;

/// The right to build below a directory, given back when dropped or when the process ends.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "the lock lives as long as the open file")] File);

impl Lock {
    /// Waits until no other build holds the lock; `None` when cancelled. `waiting` is called once if there is something to wait for.
    pub fn take(path: &Path, cancel: &AtomicBool, waiting: impl FnOnce()) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let mut waiting = Some(waiting);
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self(file))),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            // A lock that is waited for inside the kernel could not be cancelled.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
