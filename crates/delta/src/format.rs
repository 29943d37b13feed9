//! The bytes of a delta.
//!
//! # Format, version 3
//!
//! ```text
//! delta    = header, length, part*, pairs, part*  the manifest's parts, then one part for each piece of the plan; nothing after the last
//! header   = "dfd" 0x03, kind, base, target
//! kind     = 0x00                                 whole: there is no base
//!          | 0x01                                 patch: the sender had the base
//!          | 0x02                                 rsync: the sender had the base's manifest and signatures of its bytes
//! base     = 8 bytes                              what the image id of the base begins with; zeroes when whole
//! target   = 8 bytes                              what the image id of the target begins with
//! length   = varint                               bytes of the target's manifest
//! pairs    = count, pair*                         only in a patch: which blobs resemble each other, where names do not tell
//! pair     = varint, varint                       number of a blob in the target, less those up to the pair before; and of one in the base
//! part     = 0x00, bytes                          stored: `bytes` are the target's
//!          | 0x01, packed, bytes                  zstd: one frame that refers to the base's bytes as its prefix
//!          | 0x02, raw, packed, bytes             rsync: a zstd frame without prefix that holds an rsync delta of `raw` bytes; only in deltas of that kind
//!          | 0x03, packed, bytes                  copy: stretches of the base, and what differs
//!          | 0x04, packed, bytes                  elf: the same, and programs of which addresses moved
//! count, raw, packed = varint                     LEB128, unsigned, in its shortest form
//! ```
//!
//! Both sides know the two ids before a delta moves, and the manifest that comes out is compared with the whole id of the target; what the header says of them only tells a delta that went astray
//! from a damaged one.
//!
//! How many bytes a part unpacks to is never said: the plan says it. `packed` is the length of `bytes`.
//!
//! A zstd frame is exactly one, begins with `28 b5 2f fd 00` (no content size, no checksum, no dictionary: BLAKE3 checks everything), has a window of at most 2^27 bytes,
//! and ends where the part ends. An rsync delta is one of librsync's format: magic `72 73 02 36`, literals and copies, one end command. What copy and elf hold
//! is told in `predict`.
//!
//! The manifest is cut into parts of 32 MiB, the last one shorter. The prefix of the part at byte `a` is the base manifest's canonical bytes, or, of one
//! beyond 64 MiB, the 64 MiB around the proportional place. Blobs are numbered as in [`df_core::Manifest::blobs`]; each target occurs once, in ascending order. The pieces,
//! their bases and their lengths are those of [`crate::choose::plan`], which is part of this format: changing it needs a new version. A part that unpacks to
//! any other length is refused.
//!
//! Example: from nothing to the image of one file `a` that holds `hi\n` (testdata/whole-v3.bin):
//!
//! ```text
//! 64 66 64 03  00  <8 zero bytes>  <8 bytes>      "dfd", version 3, whole, no base, what the target's image id begins with
//! 29                                              its manifest has 41 bytes
//! 00                                              stored
//! 64 66 6d 01 01 01 01 61 03  <32 bytes>          the manifest itself
//! 00  68 69 0a                                    the only piece: "hi\n", stored
//! ```
//!
//! Compatibility: a new layout or plan gets a new fourth byte; a reader refuses one it does not know, and the sender's fallback is the newest version that both know.
//! Deltas are kept only as a cache, so an old one that is refused costs making it again. Version 1 had fixed lengths and neither pairs, copy nor elf, version 2
//! the whole ids; nothing reads or writes them any more.

use std::fmt;
use std::io::{self, Read, Write};

use df_core::ImageId;

use crate::choose::Pair;
use crate::codec::CodecError;
use crate::predict::{SORTS, StreamLen};
use crate::varint;

/// Bytes of the old that one piece may refer to.
pub const BASE_LEN: u64 = 64 << 20;
/// Bytes of the new that one piece may hold.
pub const TARGET_LEN: u64 = 64 << 20;
/// The largest window of a zstd frame, as a power of two: it covers both.
pub const WINDOW_LOG: u32 = 27;
/// Bytes of a part of the manifest.
pub(crate) const MANIFEST_PART: u64 = 32 << 20;

const MAGIC: &[u8; 4] = b"dfd\x03";

/// How a delta was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no base.
    Whole,
    /// The sender had the base.
    Patch,
    /// The sender had the base's manifest and signatures of its bytes.
    Rsync,
}

/// What an image id begins with: enough to tell which image is meant, and nothing to trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdPrefix([u8; IdPrefix::LEN]);

impl IdPrefix {
    /// Length in bytes.
    const LEN: usize = 8;

    /// Returns what this id begins with.
    pub fn of(image: ImageId) -> Self {
        Self(*image.0.as_bytes().first_chunk().expect("an id is longer"))
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a delta begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How it was made.
    pub kind: Kind,
    /// What it starts from; `None` exactly when it is whole.
    pub base: Option<IdPrefix>,
    /// What it makes.
    pub target: IdPrefix,
}

/// How the bytes of a part are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// As they are.
    Stored = 0,
    /// A zstd frame with the base as prefix.
    Zstd = 1,
    /// A zstd frame that holds an rsync delta.
    Rsync = 2,
    /// Stretches of the base, and what differs.
    Copy = 3,
    /// The same for programs whose addresses moved.
    Elf = 4,
}

impl Codec {
    /// All of them, by number.
    pub const ALL: [Self; 5] = [Self::Stored, Self::Zstd, Self::Rsync, Self::Copy, Self::Elf];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Zstd => "patch",
            Self::Rsync => "rsync",
            Self::Copy => "copy",
            Self::Elf => "elf",
        }
    }
}

/// What a part begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartHeader {
    pub codec: Codec,
    /// Bytes of the rsync delta; of no other codec.
    pub raw: u64,
    /// Bytes that follow; of a stored part, those that are due.
    pub packed: u64,
}

/// Bytes are not the header of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first bytes belong to something else, or to a later version.
    #[error("not a delta of a version this program knows")]
    Magic,
    /// A kind that does not exist.
    #[error("unknown kind of delta {0}")]
    Kind(u8),
    /// A whole copy that names a base.
    #[error("a whole copy that names a base")]
    BaseOfWhole,
}

impl Header {
    /// Length in bytes.
    pub const LEN: usize = Self::TARGET + IdPrefix::LEN;
    const BASE: usize = MAGIC.len() + 1;
    const TARGET: usize = Self::BASE + IdPrefix::LEN;

    /// Returns the bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[MAGIC.len()] = self.kind as u8;
        if let Some(base) = self.base {
            bytes[Self::BASE..Self::TARGET].copy_from_slice(&base.0);
        }
        bytes[Self::TARGET..].copy_from_slice(&self.target.0);
        bytes
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Says what they are instead.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, HeaderError> {
        if &bytes[..MAGIC.len()] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let prefix = |at: usize| IdPrefix(*bytes[at..].first_chunk().expect("the array holds both"));
        let kind = match bytes[MAGIC.len()] {
            0 => Kind::Whole,
            1 => Kind::Patch,
            2 => Kind::Rsync,
            other => return Err(HeaderError::Kind(other)),
        };
        let base = prefix(Self::BASE);
        match kind {
            Kind::Whole if base.0 != [0; IdPrefix::LEN] => Err(HeaderError::BaseOfWhole),
            Kind::Whole => Ok(Self { kind, base: None, target: prefix(Self::TARGET) }),
            Kind::Patch | Kind::Rsync => Ok(Self { kind, base: Some(base), target: prefix(Self::TARGET) }),
        }
    }
}

impl PartHeader {
    /// Reads what a part of `expected` bytes begins with.
    pub fn read(input: &mut dyn Read, expected: u64) -> Result<Self, ReadPartError> {
        let mut codec = [0];
        input.read_exact(&mut codec)?;
        let codec = *Codec::ALL.get(usize::from(codec[0])).ok_or(CodecError::Codec(codec[0]))?;
        let raw = if codec == Codec::Rsync { read_varint(input)? } else { 0 };
        let packed = if codec == Codec::Stored { expected } else { read_varint(input)? };
        Ok(Self { codec, raw, packed })
    }
}

/// What was to be read is not there, or not right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadPartError {
    #[error(transparent)]
    Input(#[from] io::Error),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

pub(crate) fn read_varint(input: &mut dyn Read) -> Result<u64, ReadPartError> {
    Ok(varint::read(input)?.map_err(|_| CodecError::Number)?)
}

/// Returns the bytes of pairs, which are in ascending order of their targets.
pub(crate) fn encode_pairs(pairs: &[Pair]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, pairs.len() as u64);
    let mut next = 0;
    for pair in pairs {
        varint::put(&mut out, u64::from(pair.target - next));
        varint::put(&mut out, pair.base.into());
        next = pair.target + 1;
    }
    out
}

/// Reads pairs of a target of `n_target` blobs and a base of `n_base`.
pub(crate) fn read_pairs(input: &mut dyn Read, n_target: usize, n_base: usize) -> Result<Vec<Pair>, ReadPartError> {
    let count = read_varint(input)?;
    if count > n_target as u64 {
        return Err(CodecError::Pairs.into());
    }
    let mut pairs = Vec::new();
    let mut next = 0_u64;
    for _ in 0..count {
        let (target, base) = (next.saturating_add(read_varint(input)?), read_varint(input)?);
        if target >= n_target as u64 || base >= n_base as u64 {
            return Err(CodecError::Pairs.into());
        }
        // Both are below the number of entries of a manifest, which is far below 2^32.
        pairs.push(Pair { target: target as u32, base: base as u32 });
        next = target + 1;
    }
    Ok(pairs)
}

/// A packed part, ready to be written.
#[derive(Debug)]
pub(crate) struct Part {
    pub codec: Codec,
    /// Bytes of the rsync delta; of no other codec.
    pub raw: usize,
    pub bytes: Vec<u8>,
    /// What the streams of a copy or an elf took.
    pub streams: [StreamLen; SORTS],
}

impl Part {
    /// Writes header and bytes; returns how many.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<u64> {
        let mut header = vec![self.codec as u8];
        if self.codec == Codec::Rsync {
            varint::put(&mut header, self.raw as u64);
        }
        if self.codec != Codec::Stored {
            varint::put(&mut header, self.bytes.len() as u64);
        }
        out.write_all(&header)?;
        out.write_all(&self.bytes)?;
        Ok((header.len() + self.bytes.len()) as u64)
    }
}

/// One part of a manifest: where it lies, and which bytes of the base's manifest are its prefix.
pub(crate) struct ManifestPart {
    pub target: std::ops::Range<usize>,
    pub base: std::ops::Range<usize>,
}

/// Cuts a manifest of `len` bytes into parts against one of `base_len` bytes.
pub(crate) fn manifest_parts(base_len: u64, len: u64) -> impl Iterator<Item = ManifestPart> {
    (0..len).step_by(MANIFEST_PART as usize).map(move |at| {
        let part_len = MANIFEST_PART.min(len - at);
        let (offset, base_part) = crate::choose::window(base_len, len, at, part_len, BASE_LEN);
        ManifestPart { target: at as usize..(at + part_len) as usize, base: offset as usize..(offset + base_part) as usize }
    })
}

#[cfg(test)]
mod tests {
    use df_core::Digest;

    use super::*;

    #[test]
    fn headers_survive() {
        let [a, b] = [b"a", b"b"].map(|text| IdPrefix::of(ImageId(Digest::of(text))));
        for header in [
            Header { kind: Kind::Whole, base: None, target: b },
            Header { kind: Kind::Patch, base: Some(a), target: b },
            Header { kind: Kind::Rsync, base: Some(a), target: b },
        ] {
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn other_headers_are_refused() {
        let good = Header { kind: Kind::Whole, base: None, target: IdPrefix::of(ImageId(Digest::of(b"b"))) }.encode();
        for (at, value, error) in [
            (0, b'x', HeaderError::Magic),
            (3, 2, HeaderError::Magic),
            (4, 3, HeaderError::Kind(3)),
            (5, 1, HeaderError::BaseOfWhole),
            (12, 1, HeaderError::BaseOfWhole),
        ] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Header::decode(&bad), Err(error));
        }
    }

    #[test]
    fn pairs_survive_and_others_are_refused() {
        let pairs = [(0, 5), (1, 5), (300, 0), (999, 499)].map(|(target, base)| Pair { target, base });
        let bytes = encode_pairs(&pairs);
        assert_eq!(read_pairs(&mut &bytes[..], 1000, 500).expect("good"), pairs);
        for (n_target, n_base) in [(999, 500), (1000, 499), (3, 500), (0, 0)] {
            assert!(matches!(read_pairs(&mut &bytes[..], n_target, n_base), Err(ReadPartError::Codec(CodecError::Pairs))));
        }
        for len in 0..bytes.len() {
            assert!(matches!(read_pairs(&mut &bytes[..len], 1000, 500), Err(ReadPartError::Input(_))));
        }
    }

    #[test]
    fn a_large_manifest_is_cut_against_the_proportional_place() {
        let parts: Vec<_> = manifest_parts(200 << 20, 100 << 20)
            .map(|p| (p.target.start >> 20, p.target.len() >> 20, p.base.start >> 20, p.base.len() >> 20))
            .collect();
        assert_eq!(parts, [(0, 32, 0, 64), (32, 32, 64, 64), (64, 32, 128, 64), (96, 4, 136, 64)]);
        assert_eq!(manifest_parts(10, 20).map(|p| (p.target, p.base)).collect::<Vec<_>>(), [(0..20, 0..10)]);
    }
}
