//! The bytes of a delta: in memory while they are few, else in a file.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use df_core::{Digest, Hasher};
use tempfile::{SpooledData, SpooledTempFile};
use tokio::task::spawn_blocking;

use super::Images;
use crate::transfer::CopyError;

/// Bytes of a delta that is held in memory; a longer one lies in a file, of which a piece is read at a time.
pub const MEMORY_LEN: u64 = 64 << 20;

/// The bytes of a delta; clones share them.
#[derive(Debug, Clone)]
pub struct Delta {
    digest: Digest,
    len: u64,
    codec: Arc<str>,
    pub(super) bytes: Bytes,
}

#[derive(Debug, Clone)]
pub(super) enum Bytes {
    Memory(Arc<[u8]>),
    File(Arc<File>),
}

impl Delta {
    /// Takes a delta that is in memory, and the word for how most of it is packed.
    pub fn of(bytes: Vec<u8>, codec: &str) -> Self {
        Self { digest: Digest::of(&bytes), len: bytes.len() as u64, codec: codec.into(), bytes: Bytes::Memory(bytes.into()) }
    }

    /// Takes a delta that was checked: the first `len` bytes of a file that nobody changes any more. A short one is read into memory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_file(file: File, len: u64, digest: Digest, codec: &str) -> io::Result<Self> {
        let codec = codec.into();
        if len > MEMORY_LEN {
            return Ok(Self { digest, len, codec, bytes: Bytes::File(Arc::new(file)) });
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Self { digest, len, codec, bytes: Bytes::Memory(bytes.into()) })
    }

    /// Returns the word for how most of it is packed: `elf`, `copy`, `patch`, `rsync` or `whole`.
    pub fn codec(&self) -> &str {
        &self.codec
    }

    /// Returns the digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns how many bytes it has.
    #[allow(clippy::len_without_is_empty, reason = "no delta is empty: it has a head")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns a reader of its bytes from the first on.
    pub fn reader(&self) -> impl Read + '_ {
        Reader { delta: self, at: 0 }
    }

    /// Returns its bytes, where they lie in memory.
    pub fn memory(&self) -> Option<Arc<[u8]>> {
        if let Bytes::Memory(bytes) = &self.bytes { Some(bytes.clone()) } else { None }
    }

    /// Returns the file that begins with its bytes, where they lie in one.
    pub fn file(&self) -> Option<Arc<File>> {
        if let Bytes::File(file) = &self.bytes { Some(file.clone()) } else { None }
    }

    /// Appends the bytes from `at` on to a buffer, at most so many; none at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was.
    pub(crate) async fn read(&self, at: u64, most: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        let len = self.len.saturating_sub(at).min(most as u64) as usize;
        match &self.bytes {
            Bytes::Memory(bytes) => buffer.extend_from_slice(&bytes[at.min(self.len) as usize..][..len]),
            Bytes::File(file) => {
                let (file, mut taken) = (file.clone(), std::mem::take(buffer));
                let start = taken.len();
                taken.resize(start + len, 0);
                let read = spawn_blocking(move || file.read_exact_at(&mut taken[start..], at).map(|()| taken));
                *buffer = read.await.map_err(io::Error::other)??;
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    delta: &'a Delta,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.delta.len - self.at;
        let buffer_len = buffer.len();
        let buffer = &mut buffer[..left.min(buffer_len as u64) as usize];
        let len = match &self.delta.bytes {
            Bytes::Memory(bytes) => (&bytes[self.at as usize..]).read(buffer)?,
            Bytes::File(file) => file.read_at(buffer, self.at)?,
        };
        self.at += len as u64;
        Ok(len)
    }
}

/// A delta while it is made: in memory up to [`MEMORY_LEN`], in a file after that.
pub(super) struct Spool {
    data: SpooledTempFile,
    hasher: Hasher,
    len: u64,
}

impl Spool {
    pub(super) fn new(images: &dyn Images) -> Self {
        let data = tempfile::spooled_tempfile_in(MEMORY_LEN as usize, images.scratch());
        Self { data, hasher: Hasher::new(), len: 0 }
    }

    pub(super) fn finish(self, codec: &str) -> Result<Delta, CopyError> {
        let (digest, len) = (self.hasher.finish(), self.len);
        let bytes = match self.data.into_inner() {
            SpooledData::InMemory(bytes) => Bytes::Memory(bytes.into_inner().into()),
            SpooledData::OnDisk(mut file) => {
                file.rewind().map_err(CopyError::Here)?;
                Bytes::File(Arc::new(file))
            }
        };
        Ok(Delta { digest, len, codec: codec.into(), bytes })
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.data.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use df_core::{ImageId, Manifest};

    #[tokio::test]
    async fn a_delta_reads_the_same_from_memory_and_from_a_file() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let memory = Delta::of(bytes.clone(), "whole");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).expect("written");
        let file =
            Delta { digest: memory.digest(), len: memory.len(), codec: "whole".into(), bytes: Bytes::File(Arc::new(file)) };
        for delta in [&memory, &file] {
            let mut read = vec![];
            while (read.len() as u64) < delta.len() {
                delta.read(read.len() as u64, 7777, &mut read).await.expect("read");
            }
            assert!(read == bytes);
            let mut end = b"before".to_vec();
            delta.read(99_999, 10, &mut end).await.expect("read");
            delta.read(100_000, 10, &mut end).await.expect("nothing is left");
            assert_eq!(end, [b"before", &bytes[99_999..]].concat());
            let mut all = vec![];
            delta.reader().read_to_end(&mut all).expect("read");
            assert!(all == bytes);
        }
    }

    #[test]
    fn a_long_delta_is_made_into_a_file_and_a_short_one_stays_in_memory() {
        struct Nothing;
        impl Images for Nothing {
            fn holds(&self, _: ImageId) -> bool {
                false
            }
            fn manifest(&self, _: ImageId) -> io::Result<Manifest> {
                Err(io::ErrorKind::NotFound.into())
            }
            fn read(&self, _: Digest, _: u64, _: usize) -> io::Result<Vec<u8>> {
                Err(io::ErrorKind::NotFound.into())
            }
        }
        let made = |n_mib: usize| {
            let mut spool = Spool::new(&Nothing);
            (0..n_mib).for_each(|n| spool.write_all(&vec![n as u8; 1 << 20]).expect("written"));
            spool.finish("whole").expect("finished")
        };
        let (short, long) = (made(1), made(65));
        assert!(matches!(short.bytes, Bytes::Memory(_)) && short.digest() == Digest::of(&vec![0; 1 << 20]));
        assert!(matches!(long.bytes, Bytes::File(_)) && long.len() == 65 << 20);
        let mut hasher = Hasher::new();
        io::copy(&mut long.reader(), &mut hasher).expect("read");
        assert_eq!(hasher.finish(), long.digest());
    }
}
