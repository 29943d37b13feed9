//! Lays what was paired into pieces of bounded length.

use std::collections::HashMap;

use df_core::Digest;

use super::pair::Wanted;
use super::{Piece, Slice};
use crate::format::{BASE_LEN, TARGET_LEN};

/// Files of this length and more have a piece of their own: it fills a core by itself.
const ALONE: u64 = 16 << 20;
/// Where a piece of several files is closed. Larger ones find little more and keep other cores waiting.
const SOLID: u64 = 32 << 20;
/// What files of [`TARGET_LEN`] and more are cut into: half of [`BASE_LEN`], so that bytes which moved by 16 MiB are still found.
const WINDOW: u64 = 32 << 20;

/// Lays wanted blobs into pieces: large ones first, as they take longest, then the small ones together.
pub(super) fn pieces(wanted: &[Wanted]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    wanted.iter().filter(|wanted| wanted.len >= ALONE).for_each(|wanted| alone(wanted, &mut pieces));
    // Programs apart from the rest: what packs the ones best does little for the others, and a piece is packed one way.
    for is_program in [true, false] {
        let mut solid = Solid::default();
        for wanted in wanted.iter().filter(|wanted| wanted.len < ALONE && wanted.is_program == is_program) {
            solid.add(wanted, &mut pieces);
        }
        solid.close(&mut pieces);
    }
    pieces
}

/// Returns the stretch (offset, length) of something `base_len` long, at most `max` long, that lies around the place proportional to `at..at + len` of
/// something `target_len` long.
pub(crate) fn window(base_len: u64, target_len: u64, at: u64, len: u64, max: u64) -> (u64, u64) {
    if base_len <= max {
        return (0, base_len);
    }
    let middle = u128::from(at + len / 2) * u128::from(base_len) / u128::from(target_len.max(1));
    let start = u64::try_from(middle).expect("below the base's length").saturating_sub(max / 2);
    (start.min(base_len - max), max)
}

fn alone(wanted: &Wanted, pieces: &mut Vec<Piece>) {
    let step = if wanted.len >= TARGET_LEN { WINDOW } else { wanted.len };
    let mut offset = 0;
    while offset < wanted.len {
        let len = step.min(wanted.len - offset);
        let base = base_of(wanted, offset, len);
        let paired = vec![(base.len() == 1).then_some(0)];
        pieces.push(Piece { base, target: vec![Slice { digest: wanted.digest, offset, len }], paired });
        offset += len;
    }
}

/// Returns the old bytes for a stretch of a wanted blob: never more than four times its length and a little, so that reading them stays in
/// proportion whatever the manifests claim.
fn base_of(wanted: &Wanted, offset: u64, len: u64) -> Vec<Slice> {
    let base_len = wanted.bases.iter().map(|(_, len)| len).sum();
    let max = BASE_LEN.min(4 * len + (64 << 10));
    let (start, len) = window(base_len, wanted.len, offset, len, max);
    stretch(&wanted.bases, start, len)
}

/// Returns `len` bytes at `start` of blobs laid one after the other.
fn stretch(blobs: &[(Digest, u64)], start: u64, len: u64) -> Vec<Slice> {
    let mut slices = Vec::new();
    let mut at = 0;
    for &(digest, blob_len) in blobs {
        let (from, to) = (start.max(at), (start + len).min(at + blob_len));
        if from < to {
            slices.push(Slice { digest, offset: from - at, len: to - from });
        }
        at += blob_len;
    }
    slices
}

/// A piece of several files that is being filled.
#[derive(Default)]
struct Solid {
    base: Vec<Slice>,
    target: Vec<Slice>,
    base_len: u64,
    target_len: u64,
    paired: Vec<Option<u32>>,
    /// Where in `base` each slice of it is.
    places: HashMap<Slice, u32>,
}

impl Solid {
    fn add(&mut self, wanted: &Wanted, pieces: &mut Vec<Piece>) {
        let base = base_of(wanted, 0, wanted.len);
        let more = base.iter().filter(|slice| !self.places.contains_key(slice)).map(|slice| slice.len).sum::<u64>();
        if self.target_len + wanted.len > SOLID || self.base_len + more > BASE_LEN {
            std::mem::take(self).close(pieces);
        }
        let places: Vec<u32> = base.into_iter().map(|slice| self.place(slice)).collect();
        self.paired.push(if let [place] = places[..] { Some(place) } else { None });
        self.target_len += wanted.len;
        self.target.push(Slice { digest: wanted.digest, offset: 0, len: wanted.len });
    }

    /// Returns where a slice is in the base; it is added if it is not there.
    fn place(&mut self, slice: Slice) -> u32 {
        let next = u32::try_from(self.base.len()).expect("each slice has a byte of at most 64 MiB");
        *self.places.entry(slice).or_insert_with(|| {
            self.base_len += slice.len;
            self.base.push(slice);
            next
        })
    }

    fn close(self, pieces: &mut Vec<Piece>) {
        if !self.target.is_empty() {
            pieces.push(Piece { base: self.base, target: self.target, paired: self.paired });
        }
    }
}
