//! A server that takes conditions for decoration, and a cache whose head is gone.

use std::sync::Arc;
use std::time::Duration;

use super::super::memory::{Action, MemoryObjects};
use super::super::objects::{Body, Condition, Etag, Key, Listed, Object, ObjectError, Objects, Requests};
use super::super::{BucketError, Options, S3Store};
use super::{BOTH, Bench, NOW, lease, options};
use crate::contract::{self, assert_whole, image, release};
use crate::store::{PutError, Store};

/// A bucket that writes whatever the condition is.
struct Unconditional(MemoryObjects);

impl Objects for Unconditional {
    fn get(&self, key: &Key, limit: u64) -> Result<Object, ObjectError> {
        self.0.get(key, limit)
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> Result<Vec<u8>, ObjectError> {
        self.0.get_range(key, offset, len)
    }

    fn put(&self, key: &Key, body: &Body, _condition: &Condition) -> Result<Etag, ObjectError> {
        self.0.put(key, body, &Condition::Always)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), ObjectError> {
        self.0.delete(keys)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, ObjectError> {
        self.0.list(prefix)
    }

    fn url(&self, key: &Key, lifetime: Duration) -> Result<String, ObjectError> {
        self.0.url(key, lifetime)
    }

    fn requests(&self) -> Requests {
        self.0.requests()
    }
}

/// Returns what a store says about its bucket.
pub(super) fn reason(error: &PutError) -> Option<&BucketError> {
    match error {
        PutError::Store(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

#[test]
fn a_server_without_conditions_is_refused_before_anything_is_sent_but_for_one_writer() {
    let directory = tempfile::tempdir().expect("a directory");
    let bucket = Arc::new(Unconditional(MemoryObjects::new()));
    let (manifest, blobs) = image(&[b"one"]);
    let refused =
        S3Store::open(bucket.clone(), directory.path(), options(1)).put_image(&manifest, &blobs, NOW).expect_err("refused");
    assert!(matches!(reason(&refused), Some(BucketError::Unconditional)));
    assert!(bucket.0.keys().iter().all(|key| key.starts_with("probe/")), "{:?}", bucket.0.keys());
    contract::run(|| {
        let bucket = Arc::new(Unconditional(MemoryObjects::new()));
        S3Store::open(bucket, directory.path(), Options { single_writer: true, ..options(2) })
    });
}

#[test]
fn the_only_writer_looks_before_it_swaps() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        let open = |seed| {
            S3Store::open(
                bench.bucket.clone(),
                &bench.directory.path().join("w"),
                Options { single_writer: true, ..bench.options(seed) },
            )
        };
        let (store, other) = (open(1), open(2));
        let (manifest, blobs) = image(&[b"one"]);
        store.put_image(&manifest, &blobs, NOW).expect("put");
        let (second, more) = image(&[b"two"]);
        let once = std::sync::atomic::AtomicBool::new(true);
        bench.bucket.decide(move |call| {
            if call.key.starts_with("log/") && once.swap(false, std::sync::atomic::Ordering::Relaxed) {
                let (third, blobs) = image(&[b"three"]);
                other.put_image(&third, &blobs, NOW).expect("put");
            }
            super::super::memory::Fate::Done
        });
        store.put_image(&second, &more, NOW).expect("put");
        assert_eq!(store.contents().expect("read").images.len(), 3);
    }
}

#[test]
fn a_cache_whose_head_is_gone_is_not_taken_for_one_that_was_not_made_yet() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        let (manifest, blobs) = image(&[b"one"]);
        bench.store().put_image(&manifest, &blobs, NOW).expect("put");
        bench.bucket.set("head", None);
        let refused = bench.store().put_image(&manifest, &blobs, NOW).expect_err("refused");
        assert!(matches!(reason(&refused), Some(BucketError::HeadLost)));
    }
}

#[test]
fn what_needs_no_cache_makes_none() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        let store = bench.store();
        let (manifest, _) = image(&[b"one"]);
        assert!(matches!(store.put_release(&release("greeter", 1, manifest.image()), NOW), Err(PutError::NoImage { .. })));
        assert!(matches!(store.pin(manifest.image(), "for a test"), Err(PutError::NoImage { .. })));
        assert!(!store.unpin(manifest.image()).expect("no pin"));
        assert_eq!((store.verify().expect("read"), store.contents().expect("read")), (vec![], Default::default()));
        store.flush().expect("nothing");
        assert!(bench.bucket.calls().iter().all(|call| call.action == Action::Get) && bench.bucket.is_empty());
    }
}

#[test]
fn a_lease_keeps_an_image_until_the_holder_says_otherwise() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        let store = bench.store();
        let rows: Vec<_> = (0..2_u8).map(|n| image(&[&[n; 10]])).collect();
        for (manifest, blobs) in &rows {
            store.put_image(manifest, blobs, NOW).expect("put");
        }
        let images: Vec<_> = rows.iter().map(|(manifest, _)| manifest.image()).collect();
        let collect = |store: &S3Store| {
            let plan = crate::gc::plan(&store.contents().expect("read"), &crate::gc::NOTHING);
            store.collect(&plan).expect("collected").n_images
        };
        store.lease(&lease("node-a", &images[..1])).expect("leased");
        store.lease(&lease("node-b", &images)).expect("leased");
        assert_eq!(collect(&bench.store()), 0);
        store.lease(&lease("node-b", &[])).expect("ended");
        assert_eq!(collect(&bench.store()), 1);
        assert_whole(&bench.store(), &rows[0].0, &rows[0].1);
        let written = bench.bucket.calls().len();
        store.lease(&lease("node-a", &images)).expect("what is not here is nobody's to keep");
        let calls = bench.bucket.calls();
        assert!(calls[written..].iter().all(|call| call.action == Action::Get), "nothing changed: {calls:?}");
    }
}
