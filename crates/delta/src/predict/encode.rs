//! Makes bodies.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use crate::align::{self, Effort, Segment};
use crate::diff::Level;
use crate::elf::{self, Image, Layout, Reference, Transformed};
use crate::entropy::{Shape, pack_corrections};

use super::decode::{MAX_PROGRAM, Old, make, max_base_lens};
use super::order::Order;
use super::program::{self, Program};
use super::references::Known;
use super::segments;
use super::streams::{Body, Sort, StreamLen, Streams, max_len};
use super::{Sides, ranges};

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
    proven(best, Prepared { bytes: base, programs: Vec::new() }, sides, false)
}

/// Packs a piece of which some members are programs that come from programs. `None` when there are none, or that is no way to do it.
pub(crate) fn elf(sides: &Sides<'_>, paired: &[Option<u32>], level: Level) -> Option<Body> {
    let (slices, members) = (ranges(sides.base_lens), ranges(sides.target_lens));
    let mut programs = find(sides, &slices, &members, paired);
    if programs.is_empty() {
        return None;
    }
    elf_of(sides, &slices, &members, &mut programs, level).or_else(|| {
        // A program whose transform cannot be undone is no reason to send all of it.
        for program in &mut programs {
            program.bytes = sides.target[members[program.member].clone()].to_vec();
            program.transformed = None;
        }
        elf_of(sides, &slices, &members, &mut programs, level)
    })
}

fn elf_of(
    sides: &Sides<'_>,
    slices: &[Range<usize>],
    members: &[Range<usize>],
    programs: &mut [Found],
    level: Level,
) -> Option<Body> {
    let mut base = sides.base.to_vec();
    let transformed = transform_bases(&mut base, slices, programs);
    // What was found on the way to a transform is as large as the program: it goes as soon as its references are known.
    let read = |(slice, transformed): (usize, Transformed)| {
        Program::read(&base[slices[slice].clone()], &transformed).map(|program| (slice, program))
    };
    let prepared = Prepared { bytes: &base, programs: transformed.into_iter().map(read).collect::<Option<_>>()? };
    let mut body = Making::new(&base, sides.target.len(), level);
    let plain = Order::new(members, programs.iter().map(|program| program.member)).gather_plain(sides.target);
    body.streams.put(Sort::Head, programs.len() as u64);
    let mut next = 0;
    let mut parts = Vec::new();
    for Found { member, base, bytes, transformed } in programs {
        let old = prepared.program(*base)?;
        let transformed = transformed.take();
        let flags = transformed.as_ref().map_or(0, |transformed| u64::from(transformed.flags.0) + 1);
        let new = Program::read(bytes, &transformed.unwrap_or_default())?;
        body.head([(*member - next) as u64, *base as u64, flags], old, &new);
        next = *member + 1;
        let segments = program::align(old, &new, effort(level));
        parts.push((old, new, segments));
    }
    let plain_segments = if plain.is_empty() { Vec::new() } else { align::align_plain(&base, &plain, effort(level)) };
    segments::put(&plain_segments, plain.len(), &mut body.streams);
    parts.iter().for_each(|(_, new, segments)| segments::put(segments, new.bytes.len(), &mut body.streams));
    body.plain(&plain_segments, &plain);
    for (old, new, segments) in &parts {
        body.program(old, new, segments)?;
    }
    drop(parts);
    proven(body.pack(Shape::Code)?, prepared, sides, true)
}

/// Returns a body when it makes the target.
fn proven(body: Body, mut old: Prepared<'_>, sides: &Sides<'_>, programs: bool) -> Option<Body> {
    let made = make(&body.bytes, &mut old, &ranges(sides.base_lens), sides.target_lens, programs);
    made.is_ok_and(|made| made == sides.target).then_some(body)
}

/// A base whose programs are transformed and searched already, as the decoder does it: the proof need not do it again.
struct Prepared<'a> {
    bytes: &'a [u8],
    programs: Vec<(usize, Program<'a>)>,
}

impl<'a> Prepared<'a> {
    fn program(&self, slice: usize) -> Option<&Program<'a>> {
        self.programs.iter().find(|(found, _)| *found == slice).map(|(_, program)| program)
    }
}

impl Old for Prepared<'_> {
    fn bytes(&self) -> &[u8] {
        self.bytes
    }

    fn layout(&mut self, slice: usize) -> Option<Layout> {
        Some(self.program(slice)?.image.layout().clone())
    }

    fn references(&self, slice: usize) -> Option<Cow<'_, [Reference]>> {
        Some(self.program(slice)?.references[..].into())
    }
}

fn effort(level: Level) -> Effort {
    match level {
        Level::Fast => Effort::Fast,
        Level::Small => Effort::Small,
    }
}

/// A member that is a program, and the base's slice it comes from.
struct Found {
    member: usize,
    base: usize,
    bytes: Vec<u8>,
    transformed: Option<Transformed>,
}

/// Finds the programs that have a program to come from, and transforms them.
fn find(sides: &Sides<'_>, slices: &[Range<usize>], members: &[Range<usize>], paired: &[Option<u32>]) -> Vec<Found> {
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
        let mut bytes = new.to_vec();
        let transformed = elf::forward(&mut bytes);
        if transformed.is_none() {
            bytes.copy_from_slice(new);
        }
        found.push(Found { member, base, bytes, transformed });
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

fn transform_bases(base: &mut [u8], slices: &[Range<usize>], programs: &[Found]) -> Vec<(usize, Transformed)> {
    let mut used: Vec<usize> = programs.iter().map(|program| program.base).collect();
    used.sort_unstable();
    used.dedup();
    used.into_iter().map(|slice| (slice, elf::forward(&mut base[slices[slice].clone()]).unwrap_or_default())).collect()
}

fn pack_plain(base: &[u8], target: &[u8], segments: &[Segment], level: Level) -> Option<Body> {
    let mut body = Making::new(base, target.len(), level);
    segments::put(segments, target.len(), &mut body.streams);
    body.plain(segments, target);
    body.pack(Shape::Text)
}

/// A body in the making.
struct Making<'a> {
    base: &'a [u8],
    level: Level,
    streams: Streams,
    predicted: Vec<u8>,
    actual: Vec<u8>,
    holes: Vec<Range<u32>>,
    near: Vec<u8>,
    right: u64,
    n_segments_fit: bool,
}

impl<'a> Making<'a> {
    fn new(base: &'a [u8], len: usize, level: Level) -> Self {
        Self {
            base,
            level,
            streams: Streams::default(),
            predicted: vec![0; len],
            actual: Vec::with_capacity(len),
            holes: Vec::new(),
            near: Vec::new(),
            right: 0,
            n_segments_fit: true,
        }
    }

    fn head(&mut self, numbers: [u64; 3], old: &Program<'_>, new: &Program<'_>) {
        for number in numbers {
            self.streams.put(Sort::Head, number);
        }
        let mut layout = Vec::new();
        new.image.layout().encode(old.image.layout(), &mut layout);
        self.streams.extend(Sort::Head, &layout);
    }

    fn plain(&mut self, segments: &[Segment], new: &[u8]) {
        let range = self.next(segments, self.base, new);
        segments::copy(segments, self.base, &mut self.predicted[range]);
    }

    fn program(&mut self, old: &Program<'_>, new: &Program<'_>, segments: &[Segment]) -> Option<()> {
        let range = self.next(segments, old.bytes, new.bytes);
        let (old_layout, layout) = (old.image.layout(), new.image.layout());
        let mut known = Known { new: new.bytes, layout, streams: &mut self.streams, right: self.right };
        let out = &mut self.predicted[range];
        program::predict(old.bytes, old_layout, &old.references, layout, segments, &mut known, out).ok()?;
        self.right = known.right;
        Some(())
    }

    /// Notes what comes next, and returns where it is.
    fn next(&mut self, segments: &[Segment], old: &[u8], new: &[u8]) -> Range<usize> {
        let start = self.actual.len();
        self.actual.extend_from_slice(new);
        segments::put_holes(segments, start, new.len(), &mut self.holes);
        segments::put_surroundings(segments, old, new.len(), &mut self.near);
        self.n_segments_fit &= segments.len() <= segments::max_segments(new.len());
        start..self.actual.len()
    }

    fn pack(self, shape: Shape) -> Option<Body> {
        if self.streams.total() > max_len(self.actual.len()) || !self.n_segments_fit {
            return None;
        }
        let near = self.level == Level::Fast && self.base.len() > WHOLE_CONTEXT;
        let context = if near { &self.near } else { self.base };
        let mut body = self.streams.pack(near, self.level);
        let before = body.bytes.len();
        pack_corrections(&self.predicted, &self.actual, &self.holes, context, shape, self.level, &mut body.bytes);
        let raw = self.holes.iter().map(|hole| hole.len() as u64).sum();
        body.streams[Sort::Corrections as usize] = StreamLen { raw, packed: (body.bytes.len() - before) as u64 };
        Some(body)
    }
}
