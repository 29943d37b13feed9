//! What the fuzzer begins with: good inputs of every door, small ones.

use super::{LEVELS, LONG, LONGEST, SHAPES};
use crate::codec;
use crate::diff::{Level, Options};
use crate::entropy;
use crate::format::Codec;
use crate::predict::{Sort, Source};
use crate::varint;

/// One input of a target: the target's name, its own, bytes.
type Seed = (&'static str, String, Vec<u8>);

/// Returns seeds made of two versions of a small program.
pub fn seeds(old: &[u8], new: &[u8]) -> Vec<Seed> {
    let mut seeds = vec![("elf", "old".into(), old.to_vec()), ("elf", "new".into(), new.to_vec())];
    let text = b"what was said before is said again, once more".repeat(2);
    let other = [&text[20..], b"with other words", &text[..30]].concat();
    for level in LEVELS {
        pieces("program", old, new, level, &mut seeds);
        pieces("text", &text, &other, level, &mut seeds);
    }
    parts_by_rsync(&text.repeat(8), &other, &mut seeds);
    streams(&text, &other, &mut seeds);
    predictions(&text, &mut seeds);
    let base = &old[old.len() / 2..][..800];
    let target = [&base[300..], b"something new", &base[..300]].concat();
    let signature = crate::signature(base, 256).expect("a good length");
    for (name, block, sums) in
        [("foreign", 0, &signature[..]), ("of-the-right-length", 1, &signature[..]), ("made", 2, &[]), ("changed", 9, &[0; 30])]
    {
        seeds.push(("signature", name.into(), [&[block], &counted(base)[..], &counted(&target), sums].concat()));
    }
    seeds
}

/// A length as the doors read it.
fn len(len: usize) -> Vec<u8> {
    assert!(len <= LONGEST, "too long for a seed");
    if len < LONG { vec![len as u8] } else { vec![(LONG + (len >> 8)) as u8, len as u8] }
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [len(bytes.len()), bytes.to_vec()].concat()
}

/// A pair of files for the encoders, and what they make of it for the decoder.
fn pieces(name: &str, old: &[u8], new: &[u8], level: Level, seeds: &mut Vec<Seed>) {
    let (base_lens, target_lens) = (vec![old.len()], vec![new.len(), 0]);
    let source =
        Source { base: &|| Ok(old.to_vec()), base_lens: &base_lens, target: &|| Ok(new.to_vec()), target_lens: &target_lens };
    for (at, codec) in [Codec::Copy, Codec::Elf, Codec::Zstd].into_iter().enumerate() {
        let name = format!("{name}-{codec:?}-{level:?}");
        let part = codec::pack(&source, &[Some(0), None], Options { level, codec: Some(codec) }).expect("there is memory");
        let which = Codec::ALL.iter().position(|&one| one == part.codec).expect("it is one of all") as u8;
        let lens = [old.len(), new.len(), new.len(), 0].map(len).concat();
        let head = [&[which], &lens[..], &counted(old)].concat();
        // Mutations of what is mixed make noise; those of what is stored, other numbers.
        if matches!(part.codec, Codec::Copy | Codec::Elf) {
            seeds.push(("part", format!("{name}-stored"), [&head[..], &stored(&part.bytes, new.len())].concat()));
        }
        seeds.push(("part", name.clone(), [head, part.bytes].concat()));
        let how = (u8::from(level == Level::Small)) | ((at as u8 + 5) << 1);
        seeds.push(("round_trip", name, [&[how], &len(new.len())[..], &counted(old), new].concat()));
    }
}

/// Returns a body that makes `len` bytes too, whose numbers are not packed, and whose literals are all zero.
fn stored(body: &[u8], len: usize) -> Vec<u8> {
    let mut rest = body;
    let take = |rest: &mut &[u8]| varint::take(rest).expect("a good body");
    let mask = take(&mut rest);
    let present = Sort::ALL.into_iter().filter(|&sort| sort != Sort::Corrections && mask >> sort as usize & 1 > 0);
    let lens: Vec<(Sort, u64, u64)> = present.map(|sort| (sort, take(&mut rest), take(&mut rest))).collect();
    let (mut head, mut bytes, mut n_literals) = (vec![], vec![], len);
    varint::put(&mut head, mask);
    for (sort, raw, packed) in lens {
        let (now, later) = rest.split_at(packed as usize);
        rest = later;
        varint::put(&mut head, raw);
        varint::put(&mut head, raw + 1);
        let numbers = entropy::unpack(now, &[], raw as usize, &mut entropy::Room::to_unpack()).expect("a good stream");
        bytes.push(0);
        bytes.extend(&numbers);
        let mut copied = &numbers[..];
        while sort == Sort::CopyLens && !copied.is_empty() {
            n_literals -= take(&mut copied) as usize;
        }
    }
    // Corrections as streams: no wrong byte, and literals that are stored.
    let corrections = if n_literals > 0 { [&[0x30, 0, 0x30][..], &vec![0; n_literals]].concat() } else { vec![] };
    [head, bytes, corrections].concat()
}

fn parts_by_rsync(old: &[u8], new: &[u8], seeds: &mut Vec<Seed>) {
    let new = [&old[512..], new, &old[..300]].concat();
    let signature = crate::signature(old, 256).expect("a good length");
    let signature = crate::signature::parse(&signature, old.len() as u64).expect("a good signature");
    let mut delta = vec![];
    fast_rsync::diff(&signature.index(), &new, &mut delta).expect("there is memory");
    let part = codec::pack_rsync(&delta, Level::Fast).expect("there is memory");
    let lens = [old.len(), new.len(), new.len(), delta.len()].map(len).concat();
    seeds.push(("part", "rsync".into(), [&[Codec::Rsync as u8], &lens[..], &counted(old), &part.bytes].concat()));
}

fn streams(context: &[u8], bytes: &[u8], seeds: &mut Vec<Seed>) {
    for (nth, shape) in SHAPES.into_iter().enumerate() {
        for (which, level) in LEVELS.into_iter().enumerate() {
            for (size, bytes) in [("short", &bytes[..24]), ("long", &bytes[..]), ("repeated", &bytes[..60].repeat(4))] {
                let name = format!("{shape:?}-{level:?}-{size}");
                let mut packed = vec![];
                entropy::pack(bytes, context, shape, level, &mut entropy::Room::to_unpack(), &mut packed);
                seeds.push(("entropy", name.clone(), [len(bytes.len()), counted(context), packed].concat()));
                let how = (which | nth << 4) as u8;
                seeds.push(("round_trip", format!("stream-{name}"), [&[how], &counted(context)[..], bytes].concat()));
            }
        }
    }
}

fn predictions(text: &[u8], seeds: &mut Vec<Seed>) {
    let mut actual = text.to_vec();
    actual.iter_mut().step_by(13).for_each(|byte| *byte = byte.wrapping_add(3));
    actual[20..26].copy_from_slice(b"hidden");
    let holes = [&[1_u8][..], &len(20), &len(6)].concat();
    for (nth, shape) in SHAPES.into_iter().enumerate().skip(2) {
        for (which, level) in LEVELS.into_iter().enumerate() {
            for (size, times) in [("short", 1), ("long", 8)] {
                let (predicted, actual) = (text.repeat(times), actual.repeat(times));
                let name = format!("{shape:?}-{level:?}-{size}");
                let mut packed = vec![];
                let hole = 20..26;
                entropy::pack_corrections(
                    &predicted,
                    &actual,
                    &[hole],
                    b"hidden",
                    shape,
                    level,
                    &mut entropy::Room::to_unpack(),
                    &mut packed,
                );
                let head = [&counted(&predicted)[..], &holes, &counted(b"hidden")].concat();
                seeds.push(("corrections", name.clone(), [head, packed].concat()));
                let how = (which | 2 | nth << 4) as u8;
                let head = [&[how], &counted(b"hidden")[..], &holes].concat();
                seeds.push(("round_trip", format!("prediction-{name}"), [&head[..], &predicted, &actual].concat()));
            }
        }
    }
}
