//! Makes the new bytes of a body and the old ones.

use std::borrow::Cow;
use std::ops::Range;

use crate::align::Segment;
use crate::codec::CodecError;
use crate::elf::{self, Flags, Image, Layout, Reference, Transformed, references};
use crate::entropy::correct;

use super::order::Order;
use super::program;
use super::ranges;
use super::references::Told;
use super::segments;
use super::streams::{Reader, Sort};

/// A program among the members.
pub(super) struct Program {
    pub member: usize,
    pub base: usize,
    /// How it was transformed, if it was.
    pub flags: Option<Flags>,
    /// The layout of the base's slice.
    pub before: Layout,
    pub layout: Layout,
}

/// The old bytes of a body, and what is known of the programs among them.
pub(super) trait Old {
    /// Returns all bytes; those of programs that something was asked about are transformed.
    fn bytes(&self) -> &[u8];

    /// Returns the layout of a slice that is a program.
    fn layout(&mut self, slice: usize) -> Option<Layout>;

    /// Returns the references of a slice whose layout was asked for before.
    fn references(&self, slice: usize) -> Option<Cow<'_, [Reference]>>;
}

/// Returns the bytes that a body makes of the base; `programs` says whether it may hold programs. The base is used up: parts of it are transformed in place.
pub(crate) fn decode(
    body: &[u8],
    base: Vec<u8>,
    base_lens: &[usize],
    target_lens: &[usize],
    programs: bool,
) -> Result<Vec<u8>, CodecError> {
    let slices = ranges(base_lens);
    make(body, &mut Given { bytes: base, slices: &slices, transformed: Vec::new() }, &slices, target_lens, programs)
}

/// The same of a base that may be prepared already.
pub(super) fn make(
    mut body: &[u8],
    old: &mut dyn Old,
    slices: &[Range<usize>],
    target_lens: &[usize],
    programs: bool,
) -> Result<Vec<u8>, CodecError> {
    let members = ranges(target_lens);
    let len = members.last().map_or(0, |range| range.end);
    let mut reader = Reader::new(&mut body, len)?;
    let found = if programs { read_programs(&mut reader, old, slices, members.len())? } else { Vec::new() };
    let base_lens = found.iter().map(|program| slices[program.base].len());
    if base_lens.sum::<usize>() > max_base_lens(old.bytes().len(), len) {
        return Err(CodecError::Body);
    }
    let order = Order::new(&members, found.iter().map(|program| program.member));
    let plain = segments::read(&mut reader, order.plain_len, old.bytes().len())?;
    let each = |program: &Program| segments::read(&mut reader, target_lens[program.member], slices[program.base].len());
    let of_programs: Vec<Vec<Segment>> = found.iter().map(each).collect::<Result<_, _>>()?;

    let (mut out, mut holes, mut near) = (vec![0; len], Vec::new(), Vec::new());
    segments::copy(&plain, old.bytes(), &mut out[..order.plain_len]);
    segments::put_holes(&plain, 0, order.plain_len, &mut holes);
    if reader.near {
        segments::put_surroundings(&plain, old.bytes(), order.plain_len, &mut near);
    }
    let near_only = reader.near;
    let mut told = Told::new(&mut reader)?;
    for ((program, segments), range) in found.iter().zip(&of_programs).zip(&order.programs) {
        let bytes = &old.bytes()[slices[program.base].clone()];
        let out = &mut out[range.clone()];
        let references = old.references(program.base).ok_or(CodecError::Program)?;
        program::predict(bytes, &program.before, &references, &program.layout, segments, &mut told, out)?;
        segments::put_holes(segments, range.start, range.len(), &mut holes);
        if near_only {
            segments::put_surroundings(segments, bytes, range.len(), &mut near);
        }
    }
    reader.finish()?;
    correct(body, &mut out, &holes, if near_only { &near } else { old.bytes() })?;
    for (program, range) in found.iter().zip(&order.programs) {
        if let Some(flags) = program.flags {
            elf::inverse(&mut out[range.clone()], flags).ok_or(CodecError::Program)?;
        }
    }
    Ok(order.restore(out))
}

/// The longest program that is predicted, or predicted from: its references take about as much memory as it does.
pub(super) const MAX_PROGRAM: usize = 48 << 20;

/// How long the bases of all programs may be together: each is searched for references, whatever little is made of it.
pub(super) fn max_base_lens(base_len: usize, len: usize) -> usize {
    2 * (base_len + len)
}

/// A base as it was given: slices are transformed when a program first asks for them.
struct Given<'a> {
    bytes: Vec<u8>,
    slices: &'a [Range<usize>],
    transformed: Vec<(usize, Transformed)>,
}

impl Old for Given<'_> {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn layout(&mut self, slice: usize) -> Option<Layout> {
        let bytes = &mut self.bytes[self.slices.get(slice)?.clone()];
        if self.transformed.iter().all(|(found, _)| *found != slice) {
            let transformed = elf::forward(bytes).unwrap_or_default();
            self.transformed.push((slice, transformed));
        }
        Some(Image::read(bytes)?.layout().clone())
    }

    fn references(&self, slice: usize) -> Option<Cow<'_, [Reference]>> {
        let (_, transformed) = self.transformed.iter().find(|(found, _)| *found == slice)?;
        let bytes = &self.bytes[self.slices[slice].clone()];
        Some(references(&Image::read(bytes)?, bytes, transformed).into())
    }
}

fn read_programs(
    reader: &mut Reader,
    old: &mut dyn Old,
    slices: &[Range<usize>],
    n_members: usize,
) -> Result<Vec<Program>, CodecError> {
    let n_programs = reader.at_most(Sort::Head, n_members)?;
    let (mut programs, mut next) = (Vec::new(), 0);
    for _ in 0..n_programs {
        let member = next + reader.at_most(Sort::Head, n_members - next)?;
        let base = reader.at_most(Sort::Head, slices.len())?;
        let flags = reader.at_most(Sort::Head, 256)?.checked_sub(1).map(|flags| Flags(flags as u8));
        let before = old.layout(base).ok_or(CodecError::Program)?;
        let layout = reader.with(Sort::Head, |bytes, at| Layout::decode(&before, bytes, at))?;
        if member >= n_members || before.len.max(layout.len) as usize > MAX_PROGRAM {
            return Err(CodecError::Body);
        }
        programs.push(Program { member, base, flags, before, layout });
        next = member + 1;
    }
    Ok(programs)
}
