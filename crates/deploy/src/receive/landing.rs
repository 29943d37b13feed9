//! Where the blobs of a delta come to lie, and what is noted of them on the way.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use df_cache::export::{ExportError, Growing};
use df_core::{Digest, Hasher, Manifest};
use df_delta::{Mark, Sink, Slice};

use super::work::{Marks, Work};

/// Takes what a delta makes into a growing tree, and keeps the marks of a receive that can be gone on with.
pub struct Landing<'a> {
    work: &'a Work,
    growing: OnceLock<Growing>,
    notes: Mutex<Notes>,
}

/// What is written for another process to go on with; nothing when no delta was named.
struct Notes {
    /// The bytes of the delta before its first mark.
    head: Option<BufWriter<File>>,
    marks: Option<Marks>,
}

impl<'a> Landing<'a> {
    /// Prepares for a delta from its first byte, with the tree of an earlier sitting if that is to be used.
    ///
    /// # Errors
    /// A file cannot be made.
    pub fn new(work: &'a Work, is_kept: bool, growing: Option<Growing>) -> io::Result<Self> {
        let head = if is_kept { Some(work.new_head()?) } else { None };
        let growing = growing.map(OnceLock::from).unwrap_or_default();
        Ok(Self { work, growing, notes: Mutex::new(Notes { head, marks: None }) })
    }

    /// Prepares for the rest of one.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn again(work: &'a Work, growing: Growing) -> io::Result<Self> {
        let notes = Notes { head: None, marks: Some(work.marks()?) };
        Ok(Self { work, growing: growing.into(), notes: Mutex::new(notes) })
    }

    /// Returns a reader of the delta of which the head is kept.
    pub fn noting<'b>(&'b self, input: &'b mut dyn Read) -> impl Read + use<'a, 'b> {
        Noting { landing: self, input }
    }

    /// Makes the tree complete, durably; `beside` syncs something else in the same round.
    ///
    /// # Errors
    /// Those of the export.
    pub fn finish(
        self,
        source: &dyn df_cache::blobs::Blobs,
        beside: &(dyn Fn() -> io::Result<()> + Sync),
    ) -> Result<(), ExportError> {
        let growing = self.growing.into_inner().expect("an apply that ends well began with a manifest");
        growing.finish_with(source, beside).map(drop)
    }

    fn growing(&self) -> io::Result<&Growing> {
        self.growing.get().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Landing<'_> {
    fn manifest(&self, manifest: &Manifest) -> io::Result<()> {
        if self.growing.get().is_none() {
            let growing = Growing::in_new(manifest, &self.work.tree()).map_err(io::Error::other)?;
            let _ = self.growing.set(growing);
        }
        self.work.write_manifest(manifest)
    }

    fn blob(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        self.growing()?.put(digest, bytes)
    }

    fn stretch(&self, stretch: Slice, bytes: &[u8]) -> io::Result<()> {
        self.growing()?.put_stretch(stretch.digest, stretch.offset, bytes)
    }

    fn finish(&self, digest: Digest) -> io::Result<()> {
        self.growing()?.seal(digest)
    }

    fn reached(&self, mark: &Mark) -> io::Result<()> {
        let mut notes = self.notes();
        if let Some(mut head) = notes.head.take() {
            head.flush()?;
            notes.marks = Some(self.work.marks()?);
        }
        notes.marks.as_mut().map_or(Ok(()), |marks| marks.add(mark))
    }

    fn kept(&self, digest: Digest, len: u64) -> Option<Hasher> {
        self.growing().ok()?.hash(digest, len)
    }
}

/// Copies what is read until the first mark.
struct Noting<'a, 'b> {
    landing: &'b Landing<'a>,
    input: &'b mut dyn Read,
}

impl Read for Noting<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(out)?;
        if let Some(head) = &mut self.landing.notes().head {
            head.write_all(&out[..n])?;
        }
        Ok(n)
    }
}
