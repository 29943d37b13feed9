//! Codes corrections where they belong, so that what surrounds them helps to guess them.

use std::ops::Range;

use super::contexts::hash;
use super::matches::{Matches, Past};
use super::model::{Bits, Model, N, View};
use super::walk::{Guess, Truth, gap, walk};
use crate::entropy::range::{Reader, Writer};
use crate::entropy::{EntropyError, Shape};

/// What is sent in which phase.
const GAP: u8 = 0;
const GAP_MORE: u8 = 1;
const VALUE: u8 = 2;
const VALUE_NEXT: u8 = 3;
const LITERAL: u8 = 4;
const PHASES: usize = 5;
/// Of so many gaps and values repetitions are found.
const REPEATS: usize = (1 << 18) - 1;

/// The most that is learned before a hole.
const MARGIN: usize = 256;

/// Packs what makes `actual` of `predicted`, in which wrong bytes outside of the holes have these gaps between them. About `budget` bytes before the holes are learned
/// besides.
pub(in crate::entropy) fn encode(
    predicted: &[u8],
    actual: &[u8],
    gaps: &[u32],
    holes: &[Range<u32>],
    context: &[u8],
    shape: Shape,
    budget: usize,
) -> Vec<u8> {
    let mut target = predicted.to_vec();
    let mut writer = Writer::new();
    let mut places = Places::new(&mut target, context, shape, gaps.len(), holes, budget);
    walk(&mut places, &mut writer, actual.len(), holes, gaps.len(), &Truth { actual, gaps });
    writer.finish()
}

/// Corrects `target`, which is wrong at `n_wrong` places outside of the holes; the budget is that of the writer.
pub(in crate::entropy) fn decode(
    packed: &[u8],
    target: &mut [u8],
    n_wrong: usize,
    holes: &[Range<u32>],
    context: &[u8],
    shape: Shape,
    budget: usize,
) -> Result<(), EntropyError> {
    let expected = target.len();
    let mut reader = Reader::new(packed);
    let mut places = Places::new(target, context, shape, n_wrong, holes, budget);
    let fits = walk(&mut places, &mut reader, expected, holes, n_wrong, &Truth { actual: &[], gaps: &[] });
    if fits && reader.finish() { Ok(()) } else { Err(EntropyError::Length { expected }) }
}

/// How many bytes are coded, about.
pub(in crate::entropy) fn work(n_wrong: usize, holes: &[Range<u32>]) -> usize {
    holes.iter().map(ExactSizeIterator::len).sum::<usize>() + 2 * n_wrong
}

/// How many bytes are learned besides, at most.
pub(in crate::entropy) fn learned(holes: &[Range<u32>], budget: usize) -> usize {
    holes.len() * margin(holes, budget)
}

/// How many bytes are learned before each hole.
fn margin(holes: &[Range<u32>], budget: usize) -> usize {
    budget.checked_div(holes.len()).unwrap_or(0).min(MARGIN)
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
    /// Behind the last literal.
    learned: usize,
    /// How much before a hole is learned.
    margin: usize,
}

/// Bits that both sides know.
struct Known;

impl Bits for Known {
    #[inline]
    fn bit(&mut self, bit: u32, _: u32) -> u32 {
        bit
    }
}

impl Guess for Places<'_> {
    fn gap(&mut self, bits: &mut impl Bits, value: u32) -> Option<u64> {
        let mut partial = 0;
        let found = gap(value, |byte, shift| {
            let contexts = self.of_gap(partial, shift);
            let phase = if shift == 0 { GAP } else { GAP_MORE };
            let byte = self.record(bits, byte, contexts, self.ahead(self.end) as u8, phase);
            partial = partial << 8 | u64::from(byte);
            byte
        })?;
        self.gaps = [found, self.gaps[0], self.gaps[1], self.gaps[2]];
        Some(found)
    }

    fn value(&mut self, bits: &mut impl Bits, at: usize, truth: &Truth) {
        let predicted = self.target[at];
        let contexts = self.of_value(at);
        let value = truth.byte(at).wrapping_sub(predicted);
        let phase = if self.gaps[0] == 0 { VALUE_NEXT } else { VALUE };
        let value = self.record(bits, value, contexts, predicted, phase);
        self.target[at] = predicted.wrapping_add(value);
        self.values = [value.into(), self.values[0], self.values[1], self.values[2]];
        self.end = at + 1;
    }

    /// Literals follow the same rules as what precedes them: that is learned first.
    fn hole(&mut self, bits: &mut impl Bits, hole: Range<usize>, truth: &Truth) {
        if hole.is_empty() {
            return;
        }
        let from = hole.start.saturating_sub(self.margin).max(self.learned);
        for matches in &mut self.literals {
            matches.enter(Past { context: self.context, seen: &self.target[..from] });
        }
        for at in from..hole.start {
            self.literal(&mut Known, at, hole.start, self.target[at]);
            self.see(at);
        }
        for at in hole.clone() {
            self.target[at] = self.literal(bits, at, hole.end, truth.byte(at));
            self.see(at);
        }
        self.learned = hole.end;
    }
}

impl<'a> Places<'a> {
    fn new(target: &'a mut [u8], context: &'a [u8], shape: Shape, n_wrong: usize, holes: &[Range<u32>], budget: usize) -> Self {
        let work = work(n_wrong, holes);
        Self {
            target,
            context,
            shape,
            model: Model::new(work, PHASES),
            literals: [Matches::new(4, context, work), Matches::new(7, context, work)],
            records: Vec::new(),
            repeats: [Matches::new(6, &[], work.min(REPEATS)), Matches::new(12, &[], work.min(REPEATS))],
            gaps: [0; 4],
            values: [0; 4],
            end: 0,
            learned: 0,
            margin: margin(holes, budget),
        }
    }

    fn record(&mut self, bits: &mut impl Bits, byte: u8, contexts: [u64; N], beside: u8, phase: u8) -> u8 {
        let expected = self.repeats.each_ref().map(Matches::expected);
        let byte = self.model.byte(bits, byte, &View { contexts: spread(contexts, phase), expected, beside, phase });
        self.records.push(byte);
        for repeat in &mut self.repeats {
            repeat.see(Past { context: &[], seen: &self.records });
        }
        byte
    }

    fn literal(&mut self, bits: &mut impl Bits, at: usize, end: usize, byte: u8) -> u8 {
        let contexts = spread(self.of_literal(at, end), LITERAL);
        let expected = self.literals.each_ref().map(Matches::expected);
        let beside = if at > 0 { self.target[at - 1] } else { 0 };
        self.model.byte(bits, byte, &View { contexts, expected, beside, phase: LITERAL })
    }

    fn see(&mut self, at: usize) {
        for matches in &mut self.literals {
            matches.see(Past { context: self.context, seen: &self.target[..=at] });
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

    /// Hash of the letters before a place.
    fn word(&self, at: usize) -> u64 {
        let before = self.target[at.saturating_sub(16)..at].iter().rev();
        let letters = before.take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_');
        letters.fold(0, |word, byte| hash(word, (*byte).into()))
    }

    fn of_gap(&self, partial: u64, shift: u32) -> [u64; N] {
        let [a, b, c, _] = self.gaps;
        let [x, y, z, _] = self.values;
        let partial = hash(partial, shift.into());
        let with = |value| hash(partial, value);
        let (p, q) = (self.ahead(self.end), self.ahead(self.end + 1));
        let both = hash(hash(with(a), x), y);
        [
            partial,
            with(x),
            with(a),
            hash(with(a), x),
            both,
            with(hash(a, b)),
            with(hash(x, p)),
            hash(hash(with(x), p), hash(q, self.before(self.end) & 0xff)),
            hash(both, b),
            hash(hash(hash(both, b), z), c),
            with(hash(hash(a, b), c)),
            with(hash(p, q)),
        ]
    }

    fn of_value(&self, at: usize) -> [u64; N] {
        let [a, b, c, _] = self.gaps;
        let [x, y, z, _] = self.values;
        let before = self.before(at);
        let (p, q, r) = (self.ahead(at), self.ahead(at + 1), self.ahead(at + 2));
        let next = a.min(1);
        let longer = hash(hash(hash(a, x), b), y);
        [
            hash(a, x),
            hash(a, p),
            hash(x, p),
            hash(hash(next, x), hash(y, z)),
            hash(hash(next, p), hash(q, r)),
            hash(hash(next, p), hash(hash(q, r), before & 0xff)),
            hash(before & 0xffff, next),
            hash(hash(next, before & 0xffff), hash(p, q)),
            hash(hash(a, p), before & 0xff),
            hash(next, 3),
            longer,
            hash(hash(longer, c), z),
        ]
    }

    /// `end` is where what is guessed ends: the byte there is known again.
    fn of_literal(&self, at: usize, end: usize) -> [u64; N] {
        let before = self.before(at);
        let order = |n: u32| before & (u64::MAX >> (64 - 8 * n));
        let is_text = self.shape == Shape::Text;
        let left = (end - at) as u64;
        let behind = self.ahead(end);
        [
            0,
            order(1),
            order(2),
            order(3),
            order(4),
            order(6),
            hash(order(1), if is_text { self.word(at) } else { before & 0x00ff_0000 }),
            if is_text { order(5) } else { before & 0x00ff_ff00 },
            hash(left.min(8), behind),
            hash(left.min(4), hash(order(2), behind)),
            before & 0xff00,
            before & 0xf0f0_f0f0,
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
