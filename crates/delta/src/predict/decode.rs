//! Makes the new bytes of a body and the old ones.

use std::ops::Range;

use crate::align::Segment;
use crate::codec::CodecError;
use crate::elf::{self, Flags, Layout, Transformed};
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
    pub layout: Layout,
}

/// Returns the bytes that a body makes of the base; `programs` says whether it may hold programs. The base is used up: parts of it are transformed in place.
pub(crate) fn decode(
    mut body: &[u8],
    mut base: Vec<u8>,
    base_lens: &[usize],
    target_lens: &[usize],
    programs: bool,
) -> Result<Vec<u8>, CodecError> {
    let (slices, members) = (ranges(base_lens), ranges(target_lens));
    let len = members.last().map_or(0, |range| range.end);
    let mut reader = Reader::new(&mut body, len)?;
    let mut old = Bases::new(&mut base, &slices);
    let found = if programs { read_programs(&mut reader, &mut old, members.len())? } else { Vec::new() };
    let transformed = old.transformed;
    let order = Order::new(&members, found.iter().map(|program| program.member));
    let plain = segments::read(&mut reader, order.plain_len, base.len())?;
    let each = |program: &Program| segments::read(&mut reader, target_lens[program.member], slices[program.base].len());
    let of_programs: Vec<Vec<Segment>> = found.iter().map(each).collect::<Result<_, _>>()?;

    let (mut out, mut holes, mut near) = (vec![0; len], Vec::new(), Vec::new());
    let mut surround = |segments: &[Segment], old: &[u8], len| {
        if reader.near {
            segments::put_surroundings(segments, old, len, &mut near);
        }
    };
    surround(&plain, &base, order.plain_len);
    for ((program, segments), range) in found.iter().zip(&of_programs).zip(&order.programs) {
        surround(segments, &base[slices[program.base].clone()], range.len());
    }
    segments::copy(&plain, &base, &mut out[..order.plain_len]);
    segments::put_holes(&plain, 0, order.plain_len, &mut holes);
    let mut told = Told::new(&mut reader)?;
    for ((program, segments), range) in found.iter().zip(&of_programs).zip(&order.programs) {
        let (_, transformed) = transformed.iter().find(|(slice, _)| *slice == program.base).ok_or(CodecError::Body)?;
        let old = &base[slices[program.base].clone()];
        program::predict(old, transformed, &program.layout, segments, &mut told, &mut out[range.clone()])?;
        segments::put_holes(segments, range.start, range.len(), &mut holes);
    }
    reader.finish()?;
    correct(body, &mut out, &holes, if reader.near { &near } else { &base })?;
    drop(base);
    for (program, range) in found.iter().zip(&order.programs) {
        if let Some(flags) = program.flags {
            elf::inverse(&mut out[range.clone()], flags).ok_or(CodecError::Program)?;
        }
    }
    Ok(order.restore(out))
}

/// The base's slices, transformed when a program first asks for them.
struct Bases<'a> {
    bytes: &'a mut [u8],
    slices: &'a [Range<usize>],
    transformed: Vec<(usize, Transformed)>,
}

impl<'a> Bases<'a> {
    fn new(bytes: &'a mut [u8], slices: &'a [Range<usize>]) -> Self {
        Self { bytes, slices, transformed: Vec::new() }
    }

    fn layout(&mut self, slice: usize) -> Option<Layout> {
        let bytes = &mut self.bytes[self.slices.get(slice)?.clone()];
        if self.transformed.iter().all(|(found, _)| *found != slice) {
            let transformed = elf::forward(bytes).unwrap_or_default();
            self.transformed.push((slice, transformed));
        }
        Some(elf::Image::read(bytes)?.layout().clone())
    }
}

fn read_programs(reader: &mut Reader, bases: &mut Bases<'_>, n_members: usize) -> Result<Vec<Program>, CodecError> {
    let n_programs = reader.at_most(Sort::Head, n_members)?;
    let (mut programs, mut next) = (Vec::new(), 0);
    for _ in 0..n_programs {
        let member = next + reader.at_most(Sort::Head, n_members - next)?;
        let base = reader.at_most(Sort::Head, bases.slices.len())?;
        let flags = reader.at_most(Sort::Head, 256)?.checked_sub(1).map(|flags| Flags(flags as u8));
        let old = bases.layout(base).ok_or(CodecError::Program)?;
        let layout = reader.with(Sort::Head, |bytes, at| Layout::decode(&old, bytes, at))?;
        if member >= n_members {
            return Err(CodecError::Body);
        }
        programs.push(Program { member, base, flags, layout });
        next = member + 1;
    }
    Ok(programs)
}
