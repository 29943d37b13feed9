//! The bytes of a delta.
//!
//! # Format, version 1
//!
//! ```text
//! delta    = header, length, part*, part*         the manifest's parts, then one part for each piece of the plan; nothing after the last
//! header   = "dfd" 0x01, kind, base, target
//! kind     = 0x00                                 whole: there is no base
//!          | 0x01                                 patch: the sender had the base
//!          | 0x02                                 rsync: the sender had the base's manifest and signatures of its bytes
//! base     = 32 bytes                             image id of the base; zeroes when whole
//! target   = 32 bytes                             image id of the target
//! length   = u32                                  bytes of the target's manifest
//! part     = codec, raw, packed, bytes            `packed` bytes, from which `raw` bytes are unpacked
//! raw, packed, length = u32, little endian
//! codec    = 0x00                                 stored: `bytes` are the target's, raw = packed
//!          | 0x01                                 zstd: one frame that refers to the base's bytes as its prefix
//!          | 0x02                                 rsync: one zstd frame without prefix that holds an rsync delta of `raw` bytes; only in deltas of that kind
//! ```
//!
//! A zstd frame is exactly one, begins with `28 b5 2f fd 00` (no content size, no checksum, no dictionary: BLAKE3 checks everything), has a window of at most 2^27 bytes,
//! and ends where the part ends. An rsync delta is one of librsync's format: magic `72 73 02 36`, literals and copies, one end command.
//!
//! The manifest is cut into parts of 32 MiB, the last one shorter. The prefix of the part at byte `a` is the base manifest's canonical bytes, or, of one
//! beyond 64 MiB, the 64 MiB around the proportional place. The pieces, their bases and their lengths are those of [`crate::choose::plan`], which is part of this
//! format: changing it needs a new version. A part that unpacks to any other length is refused.
//!
//! Example: from nothing to the image of one file `a` that holds `hi\n` (testdata/whole-v1.bin):
//!
//! ```text
//! 64 66 64 01  00  <32 zero bytes>  <32 bytes>    "dfd", version 1, whole, no base, the target's image id
//! 29 00 00 00                                     its manifest has 41 bytes
//! 00  29 00 00 00  29 00 00 00                    stored
//! 64 66 6d 01 01 01 01 61 03  <32 bytes>          the manifest itself
//! 00  03 00 00 00  03 00 00 00  68 69 0a          the only piece: "hi\n", stored
//! ```
//!
//! Compatibility: a new layout or plan gets a new fourth byte; a reader refuses one it does not know, and the sender's fallback is the newest version that both know.
//! Deltas are kept only as a cache, so an old one that is refused costs making it again.

use std::io::{self, Read, Write};

use df_core::{Digest, ImageId};

/// Bytes of the old that one piece may refer to.
pub const BASE_LEN: u64 = 64 << 20;
/// Bytes of the new that one piece may hold.
pub const TARGET_LEN: u64 = 64 << 20;
/// The largest window of a zstd frame, as a power of two: it covers both.
pub const WINDOW_LOG: u32 = 27;
/// Bytes of a part of the manifest.
pub(crate) const MANIFEST_PART: u64 = 32 << 20;

const MAGIC: &[u8; 4] = b"dfd\x01";
const PART_HEADER: usize = 9;

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

/// What a delta begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How it was made.
    pub kind: Kind,
    /// What it starts from; `None` exactly when it is whole.
    pub base: Option<ImageId>,
    /// What it makes.
    pub target: ImageId,
}

/// How the bytes of a part are packed. Another codec, say one that understands executables, takes the next number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As they are.
    Stored,
    /// A zstd frame with the base as prefix.
    Zstd,
    /// A zstd frame that holds an rsync delta.
    Rsync,
}

/// What a part begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartHeader {
    pub codec: Codec,
    pub raw: u32,
    pub packed: u32,
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
    pub const LEN: usize = 5 + 2 * Digest::LEN;

    /// Returns the bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = self.kind as u8;
        if let Some(base) = self.base {
            bytes[5..37].copy_from_slice(base.0.as_bytes());
        }
        bytes[37..].copy_from_slice(self.target.0.as_bytes());
        bytes
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Says what they are instead.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, HeaderError> {
        if &bytes[..4] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let image = |at: usize| ImageId(Digest::from_bytes(bytes[at..at + Digest::LEN].try_into().expect("of that length")));
        let kind = match bytes[4] {
            0 => Kind::Whole,
            1 => Kind::Patch,
            2 => Kind::Rsync,
            other => return Err(HeaderError::Kind(other)),
        };
        if kind == Kind::Whole && bytes[5..37] != [0; Digest::LEN] {
            return Err(HeaderError::BaseOfWhole);
        }
        Ok(Self { kind, base: (kind != Kind::Whole).then(|| image(5)), target: image(37) })
    }
}

impl PartHeader {
    fn encode(self) -> [u8; PART_HEADER] {
        let mut bytes = [0; PART_HEADER];
        bytes[0] = self.codec as u8;
        bytes[1..5].copy_from_slice(&self.raw.to_le_bytes());
        bytes[5..].copy_from_slice(&self.packed.to_le_bytes());
        bytes
    }

    /// Reads the bytes; `Ok(Err(codec))` for a codec that does not exist.
    pub fn read(input: &mut dyn Read) -> io::Result<Result<Self, u8>> {
        let mut codec = [0];
        input.read_exact(&mut codec)?;
        let (raw, packed) = (read_u32(input)?, read_u32(input)?);
        let codec = match codec[0] {
            0 => Codec::Stored,
            1 => Codec::Zstd,
            2 => Codec::Rsync,
            other => return Ok(Err(other)),
        };
        Ok(Ok(Self { codec, raw, packed }))
    }
}

pub(crate) fn read_u32(input: &mut dyn Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// A packed part, ready to be written.
#[derive(Debug)]
pub(crate) struct Part {
    pub codec: Codec,
    pub raw: usize,
    pub bytes: Vec<u8>,
}

impl Part {
    /// Writes header and bytes; returns how many.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<u64> {
        let fits = |len: usize| u32::try_from(len).expect("a part is far below 4 GiB");
        out.write_all(&PartHeader { codec: self.codec, raw: fits(self.raw), packed: fits(self.bytes.len()) }.encode())?;
        out.write_all(&self.bytes)?;
        Ok((PART_HEADER + self.bytes.len()) as u64)
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
    use super::*;

    #[test]
    fn headers_survive() {
        let (a, b) = (ImageId(Digest::of(b"a")), ImageId(Digest::of(b"b")));
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
        let good = Header { kind: Kind::Whole, base: None, target: ImageId(Digest::of(b"b")) }.encode();
        for (at, value, error) in [
            (0, b'x', HeaderError::Magic),
            (3, 2, HeaderError::Magic),
            (4, 3, HeaderError::Kind(3)),
            (5, 1, HeaderError::BaseOfWhole),
        ] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Header::decode(&bad), Err(error));
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
