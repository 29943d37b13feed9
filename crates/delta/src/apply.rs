//! Makes an image of a delta and its base; streaming, bounded, checked.

use std::io::{self, Read};

use df_core::manifest::DecodeError;
use df_core::{Digest, Hasher, ImageId, Manifest, limits};

use crate::choose::{self, Plan, Slice};
use crate::codec::{self, Base, CodecError};
use crate::format::{
    Codec, Header, HeaderError, IdPrefix, Kind, PartHeader, ReadPartError, manifest_parts, read_pairs, read_varint,
};
use crate::read::ReadBlob;

mod pieces;

pub use pieces::IN_FLIGHT;
use pieces::{Pieces, Start};

/// Takes what a delta makes: the manifest first, then each blob that the base lacks, once. Without base those are all blobs.
///
/// Its methods are called from several threads at once.
pub trait Sink: Sync {
    /// Takes the manifest. Its digest is the image that was expected.
    ///
    /// # Errors
    /// Any error ends the apply.
    fn manifest(&self, manifest: &Manifest) -> io::Result<()>;

    /// Takes a blob, whose BLAKE3 was found to be its digest; in no order.
    ///
    /// # Errors
    /// Any error ends the apply.
    fn blob(&self, digest: Digest, bytes: &[u8]) -> io::Result<()>;

    /// Takes a part of a blob that is too long for one piece; each such blob from its first byte to its last. They are not checked yet.
    ///
    /// # Errors
    /// Any error ends the apply.
    fn stretch(&self, stretch: Slice, bytes: &[u8]) -> io::Result<()>;

    /// Ends a blob that came in stretches. Called only after its BLAKE3 was found to be its digest.
    ///
    /// # Errors
    /// Any error ends the apply.
    fn finish(&self, digest: Digest) -> io::Result<()>;

    /// Hears that the sink has everything that comes of the delta up to here; in order. A sink that keeps what it has and all marks can
    /// [`resume`] with them. The first mark is where the pieces begin: what is before it makes no blob.
    ///
    /// # Errors
    /// Any error ends the apply.
    fn reached(&self, _mark: &Mark) -> io::Result<()> {
        Ok(())
    }

    /// Hashes the first `len` bytes of what it kept of a blob; `None` when it has not so many, or cannot read them. Asked only in [`resume`].
    fn kept(&self, _digest: Digest, _len: u64) -> Option<Hasher> {
        None
    }
}

/// A place in a delta where a part ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Bytes of the delta before it.
    pub offset: u64,
    /// So many bytes are there of a blob that came in stretches and is not complete, and this is their digest.
    pub unfinished: Option<(u64, Digest)>,
}

/// What is left of an apply that was cut.
pub struct Kept<'a> {
    /// The bytes of the delta up to the first mark.
    pub head: &'a mut dyn Read,
    /// The marks that the sink heard, at least one.
    pub marks: &'a [Mark],
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The target's manifest.
    pub manifest: Manifest,
    /// Bytes of its distinct blobs that the base holds and the sink did not get.
    pub reused_len: u64,
}

/// A delta was not applied. Blobs that the sink finished are good; the others, and the image, are not there.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Not a delta this program knows.
    #[error("refused the delta's header")]
    Header(#[from] HeaderError),
    /// The delta was made for another base; asking the sender for a full copy is safe.
    #[error("delta expects base {expected}, found {}", found.map_or("none".to_owned(), |found| found.to_string()))]
    WrongBase {
        /// What it was made for.
        expected: IdPrefix,
        /// What is here.
        found: Option<ImageId>,
    },
    /// The delta makes another image.
    #[error("delta makes image {found}, expected {expected}")]
    WrongTarget {
        /// What was announced.
        expected: ImageId,
        /// What the delta says or holds.
        found: IdPrefix,
    },
    /// The manifest would be too long.
    #[error("manifest would be {len} bytes, limit is {}", limits::MANIFEST_LEN)]
    ManifestTooLarge {
        /// What the delta claims.
        len: u64,
    },
    /// A part of the manifest or a piece is damaged.
    #[error("damaged delta")]
    Damaged(#[from] CodecError),
    /// The manifest has the right digest and lists no tree: whoever made the image made it wrong.
    #[error("the image's manifest is not one")]
    Manifest(#[source] DecodeError),
    /// The manifests list one blob with two lengths; no image is like that.
    #[error("blob {digest} is listed with two lengths")]
    TwoLengths {
        /// The blob.
        digest: Digest,
    },
    /// What was made of the delta is not what the manifest lists; the delta or a blob of the base is damaged.
    #[error("content {found} where {expected} is due")]
    WrongBlob {
        /// What the manifest lists.
        expected: Digest,
        /// What came out.
        found: Digest,
    },
    /// Something follows the last piece.
    #[error("bytes after the end of the delta")]
    Trailing,
    /// The delta cannot be read on.
    #[error("read the delta")]
    Input(#[from] io::Error),
    /// A blob of the base cannot be read; a whole copy needs none.
    #[error("read blob {digest} of the base")]
    ReadBase {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was made cannot be kept.
    #[error("write the image")]
    Sink(#[source] io::Error),
    /// What was kept of a cut apply is not what it was: go on from an earlier mark.
    #[error("what was kept of the delta is damaged")]
    NotKept {
        /// So many of the marks hold; 0: nothing does.
        n_marks: usize,
    },
}

impl ApplyError {
    /// Returns whether these bytes did not make the image though this side works: the sender should send a whole copy, once.
    ///
    /// A base that cannot be read counts too. An input that breaks and a sink that is full do not: another delta would meet the same.
    pub fn is_damaged(&self) -> bool {
        !matches!(self, Self::Input(_) | Self::Sink(_) | Self::NotKept { .. })
    }
}

/// Makes the image `expect` of a delta, reading what it refers to from the base, and gives the sink every blob that the base lacks.
///
/// For a delta that is whole, a base that is here anyway plays no part: the sink gets every blob. Reads exactly the delta, to the end of `input`. Pieces
/// are unpacked, checked and given to the sink on all cores while the next ones are read; when [`IN_FLIGHT`] bytes are taken, reading waits.
///
/// # Errors
/// [`ApplyError::is_damaged`] tells what a whole copy would mend. The sink sees nothing before the manifest's digest was found to be `expect`.
pub fn apply(
    base: Option<(&Manifest, ReadBlob<'_>)>,
    expect: ImageId,
    input: &mut dyn Read,
    sink: &dyn Sink,
) -> Result<Applied, ApplyError> {
    let mut input = Counted { input, n_read: 0 };
    let head = Head::read(base.map(|(manifest, _)| manifest), expect, &mut input)?;
    sink.manifest(&head.manifest).map_err(ApplyError::Sink)?;
    sink.reached(&Mark { offset: input.n_read, unfinished: None }).map_err(ApplyError::Sink)?;
    let pieces = Pieces::of(&head, base.map(|(_, read)| read), sink);
    pieces.run(Start { n_done: 0, unfinished: Hasher::new() }, &mut input)?;
    Ok(Applied { reused_len: head.plan.reused_len, manifest: head.manifest })
}

/// Goes on with an apply that was cut; `input` is the delta from the last mark on.
///
/// What the sink kept is hashed first, all of it: nothing is believed. It hears neither the manifest nor the marks again that it has.
///
/// # Errors
/// Those of [`apply`], and [`ApplyError::NotKept`] before anything is read from `input`.
pub fn resume(
    base: Option<(&Manifest, ReadBlob<'_>)>,
    expect: ImageId,
    kept: Kept<'_>,
    input: &mut dyn Read,
    sink: &dyn Sink,
) -> Result<Applied, ApplyError> {
    let nothing = ApplyError::NotKept { n_marks: 0 };
    let Some(last) = kept.marks.last() else { return Err(nothing) };
    let mut before = Counted { input: kept.head, n_read: 0 };
    let head = match Head::read(base.map(|(manifest, _)| manifest), expect, &mut before) {
        Ok(head) if before.n_read == kept.marks[0].offset && kept.marks.len() <= head.plan.pieces.len() + 1 => head,
        // Another base is the caller's mistake; anything else is a head that is not what it was.
        Err(error @ ApplyError::WrongBase { .. }) => return Err(error),
        _ => return Err(nothing),
    };
    let pieces = Pieces::of(&head, base.map(|(_, read)| read), sink);
    let start = pieces.check_kept(kept.marks)?;
    pieces.run(start, &mut Counted { input, n_read: last.offset })?;
    Ok(Applied { reused_len: head.plan.reused_len, manifest: head.manifest })
}

/// Counts what is read.
struct Counted<'a> {
    input: &'a mut dyn Read,
    n_read: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(out)?;
        self.n_read += n as u64;
        Ok(n)
    }
}

/// What comes before the pieces, and what follows from it.
struct Head {
    kind: Kind,
    manifest: Manifest,
    plan: Plan,
}

impl Head {
    fn read(base: Option<&Manifest>, expect: ImageId, input: &mut dyn Read) -> Result<Self, ApplyError> {
        let kind = read_header(base, expect, input)?;
        let old = base.filter(|_| kind != Kind::Whole);
        let manifest = read_manifest(old, kind, expect, input)?;
        if let Some(digest) = choose::two_lengths(old, &manifest) {
            return Err(ApplyError::TwoLengths { digest });
        }
        let pairs = match old.filter(|_| kind == Kind::Patch) {
            Some(old) => read_pairs(input, manifest.blobs().len(), old.blobs().len()).map_err(from_part)?,
            None => Vec::new(),
        };
        let plan = choose::plan(old, &manifest, &pairs);
        Ok(Self { kind, manifest, plan })
    }
}

/// Reads the header and compares what it names with what is here and what was expected.
fn read_header(base: Option<&Manifest>, expect: ImageId, input: &mut dyn Read) -> Result<Kind, ApplyError> {
    let mut bytes = [0; Header::LEN];
    input.read_exact(&mut bytes).map_err(ended)?;
    let header = Header::decode(&bytes)?;
    if header.target != IdPrefix::of(expect) {
        return Err(ApplyError::WrongTarget { expected: expect, found: header.target });
    }
    if let Some(expected) = header.base {
        let found = base.map(Manifest::image);
        if found.map(IdPrefix::of) != Some(expected) {
            return Err(ApplyError::WrongBase { expected, found });
        }
    }
    Ok(header.kind)
}

/// Reads the manifest, which grows part by part: a claim of 1 GiB takes no memory before the bytes are there.
fn read_manifest(base: Option<&Manifest>, kind: Kind, expect: ImageId, input: &mut dyn Read) -> Result<Manifest, ApplyError> {
    let len = read_varint(input).map_err(from_part)?;
    if len > limits::MANIFEST_LEN {
        return Err(ApplyError::ManifestTooLarge { len });
    }
    let old = base.map(Manifest::encode).unwrap_or_default();
    // The sender of an rsync delta has the manifests, so nothing but a patch makes sense for them.
    let kind = if kind == Kind::Rsync { Kind::Patch } else { kind };
    let mut bytes = Vec::new();
    for part in manifest_parts(old.len() as u64, len) {
        let base = || Ok(Base { lens: vec![part.base.len()], bytes: old[part.base].to_vec() });
        bytes.extend(read_part(input, kind, &[part.target.len()], base)?);
    }
    let found = ImageId(Digest::of(&bytes));
    if found != expect {
        return Err(ApplyError::WrongTarget { expected: expect, found: IdPrefix::of(found) });
    }
    Manifest::decode(&bytes).map_err(ApplyError::Manifest)
}

/// Reads one part of a manifest; reads the base only when the part refers to it and its claims make sense.
fn read_part(
    input: &mut dyn Read,
    kind: Kind,
    target_lens: &[usize],
    base: impl FnOnce() -> Result<Base, ApplyError>,
) -> Result<Vec<u8>, ApplyError> {
    let header = read_part_header(input, kind, target_lens)?;
    let packed = read_packed(input, &header)?;
    let base = if header.codec == Codec::Stored { Base::default() } else { base()? };
    Ok(codec::unpack(&header, packed, base, target_lens)?)
}

/// Reads what a part begins with, which must hold slices of these lengths, and checks its claims.
fn read_part_header(input: &mut dyn Read, kind: Kind, target_lens: &[usize]) -> Result<PartHeader, ApplyError> {
    let expected = target_lens.iter().map(|&len| len as u64).sum();
    let header = PartHeader::read(input, expected).map_err(from_part)?;
    codec::check(&header, kind, expected)?;
    Ok(header)
}

/// Reads the packed bytes of a part. Nothing is allocated by a claim: they take memory as they arrive.
fn read_packed(input: &mut dyn Read, header: &PartHeader) -> Result<Vec<u8>, ApplyError> {
    let mut packed = Vec::new();
    input.take(header.packed).read_to_end(&mut packed)?;
    if packed.len() as u64 != header.packed {
        return Err(CodecError::Truncated.into());
    }
    Ok(packed)
}

fn from_part(error: ReadPartError) -> ApplyError {
    match error {
        ReadPartError::Input(error) => ended(error),
        ReadPartError::Codec(error) => error.into(),
    }
}

/// Tells the end of the delta from an error of whoever brings it.
fn ended(error: io::Error) -> ApplyError {
    if error.kind() == io::ErrorKind::UnexpectedEof { CodecError::Truncated.into() } else { error.into() }
}
