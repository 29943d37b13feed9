//! The deltas to one image: each is made once, however many nodes it goes to, and lies in memory once, or in a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use df_core::{Digest, Hasher, ImageId, Manifest, limits};
use df_delta::{EncodeError, Level, Piece, ReadBlob};
use df_wire::message::Slice;
use df_wire::{Reply, Request};
use tempfile::{SpooledData, SpooledTempFile};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::choice::Way;
use crate::choosing::{Chooser, Chosen, Codec};
use crate::connection::{Connection, NodeError};
use crate::transfer::CopyError;

/// Bytes of a delta that is held in memory; a longer one lies in a file, of which a piece is read at a time.
pub const MEMORY_LEN: u64 = 64 << 20;
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

/// The bytes of a delta; clones share them.
#[derive(Debug, Clone)]
pub struct Delta {
    digest: Digest,
    len: u64,
    codec: Arc<str>,
    bytes: Bytes,
}

#[derive(Debug, Clone)]
enum Bytes {
    Memory(Arc<[u8]>),
    File(Arc<File>),
}

impl Delta {
    /// Takes a delta that is in memory, and the word for how most of it is packed.
    pub fn of(bytes: Vec<u8>, codec: &str) -> Self {
        Self { digest: Digest::of(&bytes), len: bytes.len() as u64, codec: codec.into(), bytes: Bytes::Memory(bytes.into()) }
    }

    /// Takes a delta that was checked: the first `len` bytes of a file that nobody changes any more. A short one is read into memory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_file(file: File, len: u64, digest: Digest, codec: &str) -> io::Result<Self> {
        let codec = codec.into();
        if len > MEMORY_LEN {
            return Ok(Self { digest, len, codec, bytes: Bytes::File(Arc::new(file)) });
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Self { digest, len, codec, bytes: Bytes::Memory(bytes.into()) })
    }

    /// Returns the word for how most of it is packed: `elf`, `copy`, `patch`, `rsync` or `whole`.
    pub fn codec(&self) -> &str {
        &self.codec
    }

    /// Returns the digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns how many bytes it has.
    #[allow(clippy::len_without_is_empty, reason = "no delta is empty: it has a head")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns a reader of its bytes from the first on.
    pub fn reader(&self) -> impl Read + '_ {
        Reader { delta: self, at: 0 }
    }

    /// Returns its bytes, where they lie in memory.
    pub fn memory(&self) -> Option<Arc<[u8]>> {
        if let Bytes::Memory(bytes) = &self.bytes { Some(bytes.clone()) } else { None }
    }

    /// Returns the file that begins with its bytes, where they lie in one.
    pub fn file(&self) -> Option<Arc<File>> {
        if let Bytes::File(file) = &self.bytes { Some(file.clone()) } else { None }
    }

    /// Appends the bytes from `at` on to a buffer, at most so many; none at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was.
    pub(crate) async fn read(&self, at: u64, most: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        let len = self.len.saturating_sub(at).min(most as u64) as usize;
        match &self.bytes {
            Bytes::Memory(bytes) => buffer.extend_from_slice(&bytes[at.min(self.len) as usize..][..len]),
            Bytes::File(file) => {
                let (file, mut taken) = (file.clone(), std::mem::take(buffer));
                let start = taken.len();
                taken.resize(start + len, 0);
                let read = spawn_blocking(move || file.read_exact_at(&mut taken[start..], at).map(|()| taken));
                *buffer = read.await.map_err(io::Error::other)??;
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    delta: &'a Delta,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.delta.len - self.at;
        let buffer_len = buffer.len();
        let buffer = &mut buffer[..left.min(buffer_len as u64) as usize];
        let len = match &self.delta.bytes {
            Bytes::Memory(bytes) => (&bytes[self.at as usize..]).read(buffer)?,
            Bytes::File(file) => file.read_at(buffer, self.at)?,
        };
        self.at += len as u64;
        Ok(len)
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
            Way::Rsync(base) => self.by_signature(connection, base, chosen.level).await,
            Way::Patch(base) => self.patch(Some(base), chosen.level, chosen.codec).await,
            Way::Whole | Way::Held => self.patch(None, chosen.level, None).await,
        }
    }

    /// Makes the delta to a base that is only on the node, from the node's signature of it.
    async fn by_signature(&self, connection: &mut Connection, base: ImageId, level: Level) -> Result<Delta, CopyError> {
        let base_manifest = manifest_of(connection, base).await?;
        let plan = df_delta::choose::plan(Some(&base_manifest), &self.manifest, &[]);
        let block_len = df_delta::signature::block_len(&plan.pieces);
        let mut signatures = vec![];
        for batch in batches(plan.pieces.iter().filter(|piece| !piece.base.is_empty()))? {
            signatures.extend(sign(connection, base, &batch, block_len).await?);
        }
        let (images, manifest) = (self.images.clone(), self.manifest.clone());
        run(move || {
            let read = |digest, offset, len| images.read(digest, offset, len);
            let read: ReadBlob<'_> = &read;
            let mut spool = Spool::new(&*images);
            df_delta::encode_rsync(&base_manifest, &signatures, (&manifest, read), level, &mut spool).map_err(encode_error)?;
            spool.finish("rsync")
        })
        .await
    }
}

/// A delta while it is made: in memory up to [`MEMORY_LEN`], in a file after that.
struct Spool {
    data: SpooledTempFile,
    hasher: Hasher,
    len: u64,
}

impl Spool {
    fn new(images: &dyn Images) -> Self {
        let data = tempfile::spooled_tempfile_in(MEMORY_LEN as usize, images.scratch());
        Self { data, hasher: Hasher::new(), len: 0 }
    }

    fn finish(self, codec: &str) -> Result<Delta, CopyError> {
        let (digest, len) = (self.hasher.finish(), self.len);
        let bytes = match self.data.into_inner() {
            SpooledData::InMemory(bytes) => Bytes::Memory(bytes.into_inner().into()),
            SpooledData::OnDisk(mut file) => {
                file.rewind().map_err(CopyError::Here)?;
                Bytes::File(Arc::new(file))
            }
        };
        Ok(Delta { digest, len, codec: codec.into(), bytes })
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.data.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
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
mod tests {
    use super::*;

    fn piece(n_slices: usize) -> Piece {
        let slice = df_delta::Slice { digest: Digest::of(b""), offset: u64::MAX, len: 1 };
        Piece { base: vec![slice; n_slices], target: vec![], paired: vec![] }
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

    #[tokio::test]
    async fn a_delta_reads_the_same_from_memory_and_from_a_file() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let memory = Delta::of(bytes.clone(), "whole");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).expect("written");
        let file =
            Delta { digest: memory.digest(), len: memory.len(), codec: "whole".into(), bytes: Bytes::File(Arc::new(file)) };
        for delta in [&memory, &file] {
            let mut read = vec![];
            while (read.len() as u64) < delta.len() {
                delta.read(read.len() as u64, 7777, &mut read).await.expect("read");
            }
            assert!(read == bytes);
            let mut end = b"before".to_vec();
            delta.read(99_999, 10, &mut end).await.expect("read");
            delta.read(100_000, 10, &mut end).await.expect("nothing is left");
            assert_eq!(end, [b"before", &bytes[99_999..]].concat());
            let mut all = vec![];
            delta.reader().read_to_end(&mut all).expect("read");
            assert!(all == bytes);
        }
    }

    /// A file that changed, and how often its delta was made; and another df that makes it, too.
    #[derive(Default)]
    struct TwoVersions {
        made: std::sync::atomic::AtomicUsize,
        other: Other,
        awaited: Mutex<Vec<Duration>>,
    }

    /// What another df of this machine does with the same delta.
    #[derive(Default, Clone, Copy, PartialEq)]
    enum Other {
        #[default]
        Nothing,
        /// It is done while we wait.
        MakesIt,
        /// It is killed while we wait.
        Dies,
        /// It is at it for ever.
        Hangs,
    }

    impl TwoVersions {
        fn with(other: Other) -> Self {
            Self { other, ..Self::default() }
        }

        fn is_over(&self) -> bool {
            !self.awaited.lock().expect("free").is_empty()
        }
    }

    impl TwoVersions {
        fn version(n: u8) -> (Vec<u8>, Manifest) {
            let bytes = [&[n; 10][..], &[b'.'; 5000]].concat();
            let kind = df_core::Kind::File { executable: false, len: bytes.len() as u64, digest: Digest::of(&bytes) };
            let entry = df_core::Entry { path: "a".parse().expect("a path"), kind };
            (bytes, Manifest::new(vec![entry]).expect("a tree"))
        }
    }

    impl Images for TwoVersions {
        fn holds(&self, _: ImageId) -> bool {
            true
        }
        fn manifest(&self, image: ImageId) -> io::Result<Manifest> {
            [1, 2].map(|n| Self::version(n).1).into_iter().find(|it| it.image() == image).ok_or(io::ErrorKind::NotFound.into())
        }
        fn read(&self, digest: Digest, offset: u64, len: usize) -> io::Result<Vec<u8>> {
            let bytes = [1, 2].map(|n| Self::version(n).0).into_iter().find(|it| Digest::of(it) == digest);
            Ok(bytes.ok_or(io::ErrorKind::NotFound)?[offset as usize..][..len].to_vec())
        }
        fn kept_delta(&self, _: Option<ImageId>, _: ImageId, _: Level, _: Option<Codec>) -> Option<Delta> {
            (self.other == Other::MakesIt && self.is_over()).then(|| Delta::of(b"the other one's".to_vec(), "patch"))
        }
        fn making(&self, _: Option<ImageId>, _: ImageId, _: Level, _: Option<Codec>) -> Option<Box<dyn std::any::Any + Send>> {
            let is_free = match self.other {
                Other::Nothing => true,
                Other::MakesIt | Other::Dies => self.is_over(),
                Other::Hangs => false,
            };
            is_free.then(|| Box::new(()) as _)
        }
        fn await_delta(&self, _: Option<ImageId>, _: ImageId, _: Level, _: Option<Codec>, patience: Duration) {
            self.awaited.lock().expect("free").push(patience);
        }
        fn keep_delta(&self, _: Option<ImageId>, _: ImageId, _: Level, _: Option<Codec>, _: &Delta) {
            self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn what_another_df_makes_is_waited_for_and_made_here_when_it_does_not_come() {
        let [old, new] = [1, 2].map(|n| TwoVersions::version(n).1.image());
        for (other, n_made, n_awaited) in
            [(Other::Nothing, 1, 0), (Other::MakesIt, 0, 1), (Other::Dies, 1, 1), (Other::Hangs, 1, 1)]
        {
            let images = Arc::new(TwoVersions::with(other));
            let deltas = Deltas::to(images.clone(), new).expect("both are here");
            let delta = deltas.patch(Some(old), Level::Fast, None).await.expect("there is one");
            let awaited = images.awaited.lock().expect("free").clone();
            assert_eq!((images.made.load(std::sync::atomic::Ordering::Relaxed), awaited.len()), (n_made, n_awaited));
            assert!(awaited.iter().all(|patience| (2..=120).contains(&patience.as_secs())), "{awaited:?}");
            assert_eq!(delta.digest() == Digest::of(b"the other one's"), other == Other::MakesIt, "the same bytes travel");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_hundred_nodes_that_ask_at_once_share_one_delta() {
        let (images, [old, new]) = (Arc::new(TwoVersions::default()), [1, 2].map(|n| TwoVersions::version(n).1.image()));
        let deltas = Arc::new(Deltas::to(images.clone(), new).expect("both are here"));
        let mut nodes = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let deltas = deltas.clone();
            nodes.spawn(async move { deltas.patch(Some(old), Level::Fast, None).await.expect("made") });
        }
        let made = nodes.join_all().await;
        assert_eq!(images.made.load(std::sync::atomic::Ordering::Relaxed), 1, "made once");
        let place = |delta: &Delta| if let Bytes::Memory(bytes) = &delta.bytes { bytes.as_ptr() } else { std::ptr::null() };
        assert!(made.iter().all(|delta| place(delta) == place(&made[0])), "held once");
    }

    #[test]
    fn a_long_delta_is_made_into_a_file_and_a_short_one_stays_in_memory() {
        struct Nothing;
        impl Images for Nothing {
            fn holds(&self, _: ImageId) -> bool {
                false
            }
            fn manifest(&self, _: ImageId) -> io::Result<Manifest> {
                Err(io::ErrorKind::NotFound.into())
            }
            fn read(&self, _: Digest, _: u64, _: usize) -> io::Result<Vec<u8>> {
                Err(io::ErrorKind::NotFound.into())
            }
        }
        let made = |n_mib: usize| {
            let mut spool = Spool::new(&Nothing);
            (0..n_mib).for_each(|n| spool.write_all(&vec![n as u8; 1 << 20]).expect("written"));
            spool.finish("whole").expect("finished")
        };
        let (short, long) = (made(1), made(65));
        assert!(matches!(short.bytes, Bytes::Memory(_)) && short.digest() == Digest::of(&vec![0; 1 << 20]));
        assert!(matches!(long.bytes, Bytes::File(_)) && long.len() == 65 << 20);
        let mut hasher = Hasher::new();
        io::copy(&mut long.reader(), &mut hasher).expect("read");
        assert_eq!(hasher.finish(), long.digest());
    }
}
