//! Doors for the fuzzer into rooms that are closed to everybody else. Not in any program: built with `--cfg fuzzing` only.
//!
//! Each takes arbitrary bytes, divides them among what a room is given, and panics when a promise of that room is broken. A length takes one byte when it is small,
//! so that most executions are short ones and still few bytes reach the long ones.

use std::ops::Range;

use crate::align::{self, Effort};
use crate::codec::{self, Base};
use crate::diff::{Level, Options};
use crate::elf;
use crate::entropy::{self, Room, Shape};
use crate::format::{Codec, Kind, PartHeader};
use crate::predict::Source;

mod seeds;

pub use seeds::seeds;

const LEVELS: [Level; 2] = [Level::Fast, Level::Small];
const SHAPES: [Shape; 4] = [Shape::Numbers, Shape::Bytes, Shape::Text, Shape::Code];
/// A byte below says a length by itself; from it on, the high bits of one up to [`LONGEST`].
const LONG: usize = 224;
const LONGEST: usize = (256 - LONG) * 256 - 1;

/// Takes bytes from the front of the fuzzer's.
struct Given<'a>(&'a [u8]);

impl<'a> Given<'a> {
    fn byte(&mut self) -> usize {
        self.bytes(1).first().map_or(0, |&byte| byte.into())
    }

    fn len(&mut self) -> usize {
        match self.byte() {
            short if short < LONG => short,
            high => (high - LONG) << 8 | self.byte(),
        }
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (now, later) = self.0.split_at(len.min(self.0.len()));
        self.0 = later;
        now
    }

    /// Bytes with their length before them.
    fn counted(&mut self) -> &'a [u8] {
        let len = self.len();
        self.bytes(len)
    }

    /// Stretches, each behind the one before; the last may lie anywhere.
    fn ranges(&mut self) -> Vec<Range<u32>> {
        let mut end = 0;
        let mut next = |given: &mut Self| {
            let start = end + given.len() as u32;
            end = start + given.len() as u32;
            start..end
        };
        (0..self.byte() % 8).map(|_| next(self)).collect()
    }
}

/// A packed stream unpacks to the bytes that are due or is refused.
pub fn entropy(data: &[u8]) {
    let mut given = Given(data);
    let (len, context) = (given.len(), given.counted());
    if let Ok(bytes) = entropy::unpack(given.0, context, len, &mut Room::to_unpack()) {
        assert_eq!(bytes.len(), len);
    }
}

/// A prediction is corrected or the corrections are refused, whatever they, the holes and the prediction are.
pub fn corrections(data: &[u8]) {
    let mut given = Given(data);
    let (target, holes, context) = (given.counted(), given.ranges(), given.counted());
    let _ = entropy::correct(given.0, &mut target.to_vec(), &holes, || context.into(), &mut Room::to_unpack());
}

/// A program is read, transformed and searched for references, and each is followed and written; nothing leaves its bounds. What is written means what was read, what is
/// hidden comes back, and so does the program, unless its sections lie on what says where they are.
pub fn elf(data: &[u8]) {
    let mut bytes = data.to_vec();
    let forward = elf::forward(&mut bytes);
    if forward.is_none() {
        assert!(bytes == data, "a program that is not understood is changed");
    }
    let mut transformed = forward.unwrap_or_default();
    let Some(image) = elf::Image::read(&bytes) else { return };
    if elf::Image::read(data).as_ref() == Some(&image) {
        let mut back = bytes.clone();
        assert_eq!(elf::inverse(&mut back, transformed.flags), Some(()), "a transform is not undone");
        assert!(back == data, "a transform comes back as something else");
    }
    let layout = image.layout();
    let references = elf::references(&image, &bytes, &mut transformed);
    let mut end = 0;
    let mut written = bytes.clone();
    for reference in &references {
        assert!(reference.at >= end, "references overlap");
        end = reference.at + u32::from(reference.width);
        assert!(end as usize <= bytes.len(), "a reference leaves the file");
        if let Some(target) = reference.target(layout, &bytes) {
            let base = reference.base_place().unwrap_or(target);
            if reference.write(layout, reference.at, base, target, &mut written) {
                assert_eq!(reference.target(layout, &written), Some(target), "what is written means something else");
            }
        }
    }
    let shown = bytes.clone();
    elf::hide_operands(&mut bytes, &references).show(&mut bytes);
    elf::hide_targets(&mut bytes, &references, layout, |place| place.rotate_left(3)).show(&mut bytes);
    assert!(bytes == shown, "what was hidden comes back as something else");
    let mut encoded = vec![];
    layout.encode(&elf::Layout::default(), &mut encoded);
    assert_eq!(elf::Layout::decode(&elf::Layout::default(), &encoded, &mut 0).as_ref(), Some(layout));
    let _ = elf::inverse(&mut data.to_vec(), transformed.flags);
    let _ = elf::inverse(&mut bytes, transformed.flags);
}

/// A part unpacks to the bytes that are due or is refused, whatever it and its base hold.
pub fn part(data: &[u8]) {
    let mut given = Given(data);
    let codec = Codec::ALL[given.byte() % Codec::ALL.len()];
    let (base_cut, target_len, target_cut, raw) = (given.len(), given.len(), given.len(), given.len());
    let base = given.counted();
    let cut = |len: usize, at: usize| vec![at.min(len), len - at.min(len)];
    let header = PartHeader { codec, raw: raw as u64, packed: given.0.len() as u64 };
    if codec::check(&header, Kind::Rsync, target_len as u64).is_err() || codec == Codec::Stored && given.0.len() != target_len {
        return;
    }
    let base = Base { bytes: base.to_vec(), lens: cut(base.len(), base_cut) };
    if let Ok(bytes) = codec::unpack(&header, given.0.to_vec(), base, &cut(target_len, target_cut)) {
        assert_eq!(bytes.len(), target_len);
    }
}

/// A foreign signature is refused or harmless: the delta made by it is applied or refused, within bounds. One that is not all foreign has the right length for what it says
/// of its blocks; or also what it should say, and sums that are right or not.
pub fn signature(data: &[u8]) {
    let mut given = Given(data);
    let (block, base, target) = (given.byte(), given.counted(), given.counted());
    let mut bytes = given.0.to_vec();
    if let Some(eighths) = block.checked_sub(2) {
        bytes = crate::signature(base, 256 + 8 * eighths as u32).expect("a good length");
        bytes.iter_mut().skip(12).zip(given.0).for_each(|(byte, other)| *byte ^= other);
    } else if let (1, Some(block_len)) = (block, given.0.get(4..8)) {
        let block_len = u32::from_be_bytes(block_len.try_into().expect("four bytes"));
        let len = crate::signature::signature_len(base.len() as u64, block_len);
        bytes.resize(usize::try_from(len).expect("a length in memory"), 7);
    }
    let Ok(signature) = crate::signature::parse(&bytes, base.len() as u64) else { return };
    let mut delta = vec![];
    if fast_rsync::diff(&signature.index(), target, &mut delta).is_err() {
        return;
    }
    let mut out = vec![];
    if fast_rsync::apply_limited(base, &delta, &mut out, target.len()).is_ok() {
        assert!(out.len() <= target.len());
    }
}

/// What is packed comes back, by every codec, coder and level; alignments keep what they promise.
pub fn round_trip(data: &[u8]) {
    let mut given = Given(data);
    let how = given.byte();
    let level = LEVELS[how & 1];
    match how >> 1 & 7 {
        0 => stream(given, SHAPES[how >> 4 & 3], level),
        1 => prediction(given, SHAPES[how >> 4 & 3], level),
        codec => {
            piece(given, Options { level, codec: [None, Some(Codec::Copy), Some(Codec::Elf), Some(Codec::Zstd)][codec % 4] })
        }
    }
}

fn stream(mut given: Given<'_>, shape: Shape, level: Level) {
    let context = given.counted();
    let mut packed = vec![];
    entropy::pack(given.0, context, shape, level, &mut Room::to_unpack(), &mut packed);
    assert_eq!(entropy::unpack(&packed, context, given.0.len(), &mut Room::to_unpack()).as_deref(), Ok(given.0));
}

fn prediction(mut given: Given<'_>, shape: Shape, level: Level) {
    let (context, mut holes) = (given.counted(), given.ranges());
    let (predicted, actual) = given.0.split_at(given.0.len() / 2);
    let actual = &actual[..predicted.len()];
    let len = actual.len() as u32;
    holes.iter_mut().for_each(|hole| *hole = hole.start.min(len)..hole.end.min(len));
    let (mut packed, mut target) = (vec![], predicted.to_vec());
    entropy::pack_corrections(predicted, actual, &holes, context, shape, level, &mut Room::to_unpack(), &mut packed);
    assert_eq!(entropy::correct(&packed, &mut target, &holes, || context.into(), &mut Room::to_unpack()), Ok(()));
    assert_eq!(target, actual);
}

fn piece(mut given: Given<'_>, options: Options) {
    let (cut, old) = (given.len(), given.counted());
    let new = given.0;
    let (base_lens, target_lens) = (vec![old.len()], vec![cut.min(new.len()), new.len() - cut.min(new.len())]);
    let source =
        Source { base: &|| Ok(old.to_vec()), base_lens: &base_lens, target: &|| Ok(new.to_vec()), target_lens: &target_lens };
    let part = codec::pack(&source, &[Some(0), Some(0)], options).expect("there is memory");
    let header = PartHeader { codec: part.codec, raw: part.raw as u64, packed: part.bytes.len() as u64 };
    codec::check(&header, Kind::Patch, new.len() as u64).expect("what is packed passes the check");
    let base = Base { bytes: old.to_vec(), lens: base_lens.clone() };
    assert_eq!(codec::unpack(&header, part.bytes, base, &target_lens).as_deref(), Ok(new));
    for segment in align::align_exact(old, new, if options.level == Level::Fast { Effort::Fast } else { Effort::Small }) {
        let (at, len) = (segment.old as usize, segment.len as usize);
        assert_eq!(old[at..at + len], new[segment.new as usize..segment.new as usize + len]);
    }
}
