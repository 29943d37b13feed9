//! Makes deltas.

use std::io::{self, Write};
use std::ops::Range;

use df_core::{Digest, Manifest};
use rayon::prelude::*;

use crate::blocks;
use crate::choose::{self, Pair, Piece, Plan};
use crate::codec;
use crate::format::{Codec, Header, IdPrefix, Kind, ManifestPart, Part, encode_pairs, manifest_parts};
use crate::predict::{SORTS, Source, StreamLen};
use crate::read::{ReadBlob, ReadError, concat, lens};
use crate::signature::{self, SignatureError};
use crate::varint;

/// How many pieces are packed at once at most, however many cores there are and however small they are.
const AT_ONCE: usize = 8;
/// How long those pieces may be together, by the longer side of each. Where one is longer by itself, as long as the longest: so all of them take no more than that
/// one would, or one of many small files, and how many times the largest file an encoder takes is true of the whole process.
const TOGETHER: u64 = 32 << 20;

/// How much time a delta is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// For a delta that is sent a few times: a relinked program of 10 MB takes a quarter to half a second on one core.
    #[default]
    Fast,
    /// For one that is sent to many over slow lines: 10 to 30 % smaller in ten times the time, and as much slower to apply.
    Small,
}

/// How a delta is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// How much time it is worth.
    pub level: Level,
    /// The codec of each piece that allows it, instead of the one that makes it smallest.
    pub codec: Option<Codec>,
}

impl From<Level> for Options {
    fn from(level: Level) -> Self {
        Self { level, codec: None }
    }
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    /// Bytes of the delta.
    pub bytes: u64,
    /// Bytes of the target that the base holds already.
    pub reused_len: u64,
    /// How its pieces are packed.
    pub codecs: Codecs,
    /// What the streams of all copies and elfs took, by [`Sort`](crate::predict::Sort).
    pub streams: [StreamLen; SORTS],
}

/// Bytes by [`Codec`], of pieces only: the manifest is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Codecs([StreamLen; Codec::ALL.len()]);

impl Codecs {
    /// Returns the bytes that a codec makes, and the packed ones that travel for it.
    pub fn of(&self, codec: Codec) -> StreamLen {
        self.0[codec as usize]
    }

    /// Returns the codec that makes most bytes, if there is a piece at all.
    pub fn main(&self) -> Option<Codec> {
        Codec::ALL.into_iter().filter(|&codec| self.of(codec).raw > 0).max_by_key(|&codec| self.of(codec).raw)
    }
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
    options: impl Into<Options>,
    out: &mut dyn Write,
) -> Result<Encoded, EncodeError> {
    let kind = if base.is_some() { Kind::Patch } else { Kind::Whole };
    let options = options.into();
    let pairs = base.map(|base| choose::pairs(base, target)).unwrap_or_default();
    write(kind, base.map(|(manifest, _)| manifest), &pairs, target.0, options, out, |piece, _| {
        pack(piece, base.map(|(_, read)| read), target.1, options)
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
    options: impl Into<Options>,
    out: &mut dyn Write,
) -> Result<Encoded, EncodeError> {
    let expected = choose::plan(Some(base), target.0, &[]).stretches().count();
    if expected != signatures.len() {
        return Err(SignatureError::Count { expected, found: signatures.len() }.into());
    }
    let options = options.into();
    write(Kind::Rsync, Some(base), &[], target.0, options, out, |piece, nth_with_base| {
        let Some(nth) = nth_with_base else { return pack(piece, None, target.1, options) };
        let signature = signature::parse(&signatures[nth], piece.base_len())?;
        let delta = blocks::find(&signature, &read_target(piece, target.1)?);
        codec::pack_rsync(&delta, options.level)
    })
}

/// Packs a piece by whatever codec makes it smallest.
fn pack(piece: &Piece, base: Option<ReadBlob<'_>>, target: ReadBlob<'_>, options: Options) -> Result<Part, EncodeError> {
    let (base_lens, target_lens) = (base.map(|_| lens(&piece.base)).unwrap_or_default(), lens(&piece.target));
    let source = Source {
        base: &|| base.map_or(Ok(Vec::new()), |read| read_base(piece, read)),
        base_lens: &base_lens,
        target: &|| read_target(piece, target),
        target_lens: &target_lens,
    };
    codec::pack(&source, &piece.paired, options)
}

fn read_base(piece: &Piece, read: ReadBlob<'_>) -> Result<Vec<u8>, EncodeError> {
    concat(&piece.base, read).map_err(|ReadError { digest, source }| EncodeError::ReadBase { digest, source })
}

fn read_target(piece: &Piece, read: ReadBlob<'_>) -> Result<Vec<u8>, EncodeError> {
    concat(&piece.target, read).map_err(|ReadError { digest, source }| EncodeError::ReadTarget { digest, source })
}

/// Writes header, manifest and pieces; `pack` gets a piece, and its number among those with a base.
fn write(
    kind: Kind,
    base: Option<&Manifest>,
    pairs: &[Pair],
    target: &Manifest,
    options: Options,
    out: &mut dyn Write,
    pack: impl Fn(&Piece, Option<usize>) -> Result<Part, EncodeError> + Sync,
) -> Result<Encoded, EncodeError> {
    if let Some(digest) = choose::two_lengths(base, target) {
        return Err(EncodeError::TwoLengths { digest });
    }
    let Plan { pieces, reused_len, .. } = choose::plan(base, target, pairs);
    let bytes = write_head(kind, base, target, options, out)?;
    let mut encoded = Encoded { bytes, reused_len, codecs: Codecs::default(), streams: Default::default() };
    if kind == Kind::Patch {
        let pairs = encode_pairs(pairs);
        out.write_all(&pairs).map_err(EncodeError::Write)?;
        encoded.bytes += pairs.len() as u64;
    }
    let numbered = number(&pieces);
    let lens: Vec<u64> = pieces.iter().map(|piece| piece.base_len().max(piece.target_len())).collect();
    for batch in batches(&lens, rayon::current_num_threads()) {
        let batch = &numbered[batch];
        let parts: Vec<Result<Part, EncodeError>> =
            batch.par_iter().map(|(piece, nth_with_base)| pack(piece, *nth_with_base)).collect();
        for ((piece, _), part) in batch.iter().zip(parts) {
            let part = part?;
            let packed = part.write(out).map_err(EncodeError::Write)?;
            encoded.count(&part, piece.target_len(), packed);
        }
    }
    Ok(encoded)
}

/// Returns which pieces of these lengths are packed at once, in order.
fn batches(lens: &[u64], n_threads: usize) -> Vec<Range<usize>> {
    let together = lens.iter().copied().fold(TOGETHER, u64::max);
    let (mut batches, mut sum): (Vec<Range<usize>>, u64) = (Vec::new(), 0);
    for (nth, len) in lens.iter().enumerate() {
        match batches.last_mut() {
            Some(last) if last.len() < n_threads.min(AT_ONCE) && sum + len <= together => {
                last.end += 1;
                sum += len;
            }
            _ => {
                batches.push(nth..nth + 1);
                sum = *len;
            }
        }
    }
    batches
}

impl Encoded {
    fn count(&mut self, part: &Part, raw: u64, packed: u64) {
        self.bytes += packed;
        let add = |sum: &mut StreamLen, more: StreamLen| {
            sum.raw += more.raw;
            sum.packed += more.packed;
        };
        add(&mut self.codecs.0[part.codec as usize], StreamLen { raw, packed });
        self.streams.iter_mut().zip(part.streams).for_each(|(sum, more)| add(sum, more));
    }
}

/// Writes what comes before the pieces; returns how many bytes.
fn write_head(
    kind: Kind,
    base: Option<&Manifest>,
    target: &Manifest,
    options: Options,
    out: &mut dyn Write,
) -> Result<u64, EncodeError> {
    let (old, new) = (base.map(Manifest::encode).unwrap_or_default(), target.encode());
    let prefix = |manifest: &Manifest| IdPrefix::of(manifest.image());
    let mut header = Header { kind, base: base.map(prefix), target: prefix(target) }.encode().to_vec();
    varint::put(&mut header, new.len() as u64);
    out.write_all(&header).map_err(EncodeError::Write)?;
    let mut bytes = header.len() as u64;
    for ManifestPart { target, base } in manifest_parts(old.len() as u64, new.len() as u64) {
        let source = Source {
            base: &|| Ok(old[base.clone()].to_vec()),
            base_lens: &[base.len()],
            target: &|| Ok(new[target.clone()].to_vec()),
            target_lens: &[target.len()],
        };
        let part = codec::pack(&source, &[], options)?;
        bytes += part.write(out).map_err(EncodeError::Write)?;
    }
    Ok(bytes)
}

/// Numbers the pieces that have a base: signatures come in that order.
fn number(pieces: &[Piece]) -> Vec<(&Piece, Option<usize>)> {
    let mut count = 0..;
    pieces.iter().map(|piece| (piece, if piece.base.is_empty() { None } else { count.next() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_packed_at_once_as_long_as_they_are_no_longer_than_the_longest() {
        let of = |mib: &[u64], n_threads| {
            let lens: Vec<u64> = mib.iter().map(|mib| mib << 20).collect();
            batches(&lens, n_threads).into_iter().map(|batch| (batch.start, batch.end)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[], 2), []);
        assert_eq!(of(&[16, 16, 16], 2), [(0, 2), (2, 3)]);
        assert_eq!(of(&[34, 34, 1], 2), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(of(&[60, 30, 30, 1], 4), [(0, 1), (1, 3), (3, 4)]);
        assert_eq!(of(&[1; 20], 64), [(0, 8), (8, 16), (16, 20)]);
        assert_eq!(of(&[1; 3], 0), [(0, 1), (1, 2), (2, 3)]);
    }
}
