//! An image gets to nodes: each delta is made once and sent to every node that holds its base.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use df_core::{AppName, Digest, ImageId, Manifest, limits};
use df_delta::{EncodeError, Level, Piece, ReadBlob};
use df_wire::message::{FaultKind, Slice, Survey};
use df_wire::{Reply, Request};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::choosing::Codec;
use crate::connection::{Connection, NodeError};
use crate::plan::{self, Way};

/// How many slices a node is asked to sign at once: as JSON, one takes 136 bytes at most.
const SLICES: usize = df_wire::frame::PAYLOAD_LEN / 150;
/// How many bytes a node is asked to sign at once: it holds their signatures in memory, 30 MiB at most.
const SIGNED_LEN: u64 = 1 << 30;

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

    /// Returns a delta that was made earlier.
    fn kept_delta(&self, _base: Option<ImageId>, _target: ImageId) -> Option<Vec<u8>> {
        None
    }

    /// Returns the length of a delta that was made earlier, without reading it.
    fn kept_len(&self, _base: Option<ImageId>, _target: ImageId, _level: Level, _codec: Option<Codec>) -> Option<u64> {
        None
    }

    /// Keeps a delta for the next time; nothing depends on it.
    fn keep_delta(&self, _base: Option<ImageId>, _target: ImageId, _bytes: &[u8]) {}
}

/// A copy did not come about on a node; it holds what it held.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CopyError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the delta cannot be made")]
    Encode(#[source] Arc<EncodeError>),
    #[error("an image of this machine cannot be read")]
    Here(#[source] io::Error),
    #[error("the old bytes lie in {0} places, more than a node is asked for")]
    Scattered(usize),
    #[error("the node sent a manifest that is not that of image {}", .0.short())]
    Manifest(ImageId),
}

/// How a copy went.
#[derive(Debug, Clone, PartialEq)]
pub struct Copied {
    /// The image.
    pub image: ImageId,
    /// How it got there.
    pub way: Way,
    /// Bytes sent to the node, protocol included.
    pub bytes_sent: u64,
    /// Bytes that the node sent, protocol included.
    pub bytes_received: u64,
    /// Bytes of the image's files.
    pub image_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What is told while bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes will be sent.
    Total(u64),
    /// So many more were sent.
    Sent(u64),
}

type Delta = Arc<Vec<u8>>;

/// The deltas to one image, each made once for all nodes.
pub struct Deltas {
    images: Arc<dyn Images>,
    image: ImageId,
    manifest: Arc<Manifest>,
    made: Mutex<HashMap<Option<ImageId>, Arc<OnceCell<Delta>>>>,
}

impl Deltas {
    /// Prepares deltas to an image of this machine.
    ///
    /// # Errors
    /// Its manifest cannot be read.
    pub fn to(images: Arc<dyn Images>, image: ImageId) -> Result<Self, CopyError> {
        let manifest = images.manifest(image).map_err(CopyError::Here)?;
        Ok(Self { images, image, manifest: Arc::new(manifest), made: Mutex::default() })
    }

    /// Returns the image.
    pub fn image(&self) -> ImageId {
        self.image
    }

    /// Returns what the image holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns how the image gets to a node.
    pub fn way(&self, survey: &Survey, app: &AppName, full: bool) -> Way {
        plan::way(survey, app, self.image, full, |base| self.images.holds(base))
    }

    /// Returns the delta to a base that is here, or the whole image; made once, however many ask.
    ///
    /// # Errors
    /// An image cannot be read.
    pub async fn patch(&self, base: Option<ImageId>) -> Result<Delta, CopyError> {
        let cell = self.made.lock().expect("nobody panics while holding it").entry(base).or_default().clone();
        let made = cell.get_or_try_init(|| async {
            let (images, manifest, image) = (self.images.clone(), self.manifest.clone(), self.image);
            run(move || make(&*images, base, image, &manifest)).await
        });
        made.await.cloned()
    }

    /// Makes the delta to a base that is only on the node, from the node's signature of it.
    async fn by_signature(&self, connection: &mut Connection, base: ImageId) -> Result<Delta, CopyError> {
        let base_manifest = manifest_of(connection, base).await?;
        let plan = df_delta::choose::plan(Some(&base_manifest), &self.manifest);
        let block_len = df_delta::signature::block_len(&plan.pieces);
        let mut signatures = vec![];
        for batch in batches(plan.pieces.iter().filter(|piece| !piece.base.is_empty()))? {
            signatures.extend(sign(connection, base, &batch, block_len).await?);
        }
        let (images, manifest) = (self.images.clone(), self.manifest.clone());
        run(move || {
            let mut bytes = vec![];
            let read = |digest, offset, len| images.read(digest, offset, len);
            df_delta::encode_rsync(&base_manifest, &signatures, (&manifest, &read), Level::default(), &mut bytes)
                .map_err(encode_error)?;
            Ok(Arc::new(bytes))
        })
        .await
    }

    async fn by(&self, connection: &mut Connection, way: Way) -> Result<Delta, CopyError> {
        match way {
            Way::Rsync(base) => self.by_signature(connection, base).await,
            Way::Patch(base) => self.patch(Some(base)).await,
            Way::Whole | Way::Held => self.patch(None).await,
        }
    }
}

/// Brings an image to a node that was surveyed and locked.
///
/// A delta that the node refuses, or that cannot be made, is followed by one whole copy.
///
/// # Errors
/// The node holds what it held.
pub async fn copy(
    connection: &mut Connection,
    survey: &Survey,
    deltas: &Deltas,
    app: &AppName,
    full: bool,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Copied, CopyError> {
    let (start, before) = (Instant::now(), connection.traffic());
    let mut way = deltas.way(survey, app, full);
    if way != Way::Held {
        let sent = send(connection, deltas, way, told).await;
        match sent {
            Err(error) if way != Way::Whole && is_worth_whole(&error) => {
                way = Way::Whole;
                send(connection, deltas, way, told).await?;
            }
            sent => sent?,
        }
    }
    let after = connection.traffic();
    Ok(Copied {
        image: deltas.image,
        way,
        bytes_sent: after.0 - before.0,
        bytes_received: after.1 - before.1,
        image_bytes: deltas.manifest.total_len(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

async fn send(
    connection: &mut Connection,
    deltas: &Deltas,
    way: Way,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), CopyError> {
    let delta = deltas.by(connection, way).await?;
    told(Progress::Total(delta.len() as u64));
    let request = Request::Receive {
        image: deltas.image,
        base: way.base(),
        delta: None,
        from: 0,
        len: delta.len() as u64,
        image_len: deltas.manifest.total_len(),
    };
    match connection.send(&request, &delta, &mut |bytes| told(Progress::Sent(bytes))).await? {
        Reply::Received { .. } => Ok(()),
        _ => Err(NodeError::Answer.into()),
    }
}

/// Returns whether the failure lies with the base or the delta, so that the whole image may still arrive.
fn is_worth_whole(error: &CopyError) -> bool {
    match error {
        CopyError::Node(NodeError::Fault(fault)) => {
            matches!(fault.kind, FaultKind::DeltaRefused | FaultKind::Missing | FaultKind::Damaged)
        }
        CopyError::Encode(_) | CopyError::Scattered(_) | CopyError::Manifest(_) | CopyError::Here(_) => true,
        CopyError::Node(_) => false,
    }
}

/// Divides pieces among requests that fit a message.
///
/// # Errors
/// One piece alone has more slices than that: the image is better sent whole.
fn batches<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Result<Vec<Vec<&'a Piece>>, CopyError> {
    let mut batches: Vec<Vec<&Piece>> = vec![];
    let (mut n_slices, mut len) = (0, 0);
    for piece in pieces {
        if piece.base.len() > SLICES {
            return Err(CopyError::Scattered(piece.base.len()));
        }
        (n_slices, len) = (n_slices + piece.base.len(), len + piece.base_len());
        match batches.last_mut().filter(|_| n_slices <= SLICES && len <= SIGNED_LEN) {
            Some(batch) => batch.push(piece),
            None => {
                batches.push(vec![piece]);
                (n_slices, len) = (piece.base.len(), piece.base_len());
            }
        }
    }
    Ok(batches)
}

/// Asks a node for the signatures of pieces' old bytes; their lengths are known before.
async fn sign(connection: &mut Connection, base: ImageId, pieces: &[&Piece], block_len: u32) -> Result<Vec<Vec<u8>>, CopyError> {
    let slice = |s: &df_delta::choose::Slice| Slice { digest: s.digest, offset: s.offset, len: s.len };
    let stretches = pieces.iter().map(|piece| piece.base.iter().map(slice).collect()).collect();
    let reply = connection.ask(&Request::Sign { image: base, stretches, block_len }).await?;
    let Reply::Signatures { lens } = reply else { return Err(NodeError::Answer.into()) };
    let expected: Vec<u64> = pieces.iter().map(|piece| df_delta::signature::signature_len(piece.base_len(), block_len)).collect();
    if lens != expected {
        return Err(NodeError::Answer.into());
    }
    let mut signatures = vec![];
    for len in lens {
        signatures.push(connection.bytes(len, len).await?);
    }
    Ok(signatures)
}

async fn manifest_of(connection: &mut Connection, image: ImageId) -> Result<Manifest, CopyError> {
    let Reply::Bytes { len } = connection.ask(&Request::Manifest { image }).await? else { return Err(NodeError::Answer.into()) };
    let bytes = connection.bytes(len, limits::MANIFEST_LEN).await?;
    if Digest::of(&bytes) != image.0 {
        return Err(CopyError::Manifest(image));
    }
    Manifest::decode(&bytes).map_err(|_| CopyError::Manifest(image))
}

fn make(images: &dyn Images, base: Option<ImageId>, image: ImageId, manifest: &Manifest) -> Result<Delta, CopyError> {
    if let Some(kept) = images.kept_delta(base, image) {
        return Ok(Arc::new(kept));
    }
    let base_manifest = base.map(|base| images.manifest(base)).transpose().map_err(CopyError::Here)?;
    let read = |digest, offset, len| images.read(digest, offset, len);
    let read: ReadBlob<'_> = &read;
    let mut bytes = vec![];
    let from = base_manifest.as_ref().map(|manifest| (manifest, read));
    df_delta::encode(from, (manifest, read), Level::default(), &mut bytes).map_err(encode_error)?;
    images.keep_delta(base, image, &bytes);
    Ok(Arc::new(bytes))
}

fn encode_error(error: EncodeError) -> CopyError {
    CopyError::Encode(Arc::new(error))
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T, CopyError> + Send + 'static) -> Result<T, CopyError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(CopyError::Here(io::Error::other(error))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(n_slices: usize) -> Piece {
        let slice = df_delta::Slice { digest: Digest::of(b""), offset: u64::MAX, len: 1 };
        Piece { base: vec![slice; n_slices], target: vec![] }
    }

    #[test]
    fn what_a_node_is_asked_to_sign_fits_a_message_however_many_files_changed() {
        let pieces = [piece(1), piece(SLICES), piece(SLICES - 1), piece(1), piece(1)];
        let batches = batches(pieces.iter()).expect("each piece fits");
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2, 1]);
        let slices = vec![Slice { digest: Digest::of(b""), offset: u64::MAX, len: u64::MAX }; SLICES];
        let request = Request::Sign { image: ImageId(Digest::of(b"")), stretches: vec![slices], block_len: u32::MAX };
        assert!(serde_json::to_vec(&request).expect("JSON").len() <= df_wire::frame::PAYLOAD_LEN);
        assert!(matches!(super::batches([piece(SLICES + 1)].iter()), Err(CopyError::Scattered(_))));
    }
}
