//! The one object that changes: what the cache is now.
//!
//! # Format of the body, version 2 ("dfh\x02", at most 64 KiB with its frame)
//!
//! ```text
//! head = cache id 16, sequence u64, fence u64, count, txid*, count, roots, count, segment*, count, condemned, count, kept*
//! ```
//!
//! `sequence` grows by one with each commit; the first head has 1. `txid*` names the commits that made this head and those before it, the newest first, at most 64: whoever lost a reply
//! finds out here whether it was done. `roots` and `condemned` are none or one reference, `segment*` up to 512; references as in `name`. Sessions that began at or below `fence` may not commit.
//! `kept*` are whole objects, each a length and so many bytes, that one of the references names by length and digest: a small root table or segment lies here and nowhere else, which
//! spares whoever writes it a request, and whoever reads it another.
//!
//! Version 1 ("dfh\x01") ends before the count of what is kept. A head that keeps nothing is written so, and then a program that knows only that version reads it; one that keeps something
//! it refuses as of a version that it does not know. This program reads both. What an older one wrote stays as it is until a commit writes that table or segment again.

use std::sync::Arc;

use df_core::Digest;

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
/// No object that is kept in a head is longer.
pub(crate) const KEPT_LEN: usize = 12 << 10;
/// All of them together are no longer: with the most segments and commits a head stays below its length.
const ALL_KEPT_LEN: usize = 24 << 10;
const MAGIC: [u8; 4] = *b"dfh\x02";
/// Of a head that keeps nothing.
const MAGIC_1: [u8; 4] = *b"dfh\x01";

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
    /// Objects that it names and that lie in it, with their digests.
    pub(crate) kept: Vec<Kept>,
}

/// An object that lies in a head, and its digest.
type Kept = (Digest, Arc<[u8]>);

impl Head {
    /// Returns the first head of a cache.
    pub(crate) fn first(cache: [u8; 16]) -> Self {
        Self { cache, sequence: 1, fence: 0, txids: vec![], roots: None, segments: vec![], condemned: None, kept: vec![] }
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

    /// Returns an object that lies in it.
    pub(crate) fn kept(&self, reference: &Reference) -> Option<&[u8]> {
        self.kept.iter().find(|(digest, bytes)| is_that(reference, digest, bytes)).map(|(_, bytes)| &**bytes)
    }

    /// Keeps an object of at most `most` bytes, if there is room; returns whether. Whoever calls names it next.
    pub(crate) fn keep(&mut self, digest: Digest, bytes: &[u8], most: usize) -> bool {
        let fits = bytes.len() <= most.min(KEPT_LEN) && kept_len(&self.kept) + bytes.len() <= ALL_KEPT_LEN;
        if fits {
            self.kept.push((digest, bytes.into()));
        }
        fits
    }

    /// Lets go of what it keeps and names no more.
    pub(crate) fn drop_unnamed(&mut self) {
        let named: Vec<Reference> = self.references().copied().collect();
        self.kept.retain(|(digest, bytes)| named.iter().any(|reference| is_that(reference, digest, bytes)));
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        seal(if self.kept.is_empty() { MAGIC_1 } else { MAGIC }, &self.body())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let keeps = !bytes.starts_with(&MAGIC_1);
        Self::read(&open(if keeps { MAGIC } else { MAGIC_1 }, bytes, HEAD_LEN as usize)?, keeps)
    }

    /// Returns all that it names.
    fn references(&self) -> impl Iterator<Item = &Reference> {
        self.roots.iter().chain(&self.segments).chain(&self.condemned)
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
        if !self.kept.is_empty() {
            out.count(self.kept.len());
            self.kept.iter().for_each(|(_, bytes)| {
                out.text(bytes);
            });
        }
        out.0
    }

    fn read(body: &[u8], keeps: bool) -> Result<Self, FormatError> {
        let mut reader = Reader::new(body);
        let (cache, sequence, fence) = (reader.bytes16()?, reader.u64()?, reader.u64()?);
        let txids = reader.count(16)?;
        let txids = reader.list(txids, Reader::bytes16)?;
        let mut references = |most: usize| {
            let count = reader.count(Reference::LEN)?;
            if count > most { Err(FormatError("it lists too much")) } else { reader.list(count, Reference::read) }
        };
        let (roots, segments, condemned) = (references(1)?, references(SEGMENTS)?, references(1)?);
        let kept = if keeps { read_kept(&mut reader)? } else { vec![] };
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
        let head = Self { cache, sequence, fence, txids, roots: one(roots), segments, condemned: one(condemned), kept };
        // Once: what is named over and over would be read into memory as often.
        let is_named =
            |(digest, bytes): &Kept| head.references().filter(|reference| is_that(reference, digest, bytes)).count() == 1;
        if kept_len(&head.kept) > ALL_KEPT_LEN {
            return Err(FormatError("it keeps too much"));
        }
        if head.kept.iter().all(is_named) { Ok(head) } else { Err(FormatError("it keeps what it does not name once")) }
    }
}

fn read_kept(reader: &mut Reader<'_>) -> Result<Vec<Kept>, FormatError> {
    let count = reader.count(4)?;
    let kept = reader.list(count, |reader| reader.text(KEPT_LEN).map(|bytes| (Digest::of(bytes), Arc::from(bytes))))?;
    // Of each head there is one text only.
    if kept.is_empty() { Err(FormatError("it keeps nothing, and says that it does")) } else { Ok(kept) }
}

fn kept_len(kept: &[Kept]) -> usize {
    kept.iter().map(|(_, bytes)| bytes.len()).sum()
}

fn is_that(reference: &Reference, digest: &Digest, bytes: &[u8]) -> bool {
    reference.digest == *digest && u64::from(reference.len) == bytes.len() as u64
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

    fn keeping(bytes: &[u8]) -> Head {
        let mut head = example();
        let digest = Digest::of(bytes);
        assert!(head.keep(digest, bytes, KEPT_LEN));
        head.segments[1] = Reference { len: bytes.len() as u32, digest, ..head.segments[1] };
        head
    }

    #[test]
    fn golden_bytes_of_a_head_that_keeps_something() {
        let head = keeping(b"a segment");
        assert_golden("s3-head-v2.bin", &head.encode());
        assert_eq!(Head::decode(&head.encode()), Ok(head.clone()));
        assert_guarded(&head.encode(), Head::decode);
        assert_eq!(head.kept(&head.segments[1]), Some(&b"a segment"[..]));
        assert_eq!(head.kept(&head.segments[0]), None);
    }

    #[test]
    fn only_what_a_head_names_may_lie_in_it() {
        let mut head = keeping(b"a segment");
        head.segments[1].len += 1;
        assert_eq!(Head::decode(&head.encode()), Err(FormatError("it keeps what it does not name once")));
        head.segments.pop();
        assert_eq!(Head::decode(&head.encode()), Err(FormatError("it keeps what it does not name once")));
        let mut twice = keeping(b"a segment");
        twice.segments.push(twice.segments[1]);
        assert_eq!(Head::decode(&twice.encode()), Err(FormatError("it keeps what it does not name once")));
        head.drop_unnamed();
        assert_eq!(head.kept, []);
        assert_eq!(Head::decode(&head.encode()), Ok(head));
        let empty = seal(MAGIC, &[&example().body()[..], &[0; 4]].concat());
        assert!(Head::decode(&empty).is_err(), "that is a head of version 1");
        let long = keeping(&[7; KEPT_LEN]);
        assert_eq!(Head::decode(&long.encode()), Ok(long.clone()));
        let mut longer = long;
        longer.kept[0] = (Digest::of(&[7; KEPT_LEN + 1]), Arc::from(&[7; KEPT_LEN + 1][..]));
        assert_eq!(Head::decode(&longer.encode()), Err(FormatError("a text in it is too long")));
    }

    #[test]
    fn a_whole_head_of_a_later_version_is_known_from_a_damaged_one() {
        let mut later = seal(*b"dfh\x03", b"what nobody here knows");
        assert_eq!(Head::decode(&later), Err(FormatError::NEWER));
        later[20] ^= 1;
        assert_eq!(Head::decode(&later), Err(FormatError("it is something else")));
        assert_eq!(Head::decode(&seal(*b"dfh\x00", b"")), Err(FormatError("it is something else")));
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
        // Bytes that nothing can compress.
        let noise: Vec<u8> = (0..KEPT_LEN as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for (n, at) in [(1_u8, 0), (2, 1)] {
            let bytes: Vec<u8> = noise.iter().map(|byte| byte.wrapping_mul(n)).collect();
            let digest = Digest::of(&bytes);
            assert!(head.keep(digest, &bytes, usize::MAX));
            head.segments[at] = Reference { len: bytes.len() as u32, digest, ..head.segments[at] };
        }
        assert!(!head.keep(Digest::of(b"x"), b"x", usize::MAX), "there is no more room");
        assert!(head.encode().len() as u64 <= HEAD_LEN);
        assert_eq!(Head::decode(&head.encode()), Ok(head.clone()));
        head.segments.push(reference(0));
        assert!(Head::decode(&head.encode()).is_err());
    }
}
