//! Streams and corrections by the light model: in places where the whole one takes too long.

use std::ops::Range;

use super::contexts::hash;
use super::light::Light;
use super::model::Bits;
use super::walk::{Guess, Truth, gap, walk};
use crate::entropy::range::{Reader, Writer};
use crate::entropy::{EntropyError, Shape};

/// Contexts of gaps and values.
const N: usize = 5;
/// What is sent in which phase.
const GAP: usize = 0;
const GAP_MORE: usize = 1;
const VALUE: usize = 2;
const VALUE_NEXT: usize = 3;
const PHASES: usize = 4;
/// Lines of 32 bytes: few enough to stay near the processor, for most of the time goes into waiting for them.
const LINES: usize = 1 << 15;
/// For text, whose corrections repeat each other from further away, and which is predicted in less time.
const TEXT_LINES: usize = 1 << 17;

/// Packs what makes `actual` of `target`, which is right in the holes and else wrong at these gaps; then it is right.
pub(in crate::entropy) fn encode_places(
    target: &mut [u8],
    actual: &[u8],
    gaps: &[u32],
    holes: &[Range<u32>],
    shape: Shape,
) -> Vec<u8> {
    let (len, mut writer) = (target.len(), Writer::new());
    walk(&mut Places::new(target, gaps.len(), shape), &mut writer, len, holes, gaps.len(), &Truth { actual, gaps });
    writer.finish()
}

/// Corrects `target`, which is right in the holes and else wrong at `n_wrong` places.
pub(in crate::entropy) fn decode_places(
    packed: &[u8],
    target: &mut [u8],
    n_wrong: usize,
    holes: &[Range<u32>],
    shape: Shape,
) -> Result<(), EntropyError> {
    let (len, mut reader) = (target.len(), Reader::new(packed));
    let mut places = Places::new(target, n_wrong, shape);
    let fits = walk(&mut places, &mut reader, len, holes, n_wrong, &Truth { actual: &[], gaps: &[] });
    if fits && reader.finish() { Ok(()) } else { Err(EntropyError::Corrections) }
}

/// Packs a stream; gives up with nothing when that takes `limit` bytes or more.
pub(in crate::entropy) fn encode(bytes: &[u8], shape: Shape, limit: usize) -> Option<Vec<u8>> {
    let mut stream = Stream::new(shape, bytes.len());
    let mut writer = Writer::new();
    for byte in bytes {
        stream.byte(&mut writer, *byte);
        if writer.len() >= limit {
            return None;
        }
    }
    Some(writer.finish())
}

/// Unpacks exactly `len` bytes.
pub(in crate::entropy) fn decode(packed: &[u8], shape: Shape, len: usize) -> Result<Vec<u8>, EntropyError> {
    let mut stream = Stream::new(shape, len);
    let mut reader = Reader::new(packed);
    let out = (0..len).map(|_| stream.byte(&mut reader, 0)).collect();
    if reader.finish() { Ok(out) } else { Err(EntropyError::Length { expected: len }) }
}

/// A target that is being corrected from its beginning to its end.
struct Places<'a> {
    target: &'a mut [u8],
    model: Light<N>,
    /// The last gaps and values, the newest first.
    gaps: [u64; 3],
    values: [u64; 2],
    /// Behind the last corrected byte.
    end: usize,
}

impl Guess for Places<'_> {
    fn gap(&mut self, bits: &mut impl Bits, value: u32) -> Option<u64> {
        let contexts = self.of_gap();
        let mut partial = 0;
        let found = gap(value, |byte, shift| {
            let phase = if shift == 0 { GAP } else { GAP_MORE };
            let byte = self.model.small(bits, byte, &contexts.map(|context| (hash(context, partial) >> 20) as u32), phase);
            partial = partial << 8 | u64::from(byte) | 1 << 40;
            byte
        })?;
        self.gaps = [found, self.gaps[0], self.gaps[1]];
        Some(found)
    }

    fn value(&mut self, bits: &mut impl Bits, at: usize, truth: &Truth) {
        let predicted = self.target[at];
        let contexts = self.of_value(at).map(|context| (context >> 20) as u32);
        let value = truth.byte(at).wrapping_sub(predicted);
        let phase = if self.gaps[0] == 0 { VALUE_NEXT } else { VALUE };
        let value = self.model.byte(bits, value, &contexts, phase);
        self.target[at] = predicted.wrapping_add(value);
        self.values = [value.into(), self.values[0]];
        self.end = at + 1;
    }

    /// What is in holes came before.
    fn hole(&mut self, _: &mut impl Bits, _: Range<usize>, _: &Truth) {}
}

impl<'a> Places<'a> {
    fn new(target: &'a mut [u8], n_wrong: usize, shape: Shape) -> Self {
        let lines = if shape == Shape::Text { TEXT_LINES } else { LINES };
        Self { target, model: Light::new(2 * n_wrong, PHASES, lines), gaps: [0; 3], values: [0; 2], end: 0 }
    }

    /// A byte and the next two as they were predicted, 9 bits each.
    fn ahead(&self, at: usize) -> u64 {
        let byte = |at: usize| self.target.get(at).map_or(256, |byte| u64::from(*byte));
        byte(at) | byte(at + 1) << 9 | byte(at + 2) << 18
    }

    /// The two bytes before a place, the nearest lowest.
    fn before(&self, at: usize) -> u64 {
        let byte = |back: usize| at.checked_sub(back).map_or(0, |at| u64::from(self.target[at]));
        byte(1) | byte(2) << 8
    }

    fn of_gap(&self) -> [u64; N] {
        let ([a, b, c], [x, y]) = (self.gaps, self.values);
        let ahead = self.ahead(self.end);
        let near = hash(a, x << 8 | y);
        [
            1,
            2 << 40 | ahead,
            3 << 40 | (ahead & 0x3ffff) << 16 | x << 8 | self.before(self.end) & 0xff,
            hash(near, b ^ 4 << 40),
            hash(hash(a, b), c ^ 5 << 40),
        ]
    }

    fn of_value(&self, at: usize) -> [u64; N] {
        let ([a, b, _], [x, y]) = (self.gaps, self.values);
        let (ahead, before, next) = (self.ahead(at), self.before(at), a.min(1));
        [
            hash(next, 6 << 40),
            hash(ahead, next | 7 << 40),
            hash(before, next | 8 << 40),
            hash((ahead & 0x1ff) << 8 | before & 0xff, 9 << 40),
            hash(hash(a, x << 8 | y), b ^ 10 << 40),
        ]
    }
}

/// Contexts of streams.
const M: usize = 6;

/// A stream and what is known of it.
struct Stream {
    shape: Shape,
    model: Light<M>,
    /// The last eight bytes, the newest lowest.
    last: u64,
    /// The last three numbers, the newest first.
    numbers: [u64; 3],
    /// The bytes of the number that is not yet complete.
    partial: u64,
    n_partial: u64,
}

impl Stream {
    fn new(shape: Shape, len: usize) -> Self {
        Self { shape, model: Light::new(len, PHASES, LINES), last: 0, numbers: [0; 3], partial: 0, n_partial: 0 }
    }

    fn byte(&mut self, bits: &mut impl Bits, byte: u8) -> u8 {
        let phase = self.n_partial.min(PHASES as u64 - 1) as usize;
        let byte = self.model.byte(bits, byte, &self.contexts(), phase);
        self.last = self.last << 8 | u64::from(byte);
        if self.shape == Shape::Numbers {
            self.partial = self.partial << 8 | u64::from(byte);
            self.n_partial += 1;
            if byte < 128 {
                self.numbers = [self.partial, self.numbers[0], self.numbers[1]];
                (self.partial, self.n_partial) = (0, 0);
            }
        }
        byte
    }

    fn contexts(&self) -> [u32; M] {
        let order = |n: u32| self.last & (u64::MAX >> (64 - 8 * n));
        let contexts = match self.shape {
            Shape::Numbers => {
                let ([a, b, c], partial) = (self.numbers, self.partial << 3 | self.n_partial);
                let size = |number: u64| u64::from(64 - number.leading_zeros());
                [
                    partial,
                    hash(partial, a),
                    hash(partial, b),
                    hash(hash(partial, a), b),
                    hash(partial, size(a) << 16 | size(b) << 8 | size(c)),
                    hash(partial, size(a)),
                ]
            }
            Shape::Text => [0, order(1), order(2), order(3), order(4), order(6)],
            Shape::Bytes | Shape::Code => [order(1), order(2), order(3), order(4), order(5), self.last & 0xff00],
        };
        let mut number = 0;
        contexts.map(|context| {
            number += 1;
            (hash(context, number) >> 20) as u32
        })
    }
}
