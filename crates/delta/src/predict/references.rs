//! What references read after they and their targets moved.
//!
//! The map of an alignment says where a target most likely is. Where it is wrong, the distance travels, once for each target: those that mean the same place later are
//! expected where the last one was found.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

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
    let mut learned = Learned::default();
    for segment in segments {
        let first = references.partition_point(|reference| reference.at < segment.old);
        let end = u64::from(segment.old) + u64::from(segment.len);
        for reference in references[first..].iter().take_while(|r| u64::from(r.at) + u64::from(r.width) <= end) {
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
                learned.0.insert(target, found);
            }
        }
    }
    Ok(())
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
        let range = reference.at as usize..reference.at as usize + usize::from(reference.width);
        if out[range.clone()] != self.new[range.clone()]
            && let Some(found) = self.found(reference, expected, range, out)
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
    fn found(&self, reference: &Reference, expected: u32, range: Range<usize>, out: &mut [u8]) -> Option<u32> {
        let found = reference.target(self.layout, self.new)?;
        reference.write(self.layout, reference.at, reference.base, found, out);
        if out[range.clone()] == self.new[range] {
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
#[derive(Default)]
struct Learned(HashMap<u32, u32, BuildHasherDefault<Multiply>>);

impl Learned {
    #[inline]
    fn get(&self, old: u32, map: &Map) -> u32 {
        // Most programs teach little: then nothing is looked up.
        let found = if self.0.is_empty() { None } else { self.0.get(&old) };
        found.copied().unwrap_or_else(|| map.get(old))
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
