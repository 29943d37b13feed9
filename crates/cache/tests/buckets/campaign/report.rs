//! What happened, counted.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use df_testkit::s3::Counts;

use super::{COLLECTORS, WRITERS};

/// What happened.
#[derive(Default)]
pub struct Report {
    kills: AtomicU64,
    stops: AtomicU64,
    refused: AtomicU64,
    collections: AtomicU64,
    images: AtomicU64,
    objects: AtomicU64,
    repacks: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Report {
    pub fn died(&self) {
        add(&self.kills, 1);
    }

    pub fn stopped(&self) {
        add(&self.stops, 1);
    }

    pub fn failed(&self, what: &str, why: &str) {
        self.failures.lock().expect("not poisoned").push(format!("{what}: {why}"));
    }

    /// Counts what a member says of what it did.
    pub fn done(&self, is_put: bool, numbers: &[u64]) {
        // Packs were sent under a second session: the fence had risen above the first.
        if is_put && numbers[0] > 1 {
            add(&self.refused, 1);
        }
    }

    pub fn collected(&self, numbers: &[u64]) {
        add(&self.collections, 1);
        add(&self.images, numbers[0]);
        add(&self.objects, numbers[1]);
        add(&self.repacks, u64::from(numbers[2] > 0));
    }

    /// Returns whether everything happened that a campaign is about.
    pub fn has_tried_all(&self) -> bool {
        [&self.kills, &self.stops, &self.refused, &self.collections, &self.images, &self.repacks].into_iter().all(|n| get(n) > 0)
    }

    pub fn text(&self, commits: u64, counts: Counts, took: Duration, read: u64) -> String {
        let failures = self.failures.lock().expect("not poisoned");
        let first = failures.first().map(|first| format!(" (the first: {first})")).unwrap_or_default();
        format!(
            "{commits} commits by {WRITERS} writers, each a process, and {COLLECTORS} that collect, in {:.1} min.\n\
             {} kills, {} stops; {} puts began anew because the fence had risen; {} failed{first}.\n\
             {} collections took {} images and {} objects away, {} of them wrote packs again.\n\
             {} GET, {} PUT, {} LIST, {} DELETE.\n\
             At the end {read} blobs were read and compared: none lost, no root dangles, no pack is left over.\n",
            took.as_secs_f64() / 60.0,
            get(&self.kills),
            get(&self.stops),
            get(&self.refused),
            failures.len(),
            get(&self.collections),
            get(&self.images),
            get(&self.objects),
            get(&self.repacks),
            counts.get,
            counts.put,
            counts.list,
            counts.delete,
        )
    }
}

fn add(to: &AtomicU64, n: u64) {
    to.fetch_add(n, Ordering::Relaxed);
}

fn get(n: &AtomicU64) -> u64 {
    n.load(Ordering::Relaxed)
}
