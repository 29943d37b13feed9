//! Packs one part and unpacks it, strictly.
//!
//! What a part is decides which codecs are tried, and the smallest is taken.

use zstd_safe::{CCtx, CParameter, DCtx, ErrorCode};

use crate::diff::{EncodeError, Level, Options};
use crate::entropy::EntropyError;
use crate::format::{Codec, Kind, Part, PartHeader, WINDOW_LOG};
use crate::predict::{self, Body, Source};

/// The first bytes of every frame this format allows: zstd's magic and a descriptor that announces nothing but a window.
const FRAME: [u8; 5] = [0x28, 0xb5, 0x2f, 0xfd, 0x00];

/// From which length on a piece is large enough that trying another codec costs noticeable time.
const LARGE: usize = 1 << 16;
/// A piece that was packed to less than this part of it is packed well enough.
const ENOUGH: usize = 16;

/// A part is not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The delta ends within it.
    #[error("the delta ends before it should")]
    Truncated,
    /// No such codec, or not in this kind of delta.
    #[error("unknown or unexpected codec {0}")]
    Codec(u8),
    /// A number is not in its shortest form.
    #[error("a number is not in its shortest form")]
    Number,
    /// Pairs name blobs that do not exist.
    #[error("pairs name blobs that do not exist")]
    Pairs,
    /// It claims to hold another number of bytes than both manifests say.
    #[error("claims {found} bytes where {expected} are due")]
    Length {
        /// What the manifests say.
        expected: u64,
        /// What the part says or holds.
        found: u64,
    },
    /// It claims more packed bytes than any packing of its content needs.
    #[error("claims {packed} packed bytes for {raw}")]
    Oversized {
        /// Packed.
        packed: u64,
        /// Unpacked.
        raw: u64,
    },
    /// Not exactly one frame of the form that is allowed.
    #[error("not one plain zstd frame with a window of at most 2^{WINDOW_LOG} bytes")]
    Frame,
    /// zstd refused the frame.
    #[error("damaged zstd frame: {0}")]
    Zstd(&'static str),
    /// A copy or a program is not made of what it should be.
    #[error("damaged segments or corrections")]
    Body,
    /// The base is not the program that the delta was made for, or what is made is none.
    #[error("not a program that this delta can be for")]
    Program,
    /// A stream of numbers or literals is damaged.
    #[error("damaged stream")]
    Stream(#[from] EntropyError),
    /// The rsync delta is damaged, or meant for other bytes.
    #[error("damaged rsync delta")]
    Rsync,
}

/// Packs a piece by the smallest codec that the options allow. What none can make smaller is stored.
///
/// Codecs come in the order of what they most likely save; where one made so little of a large piece that no other can matter, the rest is not tried.
pub(crate) fn pack(source: &Source<'_>, paired: &[Option<u32>], options: Options) -> Result<Part, EncodeError> {
    let Options { level, codec } = options;
    let allowed = |other: Codec| codec.is_none_or(|codec| codec == other);
    // Nothing means that all is stored: a copy of it can wait until that is certain.
    let mut best: Option<Part> = None;
    let (target_len, has_base) = (source.target_len(), source.base_lens.iter().any(|&len| len > 0));
    let len = |best: &Option<Part>| best.as_ref().map_or(target_len, |best| best.bytes.len());
    let offer = |best: &mut Option<Part>, other: Option<Part>| {
        if let Some(other) = other.filter(|other| other.bytes.len() < len(best)) {
            *best = Some(other);
        }
    };
    let is_enough = |best: &Option<Part>| target_len >= LARGE && len(best) < target_len / ENOUGH;
    let is_elf = |best: &Option<Part>| best.as_ref().is_some_and(|best| best.codec == Codec::Elf);
    let mut read = Some(source.read()?);
    if allowed(Codec::Elf) {
        offer(&mut best, predict::elf(source, &mut read, paired, level)?.map(|body| predicted(Codec::Elf, body)));
    }
    let quick = codec.is_none() && level == Level::Fast;
    if is_enough(&best) || quick && is_elf(&best) {
        return Ok(best.expect("it is less than all"));
    }
    let both = read.map_or_else(|| source.read(), Ok)?;
    if allowed(Codec::Copy) && (has_base || !quick) {
        offer(&mut best, predict::copy(&source.sides(&both), level).map(|body| predicted(Codec::Copy, body)));
    }
    // A forced codec that is no way to pack this piece leaves it to zstd.
    let is_left = codec.is_some() && best.is_none();
    if is_left || allowed(Codec::Zstd) && !is_enough(&best) {
        offer(&mut best, Some(part(Codec::Zstd, compress(&both.target, &both.base, level).map_err(zstd)?)));
    }
    Ok(best.unwrap_or_else(|| part(Codec::Stored, both.target)))
}

fn zstd(code: ErrorCode) -> EncodeError {
    EncodeError::Zstd(zstd_safe::get_error_name(code))
}

fn part(codec: Codec, bytes: Vec<u8>) -> Part {
    Part { codec, raw: 0, bytes, streams: Default::default() }
}

fn predicted(codec: Codec, Body { bytes, streams }: Body) -> Part {
    Part { codec, raw: 0, bytes, streams }
}

/// Packs an rsync delta; the receiver bounds it by [`rsync_bound`].
pub(crate) fn pack_rsync(delta: &[u8], level: Level) -> Result<Part, EncodeError> {
    Ok(Part { raw: delta.len(), ..part(Codec::Rsync, compress(delta, &[], level).map_err(zstd)?) })
}

/// Decides whether what a part claims fits the `expected` bytes that are due, before anything is allocated for it.
pub(crate) fn check(header: &PartHeader, kind: Kind, expected: u64) -> Result<(), CodecError> {
    let PartHeader { codec, raw, packed } = *header;
    if codec == Codec::Rsync && kind != Kind::Rsync {
        return Err(CodecError::Codec(codec as u8));
    }
    if raw > rsync_bound(expected) {
        return Err(CodecError::Length { expected, found: raw });
    }
    let unpacked = if codec == Codec::Rsync { raw } else { expected };
    // At most 64 MiB and an eighth, so it fits everywhere.
    if packed > zstd_safe::compress_bound(unpacked as usize) as u64 {
        return Err(CodecError::Oversized { packed, raw: unpacked });
    }
    Ok(())
}

/// Unpacks a part whose header was checked, to exactly the bytes of all slices of the target.
pub(crate) fn unpack(header: &PartHeader, packed: Vec<u8>, base: Base, target_lens: &[usize]) -> Result<Vec<u8>, CodecError> {
    let len = target_lens.iter().sum();
    match header.codec {
        Codec::Stored => Ok(packed),
        Codec::Zstd => decompress(&packed, &base.bytes, len),
        Codec::Rsync => {
            let delta = decompress(&packed, &[], header.raw as usize)?;
            drop(packed);
            patch(&base.bytes, &delta, len)
        }
        Codec::Copy | Codec::Elf => predict::decode(&packed, base.bytes, &base.lens, target_lens, header.codec == Codec::Elf),
    }
}

/// The old bytes of a piece, and the lengths of its slices.
#[derive(Debug, Default)]
pub(crate) struct Base {
    pub bytes: Vec<u8>,
    pub lens: Vec<usize>,
}

/// The longest rsync delta that makes `len` bytes: every copy of a block of 256 bytes or more and the literal before it cost at most 26 bytes more than what they hold.
fn rsync_bound(len: u64) -> u64 {
    len + len / 8 + 64
}

fn compress(target: &[u8], prefix: &[u8], level: Level) -> Result<Vec<u8>, ErrorCode> {
    let mut context = CCtx::create();
    for parameter in parameters(target.len(), prefix.len(), level) {
        context.set_parameter(parameter)?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix)?;
    }
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(target.len()));
    context.compress2(&mut out, target)?;
    Ok(out)
}

/// Measured on four pairs of published programs of 4 to 15 MB and on all of them as one file:
/// - 12 takes about 50 ms a MB of target. 9 is a little faster and up to 40 % larger; 19 is 10 to 15 % smaller and takes 15 times as long, the levels between most
///   of that for little.
/// - At level 12 the table must remember about every place of the base: with the level's own 2^22 a base of 35 MB was nearly no help (8.0 MB instead of 2.1).
/// - Long-distance matching prefers a long match to a near one, which costs level 12 up to 13 % on programs, unless it looks for very long ones only: then it
///   catches what fell out of the table. Level 19 weighs its proposals and gains by them.
fn parameters(target_len: usize, prefix_len: usize, level: Level) -> Vec<CParameter> {
    // It covers base and target.
    let window_log = (usize::BITS - (target_len + prefix_len).max(1 << 10).leading_zeros()).min(WINDOW_LOG);
    let mut parameters = vec![
        CParameter::ContentSizeFlag(false),
        CParameter::WindowLog(window_log),
        CParameter::EnableLongDistanceMatching(prefix_len > 0),
    ];
    parameters.extend(match level {
        Level::Fast => {
            vec![CParameter::CompressionLevel(12), CParameter::HashLog(window_log.min(26) - 1), CParameter::LdmMinMatch(1024)]
        }
        Level::Small => vec![CParameter::CompressionLevel(19)],
    });
    parameters
}

fn decompress(packed: &[u8], prefix: &[u8], len: usize) -> Result<Vec<u8>, CodecError> {
    let window = packed.get(FRAME.len()).filter(|_| packed.starts_with(&FRAME)).ok_or(CodecError::Frame)?;
    // The window descriptor of RFC 8878: five bits of exponent above 2^10, three of eighths.
    let (exponent, eighths) = (10 + u32::from(window >> 3), window & 7);
    if exponent > WINDOW_LOG || (exponent == WINDOW_LOG && eighths > 0) {
        return Err(CodecError::Frame);
    }
    // One frame and nothing else: `decompress` would go on with a second one, or skip what it is told to.
    if zstd_safe::find_frame_compressed_size(packed).ok() != Some(packed.len()) {
        return Err(CodecError::Frame);
    }
    let refuse = |code| CodecError::Zstd(zstd_safe::get_error_name(code));
    let mut context = DCtx::create();
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(refuse)?;
    }
    let mut out = Vec::with_capacity(len);
    context.decompress(&mut out, packed).map_err(refuse)?;
    exactly(out, len)
}

fn patch(base: &[u8], delta: &[u8], len: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(len);
    fast_rsync::apply_limited(base, delta, &mut out, len).map_err(|_| CodecError::Rsync)?;
    exactly(out, len)
}

fn exactly(bytes: Vec<u8>, len: usize) -> Result<Vec<u8>, CodecError> {
    if bytes.len() == len { Ok(bytes) } else { Err(CodecError::Length { expected: len as u64, found: bytes.len() as u64 }) }
}
