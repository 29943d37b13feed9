//! Corrections of a prediction: which of its bytes are wrong and what they are, and the bytes that it says nothing about.
//!
//! ```text
//! corrections = nothing when there are none, or
//!               form + 16 * shape, n_wrong, and then by form (numbers are varints)
//!   streams 0:  [raw, packed, packed]     bytes of gaps (at most n_wrong and a 128th of the length), packed gaps and packed values, when n_wrong > 0
//!               gaps, values, literals    each as `entropy::pack` makes them
//!   quick 3:    [packed], literals, bits  bytes of packed literals and those, when there are holes; then gaps and values, guessed from fewer neighbours
//!   places 1, 2: bits                     for each wrong byte its gap, each byte of which is guessed from those before; before a value all literals
//!                                         before its place (`mix::place`); form 2 learns less from what precedes literals
//! ```
//!
//! `all is quite right` to `all is quiet night` with a hole at 13 is `21 02 f7 61 f3 1d 85`: form 1, text, two wrong bytes, and bits.
//!
//! A gap is how many bytes are right between two wrong ones, holes left out. A value is what is added to a wrong byte.

use std::borrow::Cow;
use std::ops::Range;

use super::{EntropyError, Room, Shape, mix, pack, refers, room, shape, unpack};
use crate::diff::Level;
use crate::varint;

const STREAMS: u8 = 0;
const PLACES: u8 = 1;
const PLACES_FAST: u8 = 2;
const QUICK: u8 = 3;

/// At [`Level::Fast`] one byte in so many may be coded in place, which takes one or two microseconds: then it costs no more than copying the others.
const FAST_SHARE: usize = 1024;

/// So few bytes are packed in every form.
const TRIFLE: usize = 1 << 10;

/// Packs what makes `actual` of `predicted`, of the same length, within the room there is; appends to `out`.
///
/// `holes` are the stretches of which the prediction says nothing, sorted and apart from each other; what `predicted` holds there is only a guess. Literals in
/// them may resemble stretches of `context`.
#[expect(clippy::too_many_arguments, reason = "all of them say what there is")]
pub fn pack_corrections(
    predicted: &[u8],
    actual: &[u8],
    holes: &[Range<u32>],
    context: &[u8],
    shape: Shape,
    level: Level,
    room: &mut Room,
    out: &mut Vec<u8>,
) {
    let gaps = gaps(predicted, actual, holes);
    let work = mix::place::work(gaps.len(), holes);
    if work == 0 {
        return;
    }
    let change = Change { predicted, actual, gaps, holes, context, shape, level };
    let made = forms(work, actual.len(), level).iter().filter_map(|&form| {
        let mut left = room.clone();
        Some((change.pack(form, &mut left)?, left))
    });
    // The first that there is room for, or the smallest where trying all takes no time or time is no matter.
    let best = if level == Level::Small || work <= TRIFLE { made.min_by_key(|(made, _)| made.len()) } else { { made }.next() };
    if let Some((made, left)) = best {
        out.extend(made);
        *room = left;
    }
}

/// The forms that are worth trying for so much work, the best first. There is always room for the last.
fn forms(work: usize, len: usize, level: Level) -> &'static [u8] {
    if level == Level::Small || work <= TRIFLE {
        &[PLACES, QUICK, STREAMS]
    } else if work <= len / FAST_SHARE {
        &[PLACES_FAST, QUICK, STREAMS]
    } else {
        &[QUICK, STREAMS]
    }
}

/// Corrects a prediction by what [`pack_corrections`] made with the same holes and context. When it fails, `target` is anything.
///
/// Ends in time linear in the target's length and that of the context, which is asked for only when it is referred to.
pub fn correct<'a>(
    packed: &[u8],
    target: &mut [u8],
    holes: &[Range<u32>],
    context: impl FnOnce() -> Cow<'a, [u8]>,
    room: &mut Room,
) -> Result<(), EntropyError> {
    let Some((&first, mut body)) = packed.split_first() else {
        return if holes.iter().all(Range::is_empty) { Ok(()) } else { Err(EntropyError::Corrections) };
    };
    if !are_holes(holes, target.len()) {
        return Err(EntropyError::Corrections);
    }
    let n_wrong = number(&mut body, target.len() - literals_len(holes))?;
    let form = first & 0x8f;
    if !room.take(cost(form, n_wrong, holes, target.len())) {
        return Err(EntropyError::Room);
    }
    match budget(form, target.len()) {
        Some(budget) => mix::place::decode(body, target, n_wrong, holes, &context(), shape(first), budget),
        None if form == STREAMS => unpack_streams(body, target, n_wrong, holes, context, room),
        None if form == QUICK => unpack_quick(body, target, n_wrong, holes, context, shape(first), room),
        None => Err(EntropyError::Coder(first)),
    }
}

/// How much room a form takes besides the streams in it.
fn cost(form: u8, n_wrong: usize, holes: &[Range<u32>], len: usize) -> usize {
    match budget(form, len) {
        Some(budget) => (mix::place::work(n_wrong, holes) + mix::place::learned(holes, budget)).saturating_mul(room::MIXED),
        None if form == QUICK => 2 * n_wrong,
        None => 0,
    }
}

/// How many right bytes are learned besides, when corrections are coded in place.
fn budget(form: u8, len: usize) -> Option<usize> {
    match form {
        PLACES => Some(128 << 10),
        PLACES_FAST => Some(len / FAST_SHARE),
        _ => None,
    }
}

/// How far each wrong byte outside of the holes is from the one before, without the holes between them.
fn gaps(predicted: &[u8], actual: &[u8], holes: &[Range<u32>]) -> Vec<u32> {
    let (mut gaps, mut gap) = (Vec::new(), 0);
    for run in runs(holes, actual.len()) {
        for (predicted, actual) in predicted[run.clone()].chunks(64).zip(actual[run].chunks(64)) {
            if predicted == actual {
                gap += actual.len() as u32;
                continue;
            }
            for (predicted, actual) in predicted.iter().zip(actual) {
                if predicted == actual { gap += 1 } else { gaps.push(std::mem::take(&mut gap)) }
            }
        }
    }
    gaps
}

/// All that there is to say.
struct Change<'a> {
    predicted: &'a [u8],
    actual: &'a [u8],
    gaps: Vec<u32>,
    holes: &'a [Range<u32>],
    context: &'a [u8],
    shape: Shape,
    level: Level,
}

impl Change<'_> {
    /// Packs in one form, if there is room for that.
    fn pack(&self, form: u8, room: &mut Room) -> Option<Vec<u8>> {
        let Self { predicted, actual, gaps, holes, context, shape, .. } = self;
        if !room.take(cost(form, gaps.len(), holes, actual.len())) {
            return None;
        }
        let mut made = vec![form | (*shape as u8) << 4];
        varint::put(&mut made, gaps.len() as u64);
        match budget(form, actual.len()) {
            Some(budget) => made.extend(mix::place::encode(predicted, actual, gaps, holes, context, *shape, budget)),
            None if form == QUICK => self.pack_quick(room, &mut made),
            None => self.pack_streams(room, &mut made),
        }
        Some(made)
    }

    fn pack_quick(&self, room: &mut Room, out: &mut Vec<u8>) {
        let literals = literals(self.actual, self.holes);
        if !self.holes.is_empty() {
            let mut packed = Vec::new();
            pack(&literals, self.context, self.shape, self.level, room, &mut packed);
            varint::put(out, packed.len() as u64);
            out.extend(packed);
        }
        // Not before: what packs literals takes much memory itself.
        let mut target = self.predicted.to_vec();
        fill(&mut target, self.holes, &literals);
        out.extend(mix::quick::encode_places(&mut target, self.actual, &self.gaps, self.holes, self.shape));
    }

    fn pack_streams(&self, room: &mut Room, out: &mut Vec<u8>) {
        if !self.gaps.is_empty() {
            let (mut packed_numbers, mut packed_values) = (Vec::new(), Vec::new());
            let mut numbers = Vec::new();
            self.gaps.iter().for_each(|gap| varint::put(&mut numbers, (*gap).into()));
            pack(&numbers, &[], Shape::Numbers, self.level, room, &mut packed_numbers);
            pack(&self.values(), &[], Shape::Bytes, self.level, room, &mut packed_values);
            for len in [numbers.len(), packed_numbers.len(), packed_values.len()] {
                varint::put(out, len as u64);
            }
            out.extend(packed_numbers);
            out.extend(packed_values);
        }
        pack(&literals(self.actual, self.holes), self.context, self.shape, self.level, room, out);
    }

    /// What is added to each wrong byte.
    fn values(&self) -> Vec<u8> {
        let mut values = Vec::with_capacity(self.gaps.len());
        for run in runs(self.holes, self.actual.len()) {
            let both = self.predicted[run.clone()].iter().zip(&self.actual[run]);
            let wrong = both.filter(|(predicted, actual)| predicted != actual);
            values.extend(wrong.map(|(predicted, actual)| actual.wrapping_sub(*predicted)));
        }
        values
    }
}

fn unpack_quick<'a>(
    mut body: &[u8],
    target: &mut [u8],
    n_wrong: usize,
    holes: &[Range<u32>],
    context: impl FnOnce() -> Cow<'a, [u8]>,
    shape: Shape,
    room: &mut Room,
) -> Result<(), EntropyError> {
    if !holes.is_empty() {
        let len = literals_len(holes);
        let packed = number(&mut body, packed_len(len))?;
        let packed = body.split_off(..packed).ok_or(EntropyError::Corrections)?;
        fill(target, holes, &unpack_literals(packed, context, len, room)?);
    }
    mix::quick::decode_places(body, target, n_wrong, holes, shape)
}

/// What is in the holes.
fn literals(actual: &[u8], holes: &[Range<u32>]) -> Vec<u8> {
    holes.iter().flat_map(|hole| &actual[hole.start as usize..hole.end as usize]).copied().collect()
}

fn literals_len(holes: &[Range<u32>]) -> usize {
    holes.iter().map(ExactSizeIterator::len).sum()
}

fn fill(target: &mut [u8], holes: &[Range<u32>], mut literals: &[u8]) {
    for hole in holes {
        let (now, later) = literals.split_at(hole.len());
        target[hole.start as usize..hole.end as usize].copy_from_slice(now);
        literals = later;
    }
}

fn unpack_literals<'a>(
    packed: &[u8],
    context: impl FnOnce() -> Cow<'a, [u8]>,
    len: usize,
    room: &mut Room,
) -> Result<Vec<u8>, EntropyError> {
    let context = if refers(packed) { context() } else { Cow::default() };
    unpack(packed, &context, len, room)
}

fn unpack_streams<'a>(
    mut body: &[u8],
    target: &mut [u8],
    n_wrong: usize,
    holes: &[Range<u32>],
    context: impl FnOnce() -> Cow<'a, [u8]>,
    room: &mut Room,
) -> Result<(), EntropyError> {
    let (mut numbers, mut values) = (Vec::new(), Vec::new());
    if n_wrong > 0 {
        let raw = number(&mut body, gaps_len(n_wrong, target.len()))?;
        let lens = [number(&mut body, packed_len(raw))?, number(&mut body, packed_len(n_wrong))?];
        let mut take = |len| body.split_off(..len).ok_or(EntropyError::Corrections);
        numbers = unpack(take(lens[0])?, &[], raw, room)?;
        values = unpack(take(lens[1])?, &[], n_wrong, room)?;
    }
    let literals = unpack_literals(body, context, literals_len(holes), room)?;
    mend(target, holes, &numbers, &values)?;
    fill(target, holes, &literals);
    Ok(())
}

/// Adds the values at the places that the gaps lead to.
fn mend(target: &mut [u8], holes: &[Range<u32>], mut numbers: &[u8], values: &[u8]) -> Result<(), EntropyError> {
    let len = target.len();
    let mut values = values.iter();
    let mut next = |numbers: &mut &[u8]| match values.next() {
        Some(value) => number(numbers, len).map(|gap| Some((gap, *value))),
        None => Ok(None),
    };
    let mut wrong = next(&mut numbers)?;
    for mut run in runs(holes, len) {
        while let Some((gap, value)) = wrong.filter(|(gap, _)| *gap < run.len()) {
            let at = run.start + gap;
            target[at] = target[at].wrapping_add(value);
            run.start = at + 1;
            wrong = next(&mut numbers)?;
        }
        wrong = wrong.map(|(gap, value)| (gap - run.len(), value));
    }
    if wrong.is_none() && numbers.is_empty() { Ok(()) } else { Err(EntropyError::Corrections) }
}

/// The stretches outside of the holes.
fn runs(holes: &[Range<u32>], len: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = std::iter::once(0).chain(holes.iter().map(|hole| hole.end as usize));
    let ends = holes.iter().map(|hole| hole.start as usize).chain([len]);
    starts.zip(ends).map(|(start, end)| start..end)
}

fn are_holes(holes: &[Range<u32>], len: usize) -> bool {
    let mut end = 0;
    let in_order = holes.iter().all(|hole| {
        let fits = end <= hole.start && hole.start <= hole.end;
        end = hole.end;
        fits
    });
    in_order && end as usize <= len
}

/// The most that so many gaps within `len` bytes take as varints: one byte each, and another one only where a gap is 128 bytes or longer.
fn gaps_len(n: usize, len: usize) -> usize {
    n + len / 128
}

/// The most that `len` bytes pack to.
fn packed_len(len: usize) -> usize {
    len + 1
}

fn number(bytes: &mut &[u8], max: usize) -> Result<usize, EntropyError> {
    let value = varint::take(bytes).map_err(|_| EntropyError::Corrections)?;
    usize::try_from(value).ok().filter(|value| *value <= max).ok_or(EntropyError::Corrections)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two that resemble each other, and where they have nothing in common.
    fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Vec<Range<u32>>)> {
        let stretch = (
            prop::collection::vec(any::<u8>(), 0..30),
            prop::collection::vec((any::<bool>(), any::<u8>()), 0..30),
            any::<bool>(),
        );
        prop::collection::vec(stretch, 0..20).prop_map(|stretches| {
            let (mut predicted, mut actual, mut holes) = (Vec::new(), Vec::new(), Vec::new());
            for (same, wrong, is_hole) in stretches {
                predicted.extend(&same);
                actual.extend(&same);
                let start = actual.len() as u32;
                for (differs, byte) in wrong {
                    predicted.push(byte);
                    actual.push(if differs || is_hole { byte.wrapping_mul(5) } else { byte });
                }
                if is_hole {
                    holes.push(start..actual.len() as u32);
                }
            }
            (predicted, actual, holes)
        })
    }

    fn packed(predicted: &[u8], actual: &[u8], holes: &[Range<u32>], shape: Shape, level: Level) -> Vec<u8> {
        let mut out = Vec::new();
        pack_corrections(predicted, actual, holes, b"context", shape, level, &mut Room::to_unpack(), &mut out);
        out
    }

    fn correct(packed: &[u8], target: &mut [u8], holes: &[Range<u32>], context: &[u8]) -> Result<(), EntropyError> {
        super::correct(packed, target, holes, || context.into(), &mut Room::to_unpack())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_prediction_is_corrected((predicted, actual, holes) in pair()) {
            for level in [Level::Fast, Level::Small] {
                for shape in [Shape::Text, Shape::Code] {
                    let packed = packed(&predicted, &actual, &holes, shape, level);
                    let mut target = predicted.clone();
                    prop_assert_eq!(correct(&packed, &mut target, &holes, b"context"), Ok(()));
                    prop_assert_eq!(&target, &actual);
                }
            }
        }

        #[test]
        fn anything_corrects_or_not(
            (predicted, actual, holes) in pair(),
            other in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            value: u8,
        ) {
            for level in [Level::Fast, Level::Small] {
                let mut packed = packed(&predicted, &actual, &holes, Shape::Code, level);
                let cut = at.index(packed.len() + 1);
                let _ = correct(&packed[..cut], &mut predicted.clone(), &holes, b"context");
                if !packed.is_empty() {
                    let at = at.index(packed.len());
                    packed[at] = value;
                }
                let _ = correct(&packed, &mut predicted.clone(), &holes, b"context");
                let _ = correct(&packed, &mut predicted.clone(), &[], &[]);
                let _ = correct(&packed, &mut [], &holes, &[]);
                let forged = [&[level as u8][..], &other].concat();
                let _ = correct(&forged, &mut predicted.clone(), &holes, &[]);
            }
        }
    }

    #[test]
    fn gaps_of_every_length_are_no_longer_than_they_may_be() {
        for gap in [0, 1, 127, 128, 129, (1 << 14) - 1, 1 << 14, 1 << 21, (1 << 26) - 2] {
            for n in [1, 2, 1000] {
                let mut numbers = Vec::new();
                (0..n).for_each(|_| varint::put(&mut numbers, gap));
                let len = n * (gap as usize + 1);
                assert!(numbers.len() <= gaps_len(n, len), "{n} gaps of {gap}: {} bytes", numbers.len());
            }
        }
    }

    #[test]
    fn what_is_right_costs_nothing() {
        assert_eq!(packed(b"right", b"right", &[], Shape::Text, Level::Small), b"");
        assert_eq!(correct(b"", &mut b"right".to_vec(), &[], b""), Ok(()));
        assert_eq!(correct(b"", &mut b"wrong".to_vec(), std::slice::from_ref(&(1..2)), b""), Err(EntropyError::Corrections));
    }

    #[test]
    fn the_format_stands() {
        let predicted = b"the quick brown fox jumps over the lazy ... and the quick brown cat does not".repeat(40);
        let mut actual = predicted.clone();
        actual.iter_mut().step_by(13).for_each(|byte| *byte = byte.wrapping_add(3));
        let holes: Vec<_> = (1..20).map(|i| 100 * i..100 * i + i).collect();
        holes.iter().for_each(|hole| actual[hole.start as usize..hole.end as usize].fill(b'x'));
        let gaps = gaps(&predicted, &actual, &holes);
        let change = |shape| Change {
            predicted: &predicted,
            actual: &actual,
            gaps: gaps.clone(),
            holes: &holes,
            context: b"context",
            shape,
            level: Level::Small,
        };
        let digests = [PLACES, PLACES_FAST, QUICK].map(|form| {
            [Shape::Text, Shape::Code].map(|shape| {
                let made = change(shape).pack(form, &mut Room::to_unpack());
                blake3::hash(&made.expect("room")).to_hex()[..16].to_owned()
            })
        });
        assert_eq!(
            digests.concat(),
            [
                "e3caa72f00405ea4",
                "059ea523ba0500d1",
                "e3cc2a4dac2d5082",
                "3c4e835c854e62cd",
                "68b4143fb79a5293",
                "0832d80626d6239d"
            ]
        );
        assert_eq!(
            packed(b"all is quite right", b"all is quiet night", std::slice::from_ref(&(13..14)), Shape::Text, Level::Small),
            [0x21, 2, 0xf7, 0x61, 0xf3, 0x1d, 0x85]
        );
    }
}
