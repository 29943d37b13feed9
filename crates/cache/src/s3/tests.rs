//! The store over a bucket in memory: the contract, requests by number, and every kill point.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use df_core::Timestamp;
use tempfile::TempDir;

use super::format::head::KEPT_LEN;
use super::memory::MemoryObjects;
use super::{Options, S3Store};

/// A moment.
const NOW: Timestamp = Timestamp(1_000);

/// Options whose numbers follow from `seed`; nothing waits.
fn options(seed: u8) -> Options {
    let grace = Duration::ZERO;
    let pause = Arc::new(|_| {});
    Options { who: "a test".into(), now: NOW, grace, single_writer: false, uploads: 1, kept_len: 0, seed: [seed; 32], pause }
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
        Self {
            bucket: Arc::new(MemoryObjects::new()),
            directory: tempfile::tempdir().expect("a directory"),
            next: AtomicU8::new(0),
            grace: Duration::ZERO,
            kept_len: 0,
        }
    }

    /// Opens the cache as somebody who was never here.
    fn store(&self) -> S3Store {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let options = Options { grace: self.grace, kept_len: self.kept_len, ..options(n) };
        S3Store::open(self.bucket.clone(), &self.directory.path().join(n.to_string()), options)
    }
}

#[test]
fn keeps_the_contract() {
    for kept_len in [0, KEPT_LEN] {
        let benches = std::cell::RefCell::new(vec![]);
        crate::contract::run(|| {
            let bench = Bench { kept_len, ..Bench::new() };
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
mod hostile;
mod keeping;
mod killed;
mod losing;
mod mending;
mod overtaken;
mod remains;
mod sweeping;
mod versions;
