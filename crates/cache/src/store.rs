//! What every store promises, wherever it keeps its bytes.
//!
//! The contract, run against every implementation by the suite in `contract`:
//! - An image is there when all of it is: [`Store::has`] is true only after every blob and then the manifest are durable.
//! - What is put is checked while it is put, what is read is checked while it is read. Wrong bytes are an error, never an answer.
//! - Putting twice changes nothing and costs little. Whoever is killed in a put leaves nothing that counts.
//! - Only [`Store::collect`], [`Store::repair`] and [`Store::flush`] remove anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use df_core::{AppName, Digest, ImageId, Manifest, RecipeKey, Release, ReleaseId, Timestamp};

use crate::blobs::{Blobs, Bytes};
use crate::document::{self, Document};
use crate::gc;
use crate::scrub::{Damage, Repaired};

/// A release in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRelease {
    /// Its name.
    pub id: ReleaseId,
    /// What it says.
    pub release: Release,
    /// Grows with each put: the newest release has the largest.
    pub sequence: u64,
    /// When it was put, by the clock of whoever put it.
    pub stored: Timestamp,
}

impl StoredRelease {
    /// Names a release and says when it was put.
    pub fn new(release: Release, sequence: u64, stored: Timestamp) -> Self {
        Self { id: release.id(), release, sequence, stored }
    }
}

/// An image in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredImage {
    /// Its name.
    pub image: ImageId,
    /// When it was put.
    pub stored: Timestamp,
}

/// All that a store holds by name: what a collection decides upon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// In ascending order of their sequence.
    pub releases: Vec<StoredRelease>,
    /// In order of their names.
    pub images: Vec<StoredImage>,
    /// Images that somebody wants kept.
    pub pins: BTreeSet<ImageId>,
    /// Images that nodes have in generations, and what these are called: foreign text.
    pub leases: BTreeMap<ImageId, BTreeSet<String>>,
}

impl Contents {
    /// Returns whether somebody pinned an image, or leased it.
    pub fn is_claimed(&self, image: ImageId) -> bool {
        self.pins.contains(&image) || self.leases.contains_key(&image)
    }
}

/// What a put did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// Blobs that were not there before.
    pub n_blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Images.
    pub n_images: u64,
    /// Releases.
    pub n_releases: u64,
    /// Distinct blobs.
    pub n_blobs: u64,
    /// Bytes of the blobs, as files.
    pub blob_bytes: u64,
    /// Bytes that they take.
    pub stored_bytes: u64,
    /// Packs.
    pub n_packs: u64,
    /// Bytes that could still be written, where that is known.
    pub free_bytes: Option<u64>,
}

/// Nothing was put.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PutError {
    #[error("get blob {} for the store", digest.short())]
    Source {
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error("what was handed in as blob {} has other bytes", digest.short())]
    WrongBytes { digest: Digest },
    /// It was never put, or a collection took it in between; put it again.
    #[error("image {} is not in the store", image.short())]
    NoImage { image: ImageId },
    /// It was never put, or a collection took it in between; put it again.
    #[error("release {} is not in the store", release.short())]
    NoRelease { release: ReleaseId },
    #[error("the {document} has {len} bytes, the limit is {}", document::LEN)]
    LongDocument { document: Document, len: usize },
    #[error("write to the store")]
    Store(#[from] io::Error),
}

/// Nothing was read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ReadError {
    #[error("image {} is not in the store", image.short())]
    NoImage { image: ImageId },
    #[error("blob {} is not in the store", digest.short())]
    NoBlob { digest: Digest },
    /// Another copy of the same name may be whole.
    #[error("{} is damaged in the store", digest.short())]
    Damaged { digest: Digest },
    #[error("the store was asked for {len} bytes at {offset} of blob {}, which is shorter", digest.short())]
    Range { digest: Digest, offset: u64, len: usize },
    #[error("read from the store")]
    Store(#[from] io::Error),
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::NoImage { .. } | ReadError::NoBlob { .. } => io::ErrorKind::NotFound,
            ReadError::Damaged { .. } => io::ErrorKind::InvalidData,
            ReadError::Range { .. } => io::ErrorKind::InvalidInput,
            ReadError::Store(error) => error.kind(),
        };
        Self::new(kind, error)
    }
}

/// All that a store hands out.
struct Whole<'a, S: ?Sized>(&'a S);

impl<S: Blobs + ?Sized> Blobs for Whole<'_, S> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        self.0.blob(digest)
    }

    fn twin(&self, digest: Digest, executable: bool) -> Option<PathBuf> {
        self.0.twin(digest, executable)
    }
}

/// Copies an image from one store to another, with few requests when one of them is far away.
///
/// # Errors
/// As [`Store::manifest`] and [`Store::put_image`].
pub fn copy(from: &dyn Store, to: &dyn Store, manifest: &Manifest, now: Timestamp) -> Result<Added, PutError> {
    let unread = |error: ReadError| PutError::Store(error.into());
    let lacking = to.lacking(manifest).map_err(unread)?;
    to.put_image(manifest, &*from.reading(&lacking).map_err(unread)?, now)
}

/// A place for images and releases.
///
/// As a source of [`Blobs`] it hands out blobs; whoever takes a [`crate::blobs::Bytes::File`] checks it, [`Store::read`] does.
pub trait Store: Blobs {
    /// Makes the store hold an image, reading from `blobs` only what it lacks.
    ///
    /// # Errors
    /// What was taken before the error is not there, or unnamed and collected later.
    fn put_image(&self, manifest: &Manifest, blobs: &dyn Blobs, now: Timestamp) -> Result<Added, PutError>;

    /// Makes the store hold a release whose image it holds. Putting it again makes it the newest.
    ///
    /// # Errors
    /// [`PutError::NoImage`] when the image is not there, whole.
    fn put_release(&self, release: &Release, now: Timestamp) -> Result<(), PutError>;

    /// Puts an image and then its release, once more when a collection came in between.
    ///
    /// # Errors
    /// As [`Store::put_image`] and [`Store::put_release`].
    fn put(&self, release: &Release, manifest: &Manifest, blobs: &dyn Blobs, now: Timestamp) -> Result<Added, PutError> {
        for _ in 0..8 {
            let added = self.put_image(manifest, blobs, now)?;
            match self.put_release(release, now) {
                Err(PutError::NoImage { image }) if image == manifest.image() => {}
                result => return result.map(|()| added),
            }
        }
        Err(PutError::NoImage { image: release.image })
    }

    /// Returns what the store holds by name. What is damaged is left out; [`Store::verify`] names it.
    ///
    /// # Errors
    /// Only when the store cannot be read at all.
    fn contents(&self) -> Result<Contents, ReadError>;

    /// Returns the releases, the newest last.
    ///
    /// # Errors
    /// As [`Store::contents`].
    fn releases(&self) -> Result<Vec<StoredRelease>, ReadError> {
        Ok(self.contents()?.releases)
    }

    /// Returns the newest release of an application that was built by a recipe.
    ///
    /// # Errors
    /// As [`Store::contents`].
    fn release_by_recipe(&self, app: &AppName, key: RecipeKey) -> Result<Option<StoredRelease>, ReadError> {
        Ok(self.releases()?.into_iter().rfind(|stored| stored.release.app == *app && stored.release.recipe_key == key))
    }

    /// Returns an image's manifest, checked.
    ///
    /// # Errors
    /// [`ReadError::NoImage`], [`ReadError::Damaged`].
    fn manifest(&self, image: ImageId) -> Result<Manifest, ReadError>;

    /// Returns whether all of an image is there: its manifest, checked, and a place for each blob. Reads no blob.
    ///
    /// # Errors
    /// Only when the store cannot be read at all.
    fn has(&self, image: ImageId) -> Result<bool, ReadError>;

    /// Returns the blobs of an image that have no place yet. Reads none of them.
    ///
    /// # Errors
    /// Only when the store cannot be read at all.
    fn lacking(&self, manifest: &Manifest) -> Result<Vec<(Digest, u64)>, ReadError> {
        Ok(manifest.blobs())
    }

    /// Returns a source of just these blobs, to be taken in about this order: a store that is far away loads them ahead.
    ///
    /// # Errors
    /// Only when the store cannot be read at all.
    fn reading<'a>(&'a self, _blobs: &[(Digest, u64)]) -> Result<Box<dyn Blobs + 'a>, ReadError> {
        Ok(Box::new(Whole(self)))
    }

    /// Returns a whole blob of a known length, checked.
    ///
    /// # Errors
    /// [`ReadError::NoBlob`], [`ReadError::Damaged`].
    fn read(&self, digest: Digest, len: u64) -> Result<Vec<u8>, ReadError>;

    /// Returns `len` bytes at `offset` of a blob, after the whole blob was checked.
    ///
    /// # Errors
    /// [`ReadError::NoBlob`], [`ReadError::Damaged`], [`ReadError::Range`].
    fn read_blob(&self, digest: Digest, offset: u64, len: usize) -> Result<Vec<u8>, ReadError>;

    /// Keeps a document beside a release, as long as the release; true when something was new. One that is there, whole, stays as it is, but for
    /// attestations, which are joined ([`Document::combined`]).
    ///
    /// # Errors
    /// [`PutError::NoRelease`], [`PutError::LongDocument`]; the document is there whole or not at all.
    fn attach(&self, app: &AppName, release: ReleaseId, document: Document, bytes: &[u8]) -> Result<bool, PutError>;

    /// Returns a document that is kept beside a release, checked; `None` when there is none.
    ///
    /// # Errors
    /// [`ReadError::Damaged`]: it can be attached again.
    fn attached(&self, app: &AppName, release: ReleaseId, document: Document) -> Result<Option<Vec<u8>>, ReadError>;

    /// Keeps an image until it is unpinned, and remembers why.
    ///
    /// # Errors
    /// [`PutError::NoImage`].
    fn pin(&self, image: ImageId, why: &str) -> Result<(), PutError>;

    /// Ends a pin; true when there was one.
    ///
    /// # Errors
    /// Those of writing.
    fn unpin(&self, image: ImageId) -> Result<bool, PutError>;

    /// Removes what a plan says, unless it was put or pinned again since, and all blobs that nothing refers to.
    ///
    /// # Errors
    /// What was removed is gone; what is kept is whole. Run it again.
    fn collect(&self, plan: &gc::Plan) -> Result<gc::Collected, PutError>;

    /// Reads everything back and lists what is damaged or missing, and which images that hurts.
    ///
    /// # Errors
    /// Only when the store cannot be read at all: what cannot be read is damage.
    fn verify(&self) -> Result<Vec<Damage>, ReadError>;

    /// Puts right what [`Store::verify`] would find, as far as `source` has the bytes; it is asked for manifests too, by the image's digest.
    ///
    /// New bytes are checked and durable before old ones are moved to quarantine. What no source has is missing afterwards, and no name claims it.
    ///
    /// # Errors
    /// Those of writing; what was whole stays so.
    fn repair(&self, source: &dyn Blobs) -> Result<Repaired, PutError>;

    /// Empties the store, pins and quarantine included.
    ///
    /// # Errors
    /// Those of removing; run it again.
    fn flush(&self) -> Result<(), PutError>;

    /// Says how much is there.
    ///
    /// # Errors
    /// As [`Store::contents`].
    fn stats(&self) -> Result<Stats, ReadError>;
}
