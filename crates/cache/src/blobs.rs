//! Where bytes come from: one trait for everything that can hand out a blob by its digest.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use df_core::{AppName, Digest, Hasher, Release, ReleaseId};

use crate::document::Document;
use crate::place::At as _;

/// The bytes of a blob, in the form that is cheapest to hand out.
///
/// Whoever takes them checks them: nobody trusts a source.
pub enum Bytes {
    /// A file that holds exactly these bytes: shared by reflink where the file system can, else copied. It stays.
    File(PathBuf),
    /// A file that nobody else needs: it may be moved to its new place, on the same file system; else it is copied.
    Take(PathBuf),
    /// A stream of exactly these bytes.
    Read(Box<dyn Read + Send>),
}

/// Hands out blobs.
pub trait Blobs: Sync {
    /// Returns a blob. An export asks at most once for each digest.
    ///
    /// # Errors
    /// `NotFound` when this source lacks it.
    fn blob(&self, digest: Digest) -> io::Result<Bytes>;

    /// Returns a read-only file of an image in the same store that holds this blob with this executable bit: a hard link to it is as good as the bytes.
    fn twin(&self, _digest: Digest, _executable: bool) -> Option<PathBuf> {
        None
    }

    /// Returns whether twins survive a power cut already: then they are not synced once more.
    fn twins_are_durable(&self) -> bool {
        false
    }

    /// Returns a release that is kept beside the blobs, for a store that lost its own record of it. Whoever takes it compares its id.
    ///
    /// # Errors
    /// It could not be asked: it may have it.
    fn release(&self, _id: ReleaseId) -> io::Result<Option<Release>> {
        Ok(None)
    }

    /// Returns a document that is kept beside a release, for a store that lost its own copy; one that is damaged is none.
    ///
    /// # Errors
    /// As [`Blobs::release`].
    fn document(&self, _app: &AppName, _release: ReleaseId, _document: Document) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Is told that so many more bytes of blobs arrived: a store that sends them long after it read them says so, for whoever shows progress.
    fn arrived(&self, _len: u64) {}
}

impl<F: Fn(Digest) -> io::Result<Box<dyn Read + Send>> + Sync> Blobs for F {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        self(digest).map(Bytes::Read)
    }
}

impl Blobs for HashMap<Digest, PathBuf> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        self.get(&digest).map(|path| Bytes::File(path.clone())).ok_or_else(|| absent(digest))
    }
}

impl Blobs for HashMap<Digest, Vec<u8>> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        self.get(&digest).map(|bytes| Bytes::Read(Box::new(io::Cursor::new(bytes.clone())))).ok_or_else(|| absent(digest))
    }
}

/// A source that has nothing: for repairs without another copy.
pub struct Nothing;

impl Blobs for Nothing {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        Err(absent(digest))
    }
}

/// Asks one source after the other.
pub struct Chain<'a>(pub Vec<&'a dyn Blobs>);

impl Blobs for Chain<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        let mut last = absent(digest);
        for source in &self.0 {
            match source.blob(digest) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn twin(&self, digest: Digest, executable: bool) -> Option<PathBuf> {
        self.0.iter().find_map(|source| source.twin(digest, executable))
    }
}

impl Bytes {
    /// Opens them as a stream. A file is opened without following a link under its name.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn reader(self) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::Read(reader) => Ok(reader),
            Self::File(path) | Self::Take(path) => Ok(Box::new(open_file(&path)?)),
        }
    }
}

/// Opens a regular file for reading, following no link under its name.
pub(crate) fn open_file(path: &std::path::Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).at("open", path)?);
    if file.metadata().at("look at", path)?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")).at("open", path)
    }
}

/// Passes bytes on and hashes them; at their end it fails unless they are the blob it was told.
///
/// What was read counts only after the end was reached without an error.
pub struct Checked<R> {
    inner: R,
    digest: Digest,
    left: u64,
    hasher: Hasher,
}

impl<R: Read> Checked<R> {
    /// Expects `len` bytes with this digest.
    pub fn new(inner: R, digest: Digest, len: u64) -> Self {
        Self { inner, digest, left: len, hasher: Hasher::new() }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if n as u64 > self.left || (n == 0 && self.left > 0) {
            return Err(damaged(self.digest));
        }
        self.left -= n as u64;
        self.hasher.update(&buffer[..n]);
        if n == 0 && self.hasher.finish() != self.digest {
            return Err(damaged(self.digest));
        }
        Ok(n)
    }
}

/// Reads a blob of a known length to memory and checks it.
pub(crate) fn read_checked(reader: impl Read, digest: Digest, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(len.min(1 << 26)).unwrap_or(0));
    Checked::new(reader, digest, len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How many bytes are hashed at once.
const HASHED_LEN: usize = 128 << 10;

/// Hashes a stream to its end; returns its digest and length.
pub(crate) fn hash(reader: impl Read) -> io::Result<(Digest, u64)> {
    thread_local! {
        /// Else each file costs the making and clearing of a buffer that is longer than most files.
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(vec![]) };
    }
    // A reader that hashes while it is read has a buffer of its own.
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => hash_file(reader, None, &mut buffer),
        Err(_) => hash_file(reader, None, &mut vec![]),
    })
}

/// Hashes many files with one buffer. A file that has the length it announced and gave less than was asked for is at its end, and is not asked again.
pub(crate) fn hash_file(mut reader: impl Read, announced: Option<u64>, buffer: &mut Vec<u8>) -> io::Result<(Digest, u64)> {
    buffer.resize(HASHED_LEN, 0);
    let mut hasher = Hasher::new();
    let mut len = 0;
    loop {
        match reader.read(buffer) {
            Ok(n) => {
                hasher.update(&buffer[..n]);
                len += n as u64;
                if n == 0 || (n < HASHED_LEN && announced == Some(len)) {
                    return Ok((hasher.finish(), len));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn absent(digest: Digest) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("blob {} is not there", digest.short()))
}

pub(crate) fn damaged(digest: Digest) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the bytes are not those of blob {}", digest.short()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_fewer_bytes_and_more_bytes_are_found() {
        let digest = Digest::of(b"abc");
        assert_eq!(read_checked(&b"abc"[..], digest, 3).expect("the blob"), b"abc");
        for bad in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert_eq!(read_checked(bad, digest, 3).expect_err("not the blob").kind(), io::ErrorKind::InvalidData);
        }
        assert!(read_checked(&b"abc"[..], digest, 4).is_err());
    }
}
