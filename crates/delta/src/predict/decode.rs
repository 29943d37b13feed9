//! Makes the new bytes of a body and the old ones.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::align::Segment;
use crate::codec::CodecError;
use crate::elf::{self, Flags, Image, Layout, Reference, Transformed, references};
use crate::entropy::{Room, correct};

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
    pub before: Arc<Layout>,
    pub layout: Layout,
}

/// The old bytes of a body, and what is known of the programs among them.
pub(super) trait Old {
    /// Returns all bytes; those of programs that something was asked about are transformed.
    fn bytes(&self) -> &[u8];

    /// Returns the layout of a slice that is a program.
    fn layout(&mut self, slice: usize) -> Option<Arc<Layout>>;

    /// Returns the bytes of a slice whose layout was asked for before, and its references.
    fn program(&mut self, slice: usize) -> Option<(&[u8], Cow<'_, [Reference]>)>;
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
    make(body, &mut Given { bytes: base, slices: &slices, known: HashMap::new() }, &slices, target_lens, programs)
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
    let mut room = Room::to_unpack();
    let mut reader = Reader::new(&mut body, len, &mut room)?;
    let found = if programs { read_programs(&mut reader, old, slices, &members)? } else { Vec::new() };
    let order = Order::new(&members, found.iter().map(|program| program.member));
    let plain = segments::read(&mut reader, order.plain_len, old.bytes().len())?;
    let each = |program: &Program| segments::read(&mut reader, target_lens[program.member], slices[program.base].len());
    let of_programs: Vec<Vec<Segment>> = found.iter().map(each).collect::<Result<_, _>>()?;

    let (mut out, mut holes) = (vec![0; len], Vec::new());
    segments::copy(&plain, old.bytes(), &mut out[..order.plain_len]);
    segments::put_holes(&plain, 0, order.plain_len, &mut holes);
    let near_only = reader.near;
    let mut told = Told::new(&mut reader)?;
    for ((program, segments), range) in found.iter().zip(&of_programs).zip(&order.programs) {
        let (bytes, references) = old.program(program.base).ok_or(CodecError::Program)?;
        let out = &mut out[range.clone()];
        program::predict(bytes, &program.before, &references, &program.layout, segments, &mut told, out)?;
        segments::put_holes(segments, range.start, range.len(), &mut holes);
    }
    reader.finish()?;
    let near = || {
        let mut near = Vec::new();
        segments::put_surroundings(&plain, old.bytes(), order.plain_len, &mut near);
        for ((program, segments), range) in found.iter().zip(&of_programs).zip(&order.programs) {
            let bytes = &old.bytes()[slices[program.base].clone()];
            segments::put_surroundings(segments, bytes, range.len(), &mut near);
        }
        near
    };
    let context = || if near_only { near().into() } else { old.bytes().into() };
    correct(body, &mut out, &holes, context, &mut room)?;
    for (program, range) in found.iter().zip(&order.programs) {
        if let Some(flags) = program.flags {
            elf::inverse(&mut out[range.clone()], flags).ok_or(CodecError::Program)?;
        }
    }
    Ok(order.restore(out))
}

/// The longest program that is predicted, or predicted from: its references take about as much memory as it does, and never more than twice as much.
pub(super) const MAX_PROGRAM: usize = 48 << 20;

/// How long the bases of all programs may be together: each is searched for references, whatever little is made of it.
pub(super) fn max_base_lens(base_len: usize, len: usize) -> usize {
    2 * (base_len + len)
}

/// A base as it was given: slices are transformed when a program first asks for them.
struct Given<'a> {
    bytes: Vec<u8>,
    slices: &'a [Range<usize>],
    known: HashMap<usize, (Transformed, Arc<Layout>)>,
}

impl Old for Given<'_> {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn layout(&mut self, slice: usize) -> Option<Arc<Layout>> {
        if let Some((_, layout)) = self.known.get(&slice) {
            return Some(Arc::clone(layout));
        }
        let bytes = &mut self.bytes[self.slices.get(slice)?.clone()];
        let transformed = elf::forward(bytes).unwrap_or_default();
        let layout = Arc::new(Image::read(bytes)?.layout().clone());
        self.known.insert(slice, (transformed, Arc::clone(&layout)));
        Some(layout)
    }

    fn program(&mut self, slice: usize) -> Option<(&[u8], Cow<'_, [Reference]>)> {
        let (transformed, _) = self.known.get_mut(&slice)?;
        let bytes = &self.bytes[self.slices[slice].clone()];
        Some((bytes, references(&Image::read(bytes)?, bytes, transformed).into()))
    }
}

fn read_programs(
    reader: &mut Reader,
    old: &mut dyn Old,
    slices: &[Range<usize>],
    members: &[Range<usize>],
) -> Result<Vec<Program>, CodecError> {
    let n_members = members.len();
    let mut left = max_base_lens(old.bytes().len(), members.last().map_or(0, |range| range.end));
    let n_programs = reader.at_most(Sort::Head, n_members)?;
    let (mut programs, mut next) = (Vec::new(), 0);
    for _ in 0..n_programs {
        let member = next + reader.at_most(Sort::Head, n_members - next)?;
        let base = reader.at_most(Sort::Head, slices.len())?;
        let flags = reader.at_most(Sort::Head, 256)?.checked_sub(1).map(|flags| Flags(flags as u8));
        // Before anything is read of it: a base that is named over and over costs each time.
        let base_len = slices.get(base).ok_or(CodecError::Program)?.len();
        left = left.checked_sub(base_len).ok_or(CodecError::Body)?;
        let before = old.layout(base).ok_or(CodecError::Program)?;
        let layout = reader.with(Sort::Head, |bytes, at| Layout::decode(&before, bytes, at))?;
        // Layouts of all programs are held at once: each is one of what its member is long, or a few bytes could ask for any number of large ones.
        let is_of_member = members.get(member).is_some_and(|range| range.len() == layout.len as usize);
        if !is_of_member || before.len.max(layout.len) as usize > MAX_PROGRAM {
            return Err(CodecError::Body);
        }
        programs.push(Program { member, base, flags, before, layout });
        next = member + 1;
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::streams::Streams;
    use super::*;
    use crate::diff::Level;

    /// A program of one load of nothing and as many sections as there can be, which take the longest to read.
    fn many_sections() -> Vec<u8> {
        const N: usize = u16::MAX as usize;
        let mut bytes = vec![0; 64 + 56 + 64 * N];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"\x7fELF\x02\x01");
        for (at, value) in [(18, 62), (32, 64), (40, 120), (54, 56), (56, 1), (60, N), (64, 1)] {
            put(at, &(value as u16).to_le_bytes());
        }
        for section in 0..N {
            let at = 120 + 64 * section;
            put(at + 4, &[1]);
            put(at + 24, &(section as u32).to_le_bytes());
            put(at + 32, &[1]);
        }
        bytes
    }

    #[test]
    fn a_base_that_is_named_over_and_over_is_read_once_and_not_for_long() {
        let base = many_sections();
        let layout = Image::read(&base).expect("a program").layout().clone();
        let short = Layout { len: 64, ..layout.clone() };
        let mut streams = Streams::default();
        const N: usize = 4000;
        streams.put(Sort::Head, N as u64);
        for _ in 0..N {
            for _ in ["member", "base", "flags"] {
                streams.put(Sort::Head, 0);
            }
            let mut head = Vec::new();
            short.encode(&layout, &mut head);
            streams.extend(Sort::Head, &head);
        }
        let body = streams.pack(true, Level::Fast, &mut Room::to_unpack()).bytes;
        let start = Instant::now();
        let base_len = base.len();
        assert_eq!(decode(&body, base, &[base_len], &[64; N], true), Err(CodecError::Body));
        assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    }
}
