//! Doors for the fuzzer into rooms that are closed to everybody else. Not in any program: built with `--cfg fuzzing` only.
//!
//! Each takes arbitrary bytes, divides them among what a room is given, and panics when a promise of that room is broken.

use crate::align::{self, Effort};
use crate::codec::{self, Base};
use crate::diff::{Level, Options};
use crate::elf;
use crate::entropy::{self, Shape};
use crate::format::{Codec, Kind, PartHeader};
use crate::predict::Sides;

const LEVELS: [Level; 2] = [Level::Fast, Level::Small];
const SHAPES: [Shape; 4] = [Shape::Numbers, Shape::Bytes, Shape::Text, Shape::Code];

/// Takes bytes from the front of the fuzzer's.
struct Given<'a>(&'a [u8]);

impl<'a> Given<'a> {
    fn byte(&mut self) -> usize {
        self.bytes(1).first().map_or(0, |&byte| byte.into())
    }

    fn len(&mut self) -> usize {
        self.byte() << 8 | self.byte()
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (now, later) = self.0.split_at(len.min(self.0.len()));
        self.0 = later;
        now
    }
}

/// A packed stream unpacks to the bytes that are due or is refused; what is packed comes back.
pub fn entropy(data: &[u8]) {
    let mut given = Given(data);
    let (len, context_len, how) = (given.len(), given.len(), given.byte());
    let context = given.bytes(context_len);
    if let Ok(bytes) = entropy::unpack(given.0, context, len) {
        assert_eq!(bytes.len(), len);
    }
    let mut packed = vec![];
    entropy::pack(given.0, context, SHAPES[how % 4], LEVELS[how / 4 % 2], &mut packed);
    assert_eq!(entropy::unpack(&packed, context, given.0.len()).as_deref(), Ok(given.0));
}

/// A program is read, transformed and searched for references, and each is followed and written; nothing leaves its bounds.
pub fn elf(data: &[u8]) {
    let mut bytes = data.to_vec();
    let transformed = elf::forward(&mut bytes).unwrap_or_default();
    let Some(image) = elf::Image::read(&bytes) else { return };
    let layout = image.layout();
    let references = elf::references(&image, &bytes, &transformed);
    let mut end = 0;
    for reference in &references {
        assert!(reference.at >= end, "references overlap");
        end = reference.at + u32::from(reference.width);
        assert!(end as usize <= bytes.len(), "a reference leaves the file");
        if let Some(target) = reference.target(layout, &bytes) {
            let base = reference.base_place().unwrap_or(target);
            reference.write(layout, reference.at, base, target, &mut bytes.clone());
        }
    }
    elf::without_operands(&bytes, &references);
    elf::with_labels(&bytes, &references, layout, |place| place.rotate_left(3));
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
    let (base_len, base_cut, target_len, target_cut, raw) = (given.len(), given.len(), given.len(), given.len(), given.len());
    let base = given.bytes(base_len);
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

/// A foreign signature is refused or harmless: the delta made by it is applied or refused, within bounds.
pub fn signature(data: &[u8]) {
    let mut given = Given(data);
    let (base_len, target_len) = (given.len(), given.len());
    let base = given.bytes(base_len);
    let target = given.bytes(target_len);
    let Ok(signature) = crate::signature::parse(given.0, base.len() as u64) else { return };
    let mut delta = vec![];
    if fast_rsync::diff(&signature.index(), target, &mut delta).is_err() {
        return;
    }
    let mut out = vec![];
    if fast_rsync::apply_limited(base, &delta, &mut out, target.len()).is_ok() {
        assert!(out.len() <= target.len());
    }
}

/// What is packed comes back, by every codec and level; alignments keep what they promise.
pub fn round_trip(data: &[u8]) {
    let mut given = Given(data);
    let how = given.byte();
    let (old_len, cut) = (given.len(), given.len());
    let old = given.bytes(old_len);
    let new = given.0;
    let level = LEVELS[how % 2];
    let codec = [None, Some(Codec::Copy), Some(Codec::Elf), Some(Codec::Zstd)][how / 2 % 4];
    let (base_lens, target_lens) = (vec![old.len()], vec![cut.min(new.len()), new.len() - cut.min(new.len())]);
    let sides = Sides { base: old, base_lens: &base_lens, target: new, target_lens: &target_lens };
    let part = codec::pack(&sides, &[Some(0), Some(0)], Options { level, codec }).expect("there is memory");
    let header = PartHeader { codec: part.codec, raw: part.raw as u64, packed: part.bytes.len() as u64 };
    codec::check(&header, Kind::Patch, new.len() as u64).expect("what is packed passes the check");
    let base = Base { bytes: old.to_vec(), lens: base_lens.clone() };
    assert_eq!(codec::unpack(&header, part.bytes, base, &target_lens).as_deref(), Ok(new));
    for segment in align::align_exact(old, new, if level == Level::Fast { Effort::Fast } else { Effort::Small }) {
        let (at, len) = (segment.old as usize, segment.len as usize);
        assert_eq!(old[at..at + len], new[segment.new as usize..segment.new as usize + len]);
    }
}

/// Returns seeds made of two versions of a small program: target, name, bytes.
pub fn seeds(old: &[u8], new: &[u8]) -> Vec<(&'static str, String, Vec<u8>)> {
    let two = |len: usize| u16::try_from(len).expect("a small program").to_be_bytes();
    let mut seeds = vec![("elf", "old".into(), old.to_vec()), ("elf", "new".into(), new.to_vec())];
    let (base_lens, target_lens) = (vec![old.len()], vec![new.len(), 0]);
    let sides = Sides { base: old, base_lens: &base_lens, target: new, target_lens: &target_lens };
    for (at, codec) in [Codec::Copy, Codec::Elf, Codec::Zstd].into_iter().enumerate() {
        for (nth, level) in LEVELS.into_iter().enumerate() {
            let part = codec::pack(&sides, &[Some(0), None], Options { level, codec: Some(codec) }).expect("there is memory");
            let lens = [old.len(), old.len(), new.len(), new.len(), 0].map(two).concat();
            let which = Codec::ALL.iter().position(|&one| one == part.codec).expect("it is one of all") as u8;
            seeds.push(("part", format!("{codec:?}-{level:?}"), [&[which], &lens[..], old, &part.bytes].concat()));
            let how = (nth + 2 * (at + 1)) as u8;
            seeds.push((
                "round_trip",
                format!("{codec:?}-{level:?}"),
                [&[how], &two(old.len())[..], &two(new.len()), old, new].concat(),
            ));
        }
    }
    for (nth, shape) in SHAPES.into_iter().enumerate() {
        let (bytes, context) = (&new[new.len() / 2..], &old[..old.len().min(1024)]);
        let mut packed = vec![];
        entropy::pack(bytes, context, shape, Level::Small, &mut packed);
        let head = [&two(bytes.len())[..], &two(context.len()), &[nth as u8 + 4], context].concat();
        seeds.push(("entropy", format!("{shape:?}"), [head, packed].concat()));
    }
    let signature = crate::signature(old, 704).expect("a good length");
    seeds.push(("signature", "good".into(), [&two(old.len())[..], &two(new.len()), old, new, &signature].concat()));
    seeds
}
