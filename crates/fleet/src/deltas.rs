//! The deltas to one image: each is made once, however many nodes it goes to, and lies in memory once, or in a file.

mod bytes;
mod signed;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use df_core::{Digest, ImageId, Manifest, limits};
use df_delta::{EncodeError, Level, ReadBlob};
use df_wire::{Reply, Request};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::choice::Way;
use crate::choosing::{Chooser, Chosen, Codec};
use crate::connection::{Connection, NodeError};
use crate::transfer::CopyError;

use bytes::Spool;
pub use bytes::{Delta, MEMORY_LEN};

/// The images of this machine.
pub trait Images: Send + Sync {
    /// Returns whether an image is here, whole.
    fn holds(&self, image: ImageId) -> bool;

    /// Returns an image's manifest.
    ///
    /// # Errors
    /// It is not here, or damaged.
    fn manifest(&self, image: ImageId) -> io::Result<Manifest>;

    /// Reads a part of a blob.
    ///
    /// # Errors
    /// It is not here, damaged, or shorter.
    fn read(&self, digest: Digest, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Returns a delta that was made earlier, of a level and perhaps with one codec only.
    fn kept_delta(&self, _base: Option<ImageId>, _target: ImageId, _level: Level, _codec: Option<Codec>) -> Option<Delta> {
        None
    }

    /// Returns the length and the digest of a delta that was made earlier, without reading it.
    fn kept(&self, _base: Option<ImageId>, _target: ImageId, _level: Level, _codec: Option<Codec>) -> Option<(u64, Digest)> {
        None
    }

    /// Forgets a delta that a node refused: it would be refused again.
    fn forget_delta(&self, _base: Option<ImageId>, _target: ImageId, _level: Level, _codec: Option<Codec>) {}

    /// Waits while somebody else on this machine makes a delta, but no longer than so long.
    fn await_delta(&self, _base: Option<ImageId>, _target: ImageId, _level: Level, _codec: Option<Codec>, _patience: Duration) {}

    /// Says to others of this machine that a delta is being made, until what is returned is dropped; `None` when somebody else is making it, or nobody can be
    /// told.
    fn making(
        &self,
        _base: Option<ImageId>,
        _target: ImageId,
        _level: Level,
        _codec: Option<Codec>,
    ) -> Option<Box<dyn std::any::Any + Send>> {
        None
    }

    /// Keeps a delta for the next time; nothing depends on it.
    fn keep_delta(&self, _base: Option<ImageId>, _target: ImageId, _level: Level, _codec: Option<Codec>, _delta: &Delta) {}

    /// Returns where a delta may lie that is too long for memory, while it is used.
    fn scratch(&self) -> PathBuf {
        std::env::temp_dir()
    }
}

/// The deltas to one image, each made once for all nodes.
pub struct Deltas {
    images: Arc<dyn Images>,
    image: ImageId,
    manifest: Arc<Manifest>,
    chooser: Chooser,
    /// What nodes hold of half-finished receives, to make deltas to.
    partials: Mutex<HashMap<ImageId, Manifest>>,
    made: Mutex<HashMap<Key, Arc<OnceCell<Delta>>>>,
    /// To how many nodes bytes travel at the moment.
    travelling: AtomicUsize,
}

/// What is made once: against which base, how hard it is squeezed, and with which codec only.
type Key = (Option<ImageId>, u8, Option<Codec>);

impl Deltas {
    /// Prepares deltas to an image of this machine.
    ///
    /// # Errors
    /// Its manifest cannot be read.
    pub fn to(images: Arc<dyn Images>, image: ImageId) -> Result<Self, CopyError> {
        let manifest = images.manifest(image).map_err(CopyError::Here)?;
        Ok(Self {
            images,
            image,
            manifest: Arc::new(manifest),
            chooser: Chooser::default(),
            partials: Mutex::default(),
            made: Mutex::default(),
            travelling: AtomicUsize::default(),
        })
    }

    /// Returns the image.
    pub fn image(&self) -> ImageId {
        self.image
    }

    /// Returns what the image holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Forgets what was kept of a delta that a node refused.
    pub(crate) fn forget(&self, chosen: &Chosen) {
        self.images.forget_delta(chosen.way.base(), self.image, chosen.level, chosen.codec);
    }

    pub(crate) fn images(&self) -> &dyn Images {
        &*self.images
    }

    /// Lets a part of an image whose blobs are here be a base: its manifest is known from a node.
    pub(crate) fn lend(&self, partial: ImageId, manifest: Manifest) {
        self.partials.lock().expect("nobody panics while holding it").insert(partial, manifest);
    }

    /// Returns the manifest of an image, or of a part of one, whose blobs are here.
    pub(crate) fn base(&self, base: ImageId) -> Option<Manifest> {
        let lent = self.partials.lock().expect("nobody panics while holding it").get(&base).cloned();
        lent.or_else(|| self.images.holds(base).then(|| self.images.manifest(base).ok())?)
    }

    /// Returns to how many nodes bytes travel.
    pub(crate) fn travelling(&self) -> &AtomicUsize {
        &self.travelling
    }

    pub(crate) fn chooser(&self) -> &Chooser {
        &self.chooser
    }

    /// Returns the delta to a base that is here, or the whole image; made once, however many ask.
    ///
    /// # Errors
    /// An image cannot be read.
    pub async fn patch(&self, base: Option<ImageId>, level: Level, codec: Option<Codec>) -> Result<Delta, CopyError> {
        let key = (base, level as u8, codec);
        let cell = self.made.lock().expect("nobody panics while holding it").entry(key).or_default().clone();
        let made = cell.get_or_try_init(|| async {
            let (images, manifest, image) = (self.images.clone(), self.manifest.clone(), self.image);
            let patience = self.patience(base, level);
            let lent = base.and_then(|base| self.partials.lock().expect("nobody panics while holding it").get(&base).cloned());
            run(move || make(&*images, (base, lent), (image, &manifest), level, codec, patience)).await
        });
        made.await.cloned()
    }

    /// Returns the delta that brings the image to a node this way.
    ///
    /// # Errors
    /// An image cannot be read, or the node does not say what its base is.
    pub(crate) async fn by(&self, connection: &mut Connection, chosen: &Chosen) -> Result<Delta, CopyError> {
        match chosen.way {
            Way::Rsync(base) => signed::make(connection, base, (&self.images, &self.manifest), chosen.level).await,
            Way::Patch(base) => self.patch(Some(base), chosen.level, chosen.codec).await,
            Way::Whole | Way::Held => self.patch(None, chosen.level, None).await,
        }
    }
}

pub(crate) async fn manifest_of(connection: &mut Connection, image: ImageId) -> Result<Manifest, CopyError> {
    let Reply::Bytes { len } = connection.ask(&Request::Manifest { image }).await? else { return Err(NodeError::Answer.into()) };
    let bytes = connection.bytes(len, limits::MANIFEST_LEN).await?;
    if Digest::of(&bytes) != image.0 {
        return Err(CopyError::Manifest(image));
    }
    Manifest::decode(&bytes).map_err(|_| CopyError::Manifest(image))
}

/// Makes a delta, unless it is kept, or somebody else of this machine makes it and is done in time: two that make the same take each other's cores.
fn make(
    images: &dyn Images,
    (base, lent): (Option<ImageId>, Option<Manifest>),
    (image, manifest): (ImageId, &Manifest),
    level: Level,
    codec: Option<Codec>,
    patience: Duration,
) -> Result<Delta, CopyError> {
    if let Some(kept) = images.kept_delta(base, image, level, codec) {
        return Ok(kept);
    }
    let mut making = images.making(base, image, level, codec);
    if making.is_none() {
        images.await_delta(base, image, level, codec, patience);
        making = images.making(base, image, level, codec);
    }
    // Also for who came when the other one was just done.
    if let Some(kept) = images.kept_delta(base, image, level, codec) {
        return Ok(kept);
    }
    let base_manifest = match lent {
        Some(lent) => Some(lent),
        None => base.map(|base| images.manifest(base)).transpose().map_err(CopyError::Here)?,
    };
    let read = |digest, offset, len| images.read(digest, offset, len);
    let read: ReadBlob<'_> = &read;
    let mut spool = Spool::new(images);
    let from = base_manifest.as_ref().map(|manifest| (manifest, read));
    let options = df_delta::Options { level, codec: codec.and_then(Codec::of_pieces) };
    let encoded = df_delta::encode(from, (manifest, read), options, &mut spool).map_err(encode_error)?;
    let main = encoded.codecs.main().filter(|codec| *codec != df_delta::Codec::Stored);
    let delta = spool.finish(if base.is_none() { "whole" } else { main.map_or("patch", df_delta::Codec::name) })?;
    images.keep_delta(base, image, level, codec, &delta);
    drop(making);
    Ok(delta)
}

fn encode_error(error: EncodeError) -> CopyError {
    CopyError::Encode(Arc::new(error))
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T, CopyError> + Send + 'static) -> Result<T, CopyError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(CopyError::Here(io::Error::other(error))))
}

#[cfg(test)]
mod tests;
