//! Numbers, digests and texts in a row: written, and read back without trust.

use df_core::Digest;

use super::FormatError;

/// Puts values one after the other.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn digest(&mut self, digest: Digest) -> &mut Self {
        self.raw(digest.as_bytes())
    }

    /// A count, that of a list in memory.
    pub(crate) fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).expect("lists stay below 2^32"))
    }

    /// A length and so many bytes.
    pub(crate) fn text(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).raw(bytes)
    }
}

/// Takes values one after the other; each may be missing.
pub(crate) struct Reader<'a>(&'a [u8]);

const CUT: FormatError = FormatError("it ends too early");

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn raw(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        Ok(self.raw(N)?.try_into().expect("taken with that length"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.raw(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes16(&mut self) -> Result<[u8; 16], FormatError> {
        self.array()
    }

    pub(crate) fn digest(&mut self) -> Result<Digest, FormatError> {
        self.array().map(Digest::from_bytes)
    }

    /// A count of things that have at least `least` bytes each: what cannot be there is refused before there is room for it.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, FormatError> {
        let count = self.u32()? as usize;
        if count.checked_mul(least).is_some_and(|len| len <= self.0.len()) { Ok(count) } else { Err(CUT) }
    }

    pub(crate) fn text(&mut self, limit: usize) -> Result<&'a [u8], FormatError> {
        let len = self.count(1)?;
        if len > limit { Err(FormatError("a text in it is too long")) } else { self.raw(len) }
    }

    /// Reads `count` of something that repeats.
    pub(crate) fn list<T>(
        &mut self,
        count: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, FormatError>,
    ) -> Result<Vec<T>, FormatError> {
        (0..count).map(|_| read(self)).collect()
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), FormatError> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError("something follows its end")) }
    }
}
