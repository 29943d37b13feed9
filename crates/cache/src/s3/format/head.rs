//! The one object that changes: what the cache is now.
//!
//! # Format of the body, version 1 ("dfh\x01", at most 64 KiB with its frame)
//!
//! ```text
//! head = cache id 16, sequence u64, fence u64, count, txid*, count, roots, count, segment*, count, condemned
//! ```
//!
//! `sequence` grows by one with each commit; the first head has 1. `txid*` names the commits that made this head and those before it, the newest first, at most 64: whoever lost a reply
//! finds out here whether it was done. `roots` and `condemned` are none or one reference, `segment*` up to 512; references as in `name`. Sessions that began at or below `fence` may not commit.

use super::name::{Reference, Txid};
use super::{FRAME_LEN, FormatError, Reader, Writer, open, seal};

/// The longest head, in bytes.
pub(crate) const HEAD_LEN: u64 = 64 << 10;
/// So many commits are remembered in the head.
pub(crate) const TXIDS: usize = 64;
/// No head lists more segments.
pub(crate) const SEGMENTS: usize = 512;
/// No number of a commit or of a release is larger: after each comes another, and nobody gets as far by counting.
pub(crate) const SEQUENCE: u64 = u64::MAX / 2;
const MAGIC: [u8; 4] = *b"dfh\x01";

/// What the cache is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The cache's own name, drawn when it was made.
    pub(crate) cache: [u8; 16],
    /// Which head this is.
    pub(crate) sequence: u64,
    /// Sessions that began at this sequence or before may not commit.
    pub(crate) fence: u64,
    /// The commits that made this head and those before, the newest first.
    pub(crate) txids: Vec<Txid>,
    /// The root table; none as long as nothing was put.
    pub(crate) roots: Option<Reference>,
    /// Index segments: what they list is live.
    pub(crate) segments: Vec<Reference>,
    /// The list of the condemned.
    pub(crate) condemned: Option<Reference>,
}

impl Head {
    /// Returns the first head of a cache.
    pub(crate) fn first(cache: [u8; 16]) -> Self {
        Self { cache, sequence: 1, fence: 0, txids: vec![], roots: None, segments: vec![], condemned: None }
    }

    /// Returns a head that follows this one, with nothing else changed.
    pub(crate) fn next(&self, txid: Txid) -> Self {
        let txids = std::iter::once(txid).chain(self.txids.iter().copied()).take(TXIDS).collect();
        Self { sequence: self.sequence + 1, txids, ..self.clone() }
    }

    /// Returns the commit that made this head; none made the first.
    pub(crate) fn txid(&self) -> Option<Txid> {
        self.txids.first().copied()
    }

    /// Returns the commit that made the head of a sequence, if it is still remembered.
    pub(crate) fn txid_of(&self, sequence: u64) -> Option<Txid> {
        self.txids.get(usize::try_from(self.sequence.checked_sub(sequence)?).ok()?).copied()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        seal(MAGIC, &self.body())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        Self::read(&open(MAGIC, bytes, HEAD_LEN as usize)?)
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&self.cache).u64(self.sequence).u64(self.fence).count(self.txids.len());
        self.txids.iter().for_each(|txid| {
            out.raw(txid);
        });
        for list in [self.roots.as_slice(), &self.segments, self.condemned.as_slice()] {
            out.count(list.len());
            list.iter().for_each(|reference| reference.write(&mut out));
        }
        out.0
    }

    fn read(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(body);
        let (cache, sequence, fence) = (reader.bytes16()?, reader.u64()?, reader.u64()?);
        let txids = reader.count(16)?;
        let txids = reader.list(txids, Reader::bytes16)?;
        let mut references = |most: usize| {
            let count = reader.count(Reference::LEN)?;
            if count > most { Err(FormatError("it lists too much")) } else { reader.list(count, Reference::read) }
        };
        let (roots, segments, condemned) = (references(1)?, references(SEGMENTS)?, references(1)?);
        reader.end()?;
        // Each is read into memory whole.
        if [&roots, &segments, &condemned].into_iter().flatten().any(|reference| reference.len as usize > FRAME_LEN) {
            return Err(FormatError("it names what is longer than it may be"));
        }
        // No commit made the first head; one that was made again from the log may remember fewer.
        if sequence == 0 || sequence > SEQUENCE || txids.len() as u64 > (sequence - 1).min(TXIDS as u64) || fence >= sequence {
            return Err(FormatError("its numbers do not fit together"));
        }
        let one = |list: Vec<Reference>| list.first().copied();
        Ok(Self { cache, sequence, fence, txids, roots: one(roots), segments, condemned: one(condemned) })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::name::tests::reference;
    use super::super::tests::{assert_golden, assert_guarded};
    use super::*;

    pub(crate) fn example() -> Head {
        Head {
            roots: Some(reference(1)),
            segments: vec![reference(2), reference(3)],
            condemned: Some(reference(4)),
            fence: 2,
            ..Head::first([9; 16]).next([1; 16]).next([2; 16])
        }
    }

    #[test]
    fn golden_bytes() {
        assert_golden("s3-head-v1.bin", &example().encode());
        assert_eq!(Head::decode(&example().encode()), Ok(example()));
        assert_guarded(&example().encode(), Head::decode);
    }

    #[test]
    fn what_is_longer_than_any_table_is_not_asked_for() {
        let with = |len| {
            let mut head = example();
            head.segments[1].len = len;
            Head::decode(&head.encode()).map(drop)
        };
        assert_eq!(with(FRAME_LEN as u32), Ok(()));
        assert_eq!(with(FRAME_LEN as u32 + 1), Err(FormatError("it names what is longer than it may be")));
    }

    #[test]
    fn commits_are_found_by_the_sequence_they_made_as_long_as_they_are_remembered() {
        let mut head = Head::first([9; 16]);
        for i in 0..100_u128 {
            head = head.next(i.to_be_bytes());
            assert_eq!(Head::decode(&head.encode()), Ok(head.clone()));
        }
        assert_eq!(
            (head.sequence, head.txid_of(101), head.txid_of(38)),
            (101, Some(99_u128.to_be_bytes()), Some(36_u128.to_be_bytes()))
        );
        assert_eq!((head.txid_of(37), head.txid_of(102), head.txid_of(1)), (None, None, None));
    }

    #[test]
    fn a_head_after_which_no_other_can_come_is_refused() {
        for (sequence, is_good) in [(SEQUENCE, true), (SEQUENCE + 1, false), (u64::MAX, false)] {
            let head = Head { sequence, ..example() };
            assert_eq!(Head::decode(&head.encode()).is_ok(), is_good, "{sequence}");
        }
    }

    #[test]
    fn the_largest_head_fits() {
        let segments = (0..SEGMENTS as u32).map(reference).collect();
        let mut head = Head { segments, ..example() };
        (0..TXIDS as u128 + 5).for_each(|i| head = head.next(i.to_be_bytes()));
        assert!(head.encode().len() as u64 <= HEAD_LEN);
        assert_eq!(Head::decode(&head.encode()), Ok(head.clone()));
        head.segments.push(reference(0));
        assert!(Head::decode(&head.encode()).is_err());
    }
}
