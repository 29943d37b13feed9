//! One operator at a time: the lock of a node.
//!
//! An exclusive flock that lives as long as the session that took it, so that a killed df leaves none behind. The file names the holder, for the loser.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use df_wire::message::LockHolder;
use rustix::fs::{FlockOperation, flock};

/// The node, taken for one operator; given back when dropped.
#[derive(Debug)]
pub struct Lock(File);

/// The lock was not taken.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LockError {
    #[error("held by {} at {} since {}", .0.who, .0.command, .0.since)]
    Held(LockHolder),
    #[error("the lock file cannot be used")]
    Io(#[source] io::Error),
}

impl Lock {
    /// Takes the lock or says who holds it.
    ///
    /// # Errors
    /// Somebody holds it, or the file cannot be used.
    pub fn take(path: &Path, holder: &LockHolder) -> Result<Self, LockError> {
        let mut options = OpenOptions::new();
        // The file is emptied: one that a planted link leads to must not be.
        options.create(true).read(true).write(true).truncate(false).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let mut file = options.open(path).map_err(LockError::Io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held(read(&mut file))),
            Err(error) => return Err(LockError::Io(error.into())),
        }
        write(&mut file, &serde_json::to_vec(holder).expect("a holder is plain data")).map_err(LockError::Io)?;
        Ok(Self(file))
    }

    /// Returns who holds the lock, if somebody does.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn holder(path: &Path) -> io::Result<Option<LockHolder>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(read(&mut file))),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Emptied while it is still ours; the flock itself ends when the file is closed.
        let _ = self.0.set_len(0);
    }
}

fn write(file: &mut File, json: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(json)
}

/// Reads who holds it; the holder may be just about to write its name.
fn read(file: &mut File) -> LockHolder {
    let mut text = vec![];
    let known = file
        .rewind()
        .and_then(|()| file.take(64 * 1024).read_to_end(&mut text))
        .ok()
        .and_then(|_| serde_json::from_slice(&text).ok());
    known.unwrap_or_else(|| LockHolder { who: "somebody".into(), command: "something".into(), since: df_core::Timestamp(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_and_after_the_first_it_gets_the_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let holder = |who: &str| LockHolder { who: who.into(), command: "deploy".into(), since: df_core::Timestamp(0) };
        assert_eq!(Lock::holder(&path).expect("readable"), None);
        let first = Lock::take(&path, &holder("first")).expect("free");
        assert!(matches!(Lock::take(&path, &holder("second")), Err(LockError::Held(h)) if h.who == "first"));
        assert_eq!(Lock::holder(&path).expect("readable"), Some(holder("first")));
        drop(first);
        assert_eq!(Lock::holder(&path).expect("readable"), None);
        Lock::take(&path, &holder("second")).expect("free again");
    }
}
