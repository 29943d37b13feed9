//! What an interrupted put had sent already, so that the next one sends it no more.
//!
//! One directory for each run, `upload/<session>/`, with one file for each pack that arrived: an index segment of that pack alone (see `format::segment`), complete by its rename and checked by
//! its digest. Whoever is alive holds a lock on the directory's `lock`; a run whose lock is free is dead, and what it sent is taken over as one's own. The rules of a commit make
//! that safe: its session must be above the fence, and whoever condemns a pack raises the fence above the pack's session.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::format::name::Session;
use super::format::segment::Segment;
use super::upload::Sent;

/// What one run sent.
pub(crate) struct Journal {
    directory: PathBuf,
    /// Held as long as somebody goes by it.
    _lock: File,
}

impl Journal {
    /// Begins the journal of a run.
    pub(crate) fn begin(uploads: &Path, session: Session) -> io::Result<Self> {
        let directory = uploads.join(session.text());
        fs::create_dir_all(&directory)?;
        let lock = lock(&directory)?.ok_or(io::ErrorKind::WouldBlock)?;
        Ok(Self { directory, _lock: lock })
    }

    /// Takes over the journals of those who died.
    pub(crate) fn take_over(uploads: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(uploads) else { return vec![] };
        let taken = entries.flatten().filter_map(|entry| {
            let directory = entry.path();
            let lock = lock(&directory).ok()??;
            Some(Self { directory, _lock: lock })
        });
        taken.collect()
    }

    /// Remembers a pack that arrived. Failing to costs sending it again.
    pub(crate) fn record(&self, (pack, slots): &Sent) {
        let segment = Segment::new([(*pack, slots.clone())]);
        let path = self.directory.join(format!("{:x}", pack.name.n));
        let temporary = path.with_extension("tmp");
        let _ = fs::write(&temporary, segment.encode()).and_then(|()| fs::rename(&temporary, &path));
    }

    /// Returns the packs that arrived, those that can be read.
    pub(crate) fn packs(&self) -> Vec<Sent> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return vec![] };
        let read = entries.flatten().filter_map(|entry| Segment::decode(&fs::read(entry.path()).ok()?).ok());
        read.flat_map(|segment| segment.by_pack()).collect()
    }

    /// Forgets it.
    pub(crate) fn remove(self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Locks a directory; nothing when somebody else has.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let file = File::options().append(true).create(true).open(directory.join("lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::name::tests::reference;
    use super::super::format::segment::tests::example;
    use super::*;

    #[test]
    fn only_the_journals_of_the_dead_are_taken_over_and_what_is_damaged_counts_as_not_sent() {
        let directory = tempfile::tempdir().expect("a directory");
        let (pack, slots) = example().by_pack().remove(0);
        let session = pack.name.session;
        let journal = Journal::begin(directory.path(), session).expect("begun");
        journal.record(&(pack, slots.clone()));
        assert!(Journal::begin(directory.path(), session).is_err());
        assert_eq!(Journal::take_over(directory.path()).len(), 0, "it is alive");
        drop(journal);
        let taken = Journal::take_over(directory.path()).remove(0);
        assert_eq!(taken.packs(), [(pack, slots)]);
        let path = directory.path().join(session.text()).join(format!("{:x}", reference(pack.name.n).name.n));
        let mut bytes = fs::read(&path).expect("a file");
        bytes[20] ^= 1;
        fs::write(&path, bytes).expect("written");
        assert_eq!(taken.packs(), []);
        taken.remove();
        assert_eq!(Journal::take_over(directory.path()).len(), 0);
    }
}
