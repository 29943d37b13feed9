//! Deltas that were made once and may be wanted again: a cache in the strict sense, every file of it may vanish.
//!
//! A file holds the delta, then the BLAKE3 of the delta (32 bytes) and `dfdelta1`. One that is not whole is removed when it is asked for. Nothing here is synced.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write};
use std::path::PathBuf;

use df_core::{Digest, Hasher, ImageId};

use crate::blobs::open_file;
use crate::durable::Pending;
use crate::index::list;
use crate::place::At as _;

const END: &[u8; 8] = b"dfdelta1";
const TRAILER_LEN: u64 = Digest::LEN as u64 + END.len() as u64;

/// The derived deltas of a store.
#[derive(Debug, Clone)]
pub struct Deltas {
    directory: PathBuf,
}

/// Names a delta: its base (`None`: the whole image), its target and how hard it was squeezed (a word of the caller's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// The base.
    pub from: Option<ImageId>,
    /// The target.
    pub to: ImageId,
    /// The codec and level, a word of letters and digits.
    pub level: &'a str,
}

/// A delta that is there, checked, to be read once.
pub struct Delta {
    /// Bytes of the delta.
    pub len: u64,
    reader: io::Take<File>,
}

impl Read for Delta {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// A delta being kept; it is there only after [`Writer::finish`].
pub struct Writer {
    pending: Pending,
    path: PathBuf,
    hasher: Hasher,
}

impl Deltas {
    /// Keeps deltas in a directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Returns a delta, after all of it was read and checked.
    pub fn get(&self, key: Key<'_>) -> Option<Delta> {
        let path = self.path(key);
        let delta = open_file(&path).and_then(check);
        if delta.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            let _ = fs::remove_file(&path);
        }
        delta.ok()
    }

    /// Begins to keep a delta.
    ///
    /// # Errors
    /// Those of making a file; a caller that only wants the delta goes on without.
    pub fn create(&self, key: Key<'_>) -> io::Result<Writer> {
        Ok(Writer { pending: Pending::beside(&self.directory)?, path: self.path(key), hasher: Hasher::new() })
    }

    /// Keeps a delta that is in memory.
    ///
    /// # Errors
    /// Those of writing.
    pub fn put(&self, key: Key<'_>, delta: &[u8]) -> io::Result<()> {
        let mut writer = self.create(key)?;
        writer.write_all(delta)?;
        writer.finish()
    }

    /// Removes the deltas whose target is not wanted any more.
    pub(crate) fn retain(&self, wanted: impl Fn(ImageId) -> bool) -> io::Result<()> {
        for path in list(&self.directory)? {
            let to = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split('-').nth(1)).and_then(|n| n.parse().ok());
            if !to.is_some_and(&wanted) {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    fn path(&self, key: Key<'_>) -> PathBuf {
        let from = key.from.map_or_else(|| "0".to_owned(), |image| image.to_string());
        let level: String = key.level.chars().filter(char::is_ascii_alphanumeric).collect();
        self.directory.join(format!("{from}-{}-{level}", key.to))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.pending.file().write(bytes).at("write", &self.path)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writer {
    /// Gives the delta its name.
    ///
    /// # Errors
    /// Those of writing; then nothing is kept.
    pub fn finish(mut self) -> io::Result<()> {
        let digest = self.hasher.finish();
        self.pending.file().write_all(&[digest.as_bytes(), &END[..]].concat()).at("write", &self.path)?;
        self.pending.rename_unsynced(&self.path)
    }
}

fn check(mut file: File) -> io::Result<Delta> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let len = file.metadata()?.len().checked_sub(TRAILER_LEN).ok_or_else(bad)?;
    let mut hasher = Hasher::new();
    io::copy(&mut (&file).take(len), &mut hasher)?;
    let mut trailer = vec![];
    file.read_to_end(&mut trailer)?;
    if trailer != [hasher.finish().as_bytes(), &END[..]].concat() {
        return Err(bad());
    }
    file.rewind()?;
    Ok(Delta { len, reader: file.take(len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_until_a_byte_of_it_rots() {
        let dir = tempfile::tempdir().expect("a directory");
        let deltas = Deltas::new(dir.path().to_owned());
        let image = |text: &[u8]| ImageId(Digest::of(text));
        let key = Key { from: Some(image(b"a")), to: image(b"b"), level: "fast" };
        assert!(deltas.get(key).is_none());
        deltas.put(key, b"delta").expect("kept");
        let read = |key| {
            let mut bytes = vec![];
            deltas.get(key).map(|mut delta| delta.read_to_end(&mut bytes).expect("read"))?;
            Some(bytes)
        };
        assert_eq!(read(key).as_deref(), Some(&b"delta"[..]));
        assert!(deltas.get(Key { from: None, ..key }).is_none());
        let path = deltas.path(key);
        let good = fs::read(&path).expect("a file");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("written");
            assert!(deltas.get(key).is_none(), "byte {at}");
            assert!(!path.exists());
        }
        deltas.put(key, b"delta").expect("kept");
        deltas.retain(|image| image != key.to).expect("swept");
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
}
