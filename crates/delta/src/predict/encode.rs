//! Makes bodies.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::align::{self, Effort, Segment};
use crate::diff::{EncodeError, Level};
use crate::elf::{self, Image, Layout, Reference};
use crate::entropy::{Room, Shape, pack_corrections};

use super::decode::{MAX_PROGRAM, Old, make, max_base_lens};
use super::order::Order;
use super::program::{self, Program};
use super::references::Known;
use super::segments;
use super::streams::{Body, Sort, StreamLen, Streams, max_len};
use super::{Both, Sides, Source, ranges};

/// How long a base may be for corrections to refer to all of it at [`Level::Fast`]: longer ones take longer to look through than they save.
const WHOLE_CONTEXT: usize = 1 << 18;

/// Packs a piece as stretches of the base, and what differs. `None` when that is no way to do it.
pub(crate) fn copy(sides: &Sides<'_>, level: Level) -> Option<Body> {
    let (base, target) = (sides.base, sides.target);
    let effort = effort(level);
    let alike = pack_plain(base, target, &align::align_plain(base, target, effort), level);
    let bodies = match level {
        Level::Fast => vec![alike],
        Level::Small => vec![alike, pack_plain(base, target, &align::align_exact(base, target, effort), level)],
    };
    let best = bodies.into_iter().flatten().min_by_key(|body| body.bytes.len())?;
    let old = Prepared { bytes: base.into(), slices: &[], programs: Vec::new() };
    let body = proven(best, old, &ranges(sides.base_lens), sides.target_lens, target, false);
    debug_assert!(body.is_some(), "a copy does not make what it is of");
    body
}

/// Packs a piece of which some members are programs that come from programs. `None` when there are none, or that is no way to do it. When there are, what was read of it
/// is gone.
///
/// Both sides are transformed where they are, and what the proof compares with is read again: with all that is held besides, a program of 27 MB takes less than seven times its
/// length at [`Level::Fast`], and at [`Level::Small`], whose index has every other place, less than eight times.
pub(crate) fn elf(
    source: &Source<'_>,
    read: &mut Option<Both>,
    paired: &[Option<u32>],
    level: Level,
) -> Result<Option<Body>, EncodeError> {
    let (slices, members) = (ranges(source.base_lens), ranges(source.target_lens));
    let pairs = read.as_ref().map(|both| find(&source.sides(both), &slices, &members, paired)).unwrap_or_default();
    if pairs.is_empty() {
        return Ok(None);
    }
    // A program whose transform cannot be undone, as that of some damaged ones, is no reason to send all of it. It costs the other programs of the piece theirs: few bytes, for few.
    for transform in [true, false] {
        let both = read.take().map_or_else(|| source.read(), Ok)?;
        let Some((body, old)) = elf_of(both, &slices, &members, &pairs, transform, level) else { continue };
        let actual = (source.target)()?;
        let body = proven(body, old, &slices, source.target_lens, &actual, true);
        let is_undone = |pair: &ProgramPair| is_undone(&actual[members[pair.member].clone()]);
        debug_assert!(body.is_some() || transform && !pairs.iter().all(is_undone), "programs that could be made are not");
        if body.is_some() {
            return Ok(body);
        }
    }
    Ok(None)
}

/// Returns the body, and what it refers to.
fn elf_of<'a>(
    Both { mut base, target }: Both,
    slices: &'a [Range<usize>],
    members: &[Range<usize>],
    pairs: &[ProgramPair],
    transform: bool,
    level: Level,
) -> Option<(Body, Prepared<'a>)> {
    let order = Order::new(members, pairs.iter().map(|pair| pair.member));
    let mut old = read_bases(&mut base, slices, pairs)?;
    let mut target = order.gather(target);
    let (mut streams, mut next, mut parts) = (Streams::default(), 0, Vec::new());
    streams.put(Sort::Head, pairs.len() as u64);
    for (&ProgramPair { member, base: slice }, range) in pairs.iter().zip(&order.programs) {
        let (_, old) = old.iter_mut().find(|(found, _)| *found == slice)?;
        let (old_bytes, bytes) = (&mut base[slices[slice].clone()], &mut target[range.clone()]);
        let transformed = if transform { elf::forward(bytes) } else { None };
        let flags = transformed.as_ref().map_or(0, |transformed| u64::from(transformed.flags.0) + 1);
        let mut new = Program::read(bytes, transformed.unwrap_or_default())?.only_for_alignment();
        let numbers = [(member - next) as u64, slice as u64, flags];
        put_head(numbers, &old.layout, &new.layout, &mut streams);
        next = member + 1;
        let segments = program::align((old, old_bytes), (&mut new, bytes), effort(level))?;
        parts.push((slice, new.layout, segments));
    }
    let plain = &target[..order.plain_len];
    let plain_segments = if plain.is_empty() { Vec::new() } else { align::align_plain(&base, plain, effort(level)) };
    segments::put(&plain_segments, plain.len(), &mut streams);
    let lens = order.programs.iter().map(Range::len);
    parts.iter().zip(lens).for_each(|((_, _, segments), len)| segments::put(segments, len, &mut streams));
    let mut body = Making::new(&base, &target, level, streams);
    body.plain(&plain_segments, order.plain_len);
    for (slice, layout, segments) in parts {
        body.program(&base[slices[slice].clone()], find_program(&old, slice)?, &layout, &segments)?;
    }
    // Packing takes as much memory as references, and at this level so long that finding them again does not matter.
    if level == Level::Small {
        old.iter_mut().for_each(|(_, program)| program.forget());
    }
    let body = body.pack(Shape::Code)?;
    old.iter_mut().try_for_each(|(slice, program)| program.remember(&base[slices[*slice].clone()]))?;
    Some((body, Prepared { bytes: base.into(), slices, programs: old }))
}

/// Returns whether the transform of a program can be undone, which that of a damaged one need not be.
fn is_undone(program: &[u8]) -> bool {
    let mut bytes = program.to_vec();
    elf::forward(&mut bytes).is_none_or(|transformed| elf::inverse(&mut bytes, transformed.flags).is_some() && bytes == program)
}

/// Returns a body when it makes the target.
fn proven(
    body: Body,
    mut old: Prepared<'_>,
    slices: &[Range<usize>],
    target_lens: &[usize],
    target: &[u8],
    programs: bool,
) -> Option<Body> {
    let made = make(&body.bytes, &mut old, slices, target_lens, programs);
    made.is_ok_and(|made| made == target).then_some(body)
}

/// A base whose programs are transformed and searched already, as the decoder does it: the proof need not do it again.
struct Prepared<'a> {
    bytes: Cow<'a, [u8]>,
    slices: &'a [Range<usize>],
    programs: Vec<(usize, Program)>,
}

impl Old for Prepared<'_> {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn layout(&mut self, slice: usize) -> Option<Arc<Layout>> {
        Some(Arc::clone(&find_program(&self.programs, slice)?.layout))
    }

    fn program(&mut self, slice: usize) -> Option<(&[u8], Cow<'_, [Reference]>)> {
        let references = &find_program(&self.programs, slice)?.references;
        Some((&self.bytes[self.slices.get(slice)?.clone()], references[..].into()))
    }
}

fn find_program(programs: &[(usize, Program)], slice: usize) -> Option<&Program> {
    programs.iter().find(|(found, _)| *found == slice).map(|(_, program)| program)
}

fn effort(level: Level) -> Effort {
    match level {
        Level::Fast => Effort::Fast,
        Level::Small => Effort::Small,
    }
}

/// A member that is a program, and the base's slice it comes from.
struct ProgramPair {
    member: usize,
    base: usize,
}

/// Finds the programs that have a program to come from.
fn find(sides: &Sides<'_>, slices: &[Range<usize>], members: &[Range<usize>], paired: &[Option<u32>]) -> Vec<ProgramPair> {
    let is_program = |bytes: &[u8]| {
        let is_elf = bytes.len() <= MAX_PROGRAM && bytes.starts_with(b"\x7fELF");
        is_elf && Image::read(bytes).is_some()
    };
    let bases: Vec<usize> = (0..slices.len()).filter(|&slice| is_program(&sides.base[slices[slice].clone()])).collect();
    let (mut found, mut left) = (Vec::new(), max_base_lens(sides.base.len(), sides.target.len()));
    for (member, range) in members.iter().enumerate() {
        let new = &sides.target[range.clone()];
        if bases.is_empty() || !is_program(new) {
            continue;
        }
        let named = paired.get(member).copied().flatten().map(|base| base as usize).filter(|base| bases.contains(base));
        let base = named.unwrap_or_else(|| most_alike(new, &bases, sides.base, slices));
        if slices[base].len() > left {
            continue;
        }
        left -= slices[base].len();
        found.push(ProgramPair { member, base });
    }
    found
}

/// Returns the slice that has most in common with a program.
fn most_alike(new: &[u8], bases: &[usize], base: &[u8], slices: &[Range<usize>]) -> usize {
    if bases.len() == 1 {
        return bases[0];
    }
    let sketch = |bytes: &[u8]| -> HashSet<u64> {
        let hashes =
            bytes.windows(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight")).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        hashes.filter(|hash| hash >> 54 == 1).take(4096).collect()
    };
    let wanted = sketch(new);
    let score = |slice: &usize| {
        let range = slices[*slice].clone();
        (sketch(&base[range.clone()]).intersection(&wanted).count(), std::cmp::Reverse(range.len().abs_diff(new.len())))
    };
    bases.iter().copied().max_by_key(score).unwrap_or(bases[0])
}

/// Transforms the slices that programs come from, and reads them.
fn read_bases(base: &mut [u8], slices: &[Range<usize>], pairs: &[ProgramPair]) -> Option<Vec<(usize, Program)>> {
    let mut used: Vec<usize> = pairs.iter().map(|pair| pair.base).collect();
    used.sort_unstable();
    used.dedup();
    let read = |slice: usize| {
        let bytes = &mut base[slices[slice].clone()];
        // Most of what was found on the way to a transform goes into the references. Where pointers are stays, a byte for six of their relocations, as what is forgotten is
        // found again by it.
        let transformed = elf::forward(bytes).unwrap_or_default();
        Program::read(bytes, transformed).map(|program| (slice, program))
    };
    used.into_iter().map(read).collect()
}

fn put_head(numbers: [u64; 3], old: &Layout, new: &Layout, streams: &mut Streams) {
    for number in numbers {
        streams.put(Sort::Head, number);
    }
    let mut layout = Vec::new();
    new.encode(old, &mut layout);
    streams.extend(Sort::Head, &layout);
}

fn pack_plain(base: &[u8], target: &[u8], segments: &[Segment], level: Level) -> Option<Body> {
    let mut streams = Streams::default();
    segments::put(segments, target.len(), &mut streams);
    let mut body = Making::new(base, target, level, streams);
    body.plain(segments, target.len());
    body.pack(Shape::Text)
}

/// A body in the making.
struct Making<'a> {
    base: &'a [u8],
    actual: &'a [u8],
    level: Level,
    streams: Streams,
    predicted: Vec<u8>,
    /// How much of it is predicted.
    at: usize,
    holes: Vec<Range<u32>>,
    near: Vec<u8>,
    right: u64,
    n_segments_fit: bool,
}

impl<'a> Making<'a> {
    fn new(base: &'a [u8], actual: &'a [u8], level: Level, streams: Streams) -> Self {
        Self {
            base,
            actual,
            level,
            streams,
            predicted: vec![0; actual.len()],
            at: 0,
            holes: Vec::new(),
            near: Vec::new(),
            right: 0,
            n_segments_fit: true,
        }
    }

    fn plain(&mut self, segments: &[Segment], len: usize) {
        let range = self.next(segments, self.base, len);
        segments::copy(segments, self.base, &mut self.predicted[range]);
    }

    fn program(&mut self, bytes: &[u8], old: &Program, layout: &Layout, segments: &[Segment]) -> Option<()> {
        let range = self.next(segments, bytes, layout.len as usize);
        let new = self.actual.get(range.clone())?;
        let mut known = Known { new, layout, streams: &mut self.streams, right: self.right };
        let out = &mut self.predicted[range];
        program::predict(bytes, &old.layout, &old.references, layout, segments, &mut known, out).ok()?;
        self.right = known.right;
        Some(())
    }

    /// Notes what comes next, and returns where it is.
    fn next(&mut self, segments: &[Segment], old: &[u8], len: usize) -> Range<usize> {
        let start = self.at;
        self.at += len;
        segments::put_holes(segments, start, len, &mut self.holes);
        if self.is_near() {
            segments::put_surroundings(segments, old, len, &mut self.near);
        }
        self.n_segments_fit &= segments.len() <= segments::max_segments(len);
        start..self.at
    }

    /// Returns whether corrections refer to what is near only.
    fn is_near(&self) -> bool {
        self.level == Level::Fast && self.base.len() > WHOLE_CONTEXT
    }

    fn pack(self, shape: Shape) -> Option<Body> {
        if self.streams.total() > max_len(self.actual.len()) || !self.n_segments_fit {
            return None;
        }
        let near = self.is_near();
        let context = if near { &self.near } else { self.base };
        // The corrections first: they gain most by the room there is.
        let (mut room, mut corrections) = (Room::to_pack(self.actual.len(), self.level), Vec::new());
        pack_corrections(&self.predicted, self.actual, &self.holes, context, shape, self.level, &mut room, &mut corrections);
        let mut body = self.streams.pack(near, self.level, &mut room);
        body.bytes.extend_from_slice(&corrections);
        let raw = self.holes.iter().map(|hole| hole.len() as u64).sum();
        body.streams[Sort::Corrections as usize] = StreamLen { raw, packed: corrections.len() as u64 };
        Some(body)
    }
}
