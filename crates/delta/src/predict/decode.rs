//! Makes the new bytes of a body and the old ones.

use std::ops::Range;

use crate::align::Segment;
use crate::codec::CodecError;
use crate::elf::{self, Flags, Layout, Transformed};

use super::bytes::{self, Gap};
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
    body: &[u8],
    mut base: Vec<u8>,
    base_lens: &[usize],
    target_lens: &[usize],
    programs: bool,
) -> Result<Vec<u8>, CodecError> {
    let (slices, members) = (ranges(base_lens), ranges(target_lens));
    let len = members.last().map_or(0, |range| range.end);
    let mut reader = Reader::new(body, len)?;
    let mut old = Bases::new(&mut base, &slices);
    let found = if programs { read_programs(&mut reader, &mut old, members.len())? } else { Vec::new() };
    let transformed = old.transformed;
    let plain_len = len - found.iter().map(|program| target_lens[program.member]).sum::<usize>();
    let plain = segments::read(&mut reader, plain_len, base.len())?;
    let each = |program: &Program| segments::read(&mut reader, target_lens[program.member], slices[program.base].len());
    let of_programs: Vec<Vec<Segment>> = found.iter().map(each).collect::<Result<_, _>>()?;
    unpack_literals(&mut reader, &base, (&plain, plain_len), found.iter().zip(&of_programs), &slices, target_lens)?;

    let mut out = vec![0; len];
    let mut gap = Gap::first(&mut reader)?;
    if found.is_empty() {
        make_plain(&plain, &base, &mut out, &mut gap, &mut reader)?;
    } else {
        let mut together = vec![0; plain_len];
        make_plain(&plain, &base, &mut together, &mut gap, &mut reader)?;
        scatter(&together, &members, &found, &mut out);
    }
    let mut told = Told::new(&mut reader)?;
    for (program, segments) in found.iter().zip(&of_programs) {
        let old = &base[slices[program.base].clone()];
        let transformed = transformed.iter().find(|(slice, _)| *slice == program.base);
        let (_, transformed) = transformed.ok_or(CodecError::Body)?;
        let out = &mut out[members[program.member].clone()];
        program::predict(old, transformed, &program.layout, segments, &mut told, out)?;
        bytes::mend(segments, out, &mut gap, told.reader)?;
        fill(segments, out, Sort::Code, told.reader)?;
        if let Some(flags) = program.flags {
            elf::inverse(out, flags).ok_or(CodecError::Program)?;
        }
    }
    reader.finish()?;
    Ok(out)
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

fn read_programs(reader: &mut Reader<'_>, bases: &mut Bases<'_>, n_members: usize) -> Result<Vec<Program>, CodecError> {
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

fn unpack_literals<'a>(
    reader: &mut Reader<'_>,
    base: &[u8],
    (plain, plain_len): (&[Segment], usize),
    programs: impl Iterator<Item = (&'a Program, &'a Vec<Segment>)>,
    slices: &[Range<usize>],
    target_lens: &[usize],
) -> Result<(), CodecError> {
    let mut surroundings = Vec::new();
    if reader.has_literals(Sort::Text) {
        if !reader.whole {
            segments::put_surroundings(plain, base, plain_len, &mut surroundings);
        }
        let context = if reader.whole { base } else { &surroundings };
        reader.unpack(Sort::Text, context)?;
    }
    if reader.has_literals(Sort::Code) {
        surroundings.clear();
        if !reader.whole {
            for (program, segments) in programs {
                let old = &base[slices[program.base].clone()];
                segments::put_surroundings(segments, old, target_lens[program.member], &mut surroundings);
            }
        }
        let context = if reader.whole { base } else { &surroundings };
        reader.unpack(Sort::Code, context)?;
    }
    Ok(())
}

fn make_plain(
    segments: &[Segment],
    base: &[u8],
    out: &mut [u8],
    gap: &mut Gap,
    reader: &mut Reader<'_>,
) -> Result<(), CodecError> {
    for segment in segments {
        let (old, new, len) = (segment.old as usize, segment.new as usize, segment.len as usize);
        out[new..new + len].copy_from_slice(&base[old..old + len]);
    }
    bytes::mend(segments, out, gap, reader)?;
    fill(segments, out, Sort::Text, reader)
}

/// Puts literals where no segment is.
fn fill(segments: &[Segment], out: &mut [u8], sort: Sort, reader: &mut Reader<'_>) -> Result<(), CodecError> {
    for range in segments::uncovered(segments, out.len()) {
        let len = range.len();
        out[range].copy_from_slice(reader.bytes(sort, len)?);
    }
    Ok(())
}

/// Puts the members that are no programs, which come one after the other, where they belong.
fn scatter(mut together: &[u8], members: &[Range<usize>], programs: &[Program], out: &mut [u8]) {
    let mut programs = programs.iter().map(|program| program.member).peekable();
    for (member, range) in members.iter().enumerate() {
        if programs.next_if_eq(&member).is_none() {
            let (now, later) = together.split_at(range.len());
            out[range.clone()].copy_from_slice(now);
            together = later;
        }
    }
}
