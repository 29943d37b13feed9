//! What some packs hold: the index is the segments that the head lists.
//!
//! # Format of the body, version 1 ("dfi\x02": the index on disk is another)
//!
//! ```text
//! segment = count, pack*, rows           rows as in `slot`
//! pack    = reference                    as in `name`; ascending, none twice
//! ```

use df_core::Digest;

use super::name::Reference;
use super::pack::PACK_LEN;
use super::slot::{self, Slot};
use super::{BODY_LEN, FormatError, Reader, Writer, open, seal};

const MAGIC: [u8; 4] = *b"dfi\x02";

/// Some packs and all that is used of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    /// In order of their names.
    pub(crate) packs: Vec<Reference>,
    /// In order of their digests; their packs are numbers of `packs`.
    pub(crate) slots: Vec<Slot>,
}

impl Segment {
    /// Makes a segment of packs and their rows, whose pack numbers are not looked at.
    pub(crate) fn new(packs: impl IntoIterator<Item = (Reference, Vec<Slot>)>) -> Self {
        let mut packs: Vec<(Reference, Vec<Slot>)> = packs.into_iter().collect();
        packs.sort_by_key(|(pack, _)| *pack);
        let mut segment = Self::default();
        for (pack, slots) in packs {
            if segment.packs.last() != Some(&pack) {
                segment.packs.push(pack);
            }
            let number = u32::try_from(segment.packs.len() - 1).expect("fewer packs than 2^32");
            segment.slots.extend(slots.into_iter().map(|slot| Slot { pack: number, ..slot }));
        }
        slot::sort(&mut segment.slots);
        segment
    }

    /// Returns each pack with its rows.
    pub(crate) fn by_pack(&self) -> Vec<(Reference, Vec<Slot>)> {
        let mut rows = vec![vec![]; self.packs.len()];
        self.slots.iter().for_each(|slot| rows[slot.pack as usize].push(slot.clone()));
        self.packs.iter().copied().zip(rows).collect()
    }

    /// Returns the rows of a blob, in order of its parts.
    pub(crate) fn find(&self, digest: Digest) -> &[Slot] {
        let start = self.slots.partition_point(|slot| slot.digest < digest);
        let len = self.slots[start..].iter().take_while(|slot| slot.digest == digest).count();
        &self.slots[start..start + len]
    }

    /// Returns the pack of a row.
    pub(crate) fn pack(&self, slot: &Slot) -> Reference {
        self.packs[slot.pack as usize]
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.count(self.packs.len());
        self.packs.iter().for_each(|pack| pack.write(&mut out));
        slot::write(&self.slots, &mut out);
        seal(MAGIC, &out.0)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let body = open(MAGIC, bytes, BODY_LEN)?;
        let mut reader = Reader::new(&body);
        let count = reader.count(Reference::LEN)?;
        let packs = reader.list(count, Reference::read)?;
        let slots = slot::read(&mut reader, packs.len())?;
        reader.end()?;
        let inside = |slot: &Slot| slot.offset.checked_add(slot.stored).is_some_and(|end| end <= packs[slot.pack as usize].len);
        // Whoever verifies a pack reads it whole.
        if packs.iter().any(|pack| u64::from(pack.len) > PACK_LEN) {
            return Err(FormatError("a pack in it is longer than any"));
        }
        if packs.is_sorted_by(|a, b| a < b) && slots.iter().all(inside) {
            Ok(Self { packs, slots })
        } else {
            Err(FormatError("its packs are not in order"))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::name::tests::reference;
    use super::super::slot::tests::examples;
    use super::super::tests::{assert_golden, assert_guarded};
    use super::*;

    pub(crate) fn example() -> Segment {
        let mut rows = examples();
        let some = rows.split_off(3);
        let large = |n| Reference { len: 5000, ..reference(n) };
        Segment::new([(large(7), some), (large(5), rows.clone()), (large(6), vec![rows[0].clone()])])
    }

    #[test]
    fn golden_bytes() {
        assert_golden("s3-segment-v1.bin", &example().encode());
        assert_eq!(Segment::decode(&example().encode()), Ok(example()));
        assert_guarded(&example().encode(), Segment::decode);
    }

    #[test]
    fn every_place_of_a_blob_is_found_with_its_pack() {
        let segment = example();
        let places = |digest| segment.find(digest).iter().map(|slot| segment.pack(slot).name.n).collect::<Vec<_>>();
        assert_eq!(places(examples()[0].digest), [5, 6]);
        assert_eq!(places(Digest::of(b"nothing")), [0; 0]);
        assert_eq!(Segment::new(segment.by_pack()), segment);
    }

    #[test]
    fn rows_that_leave_their_pack_are_refused() {
        let mut segment = example();
        segment.slots[0].offset = 5001;
        assert!(Segment::decode(&segment.encode()).is_err());
    }

    #[test]
    fn a_pack_longer_than_any_is_refused() {
        let with = |len| {
            let mut segment = example();
            segment.packs[0].len = len;
            Segment::decode(&segment.encode()).map(drop)
        };
        assert_eq!(with(PACK_LEN as u32), Ok(()));
        assert_eq!(with(PACK_LEN as u32 + 1), Err(FormatError("a pack in it is longer than any")));
    }
}
