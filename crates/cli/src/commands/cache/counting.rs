//! Blobs on their way, counted, so that a bar shows how many bytes of how many were handed out, or arrived.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use df_cache::blobs::{Blobs, Bytes};
use df_core::Digest;

use crate::progress::{Bar, Progress};

/// A source that tells a bar what it hands out.
pub struct Counting<'a> {
    inner: &'a dyn Blobs,
    bar: Arc<Bar>,
    counts: Counts,
    stop: &'a AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    HandedOut,
    Arrived,
}

impl<'a> Counting<'a> {
    /// Shows a bar for so many bytes until this is dropped; once `stop` is set nothing more is handed out.
    pub fn new(inner: &'a dyn Blobs, progress: &Progress, label: &str, total: u64, stop: &'a AtomicBool) -> Self {
        let bar = progress.spinner(label);
        if total > 0 {
            bar.set_total(total);
        }
        Self { inner, bar: Arc::new(bar), counts: Counts::HandedOut, stop }
    }

    /// Counts what the store that takes them says to have arrived: one that is far away reads faster than it sends.
    #[must_use]
    pub fn counting_arrivals(self) -> Self {
        Self { counts: Counts::Arrived, ..self }
    }

    fn count(&self, file: &Path) {
        self.advance(Counts::HandedOut, file.metadata().map_or(0, |metadata| metadata.len()));
    }

    fn advance(&self, what: Counts, len: u64) {
        if self.counts == what {
            self.bar.advance(len);
        }
    }
}

impl Blobs for Counting<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        if self.stop.load(Ordering::SeqCst) {
            return Err(io::Error::other("interrupted"));
        }
        let bytes = self.inner.blob(digest)?;
        match &bytes {
            Bytes::Read(_) => {}
            // Shared, moved or read by whoever takes it: handed out is done.
            Bytes::File(path) | Bytes::Take(path) => self.count(path),
        }
        Ok(match bytes {
            Bytes::Read(inner) if self.counts == Counts::HandedOut => {
                Bytes::Read(Box::new(Counted { inner, bar: self.bar.clone() }))
            }
            other => other,
        })
    }

    fn twin(&self, digest: Digest, executable: bool) -> Option<PathBuf> {
        self.inner.twin(digest, executable).inspect(|path| self.count(path))
    }

    fn twins_are_durable(&self) -> bool {
        self.inner.twins_are_durable()
    }

    fn arrived(&self, len: u64) {
        self.advance(Counts::Arrived, len);
    }
}

struct Counted {
    inner: Box<dyn Read + Send>,
    bar: Arc<Bar>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bar.advance(n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Mode;
    use std::collections::HashMap;

    #[test]
    fn the_bytes_are_those_of_the_source_until_it_is_stopped() {
        let digest = Digest::of(b"abc");
        let source: HashMap<Digest, Vec<u8>> = [(digest, b"abc".to_vec())].into();
        let stop = AtomicBool::new(false);
        let counting = Counting::new(&source, &Progress::new(Mode::Silent), "x", 3, &stop);
        let mut found = vec![];
        let bytes = counting.blob(digest).expect("there");
        bytes.reader().expect("opened").read_to_end(&mut found).expect("read");
        assert_eq!(found, b"abc");
        assert!(counting.blob(Digest::of(b"")).is_err());
        stop.store(true, Ordering::SeqCst);
        assert!(counting.blob(digest).is_err(), "nothing after Ctrl-C");
    }
}
