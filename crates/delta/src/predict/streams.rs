//! The numbers and bytes of a body, each sort in a stream of its own, so that the coder of each sees what is alike.
//!
//! ```text
//! body   = mask, (raw, packed)*, bytes*     for each stream that is not empty, in the order of `Sort::ALL`
//! mask   = varint                           bit 0: literals were packed with the whole base as context; bit 1 + n: the stream of the n-th sort is not empty
//! raw    = varint                           its bytes when unpacked
//! packed = varint                           its bytes here; not said of the last one, which ends where the part ends
//! ```

use crate::codec::CodecError;
use crate::diff::Level;
use crate::entropy::{self, Shape};
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
    /// How many bytes are right between two that are not.
    Gaps,
    /// What is added to a wrong byte.
    Values,
    /// How many references are right between two that are not.
    Misses,
    /// How far from where they were expected the targets of references in code are.
    CodeTargets,
    /// The same for addresses among data.
    AddressTargets,
    /// The same for all others: offsets of names, debugging entries.
    OtherTargets,
    /// What resembles nothing, in anything but programs.
    Text,
    /// What resembles nothing, in programs.
    Code,
}

/// How many sorts there are.
pub const SORTS: usize = Sort::ALL.len();

impl Sort {
    /// All of them, in the order they are in a body.
    pub const ALL: [Self; 12] = [
        Self::Head,
        Self::LiteralLens,
        Self::CopyLens,
        Self::Jumps,
        Self::Gaps,
        Self::Values,
        Self::Misses,
        Self::CodeTargets,
        Self::AddressTargets,
        Self::OtherTargets,
        Self::Text,
        Self::Code,
    ];

    fn shape(self) -> Shape {
        match self {
            Self::Values => Shape::Bytes,
            Self::Text => Shape::Text,
            Self::Code => Shape::Code,
            _ => Shape::Numbers,
        }
    }

    fn is_literals(self) -> bool {
        matches!(self, Self::Text | Self::Code)
    }
}

/// Streams that are being filled.
#[derive(Debug, Default)]
pub(super) struct Streams([Vec<u8>; SORTS]);

impl Streams {
    pub fn put(&mut self, sort: Sort, value: u64) {
        varint::put(&mut self.0[sort as usize], value);
    }

    pub fn put_signed(&mut self, sort: Sort, value: i64) {
        self.put(sort, varint::zigzag(value));
    }

    pub fn push(&mut self, sort: Sort, byte: u8) {
        self.0[sort as usize].push(byte);
    }

    pub fn extend(&mut self, sort: Sort, bytes: &[u8]) {
        self.0[sort as usize].extend_from_slice(bytes);
    }

    pub fn len(&self, sort: Sort) -> usize {
        self.0[sort as usize].len()
    }

    /// Returns the bytes of all of them.
    pub fn total(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Packs them to a body; literals with the contexts that `context` returns, of which `whole` says whether they are the whole base.
    pub fn pack<'c>(&self, whole: bool, context: impl Fn(Sort) -> &'c [u8], level: Level) -> Body {
        let (mut mask, mut lens, mut bytes) = (u64::from(whole), Vec::new(), Vec::new());
        let mut streams = [StreamLen::default(); SORTS];
        let full: Vec<Sort> = Sort::ALL.into_iter().filter(|&sort| self.len(sort) > 0).collect();
        for &sort in &full {
            let (raw, before) = (&self.0[sort as usize], bytes.len());
            let context = if sort.is_literals() { context(sort) } else { &[] };
            entropy::pack(raw, context, sort.shape(), level, &mut bytes);
            let packed = bytes.len() - before;
            streams[sort as usize] = StreamLen { raw: raw.len() as u64, packed: packed as u64 };
            mask |= 2 << sort as u32;
            varint::put(&mut lens, raw.len() as u64);
            if Some(&sort) != full.last() {
                varint::put(&mut lens, packed as u64);
            }
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

/// Streams that are being read: numbers unpacked, literals not yet.
pub(super) struct Reader<'a> {
    unpacked: [Vec<u8>; SORTS],
    at: [usize; SORTS],
    packed: [(&'a [u8], usize); SORTS],
    /// Whether literals were packed with the whole base as context.
    pub whole: bool,
}

impl<'a> Reader<'a> {
    /// Unpacks the numbers of a body that makes `len` bytes.
    pub fn new(mut body: &'a [u8], len: usize) -> Result<Self, CodecError> {
        let mask = number(&mut body)?;
        if mask >> (SORTS + 1) > 0 {
            return Err(CodecError::Body);
        }
        let full: Vec<Sort> = Sort::ALL.into_iter().filter(|&sort| mask & (2 << sort as u32) > 0).collect();
        let mut lens = Vec::new();
        for &sort in &full {
            let raw = number(&mut body)?;
            let packed = if Some(&sort) == full.last() { None } else { Some(number(&mut body)?) };
            lens.push((sort, raw, packed));
        }
        let limit = max_len(len) as u64;
        let total = lens.iter().map(|(_, raw, _)| *raw).try_fold(0_u64, u64::checked_add);
        if total.is_none_or(|total| total > limit) || lens.iter().any(|(_, raw, _)| *raw == 0) {
            return Err(CodecError::Body);
        }
        let mut reader = Self { unpacked: Default::default(), at: [0; SORTS], packed: [(&[], 0); SORTS], whole: mask & 1 > 0 };
        for (sort, raw, packed) in lens {
            let packed = packed.unwrap_or(body.len() as u64);
            let bytes = usize::try_from(packed).ok().and_then(|packed| body.split_off(..packed)).ok_or(CodecError::Body)?;
            if sort.is_literals() {
                reader.packed[sort as usize] = (bytes, raw as usize);
            } else {
                reader.unpacked[sort as usize] = entropy::unpack(bytes, &[], raw as usize)?;
            }
        }
        if body.is_empty() { Ok(reader) } else { Err(CodecError::Body) }
    }

    /// Returns whether there are literals of that sort.
    pub fn has_literals(&self, sort: Sort) -> bool {
        self.packed[sort as usize].1 > 0
    }

    /// Unpacks literals.
    pub fn unpack(&mut self, sort: Sort, context: &[u8]) -> Result<(), CodecError> {
        let (packed, raw) = self.packed[sort as usize];
        self.unpacked[sort as usize] = entropy::unpack(packed, context, raw)?;
        Ok(())
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

    /// Reads bytes.
    pub fn bytes(&mut self, sort: Sort, len: usize) -> Result<&[u8], CodecError> {
        let at = &mut self.at[sort as usize];
        let found = self.unpacked[sort as usize].get(*at..).and_then(|rest| rest.get(..len)).ok_or(CodecError::Body)?;
        *at += len;
        Ok(found)
    }

    /// Reads with a function that moves a position.
    pub fn with<T>(&mut self, sort: Sort, read: impl FnOnce(&[u8], &mut usize) -> Option<T>) -> Result<T, CodecError> {
        read(&self.unpacked[sort as usize], &mut self.at[sort as usize]).ok_or(CodecError::Body)
    }

    /// Refuses what was not read to the end.
    pub fn finish(&self) -> Result<(), CodecError> {
        if Sort::ALL.iter().all(|&sort| self.is_at_end(sort)) { Ok(()) } else { Err(CodecError::Body) }
    }
}

/// The most that all streams may unpack to when they make `len` bytes.
pub(super) fn max_len(len: usize) -> usize {
    len + len / 4 + 1024
}

#[inline]
fn number(bytes: &mut &[u8]) -> Result<u64, CodecError> {
    varint::take(bytes).map_err(|error| match error {
        varint::VarintError::Form => CodecError::Number,
        varint::VarintError::Truncated => CodecError::Body,
    })
}
