//! Makes deltas.

use std::io::{self, Write};

use df_core::{Digest, Manifest};
use rayon::prelude::*;

use crate::choose::{self, Piece, Plan};
use crate::codec;
use crate::format::{Header, Kind, Part, manifest_parts};
use crate::read::{ReadBlob, ReadError, concat};
use crate::signature::{self, SignatureError};

/// How many pieces are packed at once at most, however many cores there are: each may take several hundred MiB.
const AT_ONCE: usize = 8;

/// How much time a delta is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// For a delta that is sent a few times: a relinked program of 10 MB takes about half a second on one core.
    #[default]
    Fast,
    /// For one that is sent to many, or over a slow line: 10 to 15 % smaller in 15 times the time.
    Small,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    /// Bytes of the delta.
    pub bytes: u64,
    /// Bytes of the target that the base holds already.
    pub reused_len: u64,
}

/// A delta was not made. What was written until then is of no use.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A manifest lists one blob with two lengths, or the two manifests do not agree; no image is like that.
    #[error("blob {digest} is listed with two lengths")]
    TwoLengths {
        /// The blob.
        digest: Digest,
    },
    /// A blob of the base cannot be read; a whole copy needs none.
    #[error("read blob {digest} of the base")]
    ReadBase {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blob of the target cannot be read.
    #[error("read blob {digest}")]
    ReadTarget {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A receiver's signature breaks the rules; a whole copy needs none.
    #[error("refused the signature of a base")]
    Signature(#[from] SignatureError),
    /// zstd failed, for want of memory.
    #[error("zstd failed: {0}")]
    Zstd(&'static str),
    /// The delta cannot be written.
    #[error("write the delta")]
    Write(#[source] io::Error),
}

/// Writes the delta that makes the target of the base; without base, a whole copy.
///
/// Pieces are packed on all cores and written in order; the bytes depend on nothing but the arguments and the version of zstd. What is read is not
/// compared with its digest: the receiver does that.
///
/// # Errors
/// Says which blob cannot be read, or that the delta cannot be written.
pub fn encode(
    base: Option<(&Manifest, ReadBlob<'_>)>,
    target: (&Manifest, ReadBlob<'_>),
    level: Level,
    out: &mut dyn Write,
) -> Result<Encoded, EncodeError> {
    let kind = if base.is_some() { Kind::Patch } else { Kind::Whole };
    write(kind, base.map(|(manifest, _)| manifest), target, level, out, |piece, _, target| {
        let prefix = match base {
            Some((_, read)) => {
                concat(&piece.base, read).map_err(|ReadError { digest, source }| EncodeError::ReadBase { digest, source })?
            }
            None => Vec::new(),
        };
        codec::pack(target, &prefix, level).map_err(zstd)
    })
}

/// Writes the delta that makes the target of a base whose bytes are not here, from the receiver's signatures: one for each of
/// [`Plan::stretches`], in order.
///
/// # Errors
/// [`EncodeError::Signature`] when one is not exactly what [`fn@crate::signature`] makes of a base of that length.
pub fn encode_rsync(
    base: &Manifest,
    signatures: &[Vec<u8>],
    target: (&Manifest, ReadBlob<'_>),
    level: Level,
    out: &mut dyn Write,
) -> Result<Encoded, EncodeError> {
    let expected = choose::plan(Some(base), target.0).stretches().count();
    if expected != signatures.len() {
        return Err(SignatureError::Count { expected, found: signatures.len() }.into());
    }
    write(Kind::Rsync, Some(base), target, level, out, |piece, nth_with_base, target| {
        let Some(nth) = nth_with_base else { return codec::pack(target, &[], level).map_err(zstd) };
        let signature = signature::parse(&signatures[nth], piece.base_len())?;
        let mut delta = Vec::new();
        // It fails for signatures that `parse` refuses, and for writers that fail; a vector does not.
        fast_rsync::diff(&signature.index(), target, &mut delta).map_err(|_| SignatureError::Magic)?;
        codec::pack_rsync(&delta, level).map_err(zstd)
    })
}

/// Writes header, manifest and pieces; `pack` gets a piece, its number among those with a base, and its bytes.
fn write(
    kind: Kind,
    base: Option<&Manifest>,
    (target, read): (&Manifest, ReadBlob<'_>),
    level: Level,
    out: &mut dyn Write,
    pack: impl Fn(&Piece, Option<usize>, &[u8]) -> Result<Part, EncodeError> + Sync,
) -> Result<Encoded, EncodeError> {
    if let Some(digest) = choose::two_lengths(base, target) {
        return Err(EncodeError::TwoLengths { digest });
    }
    let Plan { pieces, reused_len, .. } = choose::plan(base, target);
    let mut bytes = write_head(kind, base, target, level, out)?;
    let numbered = number(&pieces);
    for batch in numbered.chunks(rayon::current_num_threads().clamp(1, AT_ONCE)) {
        let parts: Vec<Result<Part, EncodeError>> = batch
            .par_iter()
            .map(|(piece, nth_with_base)| {
                let target = concat(&piece.target, read)
                    .map_err(|ReadError { digest, source }| EncodeError::ReadTarget { digest, source })?;
                pack(piece, *nth_with_base, &target)
            })
            .collect();
        for part in parts {
            bytes += part?.write(out).map_err(EncodeError::Write)?;
        }
    }
    Ok(Encoded { bytes, reused_len })
}

/// Writes what comes before the pieces; returns how many bytes.
fn write_head(
    kind: Kind,
    base: Option<&Manifest>,
    target: &Manifest,
    level: Level,
    out: &mut dyn Write,
) -> Result<u64, EncodeError> {
    let (old, new) = (base.map(Manifest::encode).unwrap_or_default(), target.encode());
    let header = Header { kind, base: base.map(Manifest::image), target: target.image() };
    out.write_all(&header.encode()).map_err(EncodeError::Write)?;
    let len = u32::try_from(new.len()).expect("a manifest is at most 1 GiB");
    out.write_all(&len.to_le_bytes()).map_err(EncodeError::Write)?;
    let mut bytes = (Header::LEN + 4) as u64;
    for part in manifest_parts(old.len() as u64, new.len() as u64) {
        let part = codec::pack(&new[part.target], &old[part.base], level).map_err(zstd)?;
        bytes += part.write(out).map_err(EncodeError::Write)?;
    }
    Ok(bytes)
}

/// Numbers the pieces that have a base: signatures come in that order.
fn number(pieces: &[Piece]) -> Vec<(&Piece, Option<usize>)> {
    let mut count = 0..;
    pieces.iter().map(|piece| (piece, if piece.base.is_empty() { None } else { count.next() })).collect()
}

fn zstd(code: zstd_safe::ErrorCode) -> EncodeError {
    EncodeError::Zstd(zstd_safe::get_error_name(code))
}
