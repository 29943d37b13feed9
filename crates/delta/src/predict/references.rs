//! What references read after they and their targets moved.
//!
//! The map of an alignment says where a target most likely is. Where it is wrong, the distance travels, once for each target: those that mean the same place later are
//! expected where the last one was found.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::align::Segment;
use crate::codec::CodecError;
use crate::elf::{Kind, Layout, Reference};

use super::map::Map;
use super::segments;
use super::streams::{Reader, Sort, Streams};

/// The two files, as far as references need them.
pub(super) struct Sides<'a> {
    pub old: &'a [u8],
    pub old_layout: &'a Layout,
    pub new_layout: &'a Layout,
    pub references: &'a [Reference],
    pub map: &'a Map,
}

/// Says where the target of a reference really is.
pub(super) trait Truth {
    /// Returns the place to write instead of `expected`, which is in `out` already; `None` when that stays. `reference` is as it is in the new file.
    fn place(&mut self, reference: &Reference, expected: u32, out: &mut [u8]) -> Result<Option<u32>, CodecError>;
}

/// Copies segments to `out` and moves the references in them.
pub(super) fn predict(sides: &Sides<'_>, segments: &[Segment], truth: &mut impl Truth, out: &mut [u8]) -> Result<(), CodecError> {
    let Sides { old, old_layout, new_layout, references, map } = *sides;
    segments::copy(segments, old, out);
    let mut learned = Learned::new(old.len());
    let mut next = 0;
    for segment in segments {
        next = first_from(segment.old, references, next);
        let end = u64::from(segment.old) + u64::from(segment.len);
        for reference in references[next..].iter().take_while(|r| u64::from(r.at) + u64::from(r.width) <= end) {
            next += 1;
            let Some(target) = reference.target(old_layout, old) else { continue };
            let at = segment.new + (reference.at - segment.old);
            let base = reference.base_place().map_or(reference.base, |base| learned.get(base, map));
            let expected = learned.get(target, map);
            if !reference.write(new_layout, at, base, expected, out) {
                continue;
            }
            let moved = Reference { at, base, ..*reference };
            if let Some(found) = truth.place(&moved, expected, out)? {
                moved.write(new_layout, at, base, found, out);
                learned.insert(target, found);
            }
        }
    }
    Ok(())
}

/// Returns the number of the first reference that is not before a place, which is mostly one of the next few.
fn first_from(place: u32, references: &[Reference], next: usize) -> usize {
    const FEW: usize = 16;
    let few = &references[next..references.len().min(next + FEW)];
    let is_before = |reference: &Reference| reference.at < place;
    let begins = next.checked_sub(1).is_none_or(|last| is_before(&references[last]));
    match few.iter().position(|reference| !is_before(reference)) {
        Some(nth) if begins => next + nth,
        _ => references.partition_point(is_before),
    }
}

/// The encoder's truth: the new file.
pub(super) struct Known<'a> {
    pub new: &'a [u8],
    pub layout: &'a Layout,
    pub streams: &'a mut Streams,
    /// How many references were right since the last that was not; goes on from one member to the next.
    pub right: u64,
}

impl Truth for Known<'_> {
    #[inline]
    fn place(&mut self, reference: &Reference, expected: u32, out: &mut [u8]) -> Result<Option<u32>, CodecError> {
        if reference.holds(out) != reference.holds(self.new)
            && let Some(found) = self.found(reference, expected, out)
        {
            self.streams.put(Sort::Misses, self.right);
            self.streams.put_signed(sort(reference), i64::from(found) - i64::from(expected));
            self.right = 0;
            return Ok(Some(found));
        }
        self.right += 1;
        Ok(None)
    }
}

impl Known<'_> {
    /// Returns the place that the new file's bytes mean, if that place means the bytes; writes it to try.
    fn found(&self, reference: &Reference, expected: u32, out: &mut [u8]) -> Option<u32> {
        let found = reference.target(self.layout, self.new)?;
        reference.write(self.layout, reference.at, reference.base, found, out);
        if reference.holds(out) == reference.holds(self.new) {
            return Some(found);
        }
        reference.write(self.layout, reference.at, reference.base, expected, out);
        None
    }
}

/// The decoder's truth: what the encoder wrote.
pub(super) struct Told<'a> {
    pub reader: &'a mut Reader,
    /// How many references are right before the next that is not.
    right: u64,
}

impl<'a> Told<'a> {
    pub fn new(reader: &'a mut Reader) -> Result<Self, CodecError> {
        let right = next(reader)?;
        Ok(Self { reader, right })
    }
}

impl Truth for Told<'_> {
    #[inline]
    fn place(&mut self, reference: &Reference, expected: u32, _: &mut [u8]) -> Result<Option<u32>, CodecError> {
        if self.right > 0 {
            self.right -= 1;
            return Ok(None);
        }
        let distance = self.reader.signed(sort(reference))?;
        self.right = next(self.reader)?;
        let found = i64::from(expected).checked_add(distance).and_then(|found| u32::try_from(found).ok());
        found.map(Some).ok_or(CodecError::Body)
    }
}

fn next(reader: &mut Reader) -> Result<u64, CodecError> {
    if reader.is_at_end(Sort::Misses) { Ok(u64::MAX) } else { reader.number(Sort::Misses) }
}

fn sort(reference: &Reference) -> Sort {
    match reference.kind {
        Kind::Near | Kind::Operand | Kind::From => Sort::CodeTargets,
        Kind::Address => Sort::AddressTargets,
        Kind::Within | Kind::Entry | Kind::Part | Kind::Offset | Kind::Number => Sort::OtherTargets,
    }
}

/// Where targets were found that the map has elsewhere.
struct Learned {
    found: HashMap<u32, u32, BuildHasherDefault<Multiply>>,
    /// A bit for each old place that something was found of: they lie near each other as the references do, unlike what is hashed. Places beyond the file share
    /// `1 << beyond_bits` of them. Empty before the first: most programs teach little.
    known: Vec<u64>,
    old_len: usize,
    beyond_bits: u32,
}

/// The most bits for places beyond the file: so many that those of a large program's memory and the numbers in it hardly ever share one.
const MOST_BEYOND: usize = 1 << 19;
/// The least. Between the two, one for each byte of the file: there may be a program for every few dozen bytes of a piece, and each clears its own.
const LEAST_BEYOND: usize = 1 << 10;

impl Learned {
    fn new(old_len: usize) -> Self {
        let beyond_bits = old_len.clamp(LEAST_BEYOND, MOST_BEYOND).next_power_of_two().ilog2();
        Self { found: HashMap::default(), known: Vec::new(), old_len, beyond_bits }
    }

    #[inline]
    fn get(&self, old: u32, map: &Map) -> u32 {
        let bit = self.bit(old);
        let may_have = self.known.get(bit / 64).is_some_and(|bits| bits >> (bit % 64) & 1 > 0);
        let found = if may_have { self.found.get(&old) } else { None };
        found.copied().unwrap_or_else(|| map.get(old))
    }

    #[inline]
    fn bit(&self, old: u32) -> usize {
        let place = old as usize;
        if place < self.old_len {
            place
        } else {
            self.old_len + (old.wrapping_mul(0x9e37_79b1) >> (u32::BITS - self.beyond_bits)) as usize
        }
    }

    fn insert(&mut self, old: u32, new: u32) {
        if self.known.is_empty() {
            self.known = vec![0; (self.old_len + (1 << self.beyond_bits)) / 64 + 1];
        }
        let bit = self.bit(old);
        self.known[bit / 64] |= 1 << (bit % 64);
        self.found.insert(old, new);
    }
}

/// A quick hash of places. Foreign files can make them collide, but then there is no more of them than corrections.
#[derive(Default)]
struct Multiply(u64);

impl Hasher for Multiply {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn write_u32(&mut self, value: u32) {
        let product = u64::from(value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiny_program_clears_no_more_bits_than_its_length_asks_for() {
        for (old_len, most) in [(0, 1 << 10), (120, 2 << 10), (5000, 16 << 10), (1 << 20, 2 << 20), (48 << 20, 49 << 20)] {
            let mut learned = Learned::new(old_len);
            learned.insert(7, 9);
            let n_bits = 64 * (learned.known.len() - 1);
            assert!(n_bits <= most, "{n_bits} bits for {old_len} bytes");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_was_learned_is_found_and_nothing_else(
            old_len in 0_usize..3000,
            taught in proptest::collection::vec((proptest::prop_oneof![0_u32..6000, proptest::num::u32::ANY], 0_u32..9000), 0..200),
            asked in proptest::collection::vec(proptest::num::u32::ANY, 0..50),
        ) {
            let map = Map::new(&[], old_len as u32, 5000);
            let (mut learned, mut expected) = (Learned::new(old_len), HashMap::new());
            for (old, new) in &taught {
                learned.insert(*old, *new);
                expected.insert(*old, *new);
            }
            for old in taught.iter().map(|(old, _)| *old).chain(asked).chain(0..100) {
                proptest::prop_assert_eq!(learned.get(old, &map), expected.get(&old).copied().unwrap_or_else(|| map.get(old)));
            }
        }
    }
}
