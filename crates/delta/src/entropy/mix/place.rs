//! Codes corrections where they belong, so that what surrounds them helps to guess them.

use std::ops::Range;

use super::contexts::hash;
use super::matches::{Matches, Past};
use super::model::{Bits, Model, N, View};
use crate::entropy::range::{Reader, Writer};
use crate::entropy::{EntropyError, Shape};

/// What is sent in which phase.
const GAP: u8 = 0;
const GAP_MORE: u8 = 1;
const VALUE: u8 = 2;
const VALUE_NEXT: u8 = 3;
const LITERAL: u8 = 4;
const PHASES: usize = 5;

/// Packs what makes `actual` of `predicted`, of which the bytes at `wrong` differ outside of the holes.
pub(crate) fn encode(
    predicted: &[u8],
    actual: &[u8],
    gaps: &[u32],
    holes: &[Range<u32>],
    context: &[u8],
    shape: Shape,
) -> Vec<u8> {
    let mut target = predicted.to_vec();
    let mut writer = Writer::new();
    let mut places = Places::new(&mut target, context, shape, work(gaps.len(), holes));
    places.run(&mut writer, holes, gaps.len(), &Truth { actual, gaps });
    writer.finish()
}

/// Corrects `target`, which is wrong at `n_wrong` places outside of the holes.
pub(crate) fn decode(
    packed: &[u8],
    target: &mut [u8],
    n_wrong: usize,
    holes: &[Range<u32>],
    context: &[u8],
    shape: Shape,
) -> Result<(), EntropyError> {
    let expected = target.len();
    let mut reader = Reader::new(packed);
    let mut places = Places::new(target, context, shape, work(n_wrong, holes));
    let fits = places.run(&mut reader, holes, n_wrong, &Truth { actual: &[], gaps: &[] });
    if fits && reader.finish() { Ok(()) } else { Err(EntropyError::Length { expected }) }
}

/// How many bytes are coded, about.
pub(crate) fn work(n_wrong: usize, holes: &[Range<u32>]) -> usize {
    holes.iter().map(ExactSizeIterator::len).sum::<usize>() + 2 * n_wrong
}

/// What the writer knows; empty for the reader.
struct Truth<'a> {
    actual: &'a [u8],
    gaps: &'a [u32],
}

impl Truth<'_> {
    fn byte(&self, at: usize) -> u8 {
        self.actual.get(at).copied().unwrap_or(0)
    }
}

/// A target that is being corrected from its beginning to its end.
struct Places<'a> {
    target: &'a mut [u8],
    context: &'a [u8],
    shape: Shape,
    model: Model,
    literals: [Matches; 2],
    /// Gaps and values as they came, and where the same came before.
    records: Vec<u8>,
    repeats: [Matches; 2],
    /// The last gaps and values, the newest first.
    gaps: [u64; 4],
    values: [u64; 4],
    /// Behind the last corrected byte.
    end: usize,
}

impl<'a> Places<'a> {
    fn new(target: &'a mut [u8], context: &'a [u8], shape: Shape, work: usize) -> Self {
        Self {
            target,
            context,
            shape,
            model: Model::new(work, PHASES),
            literals: [Matches::new(4, context, work), Matches::new(7, context, work)],
            records: Vec::new(),
            repeats: [Matches::new(6, &[], work), Matches::new(12, &[], work)],
            gaps: [0; 4],
            values: [0; 4],
            end: 0,
        }
    }

    /// Goes over all places; returns whether they are within the target.
    fn run(&mut self, bits: &mut impl Bits, holes: &[Range<u32>], n_wrong: usize, truth: &Truth) -> bool {
        let mut n_done = 0;
        let mut at = 0;
        let mut gap = self.next_gap(bits, n_done, n_wrong, truth);
        let last = self.target.len()..self.target.len();
        for hole in holes.iter().map(|hole| hole.start as usize..hole.end as usize).chain([last]) {
            while gap < (hole.start - at) as u64 {
                at += gap as usize;
                self.value(bits, at, truth);
                at += 1;
                n_done += 1;
                gap = self.next_gap(bits, n_done, n_wrong, truth);
            }
            if n_done < n_wrong {
                gap -= (hole.start - at) as u64;
            }
            at = hole.end;
            self.literals(bits, hole, truth);
        }
        n_done == n_wrong
    }

    fn next_gap(&mut self, bits: &mut impl Bits, n_done: usize, n_wrong: usize, truth: &Truth) -> u64 {
        if n_done == n_wrong {
            return u64::MAX;
        }
        let mut rest = truth.gaps.get(n_done).copied().unwrap_or(0);
        let (mut gap, mut partial) = (0, 0);
        for shift in (0..35).step_by(7) {
            let byte = if rest < 128 { rest as u8 } else { rest as u8 | 128 };
            rest >>= 7;
            let contexts = self.of_gap(partial, shift);
            let byte = self.record(bits, byte, contexts, if shift == 0 { GAP } else { GAP_MORE });
            gap |= u64::from(byte & 127) << shift;
            partial = partial << 8 | u64::from(byte);
            if byte < 128 {
                break;
            }
        }
        self.gaps = [gap, self.gaps[0], self.gaps[1], self.gaps[2]];
        gap
    }

    fn value(&mut self, bits: &mut impl Bits, at: usize, truth: &Truth) {
        let predicted = self.target[at];
        let contexts = self.of_value(at);
        let value = truth.byte(at).wrapping_sub(predicted);
        let phase = if self.gaps[0] == 0 { VALUE_NEXT } else { VALUE };
        let value = self.record(bits, value, contexts, phase);
        self.target[at] = predicted.wrapping_add(value);
        self.values = [value.into(), self.values[0], self.values[1], self.values[2]];
        self.end = at + 1;
    }

    fn record(&mut self, bits: &mut impl Bits, byte: u8, contexts: [u64; N], phase: u8) -> u8 {
        let beside = self.records.last().copied().unwrap_or(0);
        let expected = self.repeats.each_ref().map(Matches::expected);
        let byte = self.model.byte(bits, byte, &View { contexts: spread(contexts, phase), expected, beside, phase });
        self.records.push(byte);
        for repeat in &mut self.repeats {
            repeat.see(Past { context: &[], seen: &self.records });
        }
        byte
    }

    fn literals(&mut self, bits: &mut impl Bits, hole: Range<usize>, truth: &Truth) {
        if hole.is_empty() {
            return;
        }
        for matches in &mut self.literals {
            matches.enter(Past { context: self.context, seen: &self.target[..hole.start] });
        }
        for at in hole.clone() {
            let contexts = self.of_literal(at, &hole);
            let expected = self.literals.each_ref().map(Matches::expected);
            let beside = if at > 0 { self.target[at - 1] } else { 0 };
            let view = View { contexts: spread(contexts, LITERAL), expected, beside, phase: LITERAL };
            self.target[at] = self.model.byte(bits, truth.byte(at), &view);
            for matches in &mut self.literals {
                matches.see(Past { context: self.context, seen: &self.target[..=at] });
            }
        }
    }

    /// The bytes before a place, the nearest lowest.
    fn before(&self, at: usize) -> u64 {
        let from = at.saturating_sub(8);
        self.target[from..at].iter().fold(0, |before, byte| before << 8 | u64::from(*byte))
    }

    /// A byte at or behind a place, as it was predicted.
    fn ahead(&self, at: usize) -> u64 {
        self.target.get(at).map_or(256, |byte| u64::from(*byte))
    }

    fn of_gap(&self, partial: u64, shift: u32) -> [u64; N] {
        let [a, b, c, _] = self.gaps;
        let [x, y, z, _] = self.values;
        let partial = hash(partial, shift.into());
        let (p, q) = (self.ahead(self.end), self.ahead(self.end + 1));
        [
            hash(partial, hash(x, p)),
            hash(partial, x),
            hash(partial, a),
            hash(hash(partial, a), x),
            hash(hash(hash(partial, a), x), y),
            hash(hash(hash(hash(partial, a), x), y), b),
            hash(hash(hash(hash(hash(hash(partial, a), x), y), b), z), c),
            hash(hash(hash(partial, x), p), hash(q, self.before(self.end) & 0xff)),
        ]
    }

    fn of_value(&self, at: usize) -> [u64; N] {
        let [a, b, c, _] = self.gaps;
        let [x, y, z, _] = self.values;
        let before = self.before(at);
        let (p, q) = (self.ahead(at), self.ahead(at + 1));
        [
            hash(a, x),
            hash(a, p),
            hash(hash(a, p), before & 0xff),
            hash(hash(a, x), y),
            hash(hash(hash(a, x), b), y),
            hash(hash(hash(hash(hash(a, x), b), y), c), z),
            before & 0xffffff,
            hash(hash(hash(a.min(1), before & 0xffff), p), q),
        ]
    }

    fn of_literal(&self, at: usize, hole: &Range<usize>) -> [u64; N] {
        let before = self.before(at);
        let order = |n: u32| before & (u64::MAX >> (64 - 8 * n));
        let guess = self.ahead(at);
        let left = hole.end - at;
        [
            hash(guess, before & 0xff),
            order(1),
            order(2),
            order(3),
            order(4),
            if self.shape == Shape::Text {
                hash(left.min(4) as u64, hash(order(2), self.ahead(hole.end)))
            } else {
                before & 0xff00
            },
            if self.shape == Shape::Text { order(5) } else { before & 0xffff00 },
            order(6),
        ]
    }
}

/// Contexts of different sorts in different phases never share a line.
fn spread(contexts: [u64; N], phase: u8) -> [u32; N] {
    let mut number = u64::from(phase.max(1)) << 8;
    contexts.map(|context| {
        number += 1;
        (hash(context, number) >> 20) as u32
    })
}
