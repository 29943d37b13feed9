//! Where is a blob? The segments of one head together.

use std::collections::HashSet;
use std::sync::Arc;

use df_core::Digest;

use super::format::name::Reference;
use super::format::segment::Segment;
use super::format::slot::{self, Slot};

/// All that is live under one head.
#[derive(Clone, Default)]
pub(crate) struct Index {
    segments: Vec<Arc<Segment>>,
}

/// One copy of one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pack: Reference,
    pub(crate) slot: Slot,
}

/// A blob, all pieces of which are there.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Bytes of the blob.
    pub(crate) len: u64,
    /// The copies of each piece, one at least.
    pub(crate) parts: Vec<Vec<Place>>,
}

impl Index {
    pub(crate) fn new(segments: Vec<Arc<Segment>>) -> Self {
        Self { segments }
    }

    /// Returns an index that has one more segment.
    pub(crate) fn with(&self, segment: Segment) -> Self {
        let segments = self.segments.iter().cloned().chain([Arc::new(segment)]).collect();
        Self { segments }
    }

    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Returns a blob and where its pieces are; of the given length, if one is given.
    pub(crate) fn find(&self, digest: Digest, len: Option<u64>) -> Option<Found> {
        let len = match len {
            Some(len) => len,
            None => self.rows_of(digest).next()?.1.len,
        };
        let mut parts = vec![vec![]; slot::n_parts(len) as usize];
        for (segment, slot) in self.rows_of(digest).filter(|(_, slot)| slot.len == len) {
            parts[slot.part as usize].push(Place { pack: segment.pack(slot), slot: slot.clone() });
        }
        parts.iter().all(|copies| !copies.is_empty()).then_some(Found { len, parts })
    }

    /// Returns whether every piece of a blob has a place.
    pub(crate) fn holds(&self, digest: Digest, len: u64) -> bool {
        if slot::n_parts(len) == 1 {
            self.rows_of(digest).any(|(_, slot)| slot.len == len)
        } else {
            self.find(digest, Some(len)).is_some()
        }
    }

    /// Returns the packs that are live, each once.
    pub(crate) fn packs(&self) -> HashSet<Reference> {
        self.segments.iter().flat_map(|segment| segment.packs.iter().copied()).collect()
    }

    /// Returns every row with its pack.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.segments
            .iter()
            .flat_map(|segment| segment.slots.iter().map(|slot| Place { pack: segment.pack(slot), slot: slot.clone() }))
    }

    /// Returns every pack with its rows; a pack that two segments name comes twice.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Reference, Vec<Slot>)> {
        self.segments.iter().flat_map(|segment| segment.by_pack())
    }

    /// Returns an index without some rows.
    pub(crate) fn without(&self, bad: &[Place]) -> Self {
        let bad: HashSet<_> = bad.iter().map(|Place { pack, slot }| (*pack, slot.digest, slot.part, slot.offset)).collect();
        let keep = |pack: &Reference, slot: &Slot| !bad.contains(&(*pack, slot.digest, slot.part, slot.offset));
        let segments = self.segments.iter().map(|segment| {
            let rows = segment
                .by_pack()
                .into_iter()
                .map(|(pack, slots)| (pack, slots.into_iter().filter(|slot| keep(&pack, slot)).collect()));
            Arc::new(Segment::new(rows))
        });
        Self { segments: segments.collect() }
    }

    fn rows_of(&self, digest: Digest) -> impl Iterator<Item = (&Segment, &Slot)> {
        self.segments.iter().flat_map(move |segment| segment.find(digest).iter().map(move |slot| (&**segment, slot)))
    }
}
