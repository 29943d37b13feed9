//! The store over a bucket in memory: the contract, requests by number, and every kill point.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use df_core::{Digest, ImageId, Timestamp};
use tempfile::TempDir;

use super::format::head::KEPT_LEN;
use super::memory::MemoryObjects;
use super::{Holder, Lease, Options, S3Store};

/// A moment.
const NOW: Timestamp = Timestamp(1_000);

/// What writers keep in the head: nothing, so that each table is an object of its own, or what is small, so that there may be no such object.
const BOTH: [usize; 2] = [0, KEPT_LEN];

/// Options whose numbers follow from `seed`; nothing waits.
fn options(seed: u8) -> Options {
    let grace = Duration::ZERO;
    let pause = Arc::new(|_| {});
    Options { who: "a test".into(), now: NOW, grace, single_writer: false, uploads: 1, kept_len: 0, seed: [seed; 32], pause }
}

/// What a node has.
fn lease(name: &str, images: &[ImageId]) -> [Lease; 1] {
    [Lease { holder: Holder { identity: Digest::of(name.as_bytes()), name: name.to_owned() }, images: images.to_vec() }]
}

/// A bucket, and writers that each have a directory of their own.
struct Bench {
    bucket: Arc<MemoryObjects>,
    directory: TempDir,
    next: AtomicU8,
    grace: Duration,
    /// What the writers keep in the head: nothing, unless a test says so, so that every table is an object that can be lost.
    kept_len: usize,
}

impl Bench {
    fn new() -> Self {
        Self::keeping(0)
    }

    /// One whose writers keep tables of up to so many bytes in the head.
    fn keeping(kept_len: usize) -> Self {
        Self {
            bucket: Arc::new(MemoryObjects::new()),
            directory: tempfile::tempdir().expect("a directory"),
            next: AtomicU8::new(0),
            grace: Duration::ZERO,
            kept_len,
        }
    }

    /// Options of somebody who writes here, with a directory of the test's own.
    fn options(&self, seed: u8) -> Options {
        Options { grace: self.grace, kept_len: self.kept_len, ..options(seed) }
    }

    /// Opens the cache as somebody who was never here.
    fn store(&self) -> S3Store {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        S3Store::open(self.bucket.clone(), &self.directory.path().join(n.to_string()), self.options(n))
    }
}

#[test]
fn keeps_the_contract() {
    for kept_len in BOTH {
        let benches = std::cell::RefCell::new(vec![]);
        crate::contract::run(|| {
            let bench = Bench::keeping(kept_len);
            let store = bench.store();
            benches.borrow_mut().push(bench);
            store
        });
    }
}

mod conditions;
mod counting;
mod derived;
mod flips;
mod healing;
mod hostile;
mod keeping;
mod killed;
mod leased;
mod losing;
mod mending;
mod overtaken;
mod remains;
mod room;
mod sweeping;
mod versions;
