//! Makes an image of a delta and its base; streaming, bounded, checked.

use std::io::{self, Read};

use df_core::manifest::DecodeError;
use df_core::{Digest, Hasher, ImageId, Manifest, limits};

use crate::choose::{self, Piece, Slice};
use crate::codec::{self, Base, CodecError};
use crate::format::{Codec, Header, HeaderError, Kind, PartHeader, ReadPartError, manifest_parts, read_pairs, read_varint};
use crate::read::{self, ReadBlob, ReadError, concat};

/// Takes what a delta makes: the manifest first, then each blob that the base lacks, once, in the order of the plan. Without base those are all blobs.
pub trait Sink {
    /// Takes the manifest. Its digest is the image that was expected.
    ///
    /// # Errors
    /// Any error ends the apply.
    fn manifest(&mut self, manifest: &Manifest) -> io::Result<()>;

    /// Starts a blob, whose bytes follow.
    ///
    /// # Errors
    /// Any error ends the apply.
    fn blob(&mut self, digest: Digest, len: u64) -> io::Result<()>;

    /// Takes more bytes of the blob. They are not checked yet.
    ///
    /// # Errors
    /// Any error ends the apply.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Ends the blob. Called only after its BLAKE3 was found to be its digest, and its length what the manifest says.
    ///
    /// # Errors
    /// Any error ends the apply.
    fn finish(&mut self) -> io::Result<()>;
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
        expected: ImageId,
        /// What is here.
        found: Option<ImageId>,
    },
    /// The delta makes another image.
    #[error("delta makes image {found}, expected {expected}")]
    WrongTarget {
        /// What was announced.
        expected: ImageId,
        /// What the delta says or holds.
        found: ImageId,
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
}

impl ApplyError {
    /// Returns whether these bytes did not make the image though this side works: the sender should send a whole copy, once.
    ///
    /// A base that cannot be read counts too. An input that breaks and a sink that is full do not: another delta would meet the same.
    pub fn is_damaged(&self) -> bool {
        !matches!(self, Self::Input(_) | Self::Sink(_))
    }
}

/// Makes the image `expect` of a delta, reading what it refers to from the base, and gives the sink every blob that the base lacks.
///
/// For a delta that is whole, a base that is here anyway plays no part: the sink gets every blob. Reads exactly the delta, to the end of `input`.
///
/// # Errors
/// [`ApplyError::is_damaged`] tells what a whole copy would mend. The sink sees nothing before the manifest's digest was found to be `expect`.
pub fn apply(
    base: Option<(&Manifest, ReadBlob<'_>)>,
    expect: ImageId,
    input: &mut dyn Read,
    sink: &mut dyn Sink,
) -> Result<Applied, ApplyError> {
    let kind = read_header(base.map(|(manifest, _)| manifest), expect, input)?;
    let base = base.filter(|_| kind != Kind::Whole);
    let old = base.map(|(manifest, _)| manifest);
    let manifest = read_manifest(old, kind, expect, input)?;
    if let Some(digest) = choose::two_lengths(old, &manifest) {
        return Err(ApplyError::TwoLengths { digest });
    }
    sink.manifest(&manifest).map_err(ApplyError::Sink)?;
    if let Some(old) = old.filter(|_| kind == Kind::Patch) {
        read_pairs(input, manifest.blobs().len(), old.blobs().len()).map_err(from_part)?;
    }
    let plan = choose::plan(old, &manifest, &[]);
    let lens = manifest.blobs().into_iter().collect();
    let mut blobs = Blobs { sink, lens, current: Hasher::new() };
    for piece in &plan.pieces {
        let bytes = read_part(input, kind, &read::lens(&piece.target), || read_base(piece, base.map(|(_, read)| read)))?;
        blobs.take(&piece.target, &bytes)?;
    }
    if input.take(1).read_to_end(&mut Vec::new())? > 0 {
        return Err(ApplyError::Trailing);
    }
    Ok(Applied { manifest, reused_len: plan.reused_len })
}

/// Reads the header and compares what it names with what is here and what was expected.
fn read_header(base: Option<&Manifest>, expect: ImageId, input: &mut dyn Read) -> Result<Kind, ApplyError> {
    let mut bytes = [0; Header::LEN];
    input.read_exact(&mut bytes).map_err(ended)?;
    let header = Header::decode(&bytes)?;
    if header.target != expect {
        return Err(ApplyError::WrongTarget { expected: expect, found: header.target });
    }
    if let Some(expected) = header.base {
        let found = base.map(Manifest::image);
        if found != Some(expected) {
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
        return Err(ApplyError::WrongTarget { expected: expect, found });
    }
    Manifest::decode(&bytes).map_err(ApplyError::Manifest)
}

/// Reads one part that must hold slices of these lengths; reads the base only when the part refers to it and its claims make sense.
///
/// Nothing is allocated by a claim: packed bytes take memory as they arrive, and unpacked ones take what the plan says.
fn read_part(
    input: &mut dyn Read,
    kind: Kind,
    target_lens: &[usize],
    base: impl FnOnce() -> Result<Base, ApplyError>,
) -> Result<Vec<u8>, ApplyError> {
    let expected = target_lens.iter().map(|&len| len as u64).sum();
    let header = PartHeader::read(input, expected).map_err(from_part)?;
    codec::check(&header, kind, expected)?;
    let mut packed = Vec::new();
    input.take(header.packed).read_to_end(&mut packed)?;
    if packed.len() as u64 != header.packed {
        return Err(CodecError::Truncated.into());
    }
    let base = if header.codec == Codec::Stored { Base::default() } else { base()? };
    Ok(codec::unpack(&header, packed, base, target_lens)?)
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

fn read_base(piece: &Piece, read: Option<ReadBlob<'_>>) -> Result<Base, ApplyError> {
    let Some(read) = read else { return Ok(Base::default()) };
    let bytes = concat(&piece.base, read).map_err(|ReadError { digest, source }| ApplyError::ReadBase { digest, source })?;
    Ok(Base { bytes, lens: read::lens(&piece.base) })
}

/// Cuts the bytes of pieces into blobs again, and checks each.
struct Blobs<'a> {
    sink: &'a mut dyn Sink,
    lens: std::collections::HashMap<Digest, u64>,
    current: Hasher,
}

impl Blobs<'_> {
    fn take(&mut self, slices: &[Slice], mut bytes: &[u8]) -> Result<(), ApplyError> {
        for slice in slices {
            let (now, later) = bytes.split_at(slice.len as usize);
            bytes = later;
            self.slice(slice, now).map_err(ApplyError::Sink)?;
            if slice.offset + slice.len == self.lens[&slice.digest] {
                self.finish(slice.digest)?;
            }
        }
        Ok(())
    }

    fn slice(&mut self, slice: &Slice, bytes: &[u8]) -> io::Result<()> {
        if slice.offset == 0 {
            self.current = Hasher::new();
            self.sink.blob(slice.digest, self.lens[&slice.digest])?;
        }
        self.current.update(bytes);
        if bytes.is_empty() { Ok(()) } else { self.sink.write(bytes) }
    }

    fn finish(&mut self, expected: Digest) -> Result<(), ApplyError> {
        let found = self.current.finish();
        if found != expected {
            return Err(ApplyError::WrongBlob { expected, found });
        }
        self.sink.finish().map_err(ApplyError::Sink)
    }
}
