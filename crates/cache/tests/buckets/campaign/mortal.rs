//! A bucket seen by somebody who dies, or is stopped for a while, at one of their requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use df_cache::s3::aws::AwsObjects;
use df_cache::s3::objects::{Body, Condition, Etag, Key, Listed, Object, ObjectError, Objects, Requests};
use df_core::Timestamp;

use super::Progress;

/// What happens to somebody.
#[derive(Clone, Copy)]
pub enum End {
    /// Nothing.
    None,
    /// Dies at a request, before it or after it was done.
    Dies { at: u64, done: bool },
    /// Stands still before a request until there are so many more commits.
    Stalls { at: u64, more: u64 },
}

/// The bucket.
pub struct Mortal {
    objects: Arc<AwsObjects>,
    end: End,
    progress: Arc<Progress>,
    calls: AtomicU64,
}

impl Mortal {
    pub fn new(objects: Arc<AwsObjects>, end: End, progress: Arc<Progress>) -> Self {
        Self { objects, end, progress, calls: AtomicU64::new(0) }
    }

    fn ask<T>(&self, act: impl FnOnce(&AwsObjects) -> Result<T, ObjectError>) -> Result<T, ObjectError> {
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        let dead = || ObjectError::Unreachable { key: Key::new("any").expect("a word"), why: "whoever asked is dead".into() };
        match self.end {
            End::Dies { at, done } if n == at && done => act(&self.objects).and_then(|_| Err(dead())),
            End::Dies { at, .. } if n >= at => Err(dead()),
            End::Stalls { at, more } if n == at => {
                self.progress.wait(more);
                act(&self.objects)
            }
            _ => act(&self.objects),
        }
    }
}

impl Objects for Mortal {
    fn get(&self, key: &Key, limit: u64) -> Result<Object, ObjectError> {
        self.ask(|objects| objects.get(key, limit))
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> Result<Vec<u8>, ObjectError> {
        self.ask(|objects| objects.get_range(key, offset, len))
    }

    fn put(&self, key: &Key, body: &Body, condition: &Condition) -> Result<Etag, ObjectError> {
        self.ask(|objects| objects.put(key, body, condition))
    }

    fn delete(&self, keys: &[Key]) -> Result<(), ObjectError> {
        self.ask(|objects| objects.delete(keys))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, ObjectError> {
        self.ask(|objects| objects.list(prefix))
    }

    fn abandon(&self, before: Timestamp) -> Result<u64, ObjectError> {
        self.ask(|objects| objects.abandon(before))
    }

    fn url(&self, key: &Key, lifetime: Duration) -> Result<String, ObjectError> {
        self.objects.url(key, lifetime)
    }

    fn requests(&self) -> Requests {
        self.objects.requests()
    }
}
