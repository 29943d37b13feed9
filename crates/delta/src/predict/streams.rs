//! The numbers and bytes of a body, each sort in a stream of its own, so that the coder of each sees what is alike.
//!
//! ```text
//! body   = mask, (raw, packed)*, bytes*, corrections
//! mask   = varint                           bit n: the stream of the n-th sort is not empty; bit 8: corrections refer to what is near only
//! raw    = varint                           its bytes when unpacked
//! packed = varint                           its bytes here
//! corrections = bytes                       what `entropy::correct` reads, to the end of the part
//! ```

use crate::codec::CodecError;
use crate::diff::Level;
use crate::entropy::{self, Room, Shape};
use crate::varint;

/// A sort of numbers or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Which members are programs, and how their layout differs.
    Head,
    /// Bytes between one segment and the next that are like nothing.
    LiteralLens,
    /// Lengths of segments.
    CopyLens,
    /// How far in the old a segment is from the end of the one before.
    Jumps,
    /// How many references are right between two that are not.
    Misses,
    /// How far from where they were expected the targets of references in code are.
    CodeTargets,
    /// The same for addresses among data.
    AddressTargets,
    /// The same for all others: offsets of names, debugging entries.
    OtherTargets,
    /// What was predicted wrong, and what resembles nothing: no stream of numbers, and the last.
    Corrections,
}

/// How many sorts there are.
pub const SORTS: usize = Sort::ALL.len();

impl Sort {
    /// All of them, in the order they are in a body.
    pub const ALL: [Self; 9] = [
        Self::Head,
        Self::LiteralLens,
        Self::CopyLens,
        Self::Jumps,
        Self::Misses,
        Self::CodeTargets,
        Self::AddressTargets,
        Self::OtherTargets,
        Self::Corrections,
    ];
}

/// How many streams of numbers there are.
const NUMBERS: usize = Sort::Corrections as usize;

/// The bit of a mask that says what corrections refer to.
const NEAR: u64 = 1 << NUMBERS;

/// Streams that are being filled.
#[derive(Debug, Default)]
pub(super) struct Streams([Vec<u8>; NUMBERS]);

impl Streams {
    pub fn put(&mut self, sort: Sort, value: u64) {
        varint::put(&mut self.0[sort as usize], value);
    }

    pub fn put_signed(&mut self, sort: Sort, value: i64) {
        self.put(sort, varint::zigzag(value));
    }

    pub fn extend(&mut self, sort: Sort, bytes: &[u8]) {
        self.0[sort as usize].extend_from_slice(bytes);
    }

    /// Returns the bytes of all of them.
    pub fn total(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Packs them, and begins a body with them: the corrections are to be appended. `near` says what those refer to.
    pub fn pack(&self, near: bool, level: Level, room: &mut Room) -> Body {
        let (mut mask, mut lens, mut bytes) = (if near { NEAR } else { 0 }, Vec::new(), Vec::new());
        let mut streams = [StreamLen::default(); SORTS];
        for (nth, raw) in self.0.iter().enumerate().filter(|(_, raw)| !raw.is_empty()) {
            let before = bytes.len();
            entropy::pack(raw, &[], Shape::Numbers, level, room, &mut bytes);
            let len = StreamLen { raw: raw.len() as u64, packed: (bytes.len() - before) as u64 };
            streams[nth] = len;
            mask |= 1 << nth;
            varint::put(&mut lens, len.raw);
            varint::put(&mut lens, len.packed);
        }
        let mut body = Vec::new();
        varint::put(&mut body, mask);
        body.extend(lens);
        body.extend(bytes);
        Body { bytes: body, streams }
    }
}

/// Bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamLen {
    /// Before packing.
    pub raw: u64,
    /// Packed.
    pub packed: u64,
}

/// A packed body.
#[derive(Debug)]
pub(crate) struct Body {
    pub bytes: Vec<u8>,
    /// What each stream took, by [`Sort`].
    pub streams: [StreamLen; SORTS],
}

/// Streams that are being read.
pub(super) struct Reader {
    unpacked: [Vec<u8>; NUMBERS],
    at: [usize; NUMBERS],
    /// Whether corrections refer to what is near only.
    pub near: bool,
}

impl Reader {
    /// Unpacks the numbers of a body that makes `len` bytes, and leaves the corrections.
    pub fn new(body: &mut &[u8], len: usize, room: &mut Room) -> Result<Self, CodecError> {
        let mask = number(body)?;
        if mask >= 2 * NEAR {
            return Err(CodecError::Body);
        }
        let (mut lens, mut left) = (Vec::new(), max_len(len) as u64);
        for nth in (0..NUMBERS).filter(|nth| mask >> nth & 1 > 0) {
            let (raw, packed) = (number(body)?, number(body)?);
            left = left.checked_sub(raw).filter(|_| raw > 0).ok_or(CodecError::Body)?;
            lens.push((nth, raw as usize, packed));
        }
        let mut reader = Self { unpacked: Default::default(), at: [0; NUMBERS], near: mask & NEAR > 0 };
        for (nth, raw, packed) in lens {
            let bytes = usize::try_from(packed).ok().and_then(|packed| body.split_off(..packed)).ok_or(CodecError::Body)?;
            reader.unpacked[nth] = entropy::unpack(bytes, &[], raw, room)?;
        }
        Ok(reader)
    }

    /// Reads a number.
    #[inline]
    pub fn number(&mut self, sort: Sort) -> Result<u64, CodecError> {
        let stream = &self.unpacked[sort as usize];
        let mut rest = &stream[self.at[sort as usize]..];
        let value = number(&mut rest)?;
        self.at[sort as usize] = stream.len() - rest.len();
        Ok(value)
    }

    /// Reads a signed number.
    #[inline]
    pub fn signed(&mut self, sort: Sort) -> Result<i64, CodecError> {
        self.number(sort).map(varint::unzigzag)
    }

    /// Reads a number that is at most `max`.
    pub fn at_most(&mut self, sort: Sort, max: usize) -> Result<usize, CodecError> {
        usize::try_from(self.number(sort)?).ok().filter(|&value| value <= max).ok_or(CodecError::Body)
    }

    /// Returns whether all of a stream was read.
    pub fn is_at_end(&self, sort: Sort) -> bool {
        self.at[sort as usize] == self.unpacked[sort as usize].len()
    }

    /// Reads with a function that moves a position.
    pub fn with<T>(&mut self, sort: Sort, read: impl FnOnce(&[u8], &mut usize) -> Option<T>) -> Result<T, CodecError> {
        read(&self.unpacked[sort as usize], &mut self.at[sort as usize]).ok_or(CodecError::Body)
    }

    /// Refuses what was not read to the end.
    pub fn finish(&self) -> Result<(), CodecError> {
        if (0..NUMBERS).all(|nth| self.at[nth] == self.unpacked[nth].len()) { Ok(()) } else { Err(CodecError::Body) }
    }
}

/// The most that all streams of numbers may unpack to when they make `len` bytes.
pub(super) fn max_len(len: usize) -> usize {
    len / 2 + 1024
}

#[inline]
fn number(bytes: &mut &[u8]) -> Result<u64, CodecError> {
    varint::take(bytes).map_err(|error| match error {
        varint::VarintError::Form => CodecError::Number,
        varint::VarintError::Truncated => CodecError::Body,
    })
}
