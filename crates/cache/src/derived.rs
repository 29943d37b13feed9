//! Deltas that were made once and may be wanted again: a cache in the strict sense, every file of it may vanish.
//!
//! A file holds the delta, then the BLAKE3 of the delta (32 bytes), a note of whoever made it (8 bytes, the last of them zero where it is shorter), and the first
//! 8 bytes of the BLAKE3 of `dfdelta3`, that digest and the note. One that is not whole, or of an older format, is removed when it is asked for. Nothing here is
//! synced.
//!
//! Who makes one may say so by a locked file `KEY.making` beside it, so that others on the machine wait instead of making it twice; a killed maker's lock is gone
//! with it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek as _, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use df_core::{Digest, Hasher, ImageId};

use crate::blobs::open_file;
use crate::durable::Pending;
use crate::index::list;
use crate::place::At as _;

const FORMAT: &[u8; 8] = b"dfdelta3";
const NOTE_LEN: usize = 8;
const CHECK_LEN: usize = 8;
const TRAILER_LEN: u64 = (Digest::LEN + NOTE_LEN + CHECK_LEN) as u64;
/// How often it is looked whether a delta that somebody else makes is there.
const PAUSE: Duration = Duration::from_millis(10);

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
    /// Its digest.
    pub digest: Digest,
    /// What whoever made it noted about it.
    pub note: String,
    reader: io::Take<File>,
}

impl Delta {
    /// Returns the file; the delta is its first bytes.
    pub fn into_file(self) -> File {
        self.reader.into_inner()
    }
}

impl Read for Delta {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Says to others of this machine that a delta is being made, until it is dropped.
#[derive(Debug)]
pub struct Making {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Drop for Making {
    fn drop(&mut self) {
        // Before the lock goes: who waits finds either the lock or no file.
        let _ = fs::remove_file(&self.path);
    }
}

/// A delta being kept; it is there only after [`Writer::finish`].
pub struct Writer {
    pending: Pending,
    path: PathBuf,
    note: [u8; NOTE_LEN],
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

    /// Removes a delta that turned out to be of no use.
    pub fn remove(&self, key: Key<'_>) {
        let _ = fs::remove_file(self.path(key));
    }

    /// Returns the length of a delta that seems to be there, and its digest, without reading all of it.
    pub fn glance(&self, key: Key<'_>) -> Option<(u64, Digest)> {
        let mut file = open_file(&self.path(key)).ok()?;
        let len = file.metadata().ok()?.len().checked_sub(TRAILER_LEN)?;
        let mut digest = [0; Digest::LEN];
        file.seek(io::SeekFrom::Start(len)).ok()?;
        file.read_exact(&mut digest).ok()?;
        Some((len, Digest::from_bytes(digest)))
    }

    /// Says that a delta is being made; `None` when somebody else is making it, or nothing can be written here.
    pub fn making(&self, key: Key<'_>) -> Option<Making> {
        let path = self.mark(key);
        let file = File::create(&path).ok()?;
        file.try_lock().ok()?;
        Some(Making { path, _file: file })
    }

    /// Waits while somebody else of this machine makes a delta, but no longer than so long. Returns whether it is there then.
    pub fn await_made(&self, key: Key<'_>, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.is_being_made(key) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        self.glance(key).is_some()
    }

    fn is_being_made(&self, key: Key<'_>) -> bool {
        File::open(self.mark(key)).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    fn mark(&self, key: Key<'_>) -> PathBuf {
        self.path(key).with_extension("making")
    }

    /// Begins to keep a delta, with a note of at most 8 letters.
    ///
    /// # Errors
    /// Those of making a file; a caller that only wants the delta goes on without.
    pub fn create(&self, key: Key<'_>, note: &str) -> io::Result<Writer> {
        let letters = note.bytes().filter(u8::is_ascii_alphanumeric).chain(std::iter::repeat(0));
        let mut note = [0; NOTE_LEN];
        note.iter_mut().zip(letters).for_each(|(to, letter)| *to = letter);
        Ok(Writer { pending: Pending::beside(&self.directory)?, path: self.path(key), note, hasher: Hasher::new() })
    }

    /// Keeps a delta that is in memory, with a note of at most 8 letters.
    ///
    /// # Errors
    /// Those of writing.
    pub fn put(&self, key: Key<'_>, note: &str, delta: &[u8]) -> io::Result<()> {
        let mut writer = self.create(key, note)?;
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
        let trailer = trailer(self.hasher.finish(), self.note);
        self.pending.file().write_all(&trailer).at("write", &self.path)?;
        self.pending.rename_unsynced(&self.path)
    }
}

fn trailer(digest: Digest, note: [u8; NOTE_LEN]) -> Vec<u8> {
    let checked = [&FORMAT[..], digest.as_bytes(), &note].concat();
    [digest.as_bytes(), &note[..], &Digest::of(&checked).as_bytes()[..CHECK_LEN]].concat()
}

fn check(mut file: File) -> io::Result<Delta> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let len = file.metadata()?.len().checked_sub(TRAILER_LEN).ok_or_else(bad)?;
    let mut hasher = Hasher::new();
    io::copy(&mut (&file).take(len), &mut hasher)?;
    let digest = hasher.finish();
    let mut end = vec![];
    file.read_to_end(&mut end)?;
    let note: [u8; NOTE_LEN] =
        end.get(Digest::LEN..Digest::LEN + NOTE_LEN).and_then(|note| note.try_into().ok()).ok_or_else(bad)?;
    if end != trailer(digest, note) {
        return Err(bad());
    }
    file.rewind()?;
    let note = note.iter().take_while(|letter| **letter != 0).map(|letter| char::from(*letter)).collect();
    Ok(Delta { len, digest, note, reader: file.take(len) })
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
        deltas.put(key, "elf", b"delta").expect("kept");
        let read = |key| {
            let mut bytes = vec![];
            let mut delta = deltas.get(key)?;
            delta.read_to_end(&mut bytes).expect("read");
            assert_eq!((&delta.note[..], delta.digest), ("elf", Digest::of(&bytes)));
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
        deltas.put(key, "elf", b"delta").expect("kept");
        deltas.retain(|image| image != key.to).expect("swept");
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
    #[test]
    fn who_waits_for_a_delta_gets_it_when_it_is_made_and_waits_for_nobody_who_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let deltas = Deltas::new(dir.path().to_owned());
        let key = Key { from: None, to: ImageId(Digest::of(b"b")), level: "fast" };
        let hour = Duration::from_secs(3600);
        assert!(!deltas.await_made(key, hour), "nobody makes it");
        let making = deltas.making(key).expect("nobody else makes it");
        assert!(deltas.making(key).is_none());
        assert!(!deltas.await_made(key, Duration::ZERO), "it is not there yet");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| deltas.await_made(key, hour));
            deltas.put(key, "elf", b"delta").expect("kept");
            drop(making);
            assert!(waiting.join().expect("no panic"));
        });
        assert_eq!(deltas.glance(key), Some((5, Digest::of(b"delta"))));
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1, "no mark is left");
        // A maker that was killed leaves its file, and no lock.
        fs::write(deltas.mark(key), b"").expect("written");
        assert!(deltas.await_made(key, hour) && deltas.making(key).is_some());
    }
}
