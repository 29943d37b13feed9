//! A cache in a bucket: one object that changes, by compare-and-swap; everything else is written once.
//!
//! Blobs lie in packs, packs are listed by index segments, images and releases by a root table; the head names these. A commit writes what is new under names that nobody used
//! before, then a log record, and then swaps the head, after it looked that all it refers to is live in the head it replaces or its own and above the fence. Whoever is
//! killed leaves objects that no head names. Only a collection deletes, in two steps; no clock makes it safe, clocks only pace it.
//!
//! Requests: a put costs one for each 56 MiB of new blobs as they are stored, and three: head, record, head; one more for a root table that is too long for the head, and one for a segment.
//! A put of what is there costs one; the first of all nine more. Nothing lists but a collection, and a repair of what holds the cache together.

pub mod objects;

pub mod aws;
pub mod derived;
pub mod memory;
pub mod probe;

mod format;

mod commit;
mod identity;
mod index;
mod local;
mod merge;
mod prefix;
mod swap;

mod fetch;
mod get;
mod journal;
mod lease;
mod put;
mod sending;
mod upload;

mod gc;
mod rebuild;
mod recent;
mod repair;
mod verify;

mod costs;
mod failure;
#[cfg(test)]
mod model;
mod schedule;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use df_core::{AppName, Digest, ImageId, Manifest, Release, ReleaseId, Timestamp};

use crate::blobs::{Blobs, Bytes};
use crate::document::Document;
use crate::scrub::{Damage, Repaired};
use crate::store::{Added, Contents, PutError, ReadError, Stats, Store};
pub use failure::BucketError;
pub use fetch::Fetch;
pub use format::FormatError;
pub use lease::{Holder, Lease, word};
use local::Local;
use objects::Objects;
pub use put::Item;
use recent::Recent;
use swap::View;
pub use verify::{Depth, Slice};

/// How a cache in a bucket is used.
#[derive(Clone)]
pub struct Options {
    /// Who commits, for the log.
    pub who: String,
    /// The moment of the work: it only paces deletion.
    pub now: Timestamp,
    /// How long what is condemned stays, for slow readers and second thoughts.
    pub grace: Duration,
    /// Nobody else writes: then the server need not know conditions.
    pub single_writer: bool,
    /// How many packs are on their way at once at most, each of up to 64 MiB: fewer as long as the bucket says that this is too much.
    pub uploads: usize,
    /// Root tables and segments of up to so many bytes lie in the head, as long as it has room (12 KiB each, 24 KiB in all): a request less for whoever writes one, and one for whoever
    /// reads it.
    pub kept_len: usize,
    /// What names and transactions are drawn from; never the same twice.
    pub seed: [u8; 32],
    /// Waits before a swap is tried again.
    pub pause: Arc<dyn Fn(Duration) + Send + Sync>,
}

impl Options {
    /// Draws a seed; seven days of grace, three uploads.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(who: &str, now: Timestamp) -> io::Result<Self> {
        let mut seed = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut seed)?;
        let grace = Duration::from_secs(7 * 24 * 60 * 60);
        Ok(Self {
            who: who.to_owned(),
            now,
            grace,
            single_writer: false,
            uploads: 3,
            kept_len: format::head::KEPT_LEN,
            seed,
            pause: Arc::new(std::thread::sleep),
        })
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("who", &self.who)
            .field("now", &self.now)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// A store in a bucket.
#[derive(Clone)]
pub struct S3Store(Arc<Shared>);

/// What the threads of a store share.
pub struct Shared {
    objects: Arc<dyn Objects>,
    local: Local,
    options: Options,
    /// How many random numbers were drawn.
    draws: AtomicU64,
    known: Mutex<Option<Arc<View>>>,
    /// `known` was read after the last commit began.
    is_fresh: AtomicBool,
    last_blob: Mutex<Option<(Digest, Arc<Vec<u8>>)>>,
    prefixes: Recent,
}

impl Deref for S3Store {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl S3Store {
    /// Opens the cache in a bucket; sends no request. `local` remembers what never changes there: it may be emptied at any time, and shared by all caches and processes.
    pub fn open(objects: Arc<dyn Objects>, local: &Path, options: Options) -> Self {
        let (known, last_blob) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared {
            objects,
            local: Local::new(local),
            options,
            draws: AtomicU64::new(0),
            known,
            is_fresh: AtomicBool::new(false),
            last_blob,
            prefixes: Recent::default(),
        }))
    }

    /// Returns the bucket.
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }
}

impl Blobs for S3Store {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        self.hand_out(digest)
    }

    fn release(&self, id: ReleaseId) -> io::Result<Option<Release>> {
        let view = self.view()?;
        Ok(view.and_then(|view| view.roots.release(id).map(|row| row.stored.release.clone())))
    }

    fn document(&self, app: &AppName, release: ReleaseId, document: Document) -> io::Result<Option<Vec<u8>>> {
        match self.find_document(app, release, document) {
            Err(ReadError::Damaged { .. }) => Ok(None),
            result => Ok(result?),
        }
    }
}

impl Store for S3Store {
    fn put_image(&self, manifest: &Manifest, blobs: &dyn Blobs, now: Timestamp) -> Result<Added, PutError> {
        self.put_items(&[Item { manifest, release: None, documents: &[] }], blobs, now)
    }

    fn put_release(&self, release: &Release, now: Timestamp) -> Result<(), PutError> {
        self.add_release(release, now)
    }

    fn put(&self, release: &Release, manifest: &Manifest, blobs: &dyn Blobs, now: Timestamp) -> Result<Added, PutError> {
        self.put_items(&[Item { manifest, release: Some(release), documents: &[] }], blobs, now)
    }

    fn lacking(&self, manifest: &Manifest) -> Result<Vec<(Digest, u64)>, ReadError> {
        let mut blobs = manifest.blobs();
        // By the view that is at hand: a commit looks again, at the head that it swaps.
        if let Some(view) = self.last_view()? {
            let index = self.with_newer(view, |view| self.index(view))?;
            blobs.retain(|&(digest, len)| !index.holds(digest, len));
        }
        Ok(blobs)
    }

    fn reading<'a>(&'a self, blobs: &[(Digest, u64)]) -> Result<Box<dyn Blobs + 'a>, ReadError> {
        Ok(Box::new(self.fetch(blobs)?))
    }

    fn contents(&self) -> Result<Contents, ReadError> {
        Ok(self.view()?.map(|view| view.roots.contents()).unwrap_or_default())
    }

    fn manifest(&self, image: ImageId) -> Result<Manifest, ReadError> {
        self.read_manifest(image)
    }

    fn has(&self, image: ImageId) -> Result<bool, ReadError> {
        Ok(self.view()?.is_some_and(|view| view.roots.images.get(&image).is_some_and(|row| row.whole)))
    }

    fn read(&self, digest: Digest, len: u64) -> Result<Vec<u8>, ReadError> {
        self.read_whole(digest, len)
    }

    fn read_blob(&self, digest: Digest, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        self.read_part(digest, offset, len)
    }

    fn attach(&self, app: &AppName, release: ReleaseId, document: Document, bytes: &[u8]) -> Result<bool, PutError> {
        self.add_document(app, release, document, bytes)
    }

    fn attached(&self, app: &AppName, release: ReleaseId, document: Document) -> Result<Option<Vec<u8>>, ReadError> {
        self.find_document(app, release, document)
    }

    fn pin(&self, image: ImageId, why: &str) -> Result<(), PutError> {
        self.add_pin(image, why)
    }

    fn unpin(&self, image: ImageId) -> Result<bool, PutError> {
        self.remove_pin(image)
    }

    fn collect(&self, plan: &crate::gc::Plan) -> Result<crate::gc::Collected, PutError> {
        self.sweep(plan)
    }

    fn verify(&self) -> Result<Vec<Damage>, ReadError> {
        self.scrub()
    }

    fn repair(&self, source: &dyn Blobs) -> Result<Repaired, PutError> {
        self.heal(source)
    }

    fn flush(&self) -> Result<(), PutError> {
        self.empty()
    }

    fn stats(&self) -> Result<Stats, ReadError> {
        let Some((view, index)) = self.with_view(|view| Ok::<_, BucketError>((view.clone(), self.index(view)?)))? else {
            return Ok(Stats::default());
        };
        let mut seen = HashSet::new();
        let blobs: Vec<u64> = index
            .places()
            .filter(|place| !view.roots.images.contains_key(&ImageId(place.slot.digest)) && seen.insert(place.slot.digest))
            .map(|place| place.slot.len)
            .collect();
        let packs = index.packs();
        Ok(Stats {
            n_images: view.roots.images.values().filter(|row| row.whole).count() as u64,
            n_releases: view.roots.releases.len() as u64,
            n_blobs: blobs.len() as u64,
            blob_bytes: blobs.iter().sum(),
            stored_bytes: packs.iter().map(|pack| u64::from(pack.len)).sum(),
            n_packs: packs.len() as u64,
            free_bytes: None,
        })
    }
}

#[cfg(test)]
mod tests;
